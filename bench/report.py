"""What the measurements share: the machine in a line, a table in Markdown, medians."""

import os
import platform
import re
import statistics
import subprocess

import harness


def machine():
    """Cores, kernel, CRIU and how busy it was, as one line."""
    criu = harness.criu_binary()
    version = subprocess.run([criu, "--version"], stdout=subprocess.PIPE, text=True, timeout=20, check=False).stdout if criu else ""
    found = re.search(r"Version: (\S+)", version)
    model = re.search(r"^model name\s*: (.*)", open("/proc/cpuinfo").read(), re.M)
    return (f"{os.cpu_count()} processors ({model.group(1) if model else platform.machine()}), Linux {platform.release()}, "
            f"CRIU {found.group(1) if found else 'missing'}, load average {os.getloadavg()[0]:.1f}")


def table(head, rows):
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(str(cell) for cell in row)} |")
    print(flush=True)


def number(value):
    """Three digits are enough."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def median(values):
    values = [v for v in values if v is not None]
    return statistics.median(values) if values else None

"""The chart of the fast path as SVG: a line for each workload, a mark for each mode, times native on a logarithmic axis."""

import math
from html import escape

WIDTH, LEFT, RIGHT, TOP, STEP, BOTTOM = 960, 380, 40, 64, 20, 34
# Colours that stand out on white and on black, and a shape each.
MARKS = (("supervise", "supervise", "#2f81f7", "circle"), ("off", "--stub=off", "#d29922", "square"), ("strace", "strace --seccomp-bpf", "#e5534b", "diamond"),
         ("proot", "proot", "#8957e5", "triangle"))
STYLE = """text{font:12px system-ui,sans-serif;fill:#1f2328}.small{font-size:11px;fill:#59636e}.grid{stroke:#d1d9e0;stroke-width:1}
.one{stroke:#59636e;stroke-width:1.5}.aim{stroke:#1a7f37;stroke-width:2.5}.band{fill:#f6f8fa}
@media (prefers-color-scheme:dark){text{fill:#f0f6fc}.small{fill:#9198a1}.grid{stroke:#3d444d}.one{stroke:#9198a1}.aim{stroke:#3fb950}.band{fill:#1a2029}}"""


def shape(kind, x, y, colour):
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y}" r="5" fill="{colour}"/>'
    if kind == "square":
        return f'<rect x="{x - 4:.1f}" y="{y - 4}" width="8" height="8" fill="{colour}"/>'
    points = {"diamond": ((0, -5.5), (5.5, 0), (0, 5.5), (-5.5, 0)), "triangle": ((0, -5), (5, 4), (-5, 4))}[kind]
    return f'<polygon points="{" ".join(f"{x + dx:.1f},{y + dy}" for dx, dy in points)}" fill="{colour}"/>'


def draw(found):
    lines = [line for line in found.lines if any(line.ratio(mode) for mode, *_ in MARKS)]
    ratios = [ratio for line in lines for mode, *_ in MARKS if (ratio := line.ratio(mode))]
    low, high = min([0.8, *ratios]), max([10, *ratios]) * 1.1
    place = lambda value: LEFT + (WIDTH - LEFT - RIGHT) * math.log(value / low) / math.log(high / low)
    bottom = TOP + STEP * len(lines)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + BOTTOM}" role="img" '
           f'aria-label="Times native, by workload: supervise, --stub=off, strace and proot">', f"<style>{STYLE}</style>",
           '<text x="8" y="20" style="font-weight:600">Times native, less is better</text>']
    x = LEFT
    for mode, title, colour, kind in MARKS:
        if any(line.ratio(mode) for line in lines):
            out.append(f'{shape(kind, x, 16, colour)}<text x="{x + 10}" y="20">{escape(title)}</text>')
            x += 34 + 7 * len(title)
    out.append(f'<line class="aim" x1="{x}" x2="{x}" y1="9" y2="23"/><text x="{x + 8}" y="20">aimed at</text>')
    for n, _ in enumerate(lines):
        if n % 2 == 0:
            out.append(f'<rect class="band" x="0" y="{TOP + n * STEP}" width="{WIDTH}" height="{STEP}"/>')
    for power in range(-2, 5):
        for digit in (1, 2, 5):
            value = digit * 10.0 ** power
            if low <= value <= high:
                x = place(value)
                out.append(f'<line class="{"one" if value == 1 else "grid"}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{bottom}"/>')
                for y in (TOP - 12, bottom + 18):
                    out.append(f'<text class="small" x="{x:.1f}" y="{y}" text-anchor="middle">{value:g}</text>')
    for n, line in enumerate(lines):
        y = TOP + n * STEP + STEP // 2
        out.append(f'<text x="8" y="{y + 4}">{escape(line.title.replace("`", ""))}</text>')
        if line.target:
            x = place(line.target)
            out.append(f'<line class="aim" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 8}" y2="{y + 8}"/>')
        # The first last: it must be seen where marks lie on each other.
        for mode, _, colour, kind in reversed(MARKS):
            if line.ratio(mode):
                out.append(shape(kind, place(line.ratio(mode)), y, colour))
    return "\n".join([*out, "</svg>"]) + "\n"

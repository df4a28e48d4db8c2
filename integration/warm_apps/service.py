"""A service with heavy imports and a model that is built at the start; serves its sum over HTTP.

service.py PORT [SECONDS]   with SECONDS it computes for so long, and imports little
"""

import hashlib
import importlib
import json
import socketserver
import sys
import time
from http.server import BaseHTTPRequestHandler

HEAVY = ("numpy", "pandas", "scipy.optimize", "scipy.stats", "scipy.signal", "scipy.interpolate", "scipy.sparse.linalg",
         "scipy.ndimage")
LIGHT = ("asyncio", "concurrent.futures", "csv", "ctypes", "decimal", "difflib", "email.mime.multipart", "fractions",
         "http.client", "inspect", "logging.config", "multiprocessing", "sqlite3", "ssl", "statistics", "tarfile",
         "unittest.mock", "urllib.request", "uuid", "xml.dom.minidom", "xmlrpc.client", "zipfile")


def imported(names):
    count = 0
    for name in names:
        try:
            importlib.import_module(name)
            count += 1
        except ImportError:
            pass
    return count


def model(heavy):
    if "pandas" in sys.modules and heavy:
        import numpy
        import pandas
        from scipy import stats
        random = numpy.random.default_rng(7)
        frame = pandas.DataFrame({"group": random.integers(0, 1000, 200000), "value": random.normal(size=200000)})
        table = frame.groupby("group").value.describe()
        return {"rows": len(table), "normal": round(float(stats.shapiro(table["mean"])[0]), 6)}
    words = {hashlib.sha256(b"%d" % i).hexdigest(): i for i in range(200000)}
    return {"rows": len(words)}


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(STATE).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True


if len(sys.argv) > 2:
    while time.process_time() < float(sys.argv[2]):
        hashlib.sha256(b"work" * 1000).digest()
    STATE = {"worked": True}
else:
    heavy = imported(HEAVY)
    imported(LIGHT)
    STATE = {"heavy": heavy, "modules": len(sys.modules), "model": model(heavy == len(HEAVY))}
Server(("0.0.0.0", int(sys.argv[1])), Answer).serve_forever()

"""What is outside: one peer of each kind, each of which writes down when it was spoken to."""
import os
import select
import socket
import sys
import time

directory, log = sys.argv[1], open(sys.argv[2], "w", buffering=1)
os.makedirs(directory, exist_ok=True)


def listening(family, address):
    one = socket.socket(family, socket.SOCK_STREAM)
    one.bind(address)
    one.listen(50)
    return one


tcp = listening(socket.AF_INET, ("127.0.0.1", 0))
unix = listening(socket.AF_UNIX, directory + "/outside.sock")
abstract = listening(socket.AF_UNIX, "\0outside")
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 0))
os.mkfifo(directory + "/outside.fifo")
fifo = os.open(directory + "/outside.fifo", os.O_RDONLY | os.O_NONBLOCK)
os.close(os.open("/dev/shm/outside", os.O_RDWR | os.O_CREAT, 0o600))
print("ports", tcp.getsockname()[1], udp.getsockname()[1], flush=True)
names = {tcp: "tcp", unix: "unix", abstract: "abstract", udp: "udp"}
while True:
    for one in select.select(list(names), [], [])[0]:
        log.write(f"{names[one]} {time.time_ns()}\n")
        one.recv(100) if one is udp else one.accept()

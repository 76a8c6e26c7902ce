# A campaign of connections, and what the kernel itself says of them.
#
#   campaign.py guest WIRE WITHIN NAME=KIND:PORT...
#       asks the peers and serves on port WIRE until standard input ends, then
#       asks itself on port WITHIN, and prints one JSON object
#   campaign.py client PORT
#       asks 127.0.0.1:PORT, behind which the guest is
#
# A server is told by the first byte what it is to do with a connection. Nobody
# resets a connection that has sent a FIN and may get one at that moment: the
# segments would not tell which of the two was first.
import json
import random
import socket
import struct
import subprocess
import sys
import threading
import time

THREADS = 3
ROUNDS = 80  # of each thread


def reset(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def drain(s):
    while s.recv(4096):
        pass


def ask(rng, target, tell):
    kind, family, address = target
    s = socket.socket(family)
    try:
        s.settimeout(0.05 if kind == "blackhole" else 20)
        s.connect(address)
        if tell:
            s.sendall(kind[:1].encode())
        if kind == "http":
            s.sendall(b"GET /bytes/3000 HTTP/1.0\r\n\r\n")
        elif kind == "echo":
            s.sendall(b"x" * rng.randrange(1, 3000))
            s.recv(1)
        way = rng.random()
        if way < 0.2 and kind in ("echo", "holder"):
            reset(s)
        elif way < 0.6:
            if kind != "http":
                s.shutdown(socket.SHUT_WR)
            if kind != "holder" or tell:
                drain(s)
        elif way < 0.8 and kind not in ("echo", "holder"):
            drain(s)
        if rng.random() < 0.7:
            time.sleep(rng.random() / 100)
    except OSError:
        pass  # refused, reset, in vain
    finally:
        s.close()


def ask_all(targets, tell):
    def some(seed):
        rng = random.Random(seed)
        for _ in range(ROUNDS):
            ask(rng, rng.choice(targets), tell)

    threads = [threading.Thread(target=some, args=(seed,)) for seed in range(THREADS)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


KINDS = ["echo", "closer", "holder", "resetter"]


def answer(s):
    try:
        s.settimeout(20)
        kind = s.recv(1)
        if kind == b"e":
            while data := s.recv(4096):
                s.sendall(data)
        elif kind == b"h":
            drain(s)
        elif kind == b"r":
            reset(s)
    except OSError:
        pass
    finally:
        s.close()


class Server:
    def __init__(self, address):
        self.listener = socket.create_server(address, backlog=64)
        self.threads = []
        self.main = threading.Thread(target=self.serve)
        self.main.start()

    def serve(self):
        while True:
            try:
                s, _ = self.listener.accept()
            except OSError:
                return
            t = threading.Thread(target=answer, args=(s,))
            t.start()
            self.threads.append(t)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.main.join()
        self.listener.close()
        for t in self.threads:
            t.join()


def sockets(*states):
    out = subprocess.run(["ss", "-Htan", *states], check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in out.splitlines()]
    return [(row[0], row[-2], row[-1]) for row in rows]


def settled():
    """Waits until nothing moves, and returns what is left."""
    while True:
        left = sockets()
        if all(row[0] in ("TIME-WAIT", "FIN-WAIT-2", "LISTEN") for row in left):
            return left
        time.sleep(0.02)


def counters():
    all = {}
    for name in ("snmp", "netstat"):
        with open("/proc/net/" + name) as f:
            lines = [line.split() for line in f]
        for names, values in zip(lines[::2], lines[1::2]):
            if names[0] in ("Tcp:", "TcpExt:"):
                all.update(zip(names[1:], map(int, values[1:])))
    with open("/proc/net/sockstat") as f:
        for line in f:
            words = line.split()
            if words[0] == "TCP:":
                all.update(zip(("sockstat " + w for w in words[1::2]), map(int, words[2::2])))
    return all


def guest(wire, within, *peers):
    targets = []
    for peer in peers:
        name, kind, port = peer.replace(":", "=").split("=")
        for family in (socket.AF_INET, socket.AF_INET6):
            for found in socket.getaddrinfo(name, int(port), family, socket.SOCK_STREAM):
                targets.append((kind, family, found[4]))
    seen = set()
    over = threading.Event()

    def look():
        while not over.wait(0.03):
            rows = sockets("state", "syn-recv", "state", "time-wait")
            seen.update(rows)

    looker = threading.Thread(target=look)
    looker.start()
    counts = [counters()]
    server = Server(("0.0.0.0", int(wire)))
    print("serving", flush=True)
    ask_all(targets, False)
    sys.stdin.read()
    server.close()
    settled()
    counts.append(counters())
    server = Server(("127.0.0.1", int(within)))
    ask_all([(kind, socket.AF_INET, ("127.0.0.1", int(within))) for kind in KINDS], True)
    server.close()
    settled()
    over.set()
    looker.join()
    counts.append(counters())
    left = settled()
    print(json.dumps({"seen": sorted(seen), "left": left, "ended": time.time_ns(), "counters": counts}))


if sys.argv[1] == "guest":
    guest(*sys.argv[2:])
else:
    ask_all([(kind, socket.AF_INET, ("127.0.0.1", int(sys.argv[2]))) for kind in KINDS], True)

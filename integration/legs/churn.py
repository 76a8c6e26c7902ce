# Opens and closes connections to the peers of the sandbox in every way, and
# meanwhile prints two hundred outputs of ss, each behind the times in
# nanoseconds at which it began and ended.
import random
import socket
import struct
import subprocess
import threading
import time

peers = {name: socket.gethostbyname(name) for name in ("web", "echo", "bye", "hold", "no", "rst")}
ended = threading.Event()


def talk(rng):
    name = rng.choice(list(peers))
    s = socket.socket()
    try:
        s.settimeout(5)
        s.connect((peers[name], 80))
        if name == "web":
            s.sendall(b"GET /bytes/3000 HTTP/1.0\r\n\r\n")
        elif name == "echo":
            s.sendall(b"x" * rng.randrange(1, 3000))
        if name == "hold" or rng.random() < 0.3:
            s.shutdown(socket.SHUT_WR)
        elif name == "echo":
            s.recv(1)
        if name != "hold":
            while name != "echo" and s.recv(4096):
                pass
        time.sleep(rng.random() / 50)
        if rng.random() < 0.2:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass  # refused, reset
    finally:
        s.close()


def churn(seed):
    rng = random.Random(seed)
    for _ in range(2000):  # a bound, should nobody end it
        if ended.is_set():
            return
        talk(rng)
        time.sleep(rng.random() / 50)


threads = [threading.Thread(target=churn, args=(seed,)) for seed in range(4)]
for t in threads:
    t.start()
for _ in range(200):
    began = time.time_ns()
    text = subprocess.run(["ss", "-Htan"], check=True, capture_output=True, text=True).stdout
    print(began, time.time_ns())
    print(text, end="")
ended.set()
for t in threads:
    t.join()

# Runs what it is told: each line of standard input is a piece of Python, as JSON.
# The answer to each is the value of `result`, as JSON.
import json
import multiprocessing
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

for line in sys.stdin:
    result = None
    exec(json.loads(line))
    print(json.dumps(result), flush=True)

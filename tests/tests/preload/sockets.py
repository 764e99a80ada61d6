"""Sends to everyone by several sockets.

sockets.py OWN-ADDRESS SOCKETS SECONDS

Until a line arrives on standard input it sends "warm", then messages "sN MESSAGE" for some seconds, where
N is the number of the socket.
"""

import select
import socket
import sys
import time

own, count, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
sockets = []
for _ in range(count):
    by = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    by.bind((own, 0))
    sockets.append(by)
everyone = [(f"10.9.1.{number}", 7000) for number in range(1, 9)]


def send(name):
    for number, by in enumerate(sockets):
        content = name(number)
        for to in everyone:
            by.sendto(content, to)


while not select.select([sys.stdin], [], [], 0.01)[0]:
    send(lambda number: b"warm")
end = time.monotonic() + seconds
message = 0
while time.monotonic() < end:
    send(lambda number: f"s{number} {message}".encode())
    message += 1
    time.sleep(0.02)

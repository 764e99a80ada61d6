"""Sends a round to everyone, or to two, and perhaps something else.

options.py OWN-ADDRESS everyone|two|signal|spin [FILE]

Before that it sends to everyone ("warm") until a line arrives on standard input.
"""

import os
import select
import signal
import socket
import sys

own, what, *file = sys.argv[1:]
ipv6 = ":" in own
everyone = [(f"fd09:1::{n}" if ipv6 else f"10.9.1.{n}", 5000) for n in range(1, 9)]
sender = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
sender.bind((own, 6000))
while not select.select([sys.stdin], [], [], 0.005)[0]:
    for to in everyone:
        sender.sendto(b"warm", to)
for to in everyone[:2] if what == "two" else everyone:
    sender.sendto(b"round", to)
if what == "signal":
    os.kill(os.getpid(), signal.SIGUSR2)
if what == "spin":
    # Without a call that would end what is held.
    while not os.path.exists(file[0]):
        pass

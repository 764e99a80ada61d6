"""Sends numbered messages to everyone with a loop of sendto, until its input ends; says how many.

stream.py OWN-ADDRESS PORT PAUSE-IN-SECONDS ADDRESS...
"""

import select
import socket
import sys

own, port, pause, *addresses = sys.argv[1:]
to = [(address, int(port)) for address in addresses]
family = socket.AF_INET6 if ":" in own else socket.AF_INET
number = 0
with socket.socket(family, socket.SOCK_DGRAM) as sender:
    sender.bind((own, 0))
    while not select.select([sys.stdin], [], [], float(pause))[0]:
        payload = b"stream %010d" % number + b" " * 100
        for address in to:
            sender.sendto(payload, address)
        number += 1
print(number, flush=True)

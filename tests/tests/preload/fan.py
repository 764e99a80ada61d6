"""Sends each line of standard input to everyone, with one call for each or one for all.

fan.py loop|sendmsg|sendmmsg OWN-ADDRESS PORT ADDRESS...
"""

import socket
import sys

from calls import sendmmsg

how, own, port, *addresses = sys.argv[1:]
to = [(address, int(port)) for address in addresses]
family = socket.AF_INET6 if ":" in own else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as sender:
    sender.bind((own, 0))
    print(sender.getsockname()[1], flush=True)
    for line in sys.stdin:
        payload = line.strip().encode()
        if how == "sendmmsg":
            assert sendmmsg(sender, [(payload, address) for address in to]) == len(to)
            continue
        for address in to:
            if how == "loop":
                sent = sender.sendto(payload, address)
            else:
                sent = sender.sendmsg([payload[:3], payload[3:]], [], 0, address)
            assert sent == len(payload)

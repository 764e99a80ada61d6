"""Sends each line of standard input to everyone, and says what errors come back for it.

errors.py OWN-ADDRESS PORT ADDRESS...
"""

import select
import socket
import struct
import sys

own, port, *addresses = sys.argv[1:]
ipv6 = ":" in own
level = socket.IPPROTO_IPV6 if ipv6 else socket.IPPROTO_IP
IP_RECVERR, IPV6_RECVERR = 11, 25
with socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sender.setsockopt(level, IPV6_RECVERR if ipv6 else IP_RECVERR, 1)
    sender.bind((own, 0))
    poll = select.poll()
    poll.register(sender, 0)
    print("ready", flush=True)
    for line in sys.stdin:
        for address in addresses:
            try:
                sender.sendto(line.strip().encode(), (address, int(port)))
            except ConnectionRefusedError:
                # An error that waits to be told comes instead of a datagram.
                sender.sendto(line.strip().encode(), (address, int(port)))
        errors = []
        while poll.poll(200):
            text, control, _, to = sender.recvmsg(100, 500, socket.MSG_ERRQUEUE)
            number = struct.unpack_from("=I", control[0][2])[0]
            errors.append(f"{to[0]} {to[1]} {number} {text.decode()}")
        print(";".join(errors), flush=True)

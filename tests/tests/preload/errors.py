"""Sends what standard input says to everyone, and says what errors come back for it.

errors.py OWN-ADDRESS HOP-LIMIT LENGTH PORT ADDRESS...

A hop limit of 0 is the system's. A line is the number of errors to wait for and, behind a space, the message, which is
filled up with spaces to the length. An error is "ADDRESS PORT NUMBER INFO MESSAGE": the number as in errno, and what comes
with it, such as an MTU. A send that fails is "ADDRESS PORT NUMBER refused MESSAGE".
"""

import select
import socket
import struct
import sys

own, hop_limit, length, port, *addresses = sys.argv[1:]
ipv6 = ":" in own
level = socket.IPPROTO_IPV6 if ipv6 else socket.IPPROTO_IP
IP_RECVERR, IPV6_RECVERR = 11, 25
with socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sender.setsockopt(level, IPV6_RECVERR if ipv6 else IP_RECVERR, 1)
    if int(hop_limit):
        sender.setsockopt(level, socket.IPV6_UNICAST_HOPS if ipv6 else socket.IP_TTL, int(hop_limit))
    sender.bind((own, 0))
    poll = select.poll()
    poll.register(sender, 0)
    print("ready", flush=True)
    for line in sys.stdin:
        expected, message = line.strip().split(" ", 1)
        payload = message.encode().ljust(int(length))
        errors = []

        def send(address, again=True):
            try:
                sender.sendto(payload, (address, int(port)))
            except OSError as error:
                # An error that waits to be told comes instead of a datagram.
                if again:
                    send(address, False)
                else:
                    errors.append(f"{address} {port} {error.errno} refused {message}")

        for address in addresses:
            send(address)
        # And for more than that, or what nobody expects, a little.
        while poll.poll(10000 if len(errors) < int(expected) else 200):
            text, control, _, to = sender.recvmsg(2000, 500, socket.MSG_ERRQUEUE)
            number, _, _, _, _, info = struct.unpack_from("=IBBBBI", control[0][2])
            errors.append(f"{to[0]} {to[1]} {number} {info} {text.decode().strip()}")
        print(";".join(errors), flush=True)

"""Sends by sockets and in ways of many kinds: a round to everyone for each.

kinds.py OWN-ADDRESS

Each kind has a socket of its own. Before its round there is an ordinary one ("KIND-control"). Prints, a line
for each kind, whether its socket is "always" special, and what calls answered. Before that it sends to everyone ("warm") by all sockets until a
line arrives on standard input.
"""

import ctypes
import os
import select
import socket
import struct
import subprocess
import sys
import threading

from calls import sendmmsg

OWN = sys.argv[1]
IPV6 = ":" in OWN
EVERYONE = [(f"fd09:1::{n}" if IPV6 else f"10.9.1.{n}", 5000) for n in range(1, 9)]
LEVEL = socket.IPPROTO_IPV6 if IPV6 else socket.IPPROTO_IP
INTERFACE = socket.if_nametoindex("xcast0")
# Of the kernel's headers, where Python has no names.
SO_NO_CHECK, SO_PRIORITY, SO_TIMESTAMPING, SO_TXTIME = 11, 12, 37, 61
UDP_CORK, UDP_SEGMENT = 1, 103
IP_MTU_DISCOVER, IP_UNICAST_IF, IPV6_MTU_DISCOVER, IPV6_UNICAST_IF = 10, 50, 23, 76
PMTUDISC_DONT, PMTUDISC_DO = 0, 2
CLOCK_MONOTONIC = 1

KINDS = {}


def kind(sends):
    KINDS[sends.__name__] = sends
    return sends


def attempt(call):
    try:
        return call()
    except OSError as error:
        return error.strerror


def to_all(sender, payload, flags=0, to=EVERYONE):
    return [attempt(lambda: sender.sendto(payload, flags, address)) for address in to]


def by_message(sender, pieces, control=(), flags=0):
    return [attempt(lambda: sender.sendmsg(pieces, control, flags, to)) for to in EVERYONE]


def option(level, name, value):
    """A kind of socket by an option, which it has from the beginning."""

    def sends(sender, payload):
        return to_all(sender, payload)

    sends.option = level, name, value
    return sends


def control(level, name, value):
    return lambda sender, payload: by_message(sender, [payload], [(level, name, value)])


KINDS["plain"] = to_all
KINDS["pieces"] = lambda sender, it: by_message(sender, [it[:1], b"", it[1:7], it[7:8], it[8:]])
KINDS["dontwait"] = lambda sender, it: to_all(sender, it, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
KINDS["reversed"] = lambda sender, it: to_all(sender, it, to=EVERYONE[::-1])
KINDS["one_call"] = lambda sender, it: sendmmsg(sender, [(it, to) for to in EVERYONE])
KINDS["two_destinations"] = lambda sender, it: to_all(sender, it, to=EVERYONE[:2])
KINDS["twice"] = lambda sender, it: to_all(sender, it) + to_all(sender, it)
KINDS["no_room"] = lambda sender, it: to_all(sender, it.ljust(1430 if IPV6 else 1460))
KINDS["in_fragments"] = lambda sender, it: to_all(sender, it.ljust(3000))
KINDS["dont_route"] = lambda sender, it: to_all(sender, it, socket.MSG_DONTROUTE)
KINDS["out_of_band"] = lambda sender, it: to_all(sender, it, socket.MSG_OOB)
KINDS["multicast"] = lambda sender, it: to_all(
    sender, it, to=[(("ff15::%d" if IPV6 else "239.1.1.%d") % n, 5000) for n in range(1, 9)]
)
KINDS["on_the_link"] = lambda sender, it: to_all(
    sender,
    it,
    to=[("fe80::2", 5000, 0, INTERFACE) if IPV6 else ("169.254.1.1", 5000)] * 3,
)
KINDS["itself"] = lambda sender, it: to_all(sender, it, to=[(OWN, 5000 + n) for n in range(8)])
KINDS["do_not_fragment"] = option(
    LEVEL, IPV6_MTU_DISCOVER if IPV6 else IP_MTU_DISCOVER, PMTUDISC_DO
)
KINDS["hop_limit"] = option(LEVEL, socket.IPV6_UNICAST_HOPS if IPV6 else socket.IP_TTL, 7)
KINDS["dscp"] = option(LEVEL, socket.IPV6_TCLASS if IPV6 else socket.IP_TOS, 46 << 2)
KINDS["ecn"] = option(LEVEL, socket.IPV6_TCLASS if IPV6 else socket.IP_TOS, 2)
KINDS["mark"] = option(socket.SOL_SOCKET, socket.SO_MARK, 7)
KINDS["priority"] = option(socket.SOL_SOCKET, SO_PRIORITY, 5)
KINDS["device"] = option(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"xcast0\0")
KINDS["route_no_more"] = option(socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)
KINDS["timestamps"] = option(socket.SOL_SOCKET, SO_TIMESTAMPING, 1 << 1 | 1 << 4)
KINDS["received_timestamps"] = option(socket.SOL_SOCKET, SO_TIMESTAMPING, 1 << 3 | 1 << 4)
KINDS["segments"] = option(socket.IPPROTO_UDP, UDP_SEGMENT, 20)
KINDS["segments_control"] = control(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", 20))
if IPV6:
    KINDS["interface"] = option(LEVEL, IPV6_UNICAST_IF, socket.htonl(INTERFACE))
    KINDS["options"] = option(LEVEL, socket.IPV6_DSTOPTS, bytes([0, 0, 1, 4, 0, 0, 0, 0]))
    KINDS["hop_limit_control"] = control(LEVEL, socket.IPV6_HOPLIMIT, struct.pack("=i", 9))
    KINDS["source_control"] = control(
        LEVEL, socket.IPV6_PKTINFO, socket.inet_pton(socket.AF_INET6, OWN) + struct.pack("=i", 0)
    )
    KINDS["ipv6_only"] = to_all
else:
    KINDS["interface"] = option(LEVEL, IP_UNICAST_IF, socket.htonl(INTERFACE))
    KINDS["options"] = option(LEVEL, socket.IP_OPTIONS, bytes([148, 4, 0, 0]))
    KINDS["hop_limit_control"] = control(LEVEL, socket.IP_TTL, struct.pack("=i", 9))
    KINDS["source_control"] = control(
        LEVEL, 8, struct.pack("=i4s4s", 0, socket.inet_aton(OWN), bytes(4))
    )
    KINDS["no_checksum"] = option(socket.SOL_SOCKET, SO_NO_CHECK, 1)
    KINDS["fragment"] = option(LEVEL, IP_MTU_DISCOVER, PMTUDISC_DONT)
    KINDS["mapped"] = lambda sender, it: to_all(
        sender, it, to=[(f"::ffff:{address}", port) for address, port in EVERYONE]
    )


@kind
def broadcast(sender, payload):
    return to_all(sender, payload, to=[*EVERYONE, ("ff02::1" if IPV6 else "10.9.9.255", 5000)])


broadcast.option = socket.SOL_SOCKET, socket.SO_BROADCAST, 1


@kind
def changed(sender, payload):
    """The kernel is to judge the next datagrams, whatever was changed."""
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 100000)
    return to_all(sender, payload)


@kind
def transmit_time(sender, payload):
    answer = attempt(
        lambda: sender.setsockopt(
            socket.SOL_SOCKET, SO_TXTIME, struct.pack("=iI", CLOCK_MONOTONIC, 0)
        )
    )
    time = struct.pack("=Q", 0)
    return answer, by_message(sender, [payload], [(socket.SOL_SOCKET, SO_TXTIME, time)])


@kind
def more(sender, payload):
    return [
        (attempt(lambda: sender.sendto(payload, socket.MSG_MORE, to)), sender.sendto(b"!", to))
        for to in EVERYONE
    ]


@kind
def corked(sender, payload):
    answers = []
    for to in EVERYONE:
        sender.setsockopt(socket.IPPROTO_UDP, UDP_CORK, 1)
        answers += to_all(sender, payload, to=[to]) + to_all(sender, b"!", to=[to])
        sender.setsockopt(socket.IPPROTO_UDP, UDP_CORK, 0)
    return answers


@kind
def connected(sender, payload):
    sender.connect(EVERYONE[0])
    answers = to_all(sender, payload)
    # By calls that have no destination.
    answers.append(sender.send(payload))
    answers.append(os.write(sender.fileno(), payload))
    answers.append(os.writev(sender.fileno(), [payload[:3], payload[3:]]))
    return answers


@kind
def connected_and_not(sender, payload):
    sender.connect(EVERYONE[0])
    answers = to_all(sender, payload)
    unspecified = struct.pack("=H26x", socket.AF_UNSPEC)
    libc = ctypes.CDLL(None, use_errno=True)
    answers.append(libc.connect(sender.fileno(), unspecified, len(unspecified)))
    return answers, to_all(sender, payload)


@kind
def doubled(sender, payload):
    copy = os.dup(sender.fileno())
    answers = to_all(sender, payload)
    os.close(copy)
    return answers


@kind
def doubled_over(sender, payload):
    """The socket becomes another one while a group of it is open."""
    other = open_socket(6998)
    answers = to_all(sender, payload)
    os.dup2(other.fileno(), sender.fileno())
    answers += to_all(sender, payload)
    other.close()
    return answers


@kind
def handed_over(sender, payload):
    """Another process, here the same one, gets the socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    answers = to_all(sender, payload)
    socket.send_fds(ours, [b"x"], [sender.fileno()])
    copy = socket.socket(fileno=socket.recv_fds(theirs, 10, 1)[1][0])
    answers += [attempt(lambda: one.sendto(payload, to)) for to in EVERYONE for one in (sender, copy)]
    return answers


@kind
def closed(sender, payload):
    fd = sender.fileno()
    answers = to_all(sender, payload, to=EVERYONE[:5])
    os.close(fd)
    answers += to_all(sender, payload)
    sender.detach()
    # Most likely the same descriptor.
    with open_socket(6997) as other:
        return answers, to_all(other, payload)


@kind
def by_a_thread(sender, payload):
    answers = []
    thread = threading.Thread(target=lambda: answers.extend(to_all(sender, payload)))
    thread.start()
    thread.join()
    return answers


@kind
def by_a_child(sender, payload):
    answers = to_all(sender, payload)
    child = os.fork()
    if child == 0:
        to_all(sender, payload)
        os._exit(0)
    return answers, os.waitpid(child, 0)[1]


@kind
def spawned(sender, payload):
    """A child without `fork`: what was sent before it began has left by then."""
    answers = to_all(sender, payload)
    child = os.posix_spawn("/bin/true", ["true"], {})
    return answers, os.waitpid(child, 0)[1], subprocess.run(["true"]).returncode


def open_socket(port, family=socket.AF_INET6 if IPV6 else socket.AF_INET, own=OWN, share=False):
    sender = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(share))
    if share:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sender.bind((own, port))
    return sender


def everyone(name):
    if name == "mapped":
        return [(f"::ffff:{address}", port) for address, port in EVERYONE]
    return EVERYONE


def socket_for(name, port):
    if name == "mapped":
        return open_socket(port, socket.AF_INET6, f"::ffff:{OWN}")
    if name == "any_address":
        return open_socket(port, own="")
    return open_socket(port, share=name in ("port_shared", "ipv6_only"))


KINDS["any_address"] = KINDS["port_shared"] = to_all
SOCKETS = {name: socket_for(name, 6100 + number) for number, name in enumerate(KINDS)}
for name, sends in KINDS.items():
    if hasattr(sends, "option"):
        SOCKETS[name].setsockopt(*sends.option)
while not select.select([sys.stdin], [], [], 0.02)[0]:
    for name, sender in SOCKETS.items():
        to_all(sender, b"warm", to=everyone(name))
for name, sends in KINDS.items():
    sender = SOCKETS[name]
    to_all(sender, f"{name}-control {name:>60}".encode(), to=everyone(name))
    when = "always" if hasattr(sends, "option") else "now"
    print(name, when, sends(sender, f"{name} {name:>60}".encode()), flush=True)

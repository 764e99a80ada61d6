"""Random sequences of socket calls, the same for the same numbers.

model.py OWN-ADDRESS FIRST COUNT

Sequences FIRST .. FIRST + COUNT - 1. Prints what every call answered: a line for each sequence and
actor (the main thread, a second thread, a child). Contents begin with the actor's number, so that the
order of what each actor sent can be told.

Before that it sends to everyone ("warm") until a line arrives on standard input.
"""

import errno
import os
import random
import select
import socket
import sys
import threading
import time

from calls import sendmmsg

OWN, FIRST, COUNT = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
SOURCES = [6001, 6002, 6003]
if ":" in OWN:
    FAMILY, LEVEL = socket.AF_INET6, socket.IPPROTO_IPV6
    TTL, TOS = socket.IPV6_UNICAST_HOPS, socket.IPV6_TCLASS
    EVERYONE = [(f"fd09:1::{n}", 5000 + n % 2) for n in range(1, 9)]
    REFUSED = [("fd09:2::1", 5000), ("fe80::1", 5000), ("fd09:1::1", 0)]
    ROOM = 1435
else:
    FAMILY, LEVEL = socket.AF_INET, socket.IPPROTO_IP
    TTL, TOS = socket.IP_TTL, socket.IP_TOS
    EVERYONE = [(f"10.9.1.{n}", 5000 + n % 2) for n in range(1, 9)]
    REFUSED = [("10.9.2.1", 5000), ("10.9.9.255", 5000), ("10.9.1.1", 0)]
    ROOM = 1455


def open_socket(port):
    sender = socket.socket(FAMILY, socket.SOCK_DGRAM)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sender.bind((OWN, port))
    return sender


SOCKETS = [open_socket(port) for port in SOURCES]
READ, WRITE = os.pipe()


def answer(call):
    try:
        return call()
    except OSError as error:
        return errno.errorcode.get(error.errno, error.errno)


def content(rng, actor):
    kind = rng.randrange(12)
    if kind == 0:
        return b""
    size = ROOM if kind == 1 else rng.randrange(4, 200)
    return b"%d" % actor + b"%d" % rng.randrange(4) * size


def send(rng, sender, payload, to, flags=0):
    if rng.randrange(4):
        return answer(lambda: sender.sendto(payload, flags, to))
    cut = rng.randrange(len(payload) + 1)
    return answer(lambda: sender.sendmsg([payload[:cut], payload[cut:]], [], flags, to))


def round_to_several(rng, actor, sender):
    payload = content(rng, actor)
    to = rng.sample(EVERYONE, rng.randrange(2, len(EVERYONE) + 1))
    if rng.randrange(10) == 0:
        to.insert(rng.randrange(len(to)), rng.choice(REFUSED))
    return [send(rng, sender, payload, address) for address in to]


def round_in_one_call(rng, actor, sender):
    contents = [content(rng, actor) for _ in range(rng.randrange(1, 4))]
    to = rng.sample(EVERYONE, rng.randrange(1, len(EVERYONE) + 1))
    datagrams = [(payload, address) for address in to for payload in contents]
    if rng.randrange(4) == 0:
        rng.shuffle(datagrams)
    if rng.randrange(10) == 0:
        datagrams.insert(rng.randrange(len(datagrams)), (b"%d" % actor, rng.choice(REFUSED)))
    return sendmmsg(sender, datagrams)


def single(rng, actor, sender):
    to = rng.choice(EVERYONE + REFUSED)
    flags = rng.choice([0, 0, socket.MSG_DONTWAIT, socket.MSG_OOB])
    return send(rng, sender, content(rng, actor), to, flags)


def wait(rng, actor, sender):
    kind = rng.randrange(5)
    if kind == 0:
        return select.select([sender], [], [], 0)[0] == []
    if kind == 1:
        return answer(lambda: sender.recv(100, socket.MSG_DONTWAIT))
    if kind == 2:
        return os.write(WRITE, b"x"), os.read(READ, 1)
    return time.sleep(0)


def change(rng, actor, sender):
    if rng.randrange(2):
        option = (LEVEL, TTL, rng.choice([1, 7, 64]))
    else:
        option = (LEVEL, TOS, rng.choice([0, 46 << 2, 2]))
    return answer(lambda: sender.setsockopt(*option))


CALLS = [round_to_several, round_in_one_call, single, wait]
WEIGHTS = [8, 5, 3, 3]


def calls(rng, actor, sockets):
    answers = []
    for _ in range(rng.randrange(1, 10)):
        call = rng.choices(CALLS, WEIGHTS)[0]
        answers.append(call(rng, actor, rng.choice(sockets)))
    return answers


def odd_socket(rng, actor):
    """What is done to a socket that is not left to itself, and ends as it began."""
    sender = SOCKETS[2]
    kind = rng.randrange(5)
    answers = []
    if kind == 0:
        copy = sender.dup()
        answers += [round_to_several(rng, actor, sender), round_to_several(rng, actor, copy)]
        copy.close()
    elif kind == 1:
        to = rng.choice(EVERYONE)
        answers.append(answer(lambda: sender.connect(to)))
        answers.append(answer(lambda: sender.send(content(rng, actor))))
        answers.append(round_to_several(rng, actor, sender))
    elif kind == 2:
        sender.close()
        answers.append(answer(lambda: sender.sendto(b"closed", EVERYONE[0])))
    elif kind == 3:
        more = rng.choice(EVERYONE)
        answers.append(send(rng, sender, b"%dmore" % actor, more, socket.MSG_MORE))
        answers.append(send(rng, sender, b"%drest" % actor, more))
    else:
        answers.append([change(rng, actor, sender), round_to_several(rng, actor, sender)])
    sender.close()
    SOCKETS[2] = open_socket(SOURCES[2])
    return answers


def sequence(number):
    rng = random.Random(number)
    answers = {0: calls(rng, 0, SOCKETS)}
    kind = rng.randrange(40)
    if kind == 0:
        seed = rng.random()
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            try:
                print(number, 2, calls(random.Random(seed), 2, SOCKETS), flush=True)
            finally:
                os._exit(0)
        if rng.randrange(2):
            answers[0] += calls(rng, 0, SOCKETS)
        os.waitpid(child, 0)
    elif kind < 4:
        seed = rng.random()

        def run():
            answers[1] = calls(random.Random(seed), 1, SOCKETS)

        thread = threading.Thread(target=run)
        thread.start()
        answers[0] += calls(rng, 0, SOCKETS)
        thread.join()
    elif kind == 4:
        answers[0].append(odd_socket(rng, 0))
    elif kind == 5:
        answers[0].append(change(rng, 0, rng.choice(SOCKETS)))
    answers[0] += calls(rng, 0, SOCKETS)
    for actor in sorted(answers):
        print(number, actor, answers[actor])


while not select.select([sys.stdin], [], [], 0.02)[0]:
    for sender in SOCKETS[:2]:
        for address in EVERYONE:
            sender.sendto(b"warm", address)
for number in range(FIRST, FIRST + COUNT):
    sequence(number)

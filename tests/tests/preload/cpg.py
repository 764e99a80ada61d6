"""A member of corosync's process group "xcast": sends each line of standard input to all members.

Prints "members NODE..." whenever they change, and "message NODE TEXT" for each message. Needs corosync's
library, by the functions of cpg_initialize(3) and its neighbours.
"""

import ctypes
import select
import sys
import time

OK, TRY_AGAIN, DISPATCH_ALL, AGREED = 1, 6, 2, 2


class Name(ctypes.Structure):
    _fields_ = [("len", ctypes.c_uint32), ("value", ctypes.c_char * 128)]


class Address(ctypes.Structure):
    _fields_ = [("node", ctypes.c_uint32), ("pid", ctypes.c_uint32), ("reason", ctypes.c_uint32)]


class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]


LIST = [ctypes.POINTER(Address), ctypes.c_size_t]
DELIVER = ctypes.CFUNCTYPE(
    None,
    ctypes.c_uint64,
    ctypes.POINTER(Name),
    ctypes.c_uint32,
    ctypes.c_uint32,
    ctypes.c_void_p,
    ctypes.c_size_t,
)
CHANGE = ctypes.CFUNCTYPE(None, ctypes.c_uint64, ctypes.POINTER(Name), *LIST, *LIST, *LIST)


class Callbacks(ctypes.Structure):
    _fields_ = [("deliver", DELIVER), ("change", CHANGE)]


def deliver(_handle, _group, node, _pid, message, length):
    print("message", node, ctypes.string_at(message, length).decode(), flush=True)


def change(_handle, _group, members, count, *_others):
    print("members", *sorted(members[n].node for n in range(count)), flush=True)


def call(function, *arguments):
    while (answer := function(*arguments)) == TRY_AGAIN:
        time.sleep(0.01)
    assert answer == OK, f"{function.__name__}: error {answer}"


CPG = ctypes.CDLL("libcpg.so.4")
callbacks = Callbacks(DELIVER(deliver), CHANGE(change))
handle, descriptor = ctypes.c_uint64(), ctypes.c_int()
call(CPG.cpg_initialize, ctypes.byref(handle), ctypes.byref(callbacks))
call(CPG.cpg_join, handle, ctypes.byref(Name(5, b"xcast")))
call(CPG.cpg_fd_get, handle, ctypes.byref(descriptor))
while True:
    ready = select.select([descriptor.value, sys.stdin], [], [])[0]
    if descriptor.value in ready:
        call(CPG.cpg_dispatch, handle, DISPATCH_ALL)
    if sys.stdin in ready:
        line = sys.stdin.readline()
        if not line:
            break
        text = ctypes.create_string_buffer(line.strip().encode())
        piece = Iovec(ctypes.addressof(text), len(text) - 1)
        call(CPG.cpg_mcast_joined, handle, AGREED, ctypes.byref(piece), 1)

"""Calls that Python's own library does not have."""

import ctypes
import os
import socket
import struct


class _Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]


class _Message(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_len", ctypes.c_uint),
        ("iov", ctypes.POINTER(_Iovec)),
        ("iov_len", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_len", ctypes.c_size_t),
        ("flags", ctypes.c_long),  # an int, and padding
        ("len", ctypes.c_uint),
    ]


_LIBC = ctypes.CDLL(None, use_errno=True)


def _address(address):
    host, port = address
    if ":" in host:
        packed = socket.inet_pton(socket.AF_INET6, host)
        return struct.pack("=H2sI16sI", socket.AF_INET6, port.to_bytes(2, "big"), 0, packed, 0)
    packed = socket.inet_aton(host)
    return struct.pack("=H2s4s8x", socket.AF_INET, port.to_bytes(2, "big"), packed)


def sendmmsg(sender, datagrams):
    """Sends (payload, address) pairs with one call; the number sent, or minus the error's.

    The length that the kernel notes for each message that was sent is checked.
    """
    names = [ctypes.create_string_buffer(_address(address)) for _, address in datagrams]
    payloads = [ctypes.create_string_buffer(payload, max(len(payload), 1)) for payload, _ in datagrams]
    pieces = [
        _Iovec(ctypes.addressof(buffer), len(payload))
        for buffer, (payload, _) in zip(payloads, datagrams)
    ]
    messages = (_Message * len(datagrams))()
    for message, name, piece in zip(messages, names, pieces):
        message.name = ctypes.addressof(name)
        message.name_len = len(name) - 1
        message.iov = ctypes.pointer(piece)
        message.iov_len = 1
    sent = _LIBC.sendmmsg(sender.fileno(), messages, len(datagrams), 0)
    if sent < 0:
        return -ctypes.get_errno()
    for message, (payload, _) in list(zip(messages, datagrams))[:sent]:
        assert message.len == len(payload), (message.len, len(payload))
    return sent

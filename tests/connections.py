"""Ask Linux about single connections (sock_diag(7)), where /proc/net/tcp would have to be read from its beginning.

The tables there are as long as there is room for connections: on a machine with much memory it takes 10 milliseconds
to read them, whatever is in them. An answer takes some 10 microseconds.
"""

import socket
import struct
import sys
from typing import NamedTuple

NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY = 4, 20
NLM_F_REQUEST, NLM_F_DUMP, NLMSG_DONE = 1, 0x300, 3
TCP_LISTEN = 10
HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence number, port
REQUEST = struct.Struct("=BBBBI")  # inet_diag_req_v2: family, protocol, extensions, padding, states; then which
ENDS = struct.Struct("!HH16s16s")  # inet_diag_sockid: both ports, both addresses; then interface and cookie
ANY = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
ANSWER = struct.Struct(f"=BBBB{ENDS.size + len(ANY)}sIIIII")  # inet_diag_msg


class End(NamedTuple):
    """One end of a connection."""

    unacknowledged: int  # bytes that were sent from here, and that the other end has not acknowledged
    unread: int  # bytes that came, and that the program here has not read
    accepted: bool  # whether a program has it


def ask(flags, family, states, ends):
    """The messages that Linux answers with. OSError: it does not answer."""
    if sys.platform != "linux":
        raise OSError("only Linux tells")
    request = REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, states) + ends + ANY
    found = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as asking:
        asking.settimeout(1)
        head = HEADER.pack(HEADER.size + len(request), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | flags, 0, 0)
        asking.send(head + request)
        while True:
            data = asking.recv(1 << 16)
            while data:
                length, kind, *_ = HEADER.unpack_from(data)
                if kind == NLMSG_DONE:
                    return found
                if kind != SOCK_DIAG_BY_FAMILY or length < HEADER.size + ANSWER.size:
                    raise OSError("there is no such connection, or it may not be asked for")
                found.append(ANSWER.unpack_from(data, HEADER.size))
                data = data[(length + 3) & ~3 :]  # messages begin at multiples of four bytes
            if not flags:
                return found


def other_end(sock):
    """The other end of a connected socket, if it is on this machine; or None where the system does not tell."""
    try:
        ours, theirs = sock.getsockname()[:2], sock.getpeername()[:2]
        family = socket.AF_INET6 if ":" in ours[0] else socket.AF_INET
        addresses = [socket.inet_pton(family, host) for host, _ in (theirs, ours)]
        (answer,) = ask(0, family, 0xFFFFFFFF, ENDS.pack(theirs[1], ours[1], *addresses))
    except OSError:
        return None
    *_, unread, unacknowledged, _, inode = answer
    return End(unacknowledged, unread, inode != 0)


def listeners():
    """All sockets that listen: host, port and inode of each; or None where the system does not tell.

    A host is told as in ("0.0.0.0", "::"); an IPv4 address that stands in an IPv6 one is told as what it is.
    """
    found = []
    try:
        for family in socket.AF_INET, socket.AF_INET6:
            for answer in ask(NLM_F_DUMP, family, 1 << TCP_LISTEN, ENDS.pack(0, 0, bytes(16), bytes(16))):
                port, _, host, _ = ENDS.unpack_from(answer[4])
                if family == socket.AF_INET6 and host.startswith(bytes(10) + b"\xff\xff"):
                    host = socket.inet_ntop(socket.AF_INET, host[12:])
                else:
                    host = socket.inet_ntop(family, host[: 4 if family == socket.AF_INET else 16])
                found.append((host, port, answer[-1]))
    except OSError:
        return None
    return found

"""A chat server that waits in blocking calls: accept, converse with that client until it leaves, next client.

    python server.py [PORT] [--host HOST]       9669 and 127.0.0.1 by default; then, in other terminals,
    python client.py                            or telnet 127.0.0.1 9669, or nc 127.0.0.1 9669

Still fails: whoever comes second waits until the first has left. Connect twice, and type in the second terminal: no
answer comes. End the first with Ctrl-C, and there it is.
"""

import argparse
import contextlib
import logging
import os
import re
import signal
import socket
import sys
import time

MAX_MESSAGE = 4096  # bytes of a message as received, with its newline; and the most read from a client at once
IAC, INTERRUPT = 0xFF, b"\xff\xf4"  # telnet's commands begin with IAC (RFC 854); its Ctrl-C is IAC IP


class ChatServer:
    """The room, for one client at a time: it hears what it says itself."""

    def __init__(self, listener):
        self.listener = listener
        self.clients = []  # one at the most
        self.running = True

    def run(self):
        """Serve until stop() is called."""
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # from here on stop() may raise
            logging.info("listening on %s", name_of(self.listener.getsockname()))
            while True:
                # Wait for somebody to come, then for what it says, until it has left.
                self.accept()
                while self.clients:
                    self.receive(self.clients[0])
        except KeyboardInterrupt:
            self.listener.close()
        for client in list(self.clients):
            self.drop(client, "dropped: server stopping")
        logging.info("bye")

    def accept(self):
        """Let the next client in."""
        try:
            sock, address = self.listener.accept()
            client = Client(sock, address)
        except (OSError, MemoryError):  # it is gone again, or something is lacking
            time.sleep(0.01)  # the loop must not spin
            return
        self.clients.append(client)
        logging.info("%s joined, %d online", client.name, len(self.clients))

    def receive(self, client):
        """Read from a client once, and answer the messages that are complete now."""
        try:
            data = client.sock.recv(MAX_MESSAGE)
        except OSError as error:
            return self.drop(client, client.failure or f"dropped: {error.strerror.lower()}")
        if not data and client.failure:
            return self.drop(client, client.failure)
        stream = client.received + data
        # Only the first line can be too long: the others came in this one recv.
        if len(stream) > MAX_MESSAGE and b"\n" not in stream[:MAX_MESSAGE]:
            error = b"error: a message may be at most %d bytes\n" % MAX_MESSAGE
            return self.drop(client, "dropped: message too long", error)
        if not data:
            stream += b"\n"  # the end of the stream ends the last line as a newline does
        elif IAC in stream and INTERRUPT in stream:  # for a single byte the search is much quicker
            stream, data = stream.partition(INTERRUPT)[0], b""  # the end, too; an unfinished line is discarded
        lines, _, client.received = stream.rpartition(b"\n")
        words = "".join([f"{client.name} says: {text}\n" for text in clean(lines).split("\n") if text.strip()])
        if words:
            self.send(client, words.encode())
        if not data:
            self.drop(client, "left")

    def send(self, client, data):
        """Send data, however long it takes."""
        try:
            client.sock.sendall(data)
        except BrokenPipeError:  # it has gone. Its last words may still be unread, so that recv() is to tell the end
            pass
        except OSError as error:
            self.fail(client, f"dropped: {error.strerror.lower()}")

    def fail(self, client, reason):
        """Send no more to a client. It is dropped when receive() comes to the end of what it said before."""
        client.failure = reason
        with contextlib.suppress(OSError):
            client.sock.shutdown(socket.SHUT_RDWR)

    def drop(self, client, reason, last=b""):
        """Part with a client, after one last attempt to send the bytes given."""
        self.clients.remove(client)
        logging.info("%s %s, %d online", client.name, reason, len(self.clients))
        with contextlib.suppress(OSError):
            client.sock.send(last, socket.MSG_DONTWAIT)
        client.sock.close()

    def stop(self, *_):
        """Have run() end. As a signal handler it gets arguments, which do not matter here."""
        # A handler that returns does not end a blocking call (PEP 475). This one raises, but only for the first signal.
        if self.running:
            self.running = False
            raise KeyboardInterrupt


class Client:
    """One connection."""

    def __init__(self, sock, address):
        self.sock = sock
        self.name = name_of(address)
        self.received = b""  # the start of a line whose end is still to come
        self.failure = None  # why it is to be dropped, once it cannot be sent to any more


# ----------------------------------------------------------------------------------------------------------------------
# The same in every version: take it as given at a first reading.
# ----------------------------------------------------------------------------------------------------------------------

BACKLOG = 1024  # connections that the kernel holds until they are accepted
SIGNALS = signal.SIGINT, signal.SIGTERM  # Ctrl-C and kill
TELNET = re.compile(  # IAC SB to IAC SE or the line's end; WILL, WONT, DO, DONT and an option; others; IAC IAC: data
    rb"\xff(?:\xfa(?:[^\xff\n]|\xff[^\xf0\n])*(?:\xff\xf0?)?|[\xfb-\xfe].?|[\xec-\xf9]|(\xff)|$)", re.MULTILINE
)
CONTROLS = bytes({*range(32), 127} - {*b"\t\n"})  # control characters of ASCII, but not tab and newline
UNSAFE = re.compile("[\x80-\x9f\u202a-\u202e\u2066-\u2069]")  # those beyond ASCII, and bidirectional characters


def clean(lines):
    """Return lines of bytes as text that is safe to show on a terminal."""
    if not lines.isascii():
        lines = UNSAFE.sub("", TELNET.sub(rb"\1", lines).decode(errors="replace")).encode()
    return lines.translate(None, CONTROLS).decode()


def name_of(address):
    """Return a socket's address as HOST:PORT, with an IPv6 host in brackets."""
    host, number = (address or ("?", 0))[:2]  # of a connection that is reset already, some systems tell no address
    return f"[{host}]:{number}" if ":" in host else f"{host}:{number}"


def port(text):
    """Return text as a port number, or raise ValueError, which argparse reports."""
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise ValueError
    return int(text)


def look_up(host, number):
    """Return the address family and the address of a host and port. OSError or UnicodeError says why there is none."""
    found = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)
    # Of "localhost" there are often two, ::1 and 127.0.0.1, and client.py goes to the second.
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, address


def listen(listener, address):
    """Have a socket listen at an address. OSError says why it cannot."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # old connections in TIME_WAIT hold the port
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # accepted sockets inherit this
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # and this
    listener.bind(address)
    listener.listen(BACKLOG)


@contextlib.contextmanager
def signals_and_log(console):
    """Make them fit for a server. A console, which goes on afterwards, gets back what it had."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, handlers)  # whoever started this may have blocked them
    if not console:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no KeyboardInterrupt would end the look-up of a host
    log, level = logging.root.handlers, logging.root.level
    logging.root.handlers = []
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    logging.root.handlers[0].handleError = lambda _: None  # a log that cannot be written does no harm
    try:
        yield
    finally:
        if console:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            logging.root.handlers = log
            logging.root.setLevel(level)


def main():
    """Read the arguments, listen, and serve until a signal comes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])  # python -OO has no docstrings
    parser.add_argument("port", metavar="PORT", nargs="?", type=port, default=9669)
    parser.add_argument("--host", default="127.0.0.1")
    args = parser.parse_args()
    console = bool(sys.flags.inspect or hasattr(sys, "ps1") or sys._getframe(1).f_back)  # python -i, IPython, a program
    with signals_and_log(console), contextlib.ExitStack() as stack:
        try:
            while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
                pass  # a standard descriptor that the shell has closed (<&-) would become a socket's
            os.close(number)
            family, address = look_up(args.host, args.port)
            listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # one that comes before stop() is there has to wait
            listen(listener, address)
            server = ChatServer(listener)
        except (OSError, UnicodeError) as error:
            sys.exit(f"{parser.prog}: cannot listen on {name_of((args.host, args.port))}: {error}")
        for number in SIGNALS:
            signal.signal(number, server.stop)
        server.run()
        if not console:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)  # a second one changes nothing while Python ends
            sys.stderr = None  # or Python ends with status 120, if it cannot flush a log that was closed


if __name__ == "__main__":
    main()

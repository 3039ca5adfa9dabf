"""A chat server that waits in blocking calls, now for the client, now for the keyboard: two people take turns.

    python server.py [PORT] [--host HOST]       9669 and 127.0.0.1 by default; then, in other terminals,
    python client.py                            or telnet 127.0.0.1 9669, or nc 127.0.0.1 9669

Answer each line with one of your own; `quit` ends the conversation, on either side, and the next caller comes.

Still fails: what comes while it is your turn waits unseen. `seq 2 | nc 127.0.0.1 9669` shows you `1`, and `2` once
you have answered that. End the nc with Ctrl-C instead: nothing tells you that nobody is there now.
"""

import argparse
import contextlib
import io
import logging
import os
import re
import select
import signal
import socket
import sys
import time

MAX_MESSAGE = 4096  # bytes of a message as received, with its newline; and the most read from a client at once
IAC, INTERRUPT = 0xFF, b"\xff\xf4"  # telnet's commands begin with IAC (RFC 854); its Ctrl-C is IAC IP
KEYBOARD, SCREEN = 0, 1  # descriptors: sys.stdin and sys.stdout have an encoding and a buffer of their own
QUIT = "quit"  # the line that ends a conversation


class ChatServer:
    """The operator's end of the conversation, with one client at a time."""

    def __init__(self, listener):
        self.listener = listener
        self.clients = []  # one at the most
        self.keyboard = io.BufferedReader(Keyboard())  # one for all clients: of a pipe it may read ahead
        self.running = True

    def run(self):
        """Serve until stop() is called."""
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # from here on stop() may raise
            logging.info("listening on %s", name_of(self.listener.getsockname()))
            while True:
                # Wait for somebody to come, then for what it says and for an answer, until one has left.
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
        """Read from a client once, and take a turn for each message that is complete now."""
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
        texts = [text for text in clean(lines).split("\n") if text.strip()]
        for text in texts:
            self.answer(client, text)
            if client not in self.clients:
                return
        if not data:
            self.drop(client, "left")

    def answer(self, client, text):
        """Show what a client said, wait for the operator's line, and send that."""
        if client.failure:  # it has gone, and nobody is there for an answer
            return self.drop(client, client.failure)
        show(text)
        if text.strip() == QUIT:
            return self.drop(client, "left")
        try:
            # The next line that is not blank. Meanwhile nothing that happens to the client is noticed.
            words = next(filter(str.strip, map(clean, self.keyboard)), "").rstrip("\n")
        except OSError:  # the terminal is gone, or another's: this runs in the background
            words = ""
        if not words:
            error = b"error: nobody is at the keyboard any more\n"
            return self.drop(client, "dropped: nobody is at the keyboard", error)
        if words.strip() == QUIT:
            return self.drop(client, "dropped: the operator quit", b"quit\n")
        self.send(client, f"{words}\n".encode())

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


class Keyboard(io.RawIOBase):
    """Standard input as a file that waits, also where another program left the terminal non-blocking."""

    def readable(self):
        """Return that it is a file to read from."""
        return True

    def readinto(self, buffer):
        """Wait for what is typed, put it into the buffer, and return how much that is."""
        while True:
            try:
                return os.readv(KEYBOARD, [buffer])
            except BlockingIOError:
                select.select([KEYBOARD], [], [])


def show(text):
    """Print a line at once, and all of it: a write may be cut short, by Ctrl-Z for one."""
    line = f"{text}\n".encode()
    with contextlib.suppress(OSError):  # nobody reads any more: as with a closed log, the server goes on
        while line:
            try:
                line = line[os.write(SCREEN, line) :]
            except BlockingIOError:  # another program left the terminal non-blocking, and it is full
                select.select([], [SCREEN], [])


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
    handlers = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGTTIN)}
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
        signal.signal(signal.SIGTTIN, signal.SIG_IGN)  # to read the keyboard from the background then just fails
        server.run()
        if not console:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)  # a second one changes nothing while Python ends
            sys.stderr = None  # or Python ends with status 120, if it cannot flush a log that was closed


if __name__ == "__main__":
    main()

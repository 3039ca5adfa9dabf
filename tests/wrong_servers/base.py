"""A correct chat server, small steps for methods, so that a wrong one overrides just one of them.

It is a tool of the tests (does the suite notice what is wrong?), not one of the servers that teach.
"""

import contextlib
import errno
import re
import resource
import selectors
import signal
import socket
import sys

TOO_LONG = b"error: a message may be at most 4096 bytes\n"
FULL = b"error: the room is full\n"
TELNET = re.compile(
    rb"\xff(?:\xfa(?:[^\xff]|\xff[^\xf0])*(?:\xff?\Z|\xff\xf0)|[\xfb-\xfe](?:.|\Z)|[\xec-\xf9]|\Z|(\xff))",
    re.S,
)
UNSAFE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Client:
    """One connection."""

    def __init__(self, sock, address):
        self.sock = sock
        host, port = address[:2]
        self.name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.received = b""
        self.unsent = bytearray()
        self.failure = None  # why nothing more can be sent to it
        self.why = "left"  # what the log is to say of its end


class Chat:
    """The server. Each method is something that can go wrong."""

    backlog = 1024
    max_message = 4096
    max_unsent = 1 << 20
    max_clients = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 20
    interrupt = b"\xff\xf4"
    options = ((socket.IPPROTO_TCP, socket.TCP_NODELAY), (socket.SOL_SOCKET, socket.SO_KEEPALIVE))

    def __init__(self, port):
        self.stopping = False
        self.signals()  # before it listens: whoever sees that it does may send one at once
        self.listener = self.listen(port)
        self.listener.setblocking(False)
        self.selector = selectors.DefaultSelector()
        self.wakeup, wake = socket.socketpair()
        self.wakeup.setblocking(False)
        wake.setblocking(False)
        self.wake = wake
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        self.clients = {}
        self.listening = False

    def listen(self, port):
        return socket.create_server(("127.0.0.1", port), backlog=self.backlog)

    def stop(self, *_):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        self.stopping = True

    def signals(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.stop)

    def run(self):
        self.welcome_newcomers(True)
        self.selector.register(self.wakeup, selectors.EVENT_READ)
        self.note(f"listening on 127.0.0.1:{self.listener.getsockname()[1]}")
        while not self.finished():
            ready = self.selector.select(None if self.listening else 0.2)
            self.welcome_newcomers(True)
            for key, events in ready:
                if key.fileobj is self.listener:
                    self.accept()
                elif key.fileobj is self.wakeup:
                    self.wakeup.recv(100)
                elif key.fileobj in self.clients:
                    self.serve(self.clients[key.fileobj], events)
        self.listener.close()
        for client in list(self.clients.values()):
            self.flush(client)
            client.why = "dropped: server stopping"
            self.drop(client)
        self.note("bye")

    def note(self, text):
        if sys.stderr:  # it is None if the log is closed
            with contextlib.suppress(OSError):
                print(text, file=sys.stderr, flush=True)

    def welcome_newcomers(self, yes):
        """While no descriptor can be had, a listener that is watched would be ready again and again."""
        if yes and not self.listening:
            self.selector.register(self.listener, selectors.EVENT_READ)
        elif self.listening and not yes:
            self.selector.unregister(self.listener)
        self.listening = yes

    def finished(self):
        return self.stopping

    def serve(self, client, events):
        if events & selectors.EVENT_WRITE:
            self.flush(client)
        if events & selectors.EVENT_READ and client.sock in self.clients:
            self.receive(client)

    def accept(self):
        with contextlib.suppress(BlockingIOError, ConnectionError):
            try:
                sock, address = self.listener.accept()
            except OSError as error:
                self.cannot_accept(error)
                return
            sock.setblocking(False)
            if len(self.clients) >= self.max_clients:
                self.refuse(sock)
                return
            for level, option in self.options:
                sock.setsockopt(level, option, 1)
            self.clients[sock] = client = Client(sock, address)
            self.selector.register(sock, self.events(client))
            self.welcome(client)
            self.note(f"{client.name} joined, {len(self.clients)} online")

    def cannot_accept(self, error):
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            self.welcome_newcomers(False)
        elif not isinstance(error, (BlockingIOError, ConnectionError)):
            raise error

    def welcome(self, client):
        pass

    def refuse(self, sock):
        with contextlib.suppress(OSError):
            sock.send(FULL)
        sock.close()

    def receive(self, client):
        try:
            data = client.sock.recv(4096)
        except BlockingIOError:
            return
        except OSError as error:
            client.why = f"dropped: {error}"
            self.drop(client)
            return
        self.received(client, data)

    def received(self, client, data):
        buffered = client.received + data
        before, interrupted, _ = buffered.partition(self.interrupt)
        *lines, client.received = self.split(before)
        for line in lines:
            if len(line) >= self.max_message:
                self.too_long(client)
                return
            self.message(client, line)
        if interrupted:
            self.drop(client)
        elif len(client.received) > self.max_message:
            self.too_long(client)
        elif not data:
            # After EPIPE, the end of the stream had come before the reset: what stands there is its last message.
            if client.failure is None or isinstance(client.failure, BrokenPipeError):
                self.last_words(client)
            self.flush(client)
            self.drop(client)

    def split(self, data):
        return data.split(b"\n")

    def last_words(self, client):
        self.message(client, client.received)

    def too_long(self, client):
        self.send(client, TOO_LONG)
        client.why = "dropped: message too long"
        self.drop(client)

    def message(self, client, line):
        text = self.clean(line)
        if not self.is_blank(text):
            self.broadcast(client, f"{client.name} says: {text}\n".encode())

    def is_blank(self, text):
        return not text.strip()

    def clean(self, line):
        return UNSAFE.sub("", TELNET.sub(rb"\1", line).decode(errors="replace"))

    def broadcast(self, sender, line):
        for client in list(self.clients.values()):
            if client is not sender:
                self.send(client, line)

    def send(self, client, data):
        if client.sock in self.clients and not client.failure:
            client.unsent += data
            self.flush(client)

    def flush(self, client):
        try:
            sent = client.sock.send(client.unsent) if client.unsent else 0
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.cannot_send(client, error)
            return
        self.sent(client, sent)

    def cannot_send(self, client, error):
        """Its last words may be unread: receive() comes to the end of them. A reset is told once, and was told here."""
        client.failure = error
        client.unsent.clear()
        self.selector.modify(client.sock, self.events(client))
        with contextlib.suppress(OSError):
            client.sock.shutdown(socket.SHUT_RDWR)

    def sent(self, client, count):
        del client.unsent[:count]
        if len(client.unsent) > self.max_unsent:
            client.why = "dropped: too slow"
            self.drop(client)
            return
        self.selector.modify(client.sock, self.events(client))

    def events(self, client):
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if client.unsent else 0)

    def drop(self, client):
        if self.clients.pop(client.sock, None):
            self.selector.unregister(client.sock)
            client.sock.close()
            self.note(f"{client.name} {client.why}, {len(self.clients)} online")


def main(chat_class):
    if len(sys.argv) != 2 or not re.fullmatch("[0-9]{1,5}", sys.argv[1]) or int(sys.argv[1]) > 65535:
        print("usage: server.py PORT", file=sys.stderr)
        sys.exit(2)
    try:
        chat = chat_class(int(sys.argv[1]))
    except OSError as error:
        sys.exit(f"server.py: cannot listen on 127.0.0.1:{sys.argv[1]}: {error}")
    chat.run()


if __name__ == "__main__":
    main(Chat)

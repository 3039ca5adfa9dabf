"""TLS as the tests need it: a certificate, and a socket that speaks TLS and does not make its owner wait for that."""

import contextlib
import functools
import select
import selectors
import socket
import ssl
import struct
import subprocess
import threading
import time

LINGER_RESET = struct.pack("ii", 1, 0)  # SO_LINGER's value with which close() resets the connection
RECORD = 1 << 14  # bytes that TLS puts into one record, at most
AHEAD = 1 << 16  # bytes that one may say before the handshake is over without waiting for that
FLUSH_TIME = 60.0  # seconds in which a record must go out, where nobody says how long to wait
OPENSSL = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost "
    "-addext subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1 -keyout - -out -"
)


@functools.cache
def certificate():
    """A certificate and its key, in one text, as openssl makes them."""
    return subprocess.run(OPENSSL.split(), check=True, capture_output=True, text=True).stdout


@functools.cache
def trust():
    """The settings of a client that trusts that certificate alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=certificate()[certificate().index("-----BEGIN CERTIFICATE") :])
    return context


@functools.cache
def handshakes():
    """The sockets of which the handshake is still going on. A thread watches them, as the test does other things."""
    selector = selectors.DefaultSelector()

    def watch():
        while True:
            for key, _ in selector.select():
                key.data.shake_hands()

    threading.Thread(target=watch, daemon=True).start()
    return selector


class TlsSocket:
    """What a connected socket is to `Peer`, but that what goes over it is TLS.

    What is sent before the handshake is over goes out after it. Who receives waits for that.
    """

    def __init__(self, sock):
        self.sock, self.timeout = sock, sock.gettimeout()
        sock.setblocking(False)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = trust().wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.lock = threading.RLock()  # of the TLS object, which two threads may not use at once
        self.secure = threading.Event()  # set when the handshake is over, well or not
        self.failure = None
        self.before, self.ended_before = b"", False  # what was said before that, and whether it was all
        self.unsent = b""  # records that the system would not take yet
        self.abrupt = False  # close() says nothing
        handshakes().register(sock, selectors.EVENT_READ, self)
        self.shake_hands()

    def __getattr__(self, name):
        """All else is the socket's own affair."""
        return getattr(self.sock, name)

    def shake_hands(self):
        """Go on with the handshake, as far as what has come allows."""
        with self.lock:
            if self.secure.is_set() or self.sock.fileno() < 0:
                return
            try:
                with contextlib.suppress(BlockingIOError):
                    self._fill()
                self.tls.do_handshake()
                self._write(self.before, time.monotonic() + FLUSH_TIME)
                if self.ended_before:
                    self._end()
            except ssl.SSLWantReadError:
                return self._flush(time.monotonic() + FLUSH_TIME)
            except OSError as error:
                self.failure = error
            handshakes().unregister(self.sock)
            self.secure.set()

    def _await_handshake(self):
        if not self.secure.wait(self.timeout):
            raise TimeoutError("the handshake is not over")
        if self.failure:
            raise ConnectionResetError(f"no TLS: {self.failure}")

    def _until(self):
        return float("inf") if self.timeout is None else time.monotonic() + self.timeout

    def _await(self, event, end):
        """Wait until the system has something, or takes something."""
        poll, wait = select.poll(), max(0.0, end - time.monotonic())
        poll.register(self.sock, event)
        if not poll.poll(None if wait == float("inf") else wait * 1000):
            raise TimeoutError("timed out")

    def _fill(self):
        """Take in what has come. BlockingIOError: nothing has."""
        data = self.sock.recv(1 << 16)
        if not data:
            raise ConnectionResetError("the end of the stream, and no close_notify before it")
        self.incoming.write(data)

    def _flush(self, end):
        """Send the records that TLS has made, and return how many bytes those are."""
        records = self.outgoing.read()
        self.unsent += records
        while self.unsent:
            try:
                self.unsent = self.unsent[self.sock.send(self.unsent) :]
            except BlockingIOError:
                self._await(select.POLLOUT, end)
        return len(records)

    def _write(self, data, end):
        count = self._flush(end)
        for start in range(0, len(data), RECORD):
            with self.lock:
                self.tls.write(data[start : start + RECORD])
            count += self._flush(end)
        return count

    def _end(self):
        """Say that nothing more comes: as TLS does, and as TCP does."""
        with contextlib.suppress(ssl.SSLError):  # the other's close_notify has not come
            self.tls.unwrap()
        self._flush(time.monotonic() + FLUSH_TIME)
        with contextlib.suppress(OSError):  # if the other has closed already, it answers our close_notify with a reset
            self.sock.shutdown(socket.SHUT_WR)

    # What a socket has

    def settimeout(self, timeout):
        self.timeout = timeout

    def setblocking(self, flag):
        self.timeout = None if flag else 0.0

    def setsockopt(self, level, option, value):
        self.abrupt = self.abrupt or (option, value) == (socket.SO_LINGER, LINGER_RESET)
        self.sock.setsockopt(level, option, value)

    def sendall(self, data):
        """Send all of it. Returns how many bytes that is as TLS, where that is known."""
        with self.lock:
            if not self.secure.is_set() and len(self.before) + len(data) <= AHEAD:
                self.before += data
                return None
        self._await_handshake()
        return self._write(data, self._until())

    def send(self, data):
        """Send the first record of it, whole, also if the socket does not block."""
        self._await_handshake()
        self._write(data[:RECORD], time.monotonic() + FLUSH_TIME)
        return min(len(data), RECORD)

    def recv(self, count, flags=0):
        """What has come; also if that is more than `count`: of what TLS has read already no selector would tell."""
        end, data = self._until(), b""
        self._await_handshake()
        if flags:
            self._await(select.POLLIN, end)
            return self.sock.recv(count, flags)
        while True:
            with self.lock:
                try:
                    while some := self.tls.read(count):
                        data += some
                    return data
                except ssl.SSLZeroReturnError:  # the end, after our own
                    return data
                except ssl.SSLWantReadError:
                    if data:
                        return data
                try:
                    self._fill()
                    continue
                except BlockingIOError:
                    pass
            self._await(select.POLLIN, end)

    def shutdown(self, how):
        if how != socket.SHUT_WR:
            return self.sock.shutdown(how)
        with self.lock:
            if self.secure.is_set():
                self._end()
            else:
                self.ended_before = True

    def close(self):
        with self.lock:
            if self.sock.fileno() < 0:
                return
            if not self.secure.is_set():
                handshakes().unregister(self.sock)
            elif not self.failure and not self.abrupt:
                with contextlib.suppress(OSError):  # the other's close_notify has not come, or ours does not go out
                    self.tls.unwrap()
                with contextlib.suppress(OSError):
                    self._flush(time.monotonic())
            self.sock.close()

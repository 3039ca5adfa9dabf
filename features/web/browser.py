"""What a browser speaks: HTTP for the page, and then WebSocket (RFC 6455) for the chat.

The library `websockets` knows both, and touches no socket, as the ssl module with its buffers. It is given the bytes
that came, and gives those that are to go out (https://websockets.readthedocs.io, "Sans-I/O integration").
"""

import base64
import collections
import email.utils
import hashlib
import logging
import os
import re

from websockets.datastructures import Headers
from websockets.exceptions import PayloadTooBig
from websockets.frames import CloseCode, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "page.html")
CODES = {  # why we part with a browser: 1000 for all that is not here
    "dropped: server stopping": CloseCode.GOING_AWAY,
    "dropped: message too long": CloseCode.MESSAGE_TOO_BIG,
}

logger = logging.getLogger("websockets")
logger.setLevel(logging.WARNING)  # of each connection it would tell that it is open


class Page:
    """The answer to who asks for the page: the same for everybody."""

    def __init__(self):
        """Read it; OSError says why that cannot be."""
        with open(PAGE, encoding="utf-8") as file:
            text = file.read()
        # Nothing but our own script and style is ever run, or loaded from anywhere: whatever somebody says.
        script = source_hash(re.search("<script>(.*?)</script>", text, re.DOTALL)[1])
        style = source_hash(re.search("<style>(.*?)</style>", text, re.DOTALL)[1])
        self.body = text.encode()
        self.headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": f"default-src 'none'; script-src {script}; style-src {style}; "
            "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
        }

    def response(self):
        """Return it as a response."""
        now = email.utils.formatdate(usegmt=True)
        headers = {"Date": now, "Connection": "close", "Content-Length": str(len(self.body)), **self.headers}
        return Response(200, "OK", Headers(headers), self.body)


def source_hash(text):
    """Return how a Content-Security-Policy names a script or a style that stands in the page (CSP Level 3, 2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class Protocol(ServerProtocol):
    """The library's, but that it leaves it to us to end a connection for a message that is too long."""

    def fail(self, code, reason=""):
        """End the connection, and tell the browser why. For that one reason the server says more than a number."""
        if code != CloseCode.MESSAGE_TOO_BIG:
            super().fail(code, reason)


class Browser:
    """One browser's connection: bytes of HTTP or WebSocket become lines, and lines become bytes."""

    def __init__(self, page, origins, most):
        """`origins`: the pages that may connect, besides programs that are no browser; `most`: bytes of a message."""
        self.page = page
        self.most = most
        self.protocol = Protocol(origins=[*origins, None], max_size=2 * most, logger=logger)
        self.message = bytearray()  # the fragments of a message whose end is still to come
        self.lines = collections.deque()  # what it has said and nobody has read yet: bytes, each with its newline
        self.failure = None  # why this is the end of the connection
        self.alive = True  # whether it has answered the last ping

    @property
    def is_open(self):
        """Whether it speaks WebSocket by now."""
        return self.protocol.state is State.OPEN

    @property
    def has_closed(self):
        """Whether it has said goodbye."""
        return self.protocol.close_rcvd is not None

    def take(self, data):
        """Take bytes from the network."""
        self.protocol.receive_data(data)
        for event in self.protocol.events_received():
            if self.failure:
                break  # what comes after the end does not count
            if isinstance(event, Request):
                self.answer(event)
            elif event.opcode is Opcode.PONG:
                self.alive = True
            elif event.opcode is Opcode.BINARY:
                self.fail(CloseCode.UNSUPPORTED_DATA, "binary message")
            elif event.opcode in (Opcode.TEXT, Opcode.CONT):
                self.message += event.data
                if event.fin:
                    self.end_message()
        if self.protocol.handshake_exc and not self.failure:
            self.failure = "no request"
        elif isinstance(self.protocol.parser_exc, PayloadTooBig):
            self.lines.append(bytes(self.most) + b"\n")  # as good as any that is too long
        elif self.protocol.parser_exc and not self.failure:
            self.failure = "broken WebSocket"

    def answer(self, request):
        """Answer a request: the page, or the chat, or that there is nothing else."""
        method = getattr(request, "method", "GET")  # older versions of the library take no other
        if request.path == "/" and method in ("GET", "HEAD"):
            response, self.failure = self.page.response(), "page sent"
        elif request.path != "/chat":
            response, self.failure = self.protocol.reject(404, "There are / and /chat.\n"), "no such page"
        else:
            response = self.protocol.accept(request)
            if response.status_code != 101:
                self.failure = "another origin" if response.status_code == 403 else "no WebSocket"
        if method == "HEAD":  # it asks for the headers alone
            response.body = b""
        self.protocol.send_response(response)

    def end_message(self):
        """Make a line of the message that is whole now."""
        message, self.message = bytes(self.message), bytearray()
        try:
            message.decode()
        except UnicodeDecodeError:
            return self.fail(CloseCode.INVALID_DATA, "not utf-8")
        if len(message) >= self.most:
            message = message.replace(b"\n", b" ")  # it is too long, also if it is made of lines that are not
        self.lines.append(message + b"\n")

    def fail(self, code, why):
        """End the connection, and tell the browser why."""
        self.failure = self.failure or why
        self.protocol.fail(code, why)

    def ping(self):
        """Ask whether it is still there."""
        self.alive = False
        self.protocol.send_ping(b"")

    def say(self, text):
        """Say whole lines, given as bytes."""
        if self.is_open and text:
            self.protocol.send_text(text)

    def end(self, reason):
        """Say goodbye."""
        if self.is_open:
            self.protocol.send_close(CODES.get(reason, CloseCode.NORMAL_CLOSURE))

    def going(self):
        """Return the bytes that are to go out now."""
        return b"".join(self.protocol.data_to_send())

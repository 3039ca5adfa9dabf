"""The growing road's WebSocket door, from web/ on: by raw bytes, and by the client's side of the library `websockets`.

The page in a browser is tested in test_web_page.py.
"""

import base64
import contextlib
import dataclasses
import hashlib
import re
import shutil
import signal
import socket
import ssl
import sys
import termios
import time
import types

import harness
import pytest
from certificates import Certificate, make
from harness import DEADLINE, QUESTION, Peer, Stopwatch, wait_until
from promises import CERT, ROAD, ROOT
from road import with_limits
from test_programs import program
from test_stopping import stop
from tls import TlsSocket

websockets = pytest.importorskip("websockets")
from websockets.client import ClientProtocol  # noqa: E402
from websockets.exceptions import InvalidStatus  # noqa: E402
from websockets.frames import Close, Opcode  # noqa: E402
from websockets.http11 import Response  # noqa: E402
from websockets.uri import parse_uri  # noqa: E402

REQUEST_TIME = 5  # seconds
MAX_MESSAGE = 4096
TOO_LONG = b"error: a message may be at most 4096 bytes\n"
MIB = 1 << 20
web = pytest.mark.parametrize("step", ["web"])


# The clients


class WebSocket:
    """What a socket is to `Peer`, but that it is a browser's WebSocket: lines go as text messages, and come as such.

    Like a browser it answers pings and a close by itself, whenever it reads.
    """

    def __init__(self, sock, url, origin=None, first=b""):
        self.sock, self.messages, self.frames, self.pongs = sock, [], [], []
        self.unread, self.silent = b"", False  # whether it answers nothing by itself
        self.protocol = ClientProtocol(parse_uri(url), origin=origin, max_size=None)
        self.protocol.send_request(self.protocol.connect())
        sock.settimeout(DEADLINE)
        sock.sendall(b"".join(self.protocol.data_to_send()) + first)
        while not self.frames:
            assert self._take(), "it was closed without an answer"
        self.response = self.frames.pop(0)
        assert isinstance(self.response, Response)
        if self.protocol.handshake_exc:
            raise self.protocol.handshake_exc

    def __getattr__(self, name):
        """All else is the socket's own affair."""
        return getattr(self.sock, name)

    def _take(self):
        if data := self.sock.recv(1 << 16):
            self.protocol.receive_data(data)
        else:
            self.protocol.receive_eof()
        self.frames += self.protocol.events_received()
        answer = b"".join(self.protocol.data_to_send())
        if not self.silent:
            with contextlib.suppress(OSError):  # it is gone, and what it said before is here
                self.sock.sendall(answer)
        return data

    def recv(self, count):
        """The text of the next message, or b"" after a close. Whoever leaves without one resets the connection."""
        while True:
            while self.frames:
                frame = self.frames.pop(0)
                if frame.opcode in (Opcode.TEXT, Opcode.CONT):
                    self.unread += frame.data
                    if frame.fin:
                        message, self.unread = self.unread, b""
                        assert message.endswith(b"\n"), f"not whole lines: {message}"
                        assert message.decode(errors="ignore").encode() == message, f"not UTF-8: {message}"
                        self.messages.append(message)
                        return message
                assert frame.opcode is not Opcode.BINARY
                if frame.opcode is Opcode.PONG:
                    self.pongs.append(frame.data)
                if frame.opcode is Opcode.CLOSE:
                    return b""
            if not self._take() and not self.frames:
                raise ConnectionResetError("no close")

    def sendall(self, data):
        """Send each line as a message."""
        lines = data.split(b"\n")
        for line in lines[:-1] + ([lines[-1]] if lines[-1] else []):
            self.send_frame(Opcode.TEXT, line)

    def send_frame(self, opcode, data, fin=True):
        self.sock.sendall(frame(opcode, data, fin))

    @property
    def code(self):
        """The code with which the server closed, and whether it has."""
        return self.protocol.close_rcvd and self.protocol.close_rcvd.code


def shorten(text):
    return f"{len(text.encode())} bytes of {text[:2]!r}"


def frame(opcode, data, fin=True, key=b"\x12\x34\x56\x78"):
    """The bytes of a client's frame (RFC 6455, 5.2), whatever may stand in one."""
    length = len(data)
    if length < 126:
        size = bytes([0x80 | length])
    else:
        size = b"\xfe" + length.to_bytes(2) if length < 1 << 16 else b"\xff" + length.to_bytes(8)
    masked = bytes(byte ^ key[number % 4] for number, byte in enumerate(data))
    return bytes([fin << 7 | opcode]) + size + key + masked


def port_of(server):
    """The port of the WebSocket door."""
    return int(server.await_log(r" web page on https?://\S+:(\d+)/$")[1])


def door(server):
    """The WebSocket door, as far as a Peer must know the server at which it is."""
    return types.SimpleNamespace(
        host=server.host, port=port_of(server), peers=server.peers, gone=server.gone, model=server.model
    )


def call(server, receive_buffer=None):
    """A connection to the WebSocket door that says nothing by itself."""
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(DEADLINE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    at = door(server)
    sock.connect((at.host, at.port))
    server.peers.append(Peer(at, sock))
    return server.peers[-1]


def surf(server, origin=None, receive_buffer=None, first=b""):
    """A browser at the door; `first`: what comes in one packet with its request."""
    peer = call(server, receive_buffer)
    url = f"ws://127.0.0.1:{peer.server.port}/chat"
    if server.model.tls:
        url, peer.sock = url.replace("ws", "wss"), TlsSocket(peer.sock)
    peer.sock = WebSocket(peer.sock, url, origin, first)
    return peer


def come_in(server, name, **options):
    """A browser in the room."""
    __tracebackhide__ = True
    peer = surf(server, **options)
    peer.expect(QUESTION)
    peer.send(f"{name}\n".encode())
    peer.welcome, peer.name = peer.read_line().decode(), name
    if not peer.welcome.startswith(f"* you are {name}; "):
        peer.fail(f"{name} was not let in: {peer.welcome}")
    return peer


def closed(peer, code, maybe_after=b""):
    """The server must say goodbye with this code."""
    __tracebackhide__ = True
    peer.expect_closed(maybe_after)
    assert (peer.sock.code, peer.ended) == (code, "end of stream")
    with contextlib.suppress(ConnectionResetError):  # what it said after that is unread
        assert peer.sock.sock.recv(1) == b""


def request(line, *headers):
    """The bytes of a request for HTTP."""
    return "\r\n".join([line, "Host: localhost", *headers, "", ""]).encode()


UPGRADE = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
UPGRADE += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]


def answer(peer):
    """The status, the headers and the body of the answer, after which the server must close."""
    head, _, body = peer.read_to_end().partition(b"\r\n\r\n")
    status, *headers = head.decode().split("\r\n")
    return (
        int(status.split()[1]),
        {name.lower(): text for name, text in (line.split(": ", 1) for line in headers)},
        body,
    )


def altered(scratch, step, **constants):
    """The model of a step, or of a wrong server made of it, of which some of the constants have other values."""
    (model,) = [model for model in ROAD if model.name == step]
    wrong = scratch / "wrong"  # as test_wrong_servers.py calls its folder
    folder = shutil.copytree(wrong if wrong.exists() else ROOT / "features" / step, scratch / "altered")
    text = (folder / "server.py").read_text()
    for name, value in constants.items():
        text, count = re.subn(rf"^{name} = \d+", f"{name} = {value}", text, flags=re.MULTILINE)
        assert count == 1
    (folder / "server.py").write_text(text)
    command = tuple(word.replace(f"features/{step}/", f"{folder}/") for word in model.command)
    return dataclasses.replace(model, command=command)


def with_tls(step):
    """The model of a step with a certificate."""
    (model,) = [model for model in ROAD if model.name == step]
    return dataclasses.replace(model, command=(*model.command, *CERT), tls=True)


def await_dropped(server, peer, why, online):
    __tracebackhide__ = True
    server.await_log(rf"^\S+ {peer.in_log} {why}, {online} online$")


# HTTP

PAGE = (ROOT / "features" / "web" / "page.html").read_bytes()


def source_hash(tag):
    source = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), PAGE, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(source[0]).digest()).decode()}'"


def check_headers(headers):
    """Fail unless a browser that has these is sure to run and load nothing but what stands in the page."""
    policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "script-src": source_hash(b"script"),
        "style-src": source_hash(b"style"),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["content-length"] == str(len(PAGE))
    assert headers["referrer-policy"] == "no-referrer"


def test_what_the_step_before_could_not_do(serve):
    """There a browser is somebody who says that it wants a page."""
    asking = request("GET / HTTP/1.1")
    before = serve("accounts").visit()
    before.send(asking)
    assert before.read_until(b"\n") == QUESTION
    assert before.read_until(b"\n").startswith(b"error: ")
    peer = call(serve("web"))
    peer.send(asking)
    assert answer(peer)[::2] == (200, PAGE)


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@web
def test_the_page(step, version, serve):
    server = serve(step)
    peer = call(server)
    peer.send(request(f"GET / {version}"))
    status, headers, body = answer(peer)
    assert (status, body) == (200, PAGE)
    check_headers(headers)


@web
def test_the_pages_headers_alone(step, serve):
    """As in curl -I: what a HEAD asks for has no body, but tells how long that would be."""
    server = serve(step)
    peer = call(server)
    peer.send(request("HEAD / HTTP/1.1"))
    status, headers, body = answer(peer)
    assert (status, body) == (200, b"")
    check_headers(headers)


@web
def test_the_page_for_who_reads_slowly(step, serve):
    server = serve(step)
    ana = server.enter("ana")
    peer = call(server, receive_buffer=2000)
    peer.send(request("GET / HTTP/1.1"))
    server.await_log("page")
    ana.send(b"/list\n")
    ana.expect(b"* here: ana\n")
    assert answer(peer)[2] == PAGE


@web
def test_a_request_in_pieces(step, serve):
    server = serve(step)
    peer = call(server)
    whole = request("GET / HTTP/1.1", *(f"X-{number}: {number}" for number in range(20)))
    peer.send_parts([whole[number : number + 7] for number in range(0, len(whole), 7)], pause=0.005)
    assert answer(peer)[2] == PAGE


ELSEWHERE = ["/index.html", "/?a=b", "/chat/", "/CHAT", "/favicon.ico", "//", "/../server.py", "/history.db", "*"]
ELSEWHERE += ["/" + "x" * 3000, "http://localhost/", "/%63hat", "/chat%00", "/;", "/<script>"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ELSEWHERE)
@web
def test_there_is_nothing_elsewhere(step, path, method, serve):
    server = serve(step)
    peer = call(server)
    peer.send(request(f"{method} {path} HTTP/1.1", *UPGRADE))
    status, headers, body = answer(peer)
    assert status == 404
    assert headers["content-type"].startswith("text/plain")
    assert body == {"GET": b"There are / and /chat.\n", "HEAD": b""}[method]
    await_dropped(server, peer, "dropped: [^,]+", 0)


@pytest.mark.parametrize("path", ["/", "/chat"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "get", "PRI"])
@web
def test_nothing_else_can_be_done_with_the_page(step, method, path, serve):
    server = serve(step)
    peer = call(server)
    peer.send(request(f"{method} {path} HTTP/1.1", *UPGRADE))
    status, _, body = answer(peer)
    assert status in (404, 405, 501)
    assert PAGE not in body


NO_WEBSOCKET = {
    "a plain request": [],
    "no upgrade": UPGRADE[1:],
    "no connection": UPGRADE[:1] + UPGRADE[2:],
    "no version": UPGRADE[:2] + UPGRADE[3:],
    "an older version": [*UPGRADE[:2], "Sec-WebSocket-Version: 8", UPGRADE[3]],
    "no key": UPGRADE[:3],
    "a key that is none": [*UPGRADE[:3], "Sec-WebSocket-Key: x"],
    "two keys": [*UPGRADE, UPGRADE[3]],
    "another protocol": ["Upgrade: h2c", *UPGRADE[1:]],
}


@pytest.mark.parametrize("kind", NO_WEBSOCKET)
@web
def test_a_request_for_the_chat_that_is_no_websocket(step, kind, serve):
    server = serve(step)
    peer = call(server)
    peer.send(request("GET /chat HTTP/1.1", *NO_WEBSOCKET[kind]))
    status, _, body = answer(peer)
    assert status in (400, 426)
    assert QUESTION not in body
    await_dropped(server, peer, "dropped: [^,]+", 0)


BROKEN = {
    "a line": b"hello\n",
    "two lines": b"hello\r\n\r\n",
    "a name": b"ana\n" * 20,
    "another version": request("GET / HTTP/2.0"),
    "no version": request("GET /"),
    "no path": b"GET HTTP/1.1\r\n\r\n",
    "a header without a colon": request("GET / HTTP/1.1", "x"),
    "a header with a blank": request("GET / HTTP/1.1", "X : y"),
    "bytes": bytes(range(256)) * 10,
    "a path that is no ASCII": "GET /ü HTTP/1.1\r\n\r\n".encode(),
    "a body": request("POST / HTTP/1.1", "Content-Length: 3") + b"abc",
    "chunks": request("POST / HTTP/1.1", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n",
    "a long path": request("GET /" + "x" * 20_000 + " HTTP/1.1"),
    "a long header": request("GET / HTTP/1.1", "X: " + "x" * 20_000),
    "many headers": request("GET / HTTP/1.1", *["X: y"] * 2000),
}


@pytest.mark.parametrize("kind", BROKEN)
@web
def test_what_is_no_request_is_dropped_at_once(step, kind, serve):
    server = serve(step)
    ana = server.enter("ana")
    peer, watch = call(server), Stopwatch(server)
    peer.offer(BROKEN[kind])
    line = re.compile(rf"^\S+ {peer.in_log} dropped: [^,]+, 1 online$", re.MULTILINE)
    assert watch.until(lambda: line.search(server.log)) < REQUEST_TIME / 2
    came = peer.read_to_end()
    assert came == b"" or int(came.split()[1]) >= 400
    bob = come_in(server, "bob")
    ana.expect(b"* bob joined\n")
    bob.send(b"hello\n")
    ana.expect_line(bob, "hello")


HALF = {
    "nothing": b"",
    "half a line": b"GET /chat HT",
    "half a request": request("GET /chat HTTP/1.1", *UPGRADE)[:-2],
    "TLS": bytes.fromhex("16 0301 0100 01 0000fc 0303") + bytes(300),
}


@web
def test_a_request_that_never_ends_is_dropped_and_holds_up_nobody(step, serve):
    server = serve(step)
    ana = server.enter("ana")
    bob = come_in(server, "bob")
    ana.expect(b"* bob joined\n")
    begun = time.monotonic()
    slow = {kind: call(server) for kind in [*HALF, "a byte each second"]}
    for kind, data in HALF.items():
        slow[kind].send(data)
    left = list(request("GET /chat HTTP/1.1", *UPGRADE))
    while not all(peer.ended for peer in slow.values()):
        second = time.monotonic() - begun
        assert second < harness.DEADLINE, "they are still there"
        if len(left) + second > len(request("GET /chat HTTP/1.1", *UPGRADE)):
            slow["a byte each second"].offer(bytes([left.pop(0)]))
        for peer in slow.values():
            peer.read_some(within=0.05)
        watch = Stopwatch(server)
        ana.send(b"%f\n" % second)
        bob.expect_line(ana, f"{second:f}")
        assert watch.lap() < 2
    assert time.monotonic() - begun > REQUEST_TIME - 0.5
    for peer in slow.values():
        await_dropped(server, peer, "dropped: no request", 2)


# Other pages

OURS = ["http://localhost:{port}", "http://127.0.0.1:{port}", "http://[::1]:{port}"]
OTHERS = [
    "http://evil.example",
    "http://evil.example:{port}",
    "https://localhost:{port}",
    "http://localhost",
    "null",
    "x",
]
OTHERS += [
    "http://localhost:1{port}",
    "http://localhost:{port}.evil.example",
    "http://localhost:{port}/",
    "file://",
    "",
]
OTHERS += ["http://evil.example http://localhost:{port}", "http://127.0.0.2:{port}", "http://0.0.0.0:{port}"]


def ask_from(server, *origins):
    """Ask for the chat as a page of these origins would have a browser do it; return the status of the answer."""
    peer = call(server)
    peer.send(
        request(
            "GET /chat HTTP/1.1", *UPGRADE, *(f"Origin: {origin.format(port=peer.server.port)}" for origin in origins)
        )
    )
    return int(peer.read_until(b"\r\n").split()[1])


@pytest.mark.parametrize("origin", OTHERS)
@web
def test_a_page_from_elsewhere_does_not_come_in(step, origin, serve):
    """Any page that one visits may connect to servers on one's own machine. The browser only says whose page it is."""
    server = serve(step)
    assert ask_from(server, origin) == 403
    server.await_log(r"dropped: another origin, 0 online$")


@pytest.mark.parametrize("host", [None, "localhost", "127.0.0.1"])
@web
def test_our_own_page_comes_in(step, host, serve):
    server = serve(step, host=host)
    assert [ask_from(server, origin) for origin in OURS] == [101] * 3
    assert ask_from(server) == 101  # no browser, or the user's own program
    assert ask_from(server, OURS[0], OURS[0]) in (400, 403)


@web
def test_other_pages_may_be_allowed(step, serve):
    server = serve(step, "--origin", "https://chat.example", "--origin", "https://www.chat.example:8443")
    allowed = ["https://chat.example", "https://www.chat.example:8443", OURS[0]]
    assert [ask_from(server, origin) for origin in allowed] == [101] * 3
    refused = ["http://chat.example", "https://www.chat.example", "https://chat.example.evil.example"]
    assert [ask_from(server, origin) for origin in refused] == [403] * 3


@pytest.mark.parametrize("cert, port, origin", [(None, 80, "http://localhost"), ("cert.pem", 443, "https://localhost")])
@web
def test_a_port_that_browsers_leave_out(step, cert, port, origin, scratch, run):
    """Of the origin they leave out the port that is the usual one (RFC 6454, 6.1)."""
    code = (
        f"import sys, types; sys.path.insert(0, 'features/{step}'); import server; "
        f"web = types.SimpleNamespace(getsockname=lambda: ('127.0.0.1', {port})); "
        f"args = types.SimpleNamespace(cert={cert!r}, host='127.0.0.1', origin=[]); "
        f"print(*server.origins_of(web, args))"
    )
    process = run([sys.executable, "-c", code], cwd=ROOT)
    assert process.wait() == 0, process.log
    assert origin in process.log.split()


# The two doors


@web
def test_both_doors_lead_into_one_room(step, serve):
    """The same lines come to both, byte for byte."""
    server = serve(step)
    carla, dora = server.enter("carla"), come_in(server, "dora")
    assert dora.welcome == "* you are dora; also here: carla\n"
    carla.expect(b"* dora joined\n")
    ana, bob = server.enter("ana"), come_in(server, "bob")
    ana.expect(b"* bob joined\n")
    texts = ["hello", "grüß dich 👋", "<b>&amp;</b>", "//me", "a\tb", "x" * 4000]
    for speaker, listener in ((ana, bob), (bob, ana)):
        for text in texts:
            speaker.send(f"{text}\n".encode())
        listener.expect_lines(speaker, [text.removeprefix("/") for text in texts])
        speaker.send(f"/me waves\n/pm {listener.name} psst\n/list\n".encode())
        speaker.expect(f"* you whisper to {listener.name}: psst\n* here: ana, bob, carla, dora\n".encode())
        listener.expect(f"~ {speaker.name} waves\n{speaker.name} whispers: psst\n".encode())
    bob.send(b"/nick Ben\n")
    for peer in (ana, bob):
        peer.expect(b"* bob is now Ben\n")
    bob.send(b"/quit\n")
    closed(bob, 1000)
    ana.expect(b"* Ben left\n")
    ana.send(b"/quit\n")
    ana.expect_closed()
    heard = [peer.read_until(b"* ana left\n").decode().splitlines() for peer in (carla, dora)]
    assert heard[0] == heard[1]
    assert len(heard[0]) == 2 + 2 * len(texts) + 2 + 3


@pytest.mark.parametrize("speaker", ["lines", "browser"])
@web
def test_what_is_dangerous_is_cleaned_at_both_doors(step, speaker, serve):
    server = serve(step)
    ana, bob = server.enter("ana"), come_in(server, "bob")
    carla = {"lines": server.enter, "browser": lambda name: come_in(server, name)}[speaker]("carla")
    for peer in (ana, bob):
        peer.read_until(b"* carla joined\n")
    for text in ["\x1b[2Jred\x07", "\u202eabc\u2069", "\x9b31m", "null\0null", "del\x7f", "👩‍👩‍👧‍👦", "ÿ\u00ff"]:
        carla.send(f"{text}.\n".encode())
    cleaned = ["[2Jred", "abc", "31m", "nullnull", "del", "👩‍👩‍👧‍👦", "ÿÿ"]
    for peer in (ana, bob):
        peer.expect_lines(carla, [f"{text}." for text in cleaned])


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "&lt;b&gt;", "'\"`${1}"])
@web
def test_markup_is_text_at_both_doors(step, text, serve):
    """It is for the page to show it as such. Who replaced something here would spoil it for the others."""
    server = serve(step)
    ana, bob = server.enter("ana"), come_in(server, "bob")
    ana.expect(b"* bob joined\n")
    for speaker, listener in ((ana, bob), (bob, ana)):
        speaker.send(f"{text}\n".encode())
        listener.expect_line(speaker, text)
    carla = come_in(server, "carla")
    assert re.fullmatch(rf"\[[-0-9 :]+\] ana says: {re.escape(text)}\n", carla.read_line().decode())


@web
def test_who_is_at_the_door_hears_nothing(step, serve):
    server = serve(step)
    bob = surf(server)
    bob.expect(QUESTION)
    bob.send(b"<b>\n")
    bob.expect(b"error: a name has 1 to 20 letters, digits, - and _, and begins with a letter\nyour name?\n")
    ana = server.enter("ana")
    assert ana.welcome == "* you are ana; nobody else is here\n"
    ana.send(b"hello\n")
    bob.send(b"ANA\n")
    bob.expect(b"error: ANA is taken\nyour name?\n")
    bob.send(b" bob\n")
    bob.expect(b"* you are bob; also here: ana\n")
    ana.expect(b"* bob joined\n")
    server.await_log(rf"^\S+ bob@{re.escape(bob.address)} joined, 2 online$")


@web
def test_a_password_belongs_to_the_name_at_both_doors(step, serve):
    """No telnet's bytes come to a browser: it would take them for an error in the text."""
    server = serve(step)
    ana, bob = server.enter("ana"), come_in(server, "bob")
    ana.expect(b"* bob joined\n")
    for peer in (ana, bob):
        peer.send(b"/register open sesame\n")
        peer.expect(f"* {peer.name} is yours now: its password is asked at the door\n".encode())
    for peer in (ana, bob):
        peer.send(b"/quit\n")
        peer.read_to_end()
    again = surf(server)
    again.expect(QUESTION)
    again.send(b"ana\n")
    again.expect(b"password?\n")
    again.send(b"open says me\n")
    again.expect(b"error: wrong password\nyour name?\n")
    again.send(b"ana\n")
    again.expect(b"password?\n")
    again.send(b"open sesame\n")
    assert again.read_line() == b"* you are ana; nobody else is here\n"
    ben = server.enter("bob", password="open sesame")
    again.expect(b"* bob joined\n")
    ben.send(b"/nick carla\n")
    again.expect(b"* bob is now carla\n")
    again.send(b"/nick bob wrong word\n/nick bob open sesame\n")
    again.expect(b"error: wrong password\n* ana is now bob\n")


@web
def test_the_history_is_told_at_both_doors(step, serve):
    server = serve(step)
    ana, bob = server.enter("ana"), come_in(server, "bob")
    ana.expect(b"* bob joined\n")
    for speaker, listener in ((ana, bob), (bob, ana)):
        speaker.send(b"cats and dogs\n")
        listener.expect_line(speaker, "cats and dogs")
    both = re.compile(rb"(\[[-0-9 :]+\] (ana|bob) says: cats and dogs\n){2}")
    for come in (server.enter, lambda name: come_in(server, name)):
        peer = come("carla")
        assert both.fullmatch(peer.read_line() + peer.read_line())
        for command in (b"/search dogs\n", b"/history\n"):
            peer.send(command)
            assert both.fullmatch(peer.read_line() + peer.read_line())
        peer.send(b"/quit\n")
        peer.expect_closed()


# Messages and frames

LINES = {  # what is said in one message: the lines that the others hear
    "one line": ("hello", ["hello"]),
    "a newline at its end": ("hello\n", ["hello"]),
    "two lines": ("one\ntwo", ["one", "two"]),
    "a terminal's newlines": ("one\r\n\r\ntwo\r\n", ["one", "two"]),
    "many lines": ("\n".join("abc"), ["a", "b", "c"]),
    "other line separators": ("one\u2028two\x0bthree\x85", ["one\u2028twothree"]),
    "nothing": ("", []),
    "blanks": (" \n\t\u3000\n", []),
    "a command and a line": ("/list\nhello", ["hello"]),
}


@pytest.mark.parametrize("kind", LINES)
@web
def test_a_message_is_a_line(step, kind, serve):
    server = serve(step)
    ana, bob = server.enter("ana"), come_in(server, "bob")
    ana.expect(b"* bob joined\n")
    text, lines = LINES[kind]
    bob.sock.send_frame(Opcode.TEXT, text.encode())
    bob.sock.send_frame(Opcode.TEXT, b"the end")
    ana.expect_lines(bob, [*lines, "the end"])


@web
def test_several_lines_in_one_message_at_the_door(step, serve):
    server = serve(step)
    ana = server.enter("ana")
    bob = surf(server)
    bob.sock.send_frame(Opcode.TEXT, b"ana\nbob\nhello")
    ana.expect(b"* bob joined\nbob says: hello\n")


@web
def test_messages_in_the_same_packet_as_the_request(step, serve):
    server = serve(step)
    ana = server.enter("ana")
    bob = surf(server, first=frame(Opcode.TEXT, b"bob") + frame(Opcode.TEXT, b"hello"))
    ana.expect(b"* bob joined\nbob says: hello\n")
    bob.expect(QUESTION)
    bob.expect(b"* you are bob; also here: ana\n")


CUTS = {
    "a thousand fragments": [b"x" * 4] * 1000,
    "in the middle of a character": ["grü".encode()[:-1], "grü".encode()[-1:], b"\xf0", b"\x9f\x91", b"\x8b"],
    "empty fragments": [b"", b"a", b"", b"", b"b", b""],
}


@pytest.mark.parametrize("between", ["nothing", "pings"])
@pytest.mark.parametrize("kind", CUTS)
@web
def test_a_message_in_fragments(step, kind, between, serve):
    server = serve(step)
    ana, bob = server.enter("ana"), come_in(server, "bob")
    ana.expect(b"* bob joined\n")
    parts = CUTS[kind]
    frames = [
        frame(Opcode.CONT if number else Opcode.TEXT, part, fin=number == len(parts) - 1)
        for number, part in enumerate(parts)
    ]
    ping = frame(Opcode.PING, b"hi") if between == "pings" else b""
    bob.sock.sock.sendall(ping.join(frames))
    ana.expect_line(bob, b"".join(parts).decode())
    bob.send(b"the end\n")
    ana.expect_line(bob, "the end")


@web
def test_a_frame_a_byte_at_a_time(step, serve):
    server = serve(step)
    ana, bob = server.enter("ana"), come_in(server, "bob")
    ana.expect(b"* bob joined\n")
    for byte in frame(Opcode.TEXT, "grüß dich".encode()) + frame(Opcode.TEXT, b"x" * 130):
        bob.sock.sock.sendall(bytes([byte]))
        bob.await_taken()
    ana.expect_lines(bob, ["grüß dich", "x" * 130])


@web
def test_many_messages_in_one_packet(step, serve):
    server = serve(step)
    ana, bob = server.enter("ana"), come_in(server, "bob")
    ana.expect(b"* bob joined\n")
    texts = [f"{number} grüß dich" for number in range(1000)]
    bob.sock.sock.sendall(b"".join(frame(Opcode.TEXT, text.encode()) for text in texts))
    ana.expect_lines(bob, texts)


@pytest.mark.parametrize("text", ["x" * 4095, "x" * 4094 + "\n", "ü" * 2047 + "x", "a\n" * 2000], ids=shorten)
@web
def test_the_longest_message(step, text, serve):
    """With its newline it has 4096 bytes, as over TCP; of a message that has none its end counts as one."""
    server = serve(step)
    ana, bob = server.enter("ana"), come_in(server, "bob")
    ana.expect(b"* bob joined\n")
    bob.sock.send_frame(Opcode.TEXT, text.encode())
    ana.expect_lines(bob, text.split())


TOO_MUCH = {
    "4096": [b"x" * 4096],
    "4097": [b"x" * 4097],
    "4097 of lines": [b"a\n" * 2048 + b"b"],
    "8192": [b"x" * 8192],
    "8193": [b"x" * 8193],
    "a megabyte": [b"x" * 1_000_000],
    "4097 in fragments": [b"x" * 4000, b"x" * 97],
    "a megabyte in fragments": [b"x" * 1000] * 1000,
}


@pytest.mark.parametrize("kind", TOO_MUCH)
@web
def test_a_message_that_is_too_long(step, kind, serve):
    """None of it is told, but what came before it. The sender is told why, and closed with the code for that."""
    server = serve(step)
    ana, bob = server.enter("ana"), come_in(server, "bob")
    ana.expect(b"* bob joined\n")
    bob.send(b"before\n")
    parts = TOO_MUCH[kind]
    data = [
        frame(Opcode.CONT if number else Opcode.TEXT, part, fin=number == len(parts) - 1)
        for number, part in enumerate(parts)
    ]
    with contextlib.suppress(ConnectionError):  # it does not read all of that
        bob.sock.sock.sendall(b"".join(data) + frame(Opcode.TEXT, b"after"))
    ana.expect_line(bob, "before")
    ana.expect(b"* bob left\n")
    await_dropped(server, bob, "dropped: message too long", 1)
    came = bob.read_to_end()
    if kind in ("4096", "4097", "4097 of lines", "8192", "8193", "4097 in fragments"):  # else a reset may overtake it
        assert came == TOO_LONG
        assert bob.sock.code == 1009
    assert came in (TOO_LONG, b"")


# The end, and its codes

BAD_FRAMES = {
    "binary": (frame(Opcode.BINARY, b"hello"), 1003),
    "binary in fragments": (frame(Opcode.BINARY, b"hel", fin=False) + frame(Opcode.CONT, b"lo"), 1003),
    "no UTF-8": (frame(Opcode.TEXT, b"gr\xfc"), 1007),
    "half a character": (frame(Opcode.TEXT, b"\xf0\x9f"), 1007),
    "a surrogate": (frame(Opcode.TEXT, b"\xed\xa0\x80"), 1007),
    "not masked": (b"\x81\x05hello", 1002),
    "a bit that is reserved": (bytes([0x91 | 0x40]) + frame(Opcode.TEXT, b"hello")[1:], 1002),
    "compressed": (bytes([0xC1]) + frame(Opcode.TEXT, b"hello")[1:], 1002),
    "an opcode that is none": (frame(3, b"hello"), 1002),
    "a continuation of nothing": (frame(Opcode.CONT, b"hello"), 1002),
    "one message inside another": (frame(Opcode.TEXT, b"a", fin=False) + frame(Opcode.TEXT, b"b"), 1002),
    "a ping in fragments": (frame(Opcode.PING, b"a", fin=False), 1002),
    "a long ping": (frame(Opcode.PING, bytes(126)), 1002),
    "a close with half a code": (frame(Opcode.CLOSE, b"\x03"), 1002),
    "a close with no such code": (frame(Opcode.CLOSE, (999).to_bytes(2)), 1002),
    "a close that is no UTF-8": (frame(Opcode.CLOSE, (1000).to_bytes(2) + b"\xff"), 1007),
}


@pytest.mark.parametrize("kind", BAD_FRAMES)
@web
def test_what_is_no_text_message_ends_the_connection(step, kind, serve):
    server = serve(step)
    ana, bob = server.enter("ana"), come_in(server, "bob")
    ana.expect(b"* bob joined\n")
    data, code = BAD_FRAMES[kind]
    bob.send(b"before\n")
    bob.sock.sock.sendall(data + frame(Opcode.TEXT, b"after"))
    ana.expect_line(bob, "before")
    ana.expect(b"* bob left\n")
    await_dropped(server, bob, "dropped: [^,]+", 1)
    closed(bob, code)


GOODBYES = {
    "1000": Close(1000, "").serialize(),
    "1001, as from a tab that is closed": Close(1001, "going away").serialize(),
    "one's own": Close(4321, "grüß dich").serialize(),
    "none": b"",
}


@pytest.mark.parametrize("kind", GOODBYES)
@web
def test_a_close_is_answered_and_what_came_before_it_is_told(step, kind, serve):
    server = serve(step)
    ana, bob = server.enter("ana"), come_in(server, "bob")
    ana.expect(b"* bob joined\n")
    bob.sock.sock.sendall(
        frame(Opcode.TEXT, b"good-bye") + frame(Opcode.CLOSE, GOODBYES[kind]) + frame(Opcode.TEXT, b"after")
    )
    ana.expect_line(bob, "good-bye")
    ana.expect(b"* bob left\n")
    await_dropped(server, bob, "left", 1)
    closed(bob, int.from_bytes(GOODBYES[kind][:2]) or 1005)


@web
def test_half_a_message_before_a_close_is_not_told(step, serve):
    server = serve(step)
    ana, bob = server.enter("ana"), come_in(server, "bob")
    ana.expect(b"* bob joined\n")
    bob.sock.sock.sendall(frame(Opcode.TEXT, b"I will not", fin=False) + frame(Opcode.CLOSE, b""))
    ana.expect(b"* bob left\n")


@pytest.mark.parametrize("end", ["close", "reset"])
@web
def test_a_browser_that_is_gone_without_a_word(step, end, serve):
    """What was whole counts, as in any other case of a connection that is cut."""
    server = serve(step)
    ana, bob = server.enter("ana"), come_in(server, "bob")
    ana.expect(b"* bob joined\n")
    bob.sock.sock.sendall(frame(Opcode.TEXT, b"hello") + frame(Opcode.TEXT, b"I will not")[:-3])
    bob.await_taken()
    getattr(bob, end)()
    ana.expect_line(bob, "hello")
    ana.expect(b"* bob left\n")
    await_dropped(server, bob, "dropped: connection (cut off|reset by peer)", 1)


# Pings


@web
def test_pings_are_answered(step, serve):
    server = serve(step)
    bob = come_in(server, "bob")
    for data in (b"", b"hi", bytes(125)):
        bob.sock.send_frame(Opcode.PING, data)
        wait_until(lambda: bob._receive(time.monotonic()) or bob.sock.pongs)
        assert bob.sock.pongs.pop() == data


@web
def test_a_browser_that_answers_no_ping_is_dropped(step, serve, scratch):
    server = serve(altered(scratch, step, PING_TIME=1))
    ana, bob, carla = server.enter("ana"), come_in(server, "bob"), come_in(server, "carla")
    ana.expect(b"* bob joined\n* carla joined\n")
    bob.sock.silent = True
    begun = time.monotonic()
    while bob not in (ended := [peer for peer in (bob, carla) if peer.ended]):
        assert time.monotonic() - begun < harness.DEADLINE, "it is still there"
        for peer in (bob, carla):
            peer.read_some(within=0.02)
    await_dropped(server, bob, "dropped: no pong", 2)
    ana.expect(b"* bob left\n")
    assert ended == [bob]
    until = time.monotonic() + 3  # periods
    while time.monotonic() < until:
        carla.read_some(within=0.02)
    assert not carla.ended
    carla.send(b"still here\n")
    ana.expect_line(carla, "still here")


@web
def test_who_is_held_back_by_the_limits_is_not_taken_for_gone(step, serve, scratch):
    """Its answers to pings wait behind what it says too fast."""
    server = serve(altered(scratch, step, PING_TIME=1), "--lines", 2)
    ana, bob = server.enter("ana"), come_in(server, "bob")
    ana.expect(b"* bob joined\n")
    texts = [str(number) for number in range(20)]
    bob.send("".join(f"{text}\n" for text in texts).encode())
    for text in texts:
        while not ana._receive(time.monotonic() + 0.05) and b"\n" not in ana.unread:
            bob.read_some(within=0.01)
        ana.expect_line(bob, text)
    assert not bob.ended


# Slow, and many


@web
def test_a_browser_that_does_not_read_is_dropped_and_the_others_do_not_notice(step, serve):
    server = serve(step)
    ana, bob = server.enter("ana"), come_in(server, "bob")
    stuck = come_in(server, "stuck", receive_buffer=2000)
    for peer in (ana, bob):
        peer.read_until(b"* stuck joined\n")
    left, heard = b"* stuck left\n", b""
    before, said, watch = server.memory(), 0, Stopwatch(server)
    while left not in heard:
        assert said < 500, "40 MB wait for it somewhere"
        texts = [f"{said} {number} " + "x" * 4000 for number in range(20)]
        ana.send("".join(f"{text}\n" for text in texts).encode())
        heard = bob.read_until(ana.line(texts[-1]))
        assert heard.replace(left, b"") == b"".join(map(ana.line, texts))
        assert watch.lap() < 5
        said += 1
    await_dropped(server, stuck, "dropped: too slow", 2)
    ana.expect(left)
    assert server.memory() - before < 20 * MIB


@web
def test_a_slow_browser_gets_every_line(step, serve):
    server = serve(step)
    ana, bob = server.enter("ana"), come_in(server, "bob", receive_buffer=2000)
    ana.expect(b"* bob joined\n")
    texts = [f"{number} " + "x" * 500 for number in range(1000)]
    ana.send("".join(f"{text}\n" for text in texts).encode())
    for text in texts:
        bob.expect_line(ana, text)


@web
def test_memory_stays_flat(step, serve):
    """Whatever is begun and does not end: a request, a frame, a message in fragments, a line."""
    server = serve(step, nofile=1000)
    begun = [
        b"GET /chat HTTP/1.1\r\n" + b"X: " + b"x" * 5000,
        request("GET /chat HTTP/1.1", *UPGRADE) + frame(Opcode.TEXT, b"x" * 8000)[:-1],
        request("GET /chat HTTP/1.1", *UPGRADE)
        + b"".join(frame(Opcode.TEXT if not n else Opcode.CONT, b"x", fin=False) for n in range(4000)),
    ]
    before = server.memory()
    peers = [call(server) for _ in range(300)]
    for number, peer in enumerate(peers):
        peer.offer(begun[number % 3])
    come_in(server, "ana")
    assert server.memory() - before < 300 * 100_000
    for peer in peers:
        peer.reset()


@web
def test_many_come_and_go_and_nothing_is_left_of_them(step, serve):
    server = serve(step)
    ana = server.enter("ana")
    for number in range(20):
        come_in(server, f"early{number}").reset()
    ana.read_until(b"* early19 left\n")
    wait_until(lambda: server.log.count(" dropped: ") == 20)
    descriptors, memory = server.descriptors(), server.memory()
    for number in range(200):
        bob = come_in(server, f"bob{number}")
        if number % 2:
            bob.send(b"/quit\n")
            closed(bob, 1000)
        bob.reset()
        ana.read_until(f"* bob{number} left\n".encode())
    server.check_descriptors(at_most=descriptors)
    assert server.memory() - memory < 5 * MIB
    server.check_idle()


@web
def test_one_that_floods_does_not_hold_up_the_others(step, serve):
    server = serve(step)
    ana, bob, flooder = server.enter("ana"), come_in(server, "bob"), come_in(server, "flooder")
    for peer in (ana, bob):
        peer.read_until(b"* flooder joined\n")
    much = b"".join(frame(Opcode.TEXT, b"%d" % number) for number in range(20_000))
    flooder.sock.sock.setblocking(False)
    flooder.sock.sock.send(much)
    watch = Stopwatch(server)
    ana.send(b"hello\n")
    assert bob.hears(b"ana says: hello\n", time.monotonic() + DEADLINE)
    assert watch.lap() < 5


# Limits, and the time at the door


@web
def test_the_limits_hold_for_browsers(step, serve):
    server = serve(with_limits(step))
    ana, bob = server.enter("ana"), come_in(server, "bob")
    ana.expect(b"* bob joined\n")
    begun = time.monotonic()
    texts = [str(number) for number in range(35)]
    bob.sock.sock.sendall(b"".join(frame(Opcode.TEXT, text.encode()) for text in texts))
    for number, text in enumerate(texts):
        ana.expect_line(bob, text)
        assert number + 1 <= 20 + 5 * (time.monotonic() - begun)


@pytest.mark.parametrize("kind", ["pings", "fragments", "bytes"])
@web
def test_whatever_a_browser_sends_counts(step, kind, serve):
    """Else a flood of pings, or of fragments that never make a message, would have the server at work all the time."""
    server = serve(with_limits(step))
    bob = come_in(server, "bob")
    part = {
        "pings": frame(Opcode.PING, bytes(100)),
        "fragments": frame(Opcode.CONT, b"", fin=False),
        "bytes": frame(Opcode.TEXT, b"x" * 4000),
    }[kind]
    bob.sock.sock.settimeout(0.2)
    begun = time.monotonic()
    sent = bob.sock.sock.send(frame(Opcode.TEXT, b"", fin=False)) if kind == "fragments" else 0
    while time.monotonic() - begun < 6:
        try:
            sent += bob.sock.sock.send(part * 100)
        except TimeoutError:
            continue
    taken = sent - bob.arrived() - bob._here(termios.TIOCOUTQ)
    assert taken < 4096 * (4 + time.monotonic() - begun) + 40_000, "it reads too much"


@web
def test_connections_are_counted_at_both_doors_together(step, serve):
    server = serve(step, "--connections", 2)
    server.enter("ana"), come_in(server, "bob")
    third = call(server)
    server.await_log(rf"^\S+ {re.escape(third.address)} refused: too many connections from your address, 2 online$")
    assert third.read_to_end() == b""
    fourth = server.visit()
    assert fourth.read_to_end() == b"error: too many connections from your address\n"


@web
def test_who_says_nothing_for_long_is_dropped(step, serve):
    server = serve(step, "--idle", 0.02)
    bob = come_in(server, "bob")
    assert bob.read_line() == b"error: nothing heard for 0.02 minutes\n"
    closed(bob, 1000)
    await_dropped(server, bob, "dropped: idle", 0)


@web
def test_who_gives_no_name_is_dropped(step, serve, scratch):
    server = serve(altered(scratch, step, DOOR_TIME=1))
    bob = surf(server)
    bob.expect(QUESTION)
    assert bob.read_line() == b"error: no name within 1 seconds\n"
    closed(bob, 1000)
    await_dropped(server, bob, "dropped: no name", 0)


# Stopping


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@web
def test_it_stops_in_time_with_browsers_of_every_kind(step, number, serve):
    server = serve(step)
    ana, bob = server.enter("ana"), come_in(server, "bob")
    ana.expect(b"* bob joined\n")
    at_the_door, asking, silent = surf(server), call(server), call(server)
    asking.send(b"GET /chat HTTP/1.1\r\n")
    half = come_in(server, "half")
    half.sock.sock.sendall(frame(Opcode.TEXT, b"hello")[:-1])
    half.await_taken()
    stuck = come_in(server, "stuck", receive_buffer=2000)
    for peer in (ana, bob):
        peer.read_until(b"* stuck joined\n")
    stuck.deaf = True
    texts = ["x" * 4000 + str(number) for number in range(50)]
    ana.send("".join(f"{text}\n" for text in texts).encode())
    bob.expect_lines(ana, texts)
    stop(server, number)
    closed(bob, 1001)
    at_the_door.expect(QUESTION)
    closed(at_the_door, 1001)
    assert (asking.read_to_end(), silent.read_to_end()) == (b"", b"")
    ana.read_to_end()
    assert half.read_to_end().endswith(texts[-1].encode() + b"\n")


@web
def test_what_has_been_read_is_told_when_it_stops(step, serve):
    server = serve(with_limits(step), "--lines", 1)
    ana, bob = server.enter("ana"), come_in(server, "bob")
    ana.expect(b"* bob joined\n")
    texts = [str(number) for number in range(8)]
    bob.sock.send_frame(Opcode.TEXT, "\n".join(texts).encode())
    ana.expect_line(bob, "0")
    stop(server)
    ana.expect_lines(bob, texts[1:])
    ana.expect_closed()


# With a certificate


@web
def test_with_a_certificate_both_doors_speak_tls(step, serve, run):
    server = serve(with_tls(step))
    server.await_log(r"web page on https://127\.0\.0\.1:\d+/$")
    ana, bob = server.enter("ana"), come_in(server, "bob", origin=f"https://localhost:{port_of(server)}")
    ana.expect(b"* bob joined\n")
    bob.send("grüß dich\n".encode())
    ana.expect_line(bob, "grüß dich")
    ana.send(b"hello\n")
    bob.expect_line(ana, "hello")
    with pytest.raises(InvalidStatus):
        surf(server, origin=f"http://localhost:{port_of(server)}")
    plain = call(server)
    plain.send(request("GET / HTTP/1.1"))
    assert plain.read_to_end()[:1] in (b"", b"\x15")
    await_dropped(server, plain, "dropped: no TLS", 2)
    page = call(server)
    page.sock = TlsSocket(page.sock)
    page.send(request("GET / HTTP/1.1"))
    assert answer(page)[2] == PAGE
    bob.send(b"/quit\n")
    closed(bob, 1000)


@web
def test_browsers_see_a_new_certificate_after_sighup(step, serve, scratch):
    program("openssl")
    first, second = make(scratch, "first"), make(scratch, "second")
    live = Certificate(scratch / "live.pem", scratch / "live.key")
    live.take(first)
    server = serve(with_tls(step), *live.arguments)
    at = ("127.0.0.1", port_of(server))
    shown = [ssl.get_server_certificate(at, timeout=DEADLINE)]
    live.take(second)
    server.signal(signal.SIGHUP)
    server.await_log("certificate read again")
    shown.append(ssl.get_server_certificate(at, timeout=DEADLINE))
    assert [text.split() for text in shown] == [made.cert.read_text().split() for made in (first, second)]


@web
def test_tls_and_the_request_have_five_seconds_together(step, serve):
    server = serve(with_tls(step))
    peer = call(server)
    begun = time.monotonic()
    peer.sock = TlsSocket(peer.sock)
    peer.send(b"GET /chat HT")
    assert peer.read_to_end() == b""
    assert time.monotonic() - begun > REQUEST_TIME - 0.5
    await_dropped(server, peer, "dropped: no request", 0)


# Starting


@web
def test_the_log_says_where_the_page_is(step, serve):
    server = serve(step)
    server.await_log("history in")
    first, second, *_ = server.log.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d listening on 127\.0\.0\.1:\d+", first)
    assert re.fullmatch(r"\d\d:\d\d:\d\d web page on http://127\.0\.0\.1:[1-9]\d*/", second)


@web
def test_the_web_port_cannot_be_had(step, serve, run, scratch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = [f"features/{step}/server.py", "0", "--web", str(port), "--history", scratch / "history.db"]
        process = run([sys.executable, *map(str, words)], cwd=ROOT)
        assert process.wait() == 1
        assert re.fullmatch(rf"server\.py: cannot listen on 127\.0\.0\.1:{port}: [^\n]+\n", process.log), process.log


@pytest.mark.parametrize("words", [["--web", "x"], ["--web", "65536"], ["--web", ""], ["--web"], ["--origin"]], ids=str)
@web
def test_bad_arguments(step, words, run):
    process = run([sys.executable, f"features/{step}/server.py", "0", *words], cwd=ROOT)
    assert process.wait() == 2
    assert process.log.startswith("usage: server.py ")


@web
def test_without_the_library_one_line_says_how_to_get_it(step, run, scratch):
    (scratch / "sitecustomize.py").write_text("import sys; sys.modules['websockets'] = None")
    process = run([sys.executable, f"features/{step}/server.py", "0"], cwd=ROOT, env={"PYTHONPATH": str(scratch)})
    assert process.wait() == 1
    assert re.fullmatch(r"server\.py: [^\n]*websockets[^\n]*: pip install websockets\n", process.log), process.log


@web
def test_ipv6(step, serve, needs_ipv6):
    server = serve(step, host="::1")
    server.await_log(r"web page on http://\[::1\]:\d+/$")
    with socket.create_connection(("::1", port_of(server)), timeout=DEADLINE) as sock:
        sock.sendall(request("GET /chat HTTP/1.1", *UPGRADE, f"Origin: http://[::1]:{port_of(server)}"))
        assert sock.recv(12) == b"HTTP/1.1 101"

"""The growing road from tls/ on: nobody on the way reads along, or changes what is said.

web/ speaks TLS as well, if it is given a certificate.
"""

import contextlib
import dataclasses
import os
import re
import selectors
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time

import harness
import pytest
from certificates import Certificate, make, openssl, tell
from harness import DEADLINE, QUESTION, Peer, Stopwatch
from promises import CERT, ROAD, ROOT
from road import each_since, fill, since
from test_programs import program
from test_stopping import stop

HANDSHAKE_TIME = 5  # seconds
HALF_A_HANDSHAKE = bytes.fromhex("16 0301 0100 01 0000fc 0303")  # the start of a ClientHello


def model_of(step):
    """The model of a step, speaking TLS."""
    (model,) = [model for model in ROAD if model.name == step]
    return model if model.tls else dataclasses.replace(model, command=(*model.command, *CERT), tls=True)


def dial(server, certificate):
    """A client at the door, who trusts this certificate alone; what it sends and hears is TLS."""
    context = ssl.create_default_context(cafile=certificate.cert)
    sock = socket.create_connection((server.host, server.port), timeout=DEADLINE)
    peer = Peer(server, context.wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False))
    server.peers.append(peer)
    return peer


def call(server):
    """A connection to the server's port that says nothing by itself, not even in TLS."""
    peer = Peer(server, socket.create_connection((server.host, server.port), timeout=DEADLINE))
    server.peers.append(peer)
    return peer


def dropped(peer, why, online):
    """The regular expression of the log's line for somebody who was never in the room."""
    return rf"^\S+ {re.escape(peer.address)} dropped: {why}, {online} online$"


# What the step before could not do


class Relay:
    """Somebody on the way: passes on what both sides say, and writes it down."""

    def __init__(self, server):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = server.host, server.port
        self.host, self.port = self.listener.getsockname()
        self.seen, self.peers = bytearray(), []
        self.change = lambda data: data
        threading.Thread(target=self.pass_on, daemon=True).start()

    def pass_on(self):
        with self.listener:
            client, server = self.listener.accept()[0], socket.create_connection(self.address)
        with client, server, selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while selector.get_map():
                for key, _ in selector.select():
                    with contextlib.suppress(OSError):
                        if data := key.fileobj.recv(1 << 16):
                            self.seen += data
                            key.data.sendall(self.change(data))
                            continue
                        key.data.shutdown(socket.SHUT_WR)
                    selector.unregister(key.fileobj)


@pytest.mark.parametrize("step", ["accounts", "tls"])
def test_who_sits_on_the_way_reads_a_password_in_accounts_and_not_here(step, serve, terminal):
    server = serve(step)
    ana = server.enter("ana")
    ana.send(b"/register open sesame\n")
    ana.expect(b"* ana is yours now: its password is asked at the door\n")
    ana.finish()
    server.await_log(rf"{ana.logged} left")
    relay = Relay(server)
    certificate = ["--cafile", server.log_path.with_name(f"{server.log_path.name}-files") / "cert.pem"]
    words = [sys.executable, ROOT / "features" / step / "client.py", relay.host, relay.port]
    child = terminal(words + (certificate if step == "tls" else []))
    child.expect_exact(b"your name?\r\n")
    child.sendline(b"ana")
    child.expect_exact(b"password?\r\n")
    child.sendline(b"open sesame")
    child.expect_exact(b"* you are ana; nobody else is here\r\n")
    read = {text: text in relay.seen for text in (b"your name?", b"ana\n", b"open sesame\n", b"* you are ana")}
    assert set(read.values()) == {step == "accounts"}, read


# Programs that speak TLS come in

PROGRAMS = {
    "openssl": "openssl s_client -quiet -no_ign_eof -verify_return_error -CAfile {cert} -connect localhost:{port}",
    "ncat": "ncat --ssl-verify --ssl-trustfile {cert} localhost {port}",
    "socat": "socat - OPENSSL:localhost:{port},cafile={cert}",
}


@pytest.mark.parametrize("name", PROGRAMS)
@each_since("tls")
def test_a_program_talks_and_listens(step, name, serve, run, scratch):
    program(name)
    made = make(scratch, "mine")
    server = serve(model_of(step), *made.arguments)
    ana = dial(server, made)
    ana.expect(QUESTION)
    ana.send(b"ana\n")
    ana.expect(b"* you are ana; nobody else is here\n")
    words = PROGRAMS[name].format(cert=made.cert, port=server.port).split()
    process = run(words, stdin=subprocess.PIPE, bufsize=0)
    with contextlib.suppress(BrokenPipeError), process.popen.stdin as stdin:
        process.await_log(r"^your name\?$")
        stdin.write("nina\ngrüß dich\n".encode())
        ana.expect("* nina joined\nnina says: grüß dich\n".encode())
        ana.send("cześć\n".encode())
        process.await_log("^ana says: cześć$")
    process.wait()
    ana.expect(b"* nina left\n")


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
@each_since("tls")
def test_which_versions_of_tls_it_speaks(step, version, serve, scratch):
    made = make(scratch, "mine")
    server = serve(model_of(step), *made.arguments)
    context = ssl.create_default_context(cafile=made.cert)
    context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version.replace(".", "_"))
    sock = socket.create_connection((server.host, server.port), timeout=DEADLINE)
    with context.wrap_socket(sock, server_hostname="localhost") as tls:
        assert tls.version() == version
        assert tls.recv(100) == QUESTION
        tls.sendall(b"ana\n")
        assert tls.recv(100) == b"* you are ana; nobody else is here\n"


def hello(version):
    """A ClientHello of TLS 1.0 to 1.2, which have versions 1 to 3 (RFC 5246, 7.4.1.2), in a record."""
    groups = bytes.fromhex("000a 0006 0004 0017 001d")  # P-256, X25519
    signatures = bytes.fromhex("000d 0008 0006 0403 0804 0401")  # ECDSA and RSA, with SHA-256
    extensions = groups + signatures
    ciphers = bytes.fromhex("c02b c02f c009 c00a c013 c014")
    body = bytes([3, version]) + bytes(32) + b"\0" + len(ciphers).to_bytes(2) + ciphers + b"\1\0"
    body += len(extensions).to_bytes(2) + extensions
    return b"\x16\x03\x01" + (len(body) + 4).to_bytes(2) + b"\1" + len(body).to_bytes(3) + body


@each_since("tls")
def test_older_versions_are_refused(step, serve):
    server = serve(model_of(step))
    new, old = call(server), call(server)
    new.send(hello(3))
    assert new.read_some()[0] == 0x16  # a ServerHello
    old.send(hello(2))  # TLS 1.1
    assert old.read_to_end()[:1] == b"\x15"  # an alert
    server.await_log(dropped(old, "no TLS", 0))


# Who speaks no TLS

PLAIN = {
    "a line": b"hello\n",
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "telnet": b"\xff\xfd\x03\xff\xfb\x18",
    "zeros": bytes(5000),
    "a record that is none": b"\x16\x03\x03\xff\xff" + bytes(70000),
    "an alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "much": b"x" * 100_000,
}


@pytest.mark.parametrize("kind", PLAIN)
@since("tls")
def test_plain_text_is_dropped_at_once_with_a_line_in_the_log(step, kind, serve):
    server = serve(model_of(step))
    ana = server.enter("ana")
    peer, watch = call(server), Stopwatch(server)
    peer.offer(PLAIN[kind])
    line = re.compile(dropped(peer, "no TLS", 1), re.MULTILINE)
    assert watch.until(lambda: line.search(server.log)) < HANDSHAKE_TIME / 2
    assert peer.read_to_end()[:1] in (b"", b"\x15")  # an alert, if a reset does not overtake it
    assert server.log.count(peer.address) == 1
    bob = server.enter("bob")
    ana.expect(b"* bob joined\n")
    bob.send(b"hello\n")
    ana.expect_line(bob, "hello")


SLOW = {
    "nothing": [],
    "half a handshake": [HALF_A_HANDSHAKE],
    "a byte each second": [HALF_A_HANDSHAKE[number : number + 1] for number in range(len(HALF_A_HANDSHAKE))],
}


@since("tls")
def test_a_handshake_that_never_ends_is_dropped_and_holds_up_nobody(step, serve):
    server = serve(model_of(step))
    ana, bob = fill(server, "ana", "bob")
    begun = time.monotonic()
    slow = [(call(server), list(parts)) for parts in SLOW.values()]
    while not all(peer.ended for peer, _ in slow):
        second = time.monotonic() - begun
        assert second < harness.DEADLINE, "they are still there"
        for peer, parts in slow:
            if parts and len(HALF_A_HANDSHAKE) - len(parts) < second:
                peer.offer(parts.pop(0))
            peer.read_some(within=0.05)
        watch = Stopwatch(server)
        ana.send(b"%f\n" % second)
        bob.expect_line(ana, f"{second:f}")
        assert watch.lap() < 2
    assert time.monotonic() - begun > HANDSHAKE_TIME - 0.5
    for peer, _ in slow:
        server.await_log(dropped(peer, "no TLS", 2))


@since("tls")
def test_it_is_idle_with_handshakes_that_do_not_go_on(step, serve):
    server = serve(model_of(step))
    for _ in range(20):
        call(server).send(HALF_A_HANDSHAKE)
    server.check_idle()


@since("tls")
def test_it_stops_with_handshakes_that_do_not_go_on(step, serve):
    server = serve(model_of(step))
    peers = [call(server) for _ in range(5)]
    for peer in peers[:3]:
        peer.send(HALF_A_HANDSHAKE)
        peer.await_taken()
    stop(server)
    assert server.log.splitlines()[-1].endswith(" bye")


@pytest.mark.parametrize("step", ["accounts"])
def test_tls_to_the_plain_port_is_somebodys_bytes(step, serve):
    server = serve(step)
    ana = server.enter("ana")
    sock = socket.create_connection((server.host, server.port), timeout=DEADLINE)
    with pytest.raises(ssl.SSLError, match="WRONG_VERSION_NUMBER"):
        ssl.create_default_context().wrap_socket(sock, server_hostname="localhost")
    sock.close()
    for data in (hello(3), hello(3) + b"\n"):
        peer = call(server)
        peer.expect(QUESTION)
        peer.send(data)
        peer.await_taken()
        peer.close()
        server.await_log(rf"^\S+ {re.escape(peer.address)} (left|dropped: [^,]+), 1 online$")
    bob = server.enter("bob")
    ana.expect(b"* bob joined\n")
    bob.send(b"hello\n")
    ana.expect_line(bob, "hello")


# The certificate and its key


def refused(run, step, *words):
    """Start a step that must not start; return its status, and the one line that it says."""
    process = run([sys.executable, f"features/{step}/server.py", "0", *map(str, words)], cwd=ROOT)
    status = process.wait()
    assert process.log.count("\n") == 1, process.log
    assert process.log.startswith("server.py: "), process.log
    return status, process.log


@pytest.mark.parametrize("missing", ["both", "key", "cert"])
@each_since("tls")
def test_without_a_certificate_it_shows_a_command_that_makes_one(step, missing, serve, run, scratch, monkeypatch):
    program("openssl")
    if step == "web" and missing == "both":
        words = ["--host", "0.0.0.0"]  # others could read along
    else:
        words = {"both": [], "key": ["--cert", "cert.pem"], "cert": ["--key", "key.pem"]}[missing]
    status, line = refused(run, step, *words)
    assert status == 2
    found = re.search(r"openssl req .*", line)[0]
    process = run(shlex.split(found), cwd=scratch)
    assert process.wait() == 0, process.log
    server = serve(model_of(step), "--cert", scratch / "cert.pem", "--key", scratch / "key.pem")
    words = [ROOT / "features/tls/client.py", "localhost", server.port, "--cafile", scratch / "cert.pem"]
    client = run([sys.executable, *map(str, words)], stdin=subprocess.PIPE)
    client.await_log("^your name[?]$")


@pytest.fixture
def files(scratch):
    """Files that are good and bad for --cert and --key."""
    program("openssl")
    good, other = make(scratch, "good"), make(scratch, "other")
    (scratch / "empty").touch()
    (scratch / "bytes").write_bytes(bytes(range(256)))
    (scratch / "cut").write_bytes(good.cert.read_bytes()[:-100])
    (scratch / "folder").mkdir()
    openssl("ec", "-in", good.key, "-out", scratch / "locked", "-aes256", "-passout", "pass:open sesame")
    return {
        "good": good.cert,
        "good key": good.key,
        "other key": other.key,
        **{path.name: path for path in scratch.iterdir()},
    }


BAD = {
    "no such certificate": ("nowhere.pem", "good key", "No such file or directory: 'nowhere.pem'"),
    "no such key": ("good", "nowhere.pem", "No such file or directory: 'nowhere.pem'"),
    "a folder": ("folder", "good key", "Is a directory"),
    "a folder for a key": ("good", "folder", "Is a directory"),
    "empty": ("empty", "good key", "not PEM"),
    "an empty key": ("good", "empty", "not PEM"),
    "any bytes": ("bytes", "good key", "not PEM"),
    "any bytes for a key": ("good", "bytes", "not PEM"),
    "cut short": ("cut", "good key", "not PEM"),
    "another's key": ("good", "other key", "the key is of another certificate"),
    "the wrong way round": ("good key", "good", "not PEM"),
    "an encrypted key": ("good", "locked", "the key is encrypted"),
}


@pytest.mark.parametrize("kind", BAD)
@since("tls")
def test_a_certificate_or_key_that_cannot_be_used(step, kind, files, run, scratch):
    cert, key, why = BAD[kind]
    cert, key = files.get(cert, cert), files.get(key, key)
    status, line = refused(run, step, "--cert", cert, "--key", key, "--history", scratch / "history.db")
    assert status == 1
    assert line.startswith(f"server.py: cannot use --cert {cert} --key {key}: "), line
    assert why in line


@each_since("tls")
def test_an_encrypted_key_is_not_asked_for_on_the_terminal(step, files, terminal, scratch):
    words = ["0", "--cert", files["good"], "--key", files["locked"], "--history", scratch / "history.db"]
    child = terminal([sys.executable, ROOT / "features" / step / "server.py", *words])
    child.expect(rb"\Aserver\.py: cannot use --cert [^\n]+ the key is encrypted\r\n")
    child.wait()
    assert child.exitstatus == 1


def test_a_file_that_may_not_be_read(scratch, run):
    if os.geteuid() == 0:
        pytest.skip("root may read all files")
    made = make(scratch, "good")
    made.key.chmod(0)
    status, line = refused(run, "tls", *made.arguments)
    assert status == 1
    assert "Permission denied" in line


@since("tls")
def test_an_expired_certificate_is_the_clients_to_refuse(step, serve, run, scratch):
    """The server's own clock may be wrong. So it starts, and whoever comes is told why that is not to be trusted."""
    made = make(scratch, "old", end="20210101000000Z")
    server = serve(model_of(step), *made.arguments)
    words = [ROOT / "features/tls/client.py", "localhost", server.port, "--cafile", made.cert]
    client = run([sys.executable, *map(str, words)])
    assert client.wait() == 1
    assert client.log == f"client.py: cannot trust localhost:{server.port}: certificate has expired\n"
    server.await_log(r" dropped: no TLS, 0 online$")


@since("tls")
def test_the_file_may_hold_what_the_certificate_was_signed_with(step, serve, scratch):
    """An authority seldom signs by itself; whom it has given the right to must be shown as well."""
    root = make(scratch, "root")
    middle = make(scratch, "middle", by=root, kind="authority")
    leaf = make(scratch, "leaf", by=middle)
    both = scratch / "both.pem"
    both.write_bytes(leaf.cert.read_bytes() + middle.cert.read_bytes())
    server = serve(model_of(step), "--cert", both, "--key", leaf.key)
    dial(server, root).expect(QUESTION)
    alone = serve(model_of(step), *leaf.arguments)
    with pytest.raises(ssl.SSLCertVerificationError):
        dial(alone, root)


# SIGHUP


def shown(server):
    """The certificate that the server shows, whoever may trust it."""
    return ssl.get_server_certificate((server.host, server.port), timeout=DEADLINE)


def text(made):
    """The same of one that was made."""
    return ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(made.cert.read_text()))


@since("tls")
def test_sighup_has_newcomers_see_a_new_certificate(step, serve, scratch):
    first, second = make(scratch, "first"), make(scratch, "second")
    live = Certificate(scratch / "live.pem", scratch / "live.key")
    live.take(first)
    server = serve(model_of(step), *live.arguments)
    ana = dial(server, first)
    ana.expect(QUESTION)
    ana.send(b"ana\n")
    ana.expect(b"* you are ana; nobody else is here\n")
    live.take(second)
    assert shown(server) == text(first), "it was not asked to"
    server.signal(signal.SIGHUP)
    server.await_log(r"^\S+ certificate read again$")
    assert shown(server) == text(second), "the new certificate is not shown"
    bob = dial(server, second)
    bob.expect(QUESTION)
    bob.send(b"bob\n")
    bob.expect(b"* you are bob; also here: ana\n")
    ana.expect(b"* bob joined\n")  # whoever was here stays
    ana.send(b"hello\n")
    bob.expect(b"ana says: hello\n")


@since("tls")
def test_sighup_with_a_bad_file_changes_nothing(step, serve, scratch):
    good, other = make(scratch, "good"), make(scratch, "other")
    live = Certificate(scratch / "live.pem", scratch / "live.key")
    live.take(good)
    server = serve(model_of(step), *live.arguments)
    ana = dial(server, good)
    for cert, key, why in [
        (None, good.key, "No such file or directory"),
        (good.cert, None, "No such file or directory"),
        (other.cert, good.key, "the key is of another certificate"),
        (good.key, good.key, "not PEM"),
    ]:
        live.take(good)
        for source, target in ((cert, live.cert), (key, live.key)):
            target.unlink()
            if source:
                shutil.copy(source, target)
        server.signal(signal.SIGHUP)
        server.await_log(rf"^\S+ certificate not read: .*{why}.*\n(?s:.*)\Z")
        assert shown(server) == text(good)
    ana.expect(QUESTION)
    assert server.log.count("certificate not read") == 4


@since("tls")
def test_sighup_with_a_file_that_does_not_answer_holds_up_nobody(step, serve, scratch):
    """As on a disk of which the network is gone. Nor does that hold up the end."""
    good = make(scratch, "good")
    live = Certificate(scratch / "live.pem", scratch / "live.key")
    live.take(good)
    server = serve(model_of(step), *live.arguments)
    ana = dial(server, good)
    live.key.unlink()
    os.mkfifo(live.key)
    server.signal(signal.SIGHUP)
    ana.expect(QUESTION)
    ana.send(b"ana\n")
    ana.expect(b"* you are ana; nobody else is here\n")
    assert shown(server) == text(good)
    stop(server)


@since("tls")
def test_sighup_many_times(step, serve):
    server = serve(model_of(step))
    ana, bob = fill(server, "ana", "bob")
    for _ in range(100):
        server.signal(signal.SIGHUP)
    server.await_log("certificate read again")
    ana.send(b"hello\n")
    bob.expect_line(ana, "hello")
    stop(server)


@pytest.mark.parametrize("step", ["web"])
def test_sighup_without_a_certificate(step, serve):
    server = serve(step)
    ana, bob = fill(server, "ana", "bob")
    server.signal(signal.SIGHUP)
    server.await_log(r"^\S+ certificate not read: there is none$")
    ana.send(b"hello\n")
    bob.expect_line(ana, "hello")


# The end


@since("tls")
def test_a_close_notify_is_the_end(step, serve):
    """The last line then needs no newline. The server answers with its own."""
    server = serve(model_of(step))
    ana, bob = fill(server, "ana", "bob")
    ana.send(b"good-bye")
    ana.finish()
    bob.expect_line(ana, "good-bye")
    bob.expect(b"* ana left\n")
    ana.expect_closed()
    assert ana.ended == "end of stream"
    server.await_log(f"{ana.logged} left, 1 online")


@since("tls")
def test_a_close_notify_is_the_end_also_if_the_connection_stands(step, serve, scratch):
    made = make(scratch, "mine")
    server = serve(model_of(step), *made.arguments)
    ana = dial(server, made)
    ana.expect(QUESTION)
    ana.send(b"ana\n")
    ana.expect(b"* you are ana; nobody else is here\n")
    with ana.sock.unwrap() as raw:  # after the server's close_notify
        assert raw.recv(1) == b""
    server.await_log("ana@[^ ]* left, 0 online")


@pytest.mark.parametrize("end", ["die", "reset"])
@since("tls")
def test_a_connection_cut_off_is_no_end_of_a_line(step, end, serve):
    """Somebody on the way may have cut it, so that half a sentence says the contrary."""
    server = serve(model_of(step))
    ana, bob = fill(server, "ana", "bob")
    ana.send(b"hello\nI will not")
    ana.await_taken()
    getattr(ana, end)()
    bob.expect_line(ana, "hello")
    bob.expect(b"* ana left\n")
    server.await_log(rf"{ana.logged} dropped: connection (cut off|reset by peer), 1 online")


@pytest.mark.parametrize("kind", ["other bytes", "a changed byte"])
@since("tls")
def test_what_somebody_on_the_way_changes_is_not_told(step, kind, serve, scratch):
    made = make(scratch, "mine")
    server = serve(model_of(step), *made.arguments)
    relay = Relay(server)
    bob, ana = dial(server, made), dial(relay, made)
    for peer, name in ((bob, "bob"), (ana, "ana")):
        peer.expect(QUESTION)
        peer.send(f"{name}\n".encode())
        peer.read_line()
    bob.expect(b"* ana joined\n")
    ana.send(b"hello\nI owe bob ")
    bob.expect(b"ana says: hello\n")
    relay.change = {
        "other bytes": lambda data: b"x" * len(data),
        "a changed byte": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    }[kind]
    ana.send(b"5 euros\n")
    bob.expect(b"* ana left\n")
    server.await_log(r"ana@\S+ dropped: broken tls, 1 online")


# Records


@since("tls")
def test_the_same_lines_however_they_are_cut_into_records(step, serve):
    server = serve(model_of(step))
    ana, bob = fill(server, "ana", "bob")
    texts = [f"{number} grüß dich" for number in range(1000)]
    for text in texts:
        ana.send(f"{text}\n".encode())  # a record for each
    bob.expect_lines(ana, texts)
    for number in range(len(texts[7].encode()) + 1):
        ana.send(f"{texts[7]}\n".encode()[number : number + 1])
    ana.send("".join(f"{text}\n" for text in texts).encode())  # two records, of which the first has 16 KiB
    bob.expect_lines(ana, [texts[7], *texts])
    ana.send(b"x" * 4095 + b"\n")
    bob.expect_line(ana, "x" * 4095)


@since("tls")
def test_a_message_too_long_is_answered_and_ended_in_good_order(step, serve):
    server = serve(model_of(step))
    ana, bob = fill(server, "ana", "bob")
    ana.send(b"x" * 4097)
    ana.expect(b"error: a message may be at most 4096 bytes\n")
    ana.expect_closed()
    assert ana.ended == "end of stream"
    bob.expect(b"* ana left\n")


@pytest.mark.parametrize("version, keys", [("-tls1_3", "KkK"), ("-tls1_2", "R")])
@since("tls")
def test_new_keys_are_no_matter(step, version, keys, serve, run):
    """A client may take new keys at any time (RFC 8446, 4.6.3). Before TLS 1.3 that is a new handshake: refused."""
    program("openssl")
    server = serve(model_of(step))
    ana = server.enter("ana")
    words = ["openssl", "s_client", version, "-connect", f"127.0.0.1:{server.port}"]
    process = run(words, stdin=subprocess.PIPE, bufsize=0)
    tell(process, b"nina\n")
    ana.expect(b"* nina joined\n")
    for key in keys:
        tell(process, f"{key}\n".encode())
        if key == "R":
            break
        tell(process, f"after {key}\n".encode())
        ana.expect(f"nina says: after {key}\n".encode())
        ana.send(b"hello\n")
        process.await_log("^ana says: hello$")
    with contextlib.suppress(BrokenPipeError):  # openssl ends by itself, if it is refused what it asked for
        tell(process, b"Q\n")
    ana.expect(b"* nina left\n")
    process.wait()
    bob = server.enter("bob")
    ana.expect(b"* bob joined\n")
    bob.send(b"hello\n")
    ana.expect_line(bob, "hello")


@since("tls")
def test_no_keys_are_written_anywhere(step, serve, scratch):
    """Python's own clients write them where this variable says, which is good for those who watch their own traffic."""
    server = serve(model_of(step), env={"SSLKEYLOGFILE": str(scratch / "keys")})
    ana, bob = fill(server, "ana", "bob")
    ana.send(b"hello\n")
    bob.expect_line(ana, "hello")
    assert not (scratch / "keys").exists()


@since("tls")
def test_too_many_connections_are_refused_before_the_handshake(step, serve):
    server = serve(model_of(step), "--connections", 2)
    first, second = call(server), call(server)
    first.send(HALF_A_HANDSHAKE)
    first.await_taken()
    third = call(server)
    server.await_log(rf"{re.escape(third.address)} refused: too many connections from your address, 0 online$")
    assert third.read_to_end() == b""
    second.close()
    server.await_log(dropped(second, "no TLS", 0))
    server.enter("ana")

"""The road's own clients: accounts/ has one that shows no password, tls/ one that speaks TLS as well.

They are asyncio_based/client.py and one thing more, so whatever the tests of all clients ask of that they must do, too.
"""

import contextlib
import inspect
import io
import itertools
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import termios
import types

import pexpect
import psutil
import pytest
import test_clients
import test_clients_inherited
from certificates import make, tell
from harness import Peer, free_port, wait_until
from test_clients import GONE, Listener, command, end_of_typing, functions, keyboard, type_in
from test_clients_inherited import definitions, namespaces, on_linux
from test_programs import program

begin, silence = test_clients.begin, test_clients_inherited.silence  # fixtures
console, started = test_clients_inherited.console, test_clients_inherited.started

ACCOUNTS, TLS = "features/accounts", "features/tls"
HIDE, SHOW = b"\xff\xfb\x01", b"\xff\xfc\x01"  # telnet's IAC WILL ECHO and IAC WONT ECHO
clients = pytest.mark.parametrize("client", [ACCOUNTS, TLS])


class TLSPeer(Peer):
    """Somebody with whom we speak TLS."""

    def close(self):
        """Leave in the ordinary way: with a close_notify."""
        self.sock.settimeout(0)
        with contextlib.suppress(OSError):  # the client's own has not come yet
            self.sock.unwrap()
        super().close()

    def cut(self):
        """Leave without a close_notify, as if somebody on the way had cut the connection."""
        super().close()


class TLSListener(Listener):
    """The test as a server that speaks TLS."""

    def __init__(self, certificate, host="127.0.0.1"):
        super().__init__(host)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate.cert, certificate.key)

    def accept(self):
        sock, _ = self.sock.accept()
        sock.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )  # or a reset overtakes what waits for an acknowledgement
        sock.settimeout(test_clients.DEADLINE)
        self.peers.append(TLSPeer(self, self.context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False)))
        return self.peers[-1]

    def refuse(self):
        """Shake hands with somebody who does not want to; return why."""
        with pytest.raises(OSError) as error:
            self.accept()
        return error.value


@pytest.fixture(scope="session")
def authority(scratch_root):
    """A certificate with which others are signed."""
    program("openssl")
    folder = scratch_root / "certificates"
    folder.mkdir()
    return make(folder, "authority")


@pytest.fixture(scope="session")
def certificate(authority):
    """A certificate that is good for this machine, where the authority is trusted."""
    return make(authority.cert.parent, "good", by=authority)


@pytest.fixture(autouse=True)
def trusted(authority, monkeypatch):
    """Have every client trust that authority, and no other: this is where OpenSSL looks for them."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.cert))
    monkeypatch.setenv("SSL_CERT_DIR", "/dev/null")


@pytest.fixture
def listener(client, certificate):
    with contextlib.closing(TLSListener(certificate) if client == TLS else Listener()) as listener:
        yield listener


# What is asked of every client

OTHERWISE = {  # these have tests of their own below, or say nothing new of these clients
    "test_descriptors_lack",
    "test_ipv6",
    "test_it_says_nothing_of_its_own_with_any_option",
    "test_the_same_bytes_whatever_the_settings",
    "test_what_the_model_does_not_touch_is_the_same",
}


def again(module):
    """The tests of a module which asyncio_based/client.py must pass, for these two."""
    for name, test in list(vars(module).items()):
        marks = getattr(test, "pytestmark", [])
        rows = [mark for mark in marks if mark.name == "parametrize" and mark.args[0] == "client"]
        if not (name.startswith("test_") and rows) or name in OTHERWISE:
            continue
        if "asyncio_based" not in [row.values[0] for row in rows[0].args[1]]:
            continue
        if {"server", "serve"} & {*inspect.signature(test).parameters}:  # a room which they need not come into
            continue
        copy = types.FunctionType(test.__code__, test.__globals__, name, test.__defaults__, test.__closure__)
        copy.pytestmark = [mark for mark in marks if mark not in rows] + [clients.mark]
        yield name, copy


for module in test_clients, test_clients_inherited:
    globals().update(again(module))


@clients
@pytest.mark.parametrize("spare", range(3, 8))  # with fewer asyncio complains of a loop that is half made
def test_descriptors_lack(client, spare, listener, run):
    test_clients_inherited.test_descriptors_lack(client, spare, listener, run)


@clients
def test_ipv6(client, needs_ipv6, certificate, begin):
    with contextlib.closing(TLSListener(certificate, "::1") if client == TLS else Listener("::1")) as listener:
        process = begin(client, *listener.address)
        peer = listener.accept()
        type_in(process, b"hello\n")
        peer.expect(b"hello\n")
        end_of_typing(process)
        assert peer.read_to_end() == b""
        peer.close()
        assert (process.wait(), process.log) == (0, "")


def test_each_is_the_one_before_and_its_own_thing():
    """A diff is to show the step and nothing else."""
    plain, accounts, tls = map(functions, ["asyncio_based", ACCOUNTS, TLS])
    own, shared = ["obey"], ["keyboard_is_ready", "read_typed", "show", "fail", "port", "end_at_signals"]
    assert list(accounts) == [*list(plain)[:2], *own, *list(plain)[2:]]
    assert list(tls) == list(accounts)
    for name in shared + ["send_typed", "main"]:
        assert accounts[name] == plain[name]
    for name in shared + own:
        assert tls[name] == accounts[name]


# A password is not shown


@pytest.fixture
def chatter(terminal):
    """Start a client on a terminal, by a shell's script that has it in "$@"; the terminal is known before and after."""

    def start(client, listener, script='"$@"; echo "status $?"', **options):
        prepared = f"trap : INT QUIT TERM HUP; ulimit -c 0; {script}"
        words = ["/bin/sh", "-m", "-c", prepared] if "fg" in script else ["/bin/sh", "-c", prepared]
        child = terminal([*words, "sh", *command(client, *listener.address)], **options)
        child.logfile_read = io.BytesIO()
        return child, listener.accept()

    return start


def ask(child, peer):
    """Ask for a password; return when the question is seen."""
    peer.send(HIDE + b"password?\n")
    child.expect_exact(b"password?\r\n")
    assert not child.getecho()


def the_client(child):
    """The process that the shell has started."""
    return psutil.Process(child.pid).children()[0].pid


@clients
def test_a_password_is_not_shown(client, listener, chatter):
    child, peer = chatter(client, listener)
    for password in (b"a wrong one", b"open sesame"):
        peer.send(b"your name?\n")
        child.expect_exact(b"your name?\r\n")
        child.sendline(b"ana")
        peer.expect(b"ana\n")
        ask(child, peer)
        child.sendline(password)
        peer.expect(password + b"\n")
        peer.send(SHOW + (b"error: wrong password\n" if password == b"a wrong one" else b"* you are ana\n"))
    child.expect_exact(b"* you are ana\r\n")
    child.sendline(b"hello")
    peer.expect(b"hello\n")
    peer.close()
    child.expect_exact(b"status 1\r\n")
    seen = [b"your name?", b"ana", b"password?", b"error: wrong password", b"your name?", b"ana", b"password?"]
    seen += [b"* you are ana", b"hello", GONE.encode().rstrip(), b"status 1", b""]
    assert child.logfile_read.getvalue() == b"\r\n".join(seen)


@clients
def test_the_servers_words_to_the_terminal_are_not_shown_however_they_are_cut(client, monkeypatch):
    module, done = definitions(f"{client}/client.py"), []
    monkeypatch.setattr(module, "show", done.extend)
    echo = types.SimpleNamespace(hide=lambda: done.append("hide"), show=lambda: done.append("show"))
    came = b"one" + HIDE + b"two" + SHOW + HIDE + SHOW + b"\xff\xfdthree" + SHOW
    wanted = [*b"one", "hide", *b"two", "show", "hide", "show", *b"\xff\xfdthree", "show"]
    for first, second in itertools.combinations_with_replacement(range(len(came) + 1), 2):
        done.clear()
        rest = b""
        for part in (came[:first], came[first:second], came[second:]):
            rest = module.obey(rest + part, echo)
        assert (done, rest) == (wanted, b""), (first, second)


@clients
def test_a_byte_at_a_time(client, listener, begin):
    process = begin(client, *listener.address)
    peer = listener.accept()
    came = HIDE + b"password?\n" + SHOW + b"\xff\xfd\x01\xff\xff\xff\xfb\x02 end\n"
    peer.send_parts([came[number : number + 1] for number in range(len(came))])
    peer.close()
    assert process.wait() == 1
    assert process.log_path.read_bytes() == b"password?\n\xff\xfd\x01\xff\xff\xff\xfb\x02 end\n" + GONE.encode()


def signalled(number):
    return lambda child, peer: os.kill(the_client(child), number)


def end_of_the_keyboard(child, peer):
    child.sendeof()
    assert peer.read_to_end() == b""
    peer.close()


ENDS = {
    "Ctrl-C": (lambda child, peer: child.sendintr(), 128 + signal.SIGINT),
    "Ctrl-\\": (lambda child, peer: child.sendcontrol("\\"), 128 + signal.SIGQUIT),
    "Ctrl-D": (end_of_the_keyboard, 0),
    "SIGINT": (signalled(signal.SIGINT), 128 + signal.SIGINT),
    "SIGTERM": (signalled(signal.SIGTERM), 128 + signal.SIGTERM),
    "SIGHUP": (signalled(signal.SIGHUP), 128 + signal.SIGHUP),
    "the server closes": (lambda child, peer: peer.close(), 1),
    "the server resets": (lambda child, peer: peer.reset(), 1),
}


@clients
@pytest.mark.parametrize("end", ENDS)
def test_however_it_ends_the_terminal_has_its_echo_back(client, end, listener, chatter):
    child, peer = chatter(client, listener)
    ask(child, peer)
    child.send(b"half of it")
    do, status = ENDS[end]
    if end == "Ctrl-D":
        child.sendline(b"")
        peer.expect(b"half of it\n")
    do(child, peer)
    child.expect_exact(f"status {status}\r\n".encode())
    assert child.getecho()


@clients
def test_an_error_gives_the_echo_back(client, listener, chatter):
    child, peer = chatter(client, listener, '"$@" >/dev/full; echo "status $?"')
    peer.send(HIDE)
    assert wait_until(lambda: not child.getecho())
    peer.send(b"password?\n")
    child.expect(rb"client\.py: cannot write to standard output: [^\n]+\nstatus 1\r\n")
    assert child.getecho()


@clients
def test_ctrl_z_gives_the_echo_back_until_fg(client, listener, chatter):
    script = '"$@"; echo stopped; read go; fg; echo "status $?"'
    child, peer = chatter(client, listener, script)
    ask(child, peer)
    child.sendcontrol("z")
    child.expect_exact(b"stopped\r\n")
    assert child.getecho()
    child.sendline(b"go")
    child.expect_exact(b"go\r\n")
    assert wait_until(lambda: not child.getecho())
    child.sendline(b"open sesame")
    peer.expect(b"open sesame\n")
    peer.send(SHOW + b"* you are ana\n")
    child.expect_exact(b"* you are ana\r\n")
    assert child.getecho()
    assert b"sesame" not in child.logfile_read.getvalue()
    child.sendintr()
    child.expect_exact(b"status 130\r\n")


@clients
def test_fg_finds_the_echo_off_whoever_has_stopped_it(client, listener, chatter):
    """kill -STOP leaves it no time. The shell then gets the terminal as it likes it, and fg gives it back."""
    child, peer = chatter(client, listener)
    ask(child, peer)
    process = the_client(child)
    os.kill(process, signal.SIGSTOP)
    assert wait_until(lambda: psutil.Process(process).status() == psutil.STATUS_STOPPED)
    child.setecho(True)
    os.kill(process, signal.SIGCONT)
    assert wait_until(lambda: not child.getecho())


@clients
@pytest.mark.parametrize("end", ["an answer", "Ctrl-C"])
def test_a_terminal_that_had_no_echo_gets_none(client, end, listener, chatter):
    child, peer = chatter(client, listener, echo=False)
    ask(child, peer)
    if end == "an answer":
        peer.send(SHOW + SHOW + HIDE + HIDE + SHOW + b"* you are ana\n")
        child.expect_exact(b"* you are ana\r\n")
    else:
        child.sendintr()
        child.expect_exact(b"status 130\r\n")
    assert not child.getecho()


@clients
def test_the_echo_is_turned_off_twice_and_on_once(client, listener, chatter):
    """What was before the first time counts. On without off is nothing, too."""
    child, peer = chatter(client, listener)
    peer.send(SHOW + b"hello\n")
    child.expect_exact(b"hello\r\n")
    assert child.getecho()
    ask(child, peer)
    ask(child, peer)
    peer.send(SHOW + b"* you are ana\n")
    child.expect_exact(b"* you are ana\r\n")
    assert child.getecho()


@clients
def test_only_the_keyboards_terminal_is_touched(client, listener, begin):
    """What is typed comes from a pipe: there is no echo, whatever else is a terminal."""
    with keyboard() as (reading_end, screen):
        before = termios.tcgetattr(screen)
        process = begin(client, *listener.address, stdout=screen, stderr=screen)
        peer = listener.accept()
        peer.send(HIDE + b"password?\n")
        assert os.read(reading_end, 100) == b"password?\r\n"
        assert termios.tcgetattr(screen) == before
        type_in(process, b"open sesame\n")
        peer.expect(b"open sesame\n")


@clients
def test_a_terminal_that_does_not_control_it(client, listener, begin):
    """Of it come no signals; but it has an echo."""
    with keyboard() as (_, stdin):
        process = begin(client, *listener.address, stdin=stdin)
        peer = listener.accept()
        peer.send(HIDE + b"password?\n")
        process.await_log("password")
        assert not termios.tcgetattr(stdin)[3] & termios.ECHO
        process.signal(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM
        assert termios.tcgetattr(stdin)[3] & termios.ECHO


@clients
def test_what_is_ignored_stays_so(client, listener, chatter):
    """nohup has SIGHUP ignored."""
    child, peer = chatter(client, listener, """trap "" HUP; "$@"; echo "status $?" """)
    ask(child, peer)
    os.kill(the_client(child), signal.SIGHUP)
    child.sendline(b"open sesame")
    peer.expect(b"open sesame\n")
    assert not child.getecho()
    child.sendintr()
    child.expect_exact(b"status 130\r\n")
    assert child.getecho()


@clients
def test_after_the_password_signals_are_what_they_were(client, listener, chatter):
    """Ctrl-Z stops it, fg goes on, Ctrl-C ends it: and the echo is on all the time."""
    child, peer = chatter(client, listener, '"$@"; echo stopped; read go; fg; echo "status $?"')
    ask(child, peer)
    peer.send(SHOW + b"* you are ana\n")
    child.expect_exact(b"* you are ana\r\n")
    child.sendcontrol("z")
    child.expect_exact(b"stopped\r\n")
    assert child.getecho()
    child.sendline(b"go")
    child.expect_exact(b"go\r\n")
    peer.send(b"bob says: hello\n")
    child.expect_exact(b"bob says: hello\r\n")
    assert child.getecho()
    child.sendintr()
    child.expect_exact(b"status 130\r\n")


@on_linux
@clients
def test_as_process_1_ctrl_c_ends_it_and_gives_the_echo_back(client, listener, chatter):
    script = f'{shlex.join(namespaces("--pid", "--fork"))} "$@"; echo "status $?"'
    child, peer = chatter(client, listener, script)
    ask(child, peer)
    child.sendintr()
    assert peer.read_to_end() == b""
    child.expect(rb"status \d+\r\n")
    assert child.getecho()


@clients
def test_in_a_console_ctrl_c_gives_the_echo_back(client, listener, console):
    child = console(client, *listener.address)
    peer = listener.accept()
    ask(child, peer)
    child.sendintr()
    assert peer.read_to_end() == b""
    test_clients_inherited.check_console(child)
    child.sendline(b"import termios; print('echo is', bool(termios.tcgetattr(0)[3] & termios.ECHO))")
    child.expect_exact(b"echo is True\r\n")


@clients
def test_in_a_console_signals_are_afterwards_what_they_were(client, listener, console):
    child = console(client, *listener.address)
    peer = listener.accept()
    ask(child, peer)
    peer.close()
    child.expect_exact(b">>> ")
    child.sendline(
        b"import signal; {signal.getsignal(number) for number in (1, 3, 15, signal.SIGTSTP, signal.SIGCONT)}"
    )
    child.expect_exact(b"{<Handlers.SIG_DFL: 0>}\r\n")
    child.sendline(b"signal.set_wakeup_fd(-1)")
    child.expect_exact(b"-1\r\n")


LATE = """
import os, signal, threading, time

def signal_myself():
    while not os.path.exists({path!r}):
        time.sleep(0.01)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

threading.Thread(target=signal_myself, daemon=True).start()
"""


@clients
def test_a_signal_that_does_not_interrupt_the_wait_ends_it_all_the_same(client, listener, chatter, scratch):
    """One that comes just before the wait begins does not. Nor does one that the system gives to another thread."""
    (scratch / "sitecustomize.py").write_text(LATE.format(path=str(scratch / "now")))
    child, peer = chatter(client, listener, env={"PYTHONPATH": str(scratch)})
    ask(child, peer)
    (scratch / "now").touch()
    child.expect_exact(b"status 143\r\n")
    assert child.getecho()


# TLS: whom it trusts

UNKNOWN = "; --cafile FILE names whom to trust"
BAD = {  # signed by whom, and with what else
    "vouches for itself": ("itself", {}, "self.signed certificate" + UNKNOWN),
    "of an authority that nobody knows": ("another", {}, "[^\n]*issuer[^\n]*" + UNKNOWN),
    "expired": ("ours", {"end": "20210101000000Z"}, "certificate has expired"),
    "not yet valid": ("ours", {"start": "20490101000000Z"}, "certificate is not yet valid[^\n]*"),
    "somebody else's": ("ours", {"names": "DNS:elsewhere.example"}, "(Hostname|IP address) mismatch, [^\n]+"),
}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@pytest.mark.parametrize("kind", BAD)
def test_it_says_why_it_does_not_trust(kind, host, authority, scratch, begin):
    signer, options, why = BAD[kind]
    by = {"itself": None, "another": make(scratch, "another"), "ours": authority}[signer]
    with contextlib.closing(TLSListener(make(scratch, "bad", by=by, **options))) as listener:
        process = begin(TLS, host, listener.address[1])
        type_in(process, b"open sesame\n")
        assert "ALERT" in listener.refuse().reason  # it says so to the server as well
        assert process.wait() == 1
        assert re.fullmatch(rf"client\.py: cannot trust {host}:{listener.address[1]}: {why}\n", process.log), (
            process.log
        )


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@pytest.mark.parametrize("cafile", [True, False], ids=["told by --cafile", "known to the system"])
def test_whom_it_trusts(cafile, host, certificate, scratch, begin):
    mine = make(scratch, "mine") if cafile else certificate
    with contextlib.closing(TLSListener(mine)) as listener:
        process = begin(TLS, host, listener.address[1], *(["--cafile", mine.cert] if cafile else []))
        peer = listener.accept()
        assert peer.sock.version() in ("TLSv1.2", "TLSv1.3")
        type_in(process, b"hello\n")
        peer.expect(b"hello\n")


@pytest.mark.parametrize("words", ["PORT --cafile CERT", "--cafile CERT PORT", "127.0.0.1 --cafile CERT PORT"])
def test_a_lone_number_is_a_port_also_beside_an_option(words, scratch, begin):
    mine = make(scratch, "mine")
    with contextlib.closing(TLSListener(mine)) as listener:
        words = words.replace("PORT", str(listener.address[1])).replace("CERT", str(mine.cert))
        process = begin(TLS, *words.split())
        peer = listener.accept()
        type_in(process, b"hello\n")
        peer.expect(b"hello\n")


def test_with_a_cafile_it_trusts_nobody_else(listener_of, certificate, scratch, begin):
    process = begin(TLS, *listener_of.address, "--cafile", make(scratch, "mine").cert)
    listener_of.refuse()
    assert process.wait() == 1
    assert process.log.startswith("client.py: cannot trust 127.0.0.1:")


@pytest.mark.parametrize("kind", ["missing", "a directory", "a key", "empty", "no text", "cut short"])
def test_a_cafile_that_is_none(kind, certificate, scratch, begin):
    path = scratch / "cafile"
    if kind == "a directory":
        path.mkdir()
    elif kind != "missing":
        cut = certificate.cert.read_bytes()[:-100]
        path.write_bytes(
            {"a key": certificate.key.read_bytes(), "no text": bytes(range(256)), "cut short": cut}.get(kind, b"")
        )
    process = begin(TLS, "127.0.0.1", free_port(), "--cafile", path)
    assert process.wait() == 1
    assert re.fullmatch(rf"client\.py: cannot use --cafile {re.escape(str(path))}: [^\n]+\n", process.log), process.log


# TLS: with whom it does not get along


@pytest.fixture
def listener_of(certificate):
    with contextlib.closing(TLSListener(certificate)) as listener:
        yield listener


@pytest.fixture
def plain():
    with contextlib.closing(Listener()) as listener:
        yield listener


ALERT = b"\x15\x03\x01\x00\x02\x02"  # the record that says why there can be no TLS; a number follows
NO_TLS = {
    "a question": (b"your name?\n", "the server speaks no TLS"),
    "HTTP": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "the server speaks no TLS"),
    "an older version": (ALERT + b"\x46", "TLS failed: [A-Z0-9_]*PROTOCOL_VERSION"),
    "another cipher": (ALERT + b"\x28", "TLS failed: [A-Z0-9_]*HANDSHAKE_FAILURE"),
    "nothing": (b"", "the server closed the connection"),
    "half a record": (b"\x16\x03\x03\x01\x00\x02", "the server closed the connection"),
}


@pytest.mark.parametrize("kind", NO_TLS)
def test_a_server_that_speaks_no_tls(kind, plain, begin):
    answer, why = NO_TLS[kind]
    process = begin(TLS, *plain.address)
    type_in(process, b"open sesame\n")
    peer = plain.accept()
    assert peer.read_some()[0] == 0x16  # a handshake's record
    peer.send(answer)
    peer.finish()
    assert process.wait() == 1
    assert re.fullmatch(rf"client\.py: {why}\n", process.log), process.log
    assert b"sesame" not in peer.read_to_end()


def test_ctrl_c_while_the_server_says_nothing(plain, terminal):
    child = terminal(command(TLS, *plain.address))
    peer = plain.accept()
    assert peer.read_some()
    child.sendintr()
    assert peer.read_to_end() == b""
    child.expect(pexpect.EOF)
    child.wait()
    assert (child.before.strip(), child.signalstatus) in [(b"^C", signal.SIGINT), (b"", signal.SIGINT)]


# TLS: the end, and what comes in pieces


def test_ctrl_d_says_so_with_a_close_notify(listener_of, begin):
    process = begin(TLS, *listener_of.address)
    peer = listener_of.accept()
    type_in(process, b"bye")
    end_of_typing(process)
    peer.expect(b"bye")
    assert peer.read_to_end() == b""
    assert peer.ended == "end of stream"  # of TLS. The socket's would be a reset to us
    with socket.socket(fileno=os.dup(peer.sock.fileno())) as raw:
        raw.settimeout(test_clients.DEADLINE)
        assert raw.recv(1, socket.MSG_PEEK) == b""  # and TCP's
    peer.send(b"late\n")
    process.await_log("^late$")
    peer.close()
    assert (process.wait(), process.log) == (0, "late\n")


@pytest.mark.parametrize("first", [False, True], ids=["in the middle", "after Ctrl-D"])
def test_a_connection_cut_is_not_taken_for_its_end(first, listener_of, begin):
    process = begin(TLS, *listener_of.address)
    peer = listener_of.accept()
    if first:
        end_of_typing(process)
        assert peer.read_to_end() == b""
    peer.send(b"bob says: hel")
    peer.cut()
    assert (process.wait(), process.log) == (1, "bob says: hel" + GONE)


class Sealed:
    """The server's end of a connection, where the test has TLS's bytes in its hands."""

    def __init__(self, listener):
        self.peer = Listener.accept(listener)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = listener.context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.peer.send(self.outgoing.read())
                self.incoming.write(self.peer.read_some())
        self.peer.send(self.outgoing.read())

    def seal(self, data):
        """The bytes in which TLS says this."""
        self.tls.write(data)
        return self.outgoing.read()


def test_records_that_come_a_byte_at_a_time_and_many_at_once(listener_of, begin):
    process = begin(TLS, *listener_of.address)
    sealed = Sealed(listener_of)
    record = sealed.seal(b"hello\n")
    sealed.peer.send_parts([record[number : number + 1] for number in range(len(record))])
    many = b"".join(sealed.seal(b"%d\n" % number) for number in range(1000))
    sealed.peer.send(many)
    lines = "hello\n" + "".join(f"{number}\n" for number in range(1000))
    assert wait_until(lambda: process.log == lines)


@pytest.mark.parametrize("kind", ["cut short", "changed"])
def test_a_record_that_was_tampered_with(kind, listener_of, begin):
    process = begin(TLS, *listener_of.address)
    sealed = Sealed(listener_of)
    whole, record = sealed.seal(b"whole\n"), sealed.seal(b"pay bob 5 euros\n")
    bad = record[:-1] if kind == "cut short" else record[:-20] + bytes([record[-20] ^ 1]) + record[-19:]
    sealed.peer.send(whole)
    process.await_log("^whole$")
    sealed.peer.send(bad)
    sealed.peer.finish()
    assert process.wait() == 1
    why = "the server closed the connection" if kind == "cut short" else r"TLS failed: [A-Z_]+"
    assert re.fullmatch(rf"whole\nclient\.py: {why}\n", process.log), process.log


def test_new_keys_are_no_matter(certificate, run, begin):
    """The server takes new keys, and has the client take some (RFC 8446, 4.6.3)."""
    words = ["-accept", "127.0.0.1:0", "-cert", certificate.cert, "-key", certificate.key, "-tls1_3"]
    server = run(["openssl", "s_server", *map(str, words)], stdin=subprocess.PIPE, bufsize=0)

    process = begin(TLS, "127.0.0.1", server.await_log(r"^ACCEPT \S+:(\d+)$")[1])
    for key in ("K", "k", "K"):
        type_in(process, f"before {key}\n".encode())
        server.await_log(f"^before {key}$")
        tell(server, f"{key}\n".encode())
        tell(server, f"after {key}\n".encode())
        process.await_log(f"^after {key}$")
    type_in(process, b"the end\n")
    server.await_log("^the end$")
    assert process.log == "after K\nafter k\nafter K\n"

"""A chat client that speaks TLS: it knows whom it talks to, and nobody on the way can read along.

    python client.py [HOST] [PORT]              127.0.0.1 and 9669 by default, where a server.py runs
                     [--cafile FILE]            trust nobody but whom the certificates in it vouch for

Enter sends a line. Ctrl-D half-closes: no more is sent, what still comes is printed. Ctrl-C leaves at once.
"""

import argparse
import asyncio
import contextlib
import errno
import os
import re
import select
import selectors
import signal
import socket
import ssl
import sys
import termios

KEYBOARD, SCREEN, ERRORS = 0, 1, 2  # descriptors: sys.stdin and sys.stdout have buffers and locks of their own
CHUNK = 4096  # bytes that are read at once
HIDE, SHOW = b"\xff\xfb\x01", b"\xff\xfc\x01"  # telnet's IAC WILL ECHO, at which we stop, and IAC WONT ECHO (RFC 857)
COMMAND = re.compile(rb"(\xff(?:[\xfb\xfc](?:\x01|\Z)|\Z))")  # one of these, or at the end the start of one
UNKNOWN = 18, 19, 20, 21  # OpenSSL's numbers for certificates that nobody signed whom we trust
ENDS = signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGTSTP  # they end us, or stop us (Ctrl-Z)


async def chat(sock, context, host):
    """Carry bytes both ways until the server closes; return whether the keyboard had ended by then."""
    sock.setblocking(False)
    loop, ended, failed = asyncio.get_running_loop(), asyncio.Event(), []
    echo, rest, tls = Echo(loop), b"", TLS(sock, context, host)
    await tls.shake_hands()
    # Not streams: a write that fails closes them at once, also for what had come before and is still unread.
    keyboard = asyncio.create_task(send_typed(tls, ended, failed))
    try:
        while received := await tls.recv(CHUNK):
            rest = obey(rest + received, echo)
    finally:
        echo.show()
        keyboard.cancel()
        if failed:
            raise failed[0]
    return ended.is_set()


async def send_typed(tls, ended, failed):
    """Send what is typed, until the keyboard ends or fails."""
    loop = asyncio.get_running_loop()
    while not ended.is_set():
        await keyboard_is_ready(loop)
        try:
            typed = read_typed(CHUNK)
        except OSError as error:
            failed.append(error)
            return tls.sock.shutdown(socket.SHUT_RDWR)  # this wakes the other
        # After a reset this fails, while recv still has what came before it: so recv is the one to tell.
        with contextlib.suppress(OSError):
            if typed:
                await tls.sendall(typed)
            elif typed == b"":
                ended.set()
                await tls.finish()


class TLS:
    """What is between the two: bytes to be sent are sealed, and bytes that came are opened, in two buffers in memory.

    It never touches the socket. So the loop waits as before.
    """

    def __init__(self, sock, context, host):
        self.sock = sock
        self.loop = asyncio.get_running_loop()
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=host)

    async def shake_hands(self):
        """Agree with the server on keys, and see its certificate. ssl.SSLError says why that cannot be."""
        try:
            while True:
                try:
                    return self.tls.do_handshake()
                except ssl.SSLWantReadError:
                    await self.flush()
                    await self.fill()
        finally:
            with contextlib.suppress(OSError):
                await self.flush()

    async def recv(self, size):
        """Return what comes next, b"" at the end."""
        while True:
            try:
                return self.tls.read(size)
            except ssl.SSLWantReadError:
                await self.fill()
            except ssl.SSLZeroReturnError:  # the end, after our own
                return b""

    async def fill(self):
        """Wait for more bytes."""
        received = await self.loop.sock_recv(self.sock, CHUNK)
        if not received:  # TLS ends with a close_notify. Anybody on the way could have cut off what lacks that
            raise ConnectionResetError
        self.incoming.write(received)

    async def sendall(self, data):
        """Send all of the data. Only the keyboard's coroutine does, so that no two are under way at once."""
        while data:
            data = data[self.tls.write(data) :]
        await self.flush()

    async def finish(self):
        """Say that nothing more comes, with a close_notify, and as TCP does."""
        with contextlib.suppress(ssl.SSLWantReadError):  # the server's close_notify has not come yet
            self.tls.unwrap()
        await self.flush()
        self.sock.shutdown(socket.SHUT_WR)

    async def flush(self):
        """Send what TLS has to say."""
        await self.loop.sock_sendall(self.sock, self.outgoing.read())


def obey(received, echo):
    """Print what comes and do the commands in it; return the start of one whose end is still to come."""
    for number, part in enumerate(COMMAND.split(received)):
        if number % 2 == 0:  # what stands between two commands
            show(part)
        elif part == HIDE:
            echo.hide()
        elif part == SHOW:
            echo.show()
        else:
            return part
    return b""


class Echo:
    """The terminal's echo of what is typed: off while that is a password, and on again however this client ends."""

    def __init__(self, loop):
        self.loop = loop
        self.modes = None  # the terminal's, from before the echo was turned off

    def hide(self):
        """Turn it off, and see to it that nothing ends us before it is on again."""
        with contextlib.suppress(termios.error):  # standard input is no terminal
            self.modes = self.modes or termios.tcgetattr(KEYBOARD)
            # Python calls a signal's handler before its next line, which may be the one after a wait that has just
            # begun. As soon as the loop itself handles a signal, any signal ends its wait. Here that is what fg sends.
            self.loop.add_signal_handler(signal.SIGCONT, self.turn, False)
            if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # in a console Ctrl-C is a KeyboardInterrupt
                for number in ENDS:
                    if signal.getsignal(number) == signal.SIG_DFL:  # nohup has SIGHUP ignored
                        signal.signal(number, self.leave)
            self.turn(False)

    def show(self):
        """Turn it on again, if it was."""
        self.turn(True)
        self.modes = None

    def turn(self, on):
        """Have the terminal as it was, or without its echo; nothing is to be done while no password is typed."""
        if self.modes:
            modes = [*self.modes]
            modes[3] &= -1 if on else ~termios.ECHO
            with contextlib.suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(KEYBOARD, termios.TCSANOW, modes)

    def leave(self, number, _):
        """Turn it on, and do what the signal does by default. Only Ctrl-Z comes back from there, at fg."""
        self.turn(True)
        signal.signal(number, signal.SIG_DFL)
        if number in SIGNALS:
            end_at_signals()  # also as process 1
        os.kill(os.getpid(), number)
        signal.signal(number, self.leave)


async def keyboard_is_ready(loop):
    """Wait for the keyboard. connect_read_pipe would leave it non-blocking, for the shell as well."""
    readable = asyncio.Event()
    loop.add_reader(KEYBOARD, readable.set)
    await readable.wait()
    loop.remove_reader(KEYBOARD)


# ----------------------------------------------------------------------------------------------------------------------
# The same in every version: take it as given at a first reading.
# ----------------------------------------------------------------------------------------------------------------------

SIGNALS = signal.SIGINT, signal.SIGTERM  # Ctrl-C and kill


def read_typed(size):
    """Read what is typed: b"" is its end; None is nothing yet, where another program left the terminal non-blocking."""
    try:
        typed = os.read(KEYBOARD, size)
        if not typed:
            os.tcgetpgrp(KEYBOARD)  # a terminal that is gone fails here. Without this it looks like Ctrl-D
        return typed
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP):  # it was no terminal that ended
            return b""
        raise OSError(f"cannot read standard input: {error.strerror}") from None


def show(received, screen=SCREEN):
    """Print bytes at once, and all of them: a write may be cut short, by Ctrl-Z for one."""
    while received:
        try:
            received = received[os.write(screen, received) :]
        except BlockingIOError:  # another program left the terminal non-blocking, and it is full
            select.select([], [screen], [])
        except BrokenPipeError:  # nobody reads any more, as after `client.py | head -1`
            sys.exit(1)
        except OSError as error:
            raise OSError(f"cannot write to standard output: {error.strerror}") from None


def fail(why):
    """Say in one line why the client ends, if that can be said, and end it with status 1."""
    with contextlib.suppress(OSError):
        show(os.fsencode(f"{os.path.basename(sys.argv[0])}: {why}\n"), ERRORS)
    sys.exit(1)


def port(text):
    """Return text as a port number, or raise ValueError, which argparse reports."""
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise ValueError
    return int(text)


def end_at_signals():
    """Have Ctrl-C and SIGTERM end this as they end cat: at once, and also if they were ignored or blocked before."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    if os.getpid() == 1:  # as in a container: the kernel spares this one what is the default, but not a call of _exit
        import ctypes

        libc = ctypes.CDLL(None)
        for number in SIGNALS:
            libc.signal(number, libc._exit)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def main():
    """Read the arguments, connect, and chat until the server closes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])  # python -OO has no docstrings
    parser.add_argument("host", metavar="HOST", nargs="?", default="127.0.0.1")
    parser.add_argument("port", metavar="PORT", nargs="?", type=port, default=9669)
    parser.add_argument("--cafile", metavar="FILE")
    args = parser.parse_intermixed_args()  # parse_args() takes no port behind an option
    if args.host.isdigit():
        args = parser.parse_intermixed_args(["127.0.0.1", *sys.argv[1:]])  # a lone number is a port
    # A console that runs this (python -i, IPython's %run) goes on afterwards. Its Ctrl-C is a KeyboardInterrupt.
    if not (sys.flags.inspect or hasattr(sys, "ps1") or sys._getframe(1).f_back):
        end_at_signals()
    try:
        context = ssl.create_default_context(cafile=args.cafile)
    except OSError as error:
        fail(f"cannot use --cafile {args.cafile}: {error}")
    try:
        while (spare := os.open(os.devnull, os.O_RDWR)) <= ERRORS:
            pass  # a standard descriptor that the shell has closed (<&-) would become the socket's
        os.close(spare)
        sock = socket.create_connection((args.host, args.port))
    except (OSError, UnicodeError) as error:
        fail(f"cannot connect to {args.host}:{args.port}: {error}")
    with sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a line waits for no acknowledgement
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a server whose machine vanished is found out
        try:
            read_typed(0)  # what cannot be read fails here, also where nobody would type
            # The usual loops wait with epoll or kqueue, which cannot wait for a file as the keyboard; poll can.
            loop = asyncio.SelectorEventLoop(selectors.PollSelector())
            # Not even python -X dev is to report how long a step took: a screen that was stopped is not our affair.
            with asyncio.Runner(debug=False, loop_factory=lambda: loop) as runner:
                ended = runner.run(chat(sock, context, args.host))
        except KeyboardInterrupt:
            return
        except ConnectionError:
            ended = False
        except ssl.SSLCertVerificationError as error:
            hint = "; --cafile FILE names whom to trust" if error.verify_code in UNKNOWN else ""
            fail(f"cannot trust {args.host}:{args.port}: {error.verify_message}{hint}")
        except ssl.SSLError as error:  # what is no TLS looks like a version of it that there is not
            no_tls = error.reason == "WRONG_VERSION_NUMBER"
            fail("the server speaks no TLS" if no_tls else f"TLS failed: {error.reason}")
        except OSError as error:
            fail(error)
    if not ended:
        fail("the server closed the connection")


if __name__ == "__main__":
    main()

"""`Room`: the server under test with clients in it, and `Peer`: a client, which speaks and hears bytes.

What is not as it should be raises `Broken`, with what was sent, what came, what was expected, and a hint.
"""

import contextlib
import fcntl
import select
import socket
import struct
import sys
import termios
import time

from connections import other_end

from course.program import LINUX, Program, socket_table, wait_until

PATIENCE = 10.0  # seconds for anything that must happen
LONGEST = 50.0  # seconds that are added to that at most, if the machine is busy
MOST_UNREAD = 32 << 20  # bytes that are kept of what comes
SILENCE = 0.3  # seconds in which what must not come would have come
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends a reset


class Broken(Exception):
    """The server did not do what it should have done."""

    def __init__(self, what, hint="", expected=None, came=None, who=None):
        super().__init__(what)
        self.what, self.hint, self.expected, self.came, self.who = what, hint, expected, came, who


class NotHere(Exception):
    """This cannot be tested here, and why."""


class Peer:
    """A raw TCP client. `letter` is what it is called in what is told."""

    def __init__(self, room, letter, receive_buffer=None):
        self.room, self.letter = room, letter
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(PATIENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.sock.connect(("127.0.0.1", room.program.port))
        except OSError as error:
            self.sock.close()
            raise Broken(f"{letter} could not connect: {error.strerror or error}") from None
        self.name = "{}:{}".format(*self.sock.getsockname())
        self.unread = bytearray()
        self.ended = ""  # how the connection ended
        self.deaf = False  # it does not read while others join

    def __str__(self):
        return f"{self.letter} ({self.name})"

    def line(self, text):
        """The bytes in which the others should hear this client say `text`."""
        return f"{self.name} says: {text}\n".encode()

    def send(self, data):
        """Send all of the bytes."""
        self.room.note(self, data)
        self.sock.settimeout(PATIENCE)
        try:
            self.sock.sendall(data)
        except OSError as error:
            self.ended = self.ended or "reset"
            if isinstance(error, ConnectionError):
                raise Broken(f"{self} could not send, as the server has closed the connection") from None
            raise Broken(f"{self} could not send: {error.strerror or error}") from None

    def offer(self, data, seconds=PATIENCE):
        """Send what the connection takes; whether it took all of it."""
        self.sock.settimeout(seconds)
        try:
            self.sock.sendall(data)
        except TimeoutError:
            return False
        except OSError:
            self.ended = self.ended or "reset"
            return False
        return True

    def receive(self, end, patient=False):
        """Wait for more bytes until the time `end`; whether some came. `patient`: wait longer if the server would like
        to run and gets no processor, since the machine is busy with others."""
        left = end - time.monotonic()
        if self.ended or left < -1:  # something may come and come
            return False
        if len(self.unread) > MOST_UNREAD:
            raise Broken(
                f"{self} got {len(self.unread) >> 20} MiB, and nobody said as much", came=bytes(self.unread[:99])
            )
        self.sock.settimeout(max(0.001, left))
        try:
            data = self.sock.recv(1 << 16)
        except TimeoutError:
            return patient and self.room.starves(self.sock) and self.receive(time.monotonic() + 0.1)
        except OSError:
            self.ended = "reset"
            return False
        if not data:
            self.ended = "end of stream"
            return False
        self.unread += data
        return True

    def gather(self, seconds):
        """Take in all that comes until nothing came for so long, a second at most; what is unread."""
        end = time.monotonic() + max(1.0, seconds)
        while self.receive(min(end, time.monotonic() + seconds)) and len(self.unread) < 1 << 20:
            pass
        return bytes(self.unread)

    def expect(self, data, what="", hint=""):
        """The very next bytes must be `data`."""
        end = time.monotonic() + PATIENCE
        while len(self.unread) < len(data) and data.startswith(self.unread) and self.receive(end, True):
            pass
        if not self.unread.startswith(data):
            came = self.gather(0.2)
            raise Broken(what or f"{self} did not get what it should have", hint, data, came, self)
        del self.unread[: len(data)]

    def expect_lines(self, sender, texts, what="", hint=""):
        self.expect(b"".join(map(sender.line, texts)), what, hint)

    def expect_nothing(self, what="", hint="", seconds=SILENCE):
        """Nothing may come for a while, and the connection must stand."""
        if self.unread or self.receive(time.monotonic() + seconds) or self.ended:
            came = self.gather(0.1)
            raise Broken(what or f"{self} should have got nothing", hint, b"", came, self)

    def expect_end(self, what="", hint="", maybe_after=b"", seconds=PATIENCE):
        """The connection must end. Before that nothing may come but `maybe_after`, or its beginning."""
        end = time.monotonic() + seconds
        while self.receive(end, True) and maybe_after.startswith(self.unread):
            pass
        if not self.ended or not maybe_after.startswith(self.unread):
            raise Broken(what or f"{self} should have been disconnected", hint, maybe_after, bytes(self.unread), self)

    def hears(self, line, seconds):
        """Whether the line is among what is unread before the time is over."""
        end = time.monotonic() + seconds
        while line not in self.unread and self.receive(end, seconds >= PATIENCE):
            pass
        return line in self.unread

    def read_some(self, count, seconds):
        """Up to `count` bytes, as soon as there are any; nothing at the end, or when the time is over."""
        if not self.unread:
            self.sock.settimeout(seconds)
            try:
                data = self.sock.recv(count)
            except TimeoutError:
                return self.read_some(count, 1.0) if self.room.starves(self.sock) else b""
            except OSError:
                data, self.ended = b"", "reset"
            if not data:
                self.ended = self.ended or "end of stream"
            return data
        data = bytes(self.unread[:count])
        del self.unread[:count]
        return data

    def finish(self):
        """Close the sending side alone: the server sees the end of the stream, and can still answer."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def close(self):
        """Leave in the ordinary way; with something unread the system makes a reset of it."""
        self.room.forget(self)
        self.sock.close()

    def reset(self):
        self.room.forget(self)
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.sock.close()


class Room:
    """The server and its clients, for one check after the other.

    A check gets a server that no check before it has harmed: if the last one left it in doubt, a new one is started.
    `echoes`: it serves one client at a time, who hears itself.
    """

    def __init__(self, words, limits, echoes=False, like="", first=None, cwd=None):
        self.words, self.limits, self.echoes, self.like, self.cwd = words, limits, echoes, like, cwd
        self.program = first
        self.peers, self.sent, self.sent_count = [], [], 0
        self.calls = 0
        self.files, self.most = set(), 0

    def start(self, **options):
        """A new server in the place of the last one; `options` are those of Program."""
        self.end()
        self.program = Program(self.words, self.limits, cwd=self.cwd, **options)
        self.program.await_listening()
        return self.program

    def begin(self):
        """Before a check: a server that runs, and nobody in it."""
        self.sent, self.sent_count = [], 0
        if self.program is None or not self.program.running:
            self.start()

    def finish(self, harmed=False):
        """After a check: its clients leave as mildly as they can, so that no fault in that is taken for another one."""
        peers, self.peers = self.peers, []
        if harmed or len(peers) > 20 or (self.program and not self.program.running):
            self.end()
        else:
            for peer in peers:
                peer.finish()
            end = time.monotonic() + 0.5
            for peer in peers:
                while peer.receive(end):
                    pass
            if not all(peer.ended for peer in peers):
                self.end()
        for peer in peers:
            peer.sock.close()

    def end(self):
        if self.program:
            state = self.program.ask()
            self.most = max(self.most, state["most"])
            self.program.close()
            self.files.update(self.program.files)
            self.program = None

    def note(self, peer, data):
        self.sent_count += 1
        if len(self.sent) < 40:
            self.sent.append((peer.letter, bytes(data)))

    def forget(self, peer):
        if peer in self.peers:
            self.peers.remove(peer)

    # Clients

    def connect(self, receive_buffer=None):
        """A new client; whether the server has noticed it is not known."""
        number = len(self.peers)
        letter = chr(ord("A") + number) if number < 26 else f"P{number}"
        while any(peer.letter == letter for peer in self.peers):
            number += 1
            letter = chr(ord("A") + number) if number < 26 else f"P{number}"
        self.peers.append(Peer(self, letter, receive_buffer))
        return self.peers[-1]

    def join(self, count=1, receive_buffer=None):
        """New clients that are known to be in the room, and have nothing to read: the last one speaks until all who
        are there and not marked `deaf` have heard it."""
        listeners = [peer for peer in self.peers if not peer.deaf and not peer.ended]
        newcomers = [self.connect(receive_buffer) for _ in range(count)]
        if self.echoes:
            for peer in newcomers:
                peer.send(b"echo?\n")
                peer.expect_lines(peer, ["echo?"])
            return newcomers
        *others, speaker = newcomers
        listeners = [*listeners, *others]
        helper = None
        if not listeners:
            helper = self.connect()
            listeners = [helper]
        self.speak_to(speaker, listeners)
        if helper:
            helper.deaf = True
        return newcomers

    def speak_to(self, speaker, listeners):
        """Let `speaker` speak until each of the listeners has heard it, and take away what it said."""
        end, pause, said = time.monotonic() + PATIENCE + len(listeners) / 50, 0.1, []
        waiting = list(listeners)
        while waiting:
            self.calls += 1
            said.append(speaker.line(f"is everybody here? {self.calls}"))
            speaker.send(said[-1].partition(b" says: ")[2])
            silence = time.monotonic() + pause
            for peer in waiting:
                peer.hears(said[-1], max(0.0, silence - time.monotonic()))
            waiting = [peer for peer in waiting if said[-1] not in peer.unread]
            late = waiting and time.monotonic() > end
            if late and self.starves(waiting[0].sock):
                end = time.monotonic() + 1
            elif late or (waiting and waiting[0].ended):
                raise Broken(
                    f"{waiting[0]} does not hear {speaker}",
                    expected=said[-1],
                    came=bytes(waiting[0].unread),
                    who=waiting[0],
                )
            pause = min(2.0, pause * 2)
        for peer in listeners:
            if not peer.hears(said[-1], PATIENCE):
                raise Broken(f"{peer} no longer hears {speaker}", expected=said[-1], came=bytes(peer.unread), who=peer)
            for line in said:
                peer.unread = peer.unread.replace(line, b"", 1)

    def pair(self):
        """A client that speaks and one that hears it; the same one where the server only echoes."""
        if self.echoes:
            return self.join(1) * 2
        listener, speaker = self.join(2)
        listener.letter, speaker.letter = speaker.letter, listener.letter  # A is who speaks, in all that is told
        self.sent, self.sent_count = [], 0  # of how they joined nothing needs to be told
        return speaker, listener

    def check_open(self, hint=""):
        """A newcomer's words are heard by another one."""
        speaker, listener = self.pair()
        speaker.send(b"still there?\n")
        if not listener.hears(speaker.line("still there?"), PATIENCE):
            raise Broken(
                f"{listener} did not hear {speaker}, afterwards",
                hint,
                speaker.line("still there?"),
                bytes(listener.unread[-200:]),
                listener,
            )
        listener.gather(0.05)
        listener.unread.clear()

    # What the system knows

    def starves(self, sock):
        """After the time for something is over: wait on while the server, or we, are kept from running by others on
        this machine, for a minute at most. Whether something came."""
        end = time.monotonic() + LONGEST
        while time.monotonic() < end:
            before = self.program.starved()
            ready, _, _ = select.select([sock], [], [], 1.0)
            if ready:
                return True
            if self.program.lost_since(before) < 0.2:
                return False
        return False

    def patiently(self, condition, seconds=PATIENCE, program=None, every=0.05):
        """Call `condition` until it is true, or so many seconds are over in which the server (or another `program`) and
        we were not kept from running by others. What the condition gave last."""
        program, begun = program or self.program, time.monotonic()
        before = program.starved()
        result = wait_until(condition, seconds, every)
        while not result:
            passed = time.monotonic() - begun
            if passed - program.lost_since(before) > seconds or passed > seconds + LONGEST:
                break
            result = wait_until(condition, 0.5, every)
        return result

    def await_read(self, peer):
        """Wait until the server has read what the client has sent; where nobody tells, a little while."""
        time.sleep(0.05 if LINUX else 0.3)
        self.patiently(lambda: self.at_server(peer)[0] == 0, every=0.01)

    def at_server(self, peer):
        """How many bytes that a client has sent wait in the system for the server to read them; and whether the server
        has accepted the connection. 0 and True where nobody tells."""
        if end := other_end(peer.sock):
            return end.unread, end.accepted
        ours = f":{int(peer.name.rpartition(':')[2]):04X}"
        for row in socket_table():
            if row[1].endswith(f":{self.program.port:04X}") and row[2].endswith(ours):
                return int(row[4].partition(":")[2], 16), row[9] != "0"
        return 0, True

    def queued(self, peer):
        """How many bytes that the server has sent to a client wait in the system, on either side. Linux alone tells."""
        if end := other_end(peer.sock):  # first: what moves on meanwhile is counted twice then, and not overlooked
            return end.unacknowledged + self.here(peer)
        ours = f":{int(peer.name.rpartition(':')[2]):04X}"
        rows = [row for row in socket_table() if row[1].endswith(f":{self.program.port:04X}") and row[2].endswith(ours)]
        return sum(int(row[4].partition(":")[0], 16) for row in rows) + self.here(peer)

    @staticmethod
    def here(peer):
        """How many bytes have come to a client that it has not read."""
        return int.from_bytes(fcntl.ioctl(peer.sock, termios.FIONREAD, bytes(4)), sys.byteorder)

    def unaccepted(self):
        """How many connections wait for the server to accept them; 0 where nobody tells."""
        port = f":{self.program.port:04X}"
        return sum(row[1].endswith(port) and row[3] == "01" and row[9] == "0" for row in socket_table())

    def check_idle(self, what, hint="", work=1.0):
        """It may not use CPU for long while nothing happens: only who never rests spins. `work`: seconds of CPU that it
        may still need for what was asked of it before, such as compiling itself, without a rest."""
        if self.program.cpu() is None:
            raise NotHere("only Linux tells what CPU it uses")
        total = free = 0.0  # seconds of CPU that it used; and those that it could have used
        begun = time.monotonic()
        while True:
            before, waited, then = self.program.cpu(), self.program.starved(ours=False), time.monotonic()
            time.sleep(0.3)
            seconds, used = time.monotonic() - then, max(0.0, self.program.cpu() - before)
            lost = self.program.lost_since(waited, ours=False)
            if used < 0.02 and lost < seconds / 2:
                return
            total, free = total + used, free + max(used, seconds - lost)
            late = time.monotonic() - begun
            if total > work or (late > 3 and total < free / 10) or late > 40:
                break
        if total > free / 5:
            raise Broken(f"{what}, it uses {total / free:.0%} of the processor that it could have", hint)

    def check_descriptors(self, most, what, hint=""):
        if not self.patiently(lambda: self.program.descriptors() <= most, 5):
            raise Broken(f"{what} it holds {self.program.descriptors()} descriptors, and held {most} before", hint)

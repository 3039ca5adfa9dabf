"""What was said, kept in an SQLite database. One thread alone waits for the disk, and the event loop never does."""

import asyncio
import collections
import concurrent.futures
import json
import logging
import os
import queue
import sqlite3
import threading
import time

LAYOUT = 1  # of the tables; a file says in its user_version which one it has
RECENT = 200  # lines that are kept in memory: newcomers never wait for the disk
MAX_UNWRITTEN = 10_000  # lines that wait for a disk which cannot be written; beyond that the oldest are lost
BATCH = 1000  # lines that are written at once, at most
BATCH_TIME = 0.1  # seconds for which lines are collected, to be written at once
RETRY_TIME = 1  # seconds until what could not be written is tried again

TABLES = """
    CREATE TABLE lines (id INTEGER PRIMARY KEY, time INTEGER NOT NULL, text TEXT NOT NULL);
    CREATE VIRTUAL TABLE words USING fts5 (text, content = 'lines', content_rowid = 'id');
    CREATE TRIGGER new_line AFTER INSERT ON lines BEGIN
        INSERT INTO words (rowid, text) VALUES (new.id, new.text);
    END;
"""


class History:
    """The lines of a chat. `add` and `recent` take no time, and `search` is awaited; `notify` is told of trouble.

    The database is in WAL mode: what was committed is there after a kill -9, and others may read it meanwhile.
    """

    def __init__(self, path):
        """Open the database, or make it. sqlite3.Error, or RuntimeError for the thread, says why not."""
        self.notify = logging.warning  # called in the thread, with a sentence
        self.path = os.path.abspath(path)  # SQLite has a meaning of its own for "" and ":memory:"
        self.database = self.open()
        newest = self.database.execute("SELECT time, text FROM lines ORDER BY id DESC LIMIT ?", [RECENT]).fetchall()
        (self.count,) = self.database.execute("SELECT coalesce(max(id), 0) FROM lines").fetchone()
        self.lines = collections.deque(reversed(newest), RECENT)
        self.unwritten = collections.deque()  # what the thread has not looked at yet
        self.batch = []  # what it is to write
        self.trouble = False  # whether it could not
        self.lost = 0  # lines that were too many to wait for the disk
        self.told = 0  # and how many of these were told
        self.asked = False  # whether it knows that there is something to write
        self.closing = threading.Event()
        self.jobs = queue.SimpleQueue()  # what the thread is to call, and a future for what that gives; None ends it
        self.thread = threading.Thread(target=self.work, daemon=True)  # a disk that stalls does not hold up the end
        self.thread.start()

    def open(self):
        """Open the database, and make the tables in one that is new; sqlite3.Error for one that is not ours."""
        database = sqlite3.connect(self.path, timeout=1, isolation_level=None, check_same_thread=False)
        try:
            (layout,) = database.execute("PRAGMA user_version").fetchone()
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
            if layout > LAYOUT:
                raise sqlite3.DatabaseError(f"its layout is {layout}, and this server knows {LAYOUT}")
            if tables and not (layout and "words" in tables):
                raise sqlite3.DatabaseError("it is another program's database")
            if layout == 0:
                database.executescript(f"BEGIN; {TABLES} PRAGMA user_version = {LAYOUT}; COMMIT;")
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")  # an fsync for each checkpoint, not for each batch
        except BaseException:
            database.close()
            raise
        return database

    def reopen(self):
        """Open the database again: what could only be opened for reading stays so, whatever becomes of its rights."""
        database = self.open()
        self.database.close()
        self.database = database

    def add(self, text):
        """Keep a line, which is said now."""
        line = int(time.time()), text
        self.lines.append(line)
        self.unwritten.append(line)
        if len(self.unwritten) > MAX_UNWRITTEN:
            self.unwritten.popleft()
            self.lost += 1
        if not self.asked:
            self.asked = True
            self.ask(self.write)

    def recent(self, count):
        """Return the last lines, as many as that."""
        return [shown(line) for line in list(self.lines)[-count:]]

    async def search(self, words, count):
        """Return the last lines that hold all the words, as text. sqlite3.Error says why it cannot be searched."""
        return await asyncio.wrap_future(self.ask(self.find, words, count))

    def close(self, seconds):
        """Write what is unwritten, for which the disk has some seconds."""
        self.closing.set()
        self.jobs.put(None)
        self.thread.join(seconds)
        if left := len(self.batch) + len(self.unwritten):
            logging.info("history: %d lines could not be written", left)

    def ask(self, do, *args):
        """Have the thread call something, and return a future of what that gives."""
        future = concurrent.futures.Future()
        self.jobs.put((future, do, args))
        return future

    # What the thread does

    def work(self):
        """Do one job after the other."""
        for future, do, args in iter(self.jobs.get, None):
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(do(*args))
                except Exception as error:
                    future.set_exception(error)
        if self.unwritten or self.batch:
            self.write()
        self.database.close()

    def write(self):
        """Write what was said, many lines in one statement; if that fails, later."""
        self.closing.wait(BATCH_TIME)
        self.asked = False  # what is added from here on asks again
        try:
            if self.trouble:
                self.reopen()
            for _ in range(0, MAX_UNWRITTEN + BATCH, BATCH):  # not for as long as lines come: a search may be waiting
                if not self.take():
                    break
                # A list as JSON, as each statement takes and gives back Python's lock, for which the loop then waits.
                self.database.execute(
                    "INSERT INTO lines (time, text) SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') "
                    "FROM json_each(?)",
                    [json.dumps(self.batch)],
                )
                self.batch.clear()
        except sqlite3.Error as error:
            if not self.trouble:
                self.notify(f"the history cannot be written: {error}")
            self.trouble = True
            if not self.closing.wait(RETRY_TIME):
                self.asked = True
                self.ask(self.write)
            return
        if self.trouble:
            self.notify("the history is written again")
        self.trouble = False
        if lost := self.lost - self.told:
            self.notify(f"the history lacks {lost} lines, which were too many to wait for the disk")
            self.told += lost

    def take(self):
        """Return the lines that are to be written next: those that could not be written, or else some that wait."""
        while self.unwritten and len(self.batch) < BATCH:
            self.batch.append(self.unwritten.popleft())
        return self.batch

    def find(self, words, count):
        """Search the database. Each word is put in quotes, as others could be a part of FTS5's own language."""
        query = " ".join('"' + word.replace('"', '""') + '"' for word in words.split())
        found = self.database.execute(
            "SELECT time, lines.text FROM words JOIN lines ON lines.id = words.rowid WHERE words MATCH ? "
            "ORDER BY words.rowid DESC LIMIT ?",  # by lines.id SQLite would sort all that it finds
            [query, count],
        ).fetchall()
        return "".join(map(shown, reversed(found)))


def shown(line):
    """Return a line of the history as text, with the local time in front."""
    when, text = line
    return f"[{time.strftime('%Y-%m-%d %H:%M', time.localtime(when))}] {text}\n"

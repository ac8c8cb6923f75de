"""The journal's file: an SQLite database that is opened late, brought up to date, and never trusted to be whole.

Write-ahead log: a commit costs one fsync where it must survive a power failure, and none where it need only survive
the death of the process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from bot.clock import wall_seconds
from bot.errors import JournalError
from bot.journal_schema import MIGRATIONS, fill_steps
from bot.nonce import forks

log = logging.getLogger(__name__)

BUSY_SECONDS_MAX = 5.0
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class JournalFile:
    """One connection for all threads. Several processes may have the same file open."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.RLock()
        self._left_to_parent: list[sqlite3.Connection] = []
        forks.forget_in_child(self)

    def after_fork_in_child(self) -> None:
        """SQLite forbids the use of a connection in a forked child, and closing it there as well."""
        if self._connection is not None:
            self._left_to_parent.append(self._connection)
        self._connection = None
        self._lock = threading.RLock()

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Give the connection for reading. Raises JournalError."""
        with self._lock, self._in_words("read"):
            try:
                connection = self._opened()
            except sqlite3.OperationalError:
                # What was sent has to be followed also where nothing can be written.
                with contextlib.closing(self._open_to_read()) as connection:
                    yield connection
                return
            yield connection

    @contextlib.contextmanager
    def write(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """Give the connection within a transaction, which is `durable` on the disk or at least with the system.

        Raises JournalError; then nothing was written.
        """
        with self._lock, self._in_words("written"):
            connection = self._opened()
            connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextlib.contextmanager
    def _in_words(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            # No trouble of the disk: this program wanted to write what must not be.
            raise
        except sqlite3.DatabaseError as error:
            raise JournalError(
                f"the journal {self.path} could not be {what} ({error}). No new order is sent until it can; free the "
                "disk or its permissions. What was sent before is still followed"
            ) from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            try:
                self._connection = self._open()
            except sqlite3.DatabaseError as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _DAMAGED:
                    raise
                self._move_aside(error)
                self._connection = self._open()
        return self._connection

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS_MAX, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                damage = sqlite3.DatabaseError(found)
                damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
                raise damage
            self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_to_read(self) -> sqlite3.Connection:
        wal = self.path + "-wal"
        # Without a log beside it the file is whole, and needs none of the files that cannot be made now.
        whole = not os.path.exists(wal) or os.path.getsize(wal) == 0
        uri = f"{Path(self.path).absolute().as_uri()}?mode=ro{'&immutable=1' if whole else ''}"
        return sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS_MAX, isolation_level=None, check_same_thread=False)

    def _migrate(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise JournalError(
                f"the journal {self.path} was written by a newer version of this program (schema {version}, this one "
                f"knows {len(MIGRATIONS)}). Use that version; nothing was changed"
            )
        if version == len(MIGRATIONS):
            return
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        # Another process may have been first.
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        fill_steps(connection)
        connection.execute(f"PRAGMA user_version={len(MIGRATIONS)}")
        connection.execute("COMMIT")

    def _move_aside(self, error: Exception) -> None:
        aside = f"{self.path}.damaged.{int(wall_seconds())}"
        for ending in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.replace(self.path + ending, aside + ending)
        log.warning(
            "The journal %s is damaged (%s): moved to %s. A new one is made from Kraken's rows of this bot's orders.",
            self.path,
            error,
            aside,
        )

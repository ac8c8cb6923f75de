"""The journal's file: an SQLite database that is opened late, brought up to date, and never trusted to be complete.

Write-ahead log: a commit costs one fsync where it must survive a power failure, and none where it need only survive
the death of the process.

Faults of the file, and how each is handled:

- the disk is full or read-only: nothing is written (JournalError), what is there is still read; heals by itself;
- damaged: moved aside, and a new one is begun, also while the bot runs; a digit that was changed and still reads as
  one is for `journal check` to find;
- deleted or replaced while it is open: what this process knows of the old one is written into the new one;
- written by a newer version of this program: refused, and left as it is.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

from bot.base import fork_safety
from bot.base.clock import boottime_seconds, sleep, wall_seconds
from bot.base.errors import JournalError, JournalVersionError
from bot.base.event_catalog import Event
from bot.base.events import emit
from bot.base.private_files import prepare_file, refuse_link
from bot.orders.journal_schema import MIGRATIONS, TABLES, has_current_transitions, write_transitions

BUSY_TIMEOUT_SECONDS = 5.0
# SQLite's own would grow with the file up to 2 MB a connection, beside the system's.
CACHE_KIB = 256
# What malformed text raises where it is read.
_UNREADABLE_ERRORS = (ValueError, ArithmeticError)
_FILE_SUFFIXES = ("", "-wal", "-shm")


class JournalDatabase:
    """One connection for all threads. Several processes may have the same file open."""

    def __init__(self, path: str) -> None:
        self.path = path
        # Held by the thread that uses the file.
        self.lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._inodes: dict[str, tuple[int, int]] = {}
        self._parent_connections: list[sqlite3.Connection] = []
        fork_safety.register_after_fork(self)
        _open_databases.add(self)

    def after_fork_in_child(self) -> None:
        """SQLite forbids the use of a connection in a forked child, and closing it there as well."""
        if self._connection is not None:
            self._parent_connections.append(self._connection)
        self._connection = None
        self.lock = threading.RLock()

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Give the connection for reading. Raises JournalError, also where a row cannot be read: that is damage."""
        with self.lock, self._translate_errors("read"), contextlib.ExitStack() as stack:
            try:
                connection = self._current_connection()
            except sqlite3.OperationalError:
                # What was sent has to be followed also where nothing can be written.
                connection = self._connection or stack.enter_context(contextlib.closing(self._open_read_only()))
            yield connection

    @contextlib.contextmanager
    def write(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """Give the connection within a transaction, which is `durable` on the disk or at least with the system.

        Raises JournalError; then nothing was written.
        """
        with self.lock, self._translate_errors("written"):
            connection = self._current_connection()
            with _transaction(connection, durable):
                yield connection

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self.lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def __del__(self) -> None:
        """Close the file with the last one who used it; Python warns of a connection that nobody has closed."""
        if self._connection is not None:
            self._connection.close()

    @contextlib.contextmanager
    def _translate_errors(self, action: str) -> Iterator[None]:
        try:
            try:
                yield
            except _UNREADABLE_ERRORS as error:
                self.close()
                self._move_aside(error)
                raise sqlite3.DatabaseError(f"a damaged row: {error}") from error
        except sqlite3.IntegrityError:
            # No trouble of the disk: this program wanted to write what must not be.
            raise
        except (sqlite3.DatabaseError, OSError) as error:
            if _is_corruption(error):
                self.close()  # so that the next use looks through the whole file
            reason = getattr(error, "strerror", None) or error
            raise JournalError(
                f"the journal {self.path} could not be {action} ({reason}). No new order is sent until it can; free "
                "the disk or its permissions. What was sent before is still followed"
            ) from error

    def _current_connection(self) -> sqlite3.Connection:
        """Return the connection to the file that the path names now."""
        previous = self._connection
        if previous is not None:
            if _inode(self.path) == self._inodes[""]:
                return previous
            self._unlink_stale_wal()
        try:
            connection = self._open()
        except (sqlite3.DatabaseError, *_UNREADABLE_ERRORS) as error:
            if not _is_corruption(error):
                raise
            self._move_aside(error)
            connection = self._open()
        if previous is not None:
            try:
                self._copy_rows(previous, connection)
            except sqlite3.DatabaseError:
                connection.close()
                raise
        self._connection = connection
        self._inodes = {ending: _inode(self.path + ending) for ending in _FILE_SUFFIXES}
        return connection

    def _unlink_stale_wal(self) -> None:
        """Unlink the log of a file that is gone from here, or it would be taken for the new one's."""
        for ending in ("-wal", "-shm"):
            if _inode(self.path + ending) == self._inodes[ending] != (0, 0):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.path + ending)

    def _copy_rows(self, previous: sqlite3.Connection, connection: sqlite3.Connection) -> None:
        is_complete = True
        emit(Event.JOURNAL_REPLACED, path=self.path)
        with _transaction(connection, durable=True):
            for table in TABLES:
                if table == "known" and not is_complete:
                    continue  # what is missing has to be looked for
                try:
                    rows = previous.execute(f"SELECT * FROM {table}").fetchall()  # nosec B608 # noqa: S608 - a name of our own
                except (sqlite3.DatabaseError, *_UNREADABLE_ERRORS) as error:
                    emit(Event.JOURNAL_TABLE_UNREADABLE, table=table, error=error)
                    is_complete = False
                    continue
                for row in rows:
                    placeholders = ", ".join("?" for _ in row)
                    connection.execute(f"INSERT OR IGNORE INTO {table} VALUES ({placeholders})", row)  # noqa: S608 - as above
        previous.close()

    def _open(self) -> sqlite3.Connection:
        self._refuse_links()
        prepare_file(self.path)
        connection = _connect(self.path)
        try:
            _enable_wal(connection)
            check_result = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if check_result != "ok":
                damage = sqlite3.DatabaseError(check_result)
                damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
                raise damage
            self._migrate(connection)
            _check_writable(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _refuse_links(self) -> None:
        for ending in _FILE_SUFFIXES:
            refuse_link(self.path + ending)

    def _open_read_only(self) -> sqlite3.Connection:
        self._refuse_links()
        wal = self.path + "-wal"
        # Without a log beside it the file is whole, and needs none of the files that cannot be made now.
        is_wal_empty = not os.path.exists(wal) or os.path.getsize(wal) == 0
        connection = _connect(f"{Path(self.path).absolute().as_uri()}?mode=ro{'&immutable=1' if is_wal_empty else ''}")
        try:
            self._schema_version(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _schema_version(self, connection: sqlite3.Connection) -> int:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version > len(MIGRATIONS):
            raise JournalVersionError(
                f"the journal {self.path} was written by a newer version of this program (schema {version}, this one "
                f"knows {len(MIGRATIONS)}). Use that version; nothing was changed"
            )
        return version

    def _migrate(self, connection: sqlite3.Connection) -> None:
        if self._schema_version(connection) == len(MIGRATIONS) and has_current_transitions(connection):
            return
        with _transaction(connection, durable=True):
            # Another process may have been first.
            for statements in MIGRATIONS[self._schema_version(connection) :]:
                for statement in statements:
                    connection.execute(statement)
            write_transitions(connection)
            connection.execute(f"PRAGMA user_version={len(MIGRATIONS)}")

    def _move_aside(self, error: Exception) -> None:
        damaged_path = f"{self.path}.damaged.{int(wall_seconds())}"
        for ending in _FILE_SUFFIXES:
            with contextlib.suppress(FileNotFoundError):
                os.replace(self.path + ending, damaged_path + ending)
        emit(Event.JOURNAL_DAMAGED, path=self.path, error=error, damaged_path=damaged_path)


def _connect(address: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        address, uri=True, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
    )
    # Bytes that are no text are damage, and are to be told from trouble of the disk: UnicodeDecodeError.
    connection.text_factory = bytes.decode
    try:
        connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
    except BaseException:  # SQLite reads the schema here, which can be damaged
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection, durable: bool) -> Iterator[None]:
    connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _check_writable(connection: sqlite3.Connection) -> None:
    """Raise where the connection can only read: it would stay so after the disk has healed."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(f"PRAGMA user_version={len(MIGRATIONS)}")
    connection.execute("ROLLBACK")


def _enable_wal(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log. SQLite does not wait here for another process that does the same."""
    deadline = boottime_seconds() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if _primary_result_code(error) != sqlite3.SQLITE_BUSY or boottime_seconds() > deadline:
                raise
        sleep(0.005)


def _is_corruption(error: Exception) -> bool:
    return isinstance(error, _UNREADABLE_ERRORS) or _primary_result_code(error) in (
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    )


def _primary_result_code(error: Exception) -> int:
    # The lowest byte says what kind, the others which one of it (SQLite: result codes).
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _inode(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_dev, status.st_ino


class _ForkLock(threading.local):
    """The files that the thread which forks holds meanwhile."""

    databases: tuple[JournalDatabase, ...] = ()


_open_databases: weakref.WeakSet[JournalDatabase] = weakref.WeakSet()
_fork_lock = _ForkLock()


def _lock_all() -> None:
    # A child that is forked while another thread is within SQLite would wait for that thread's mutex for ever.
    _fork_lock.databases = tuple(_open_databases)
    for file in _fork_lock.databases:
        file.lock.acquire()


def _unlock_all() -> None:
    for file in _fork_lock.databases:
        file.lock.release()
    _fork_lock.databases = ()


os.register_at_fork(before=_lock_all, after_in_parent=_unlock_all)

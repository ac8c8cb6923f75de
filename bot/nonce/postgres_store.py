"""The contract of a shared store on PostgreSQL: one row a key, one atomic statement a step.

What a lost row or server can do is PostgreSQL's own: a step that was answered is as durable as `synchronous_commit`
makes it there, which this program leaves as it is.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import select
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import errors, pq
from psycopg.conninfo import conninfo_to_dict

from bot.base import clock, fork_safety
from bot.base.errors import StoreUnavailableError
from bot.nonce.store_protocol import NEXT_SECONDS, Drawn, Lease, Outcome, Row, Wish

ANSWER_SECONDS = 2.0
CONNECTIONS = 4
# How long a statement that was given up may take to be called off, so that it does not stay behind in the server.
_CANCEL_SECONDS = 0.5
# A server that is gone is noticed: by unanswered bytes within 2 s, on an idle connection by probes.
_DEFAULTS = {
    "application_name": "kraken-bot",
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 2000,
}
_BOOLEAN, _BIGINT, _TEXT = 16, 20, 25
# A forked child keeps what is its parent's: one that is thrown away is complained of as not closed.
_parents: list[psycopg.Connection] = []

Value = int | str | bool
Answer = Sequence[Any]


class NoAnswerInTime(psycopg.OperationalError):
    """The server did not answer within ANSWER_SECONDS."""


class NoConnectionFree(psycopg.OperationalError):
    """All connections of this process were in use for ANSWER_SECONDS."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement; `names` are its parameters in the order of $1, $2 ..."""

    text: bytes
    names: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Statement:
        """Read a file with %(name)s for each parameter; its comments are not sent."""
        text = re.sub(r"--.*", "", path.read_text(encoding="utf-8"))
        names = tuple(dict.fromkeys(re.findall(r"%\((\w+)\)s", text)))
        numbered = re.sub(r"%\((\w+)\)s", lambda found: f"${names.index(found[1]) + 1}", text)
        return cls(" ".join(numbered.split()).encode(), names)


class Connections:
    """Up to four connections, opened when they are needed. Thread-safe. No statement leaves anything in a session.

    Raises ValueError where `url` cannot be read; it does not repeat it.
    """

    def __init__(self, url: str) -> None:
        try:
            self._settings: dict[str, Any] = {**_DEFAULTS, **conninfo_to_dict(url), "connect_timeout": 2}
            for host in str(self._settings.get("host", "")).split(","):
                host.encode("idna")  # as the look-up of the name will: it fails as no psycopg.Error
        except (psycopg.Error, UnicodeError):
            raise ValueError("not a postgresql:// address that libpq can read") from None
        self.place = _place(self._settings)
        self._open: set[psycopg.Connection] = set()
        self._begin()
        fork_safety.forget_in_child(self)

    def _begin(self) -> None:
        self._idle: list[psycopg.Connection] = []
        # One for each connection that may be in use. A semaphore of `threading` may stay locked for ever where Ctrl-C
        # comes in the middle of it; this is one step.
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(CONNECTIONS):
            self._free.put(None)

    def after_fork_in_child(self) -> None:
        """Let go of the parent's connections without a word to the server."""
        for connection in self._open:
            with contextlib.suppress(psycopg.Error, OSError):
                os.close(connection.pgconn.socket)
        _parents.extend(self._open)
        self._open = set()
        self._begin()

    def ask(self, statement: Statement, values: Mapping[str, Value]) -> Answer | None:
        """Do one statement by itself; return its first row, if any. Raises psycopg.Error."""
        try:
            self._free.get(timeout=ANSWER_SECONDS)
        except queue.Empty:
            raise NoConnectionFree from None
        try:
            used = self._take_idle()
            if used is not None:
                try:
                    return self._ask(used, statement, values)
                except psycopg.Error as error:
                    if not _was_cut(error):
                        raise
            return self._ask(self._connect(), statement, values)
        finally:
            self._free.put(None)

    def close(self) -> None:
        """Close what is not in use."""
        while (connection := self._take_idle()) is not None:
            self._drop(connection)

    def _take_idle(self) -> psycopg.Connection | None:
        try:
            return self._idle.pop()
        except IndexError:  # another thread was quicker
            return None

    def _connect(self) -> psycopg.Connection:
        connection = psycopg.Connection.connect(**self._settings, autocommit=True)
        self._open.add(connection)
        return connection

    def _ask(self, connection: psycopg.Connection, statement: Statement, values: Mapping[str, Value]) -> Answer | None:
        done = False
        try:
            row = _row(_exchange(connection.pgconn, statement, values))
            done = True
            return row
        except NoAnswerInTime:
            with contextlib.suppress(psycopg.Error):
                connection.cancel_safe(timeout=_CANCEL_SECONDS)
            raise
        finally:
            if done:
                self._idle.append(connection)
            else:
                self._drop(connection)

    def _drop(self, connection: psycopg.Connection) -> None:
        self._open.discard(connection)
        connection.close()


def _exchange(connection: pq.abc.PGconn, statement: Statement, values: Mapping[str, Value]) -> pq.abc.PGresult:
    """Send one statement, not prepared: behind a pooler the next one may reach another session."""
    given = [values[name] for name in statement.names]
    connection.send_query_params(
        statement.text, [str(value).encode() for value in given], [_kind(value) for value in given]
    )
    until_seconds = clock.boottime_seconds() + ANSWER_SECONDS
    while connection.flush():
        _wait(connection, select.POLLIN | select.POLLOUT, until_seconds)
    first: pq.abc.PGresult | None = None
    while True:
        while connection.is_busy():
            _wait(connection, select.POLLIN, until_seconds)
        result = connection.get_result()
        if result is None:
            break
        first = first or result
    if first is None:
        raise psycopg.OperationalError("the connection ended without an answer")
    return first


def _wait(connection: pq.abc.PGconn, events: int, until_seconds: float) -> None:
    poll = select.poll()
    poll.register(connection.socket, events)
    remaining_seconds = until_seconds - clock.boottime_seconds()
    if remaining_seconds <= 0 or not poll.poll(remaining_seconds * 1000):
        raise NoAnswerInTime
    connection.consume_input()


def _kind(value: Value) -> int:
    if isinstance(value, str):
        return _TEXT
    return _BOOLEAN if isinstance(value, bool) else _BIGINT


def _row(result: pq.abc.PGresult) -> Answer | None:
    if result.status not in {pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK}:
        raise psycopg.errors.error_from_result(result)
    if not result.ntuples:
        return None
    return tuple(_value(result.get_value(0, column), result.ftype(column)) for column in range(result.nfields))


def _value(text: bytes | None, kind: int) -> Value:
    if text is None:
        raise psycopg.DataError("an empty column, which the table does not allow")
    if kind == _BOOLEAN:
        return text == b"t"
    return int(text) if kind == _BIGINT else text.decode()


def _was_cut(error: psycopg.Error) -> bool:
    """Say whether the server or the network had ended the connection, not our own patience."""
    if error.sqlstate is None:
        return not isinstance(error, NoAnswerInTime)
    return error.diag.severity_nonlocalized in {"FATAL", "PANIC"}


def _place(settings: Mapping[str, Any]) -> str:
    """Say where the server is, without user name and password."""
    hosts = str(settings.get("host") or settings.get("hostaddr") or "localhost").split(",")
    ports = str(settings.get("port") or "5432").split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    # An IPv6 address in an URL stands in brackets.
    named = [f"[{host}]" if ":" in host else host for host in hosts]
    servers = ",".join(f"{host}:{port or 5432}" for host, port in zip(named, ports, strict=False))
    return f"postgresql://{servers}/{settings.get('dbname', '')}"


_NO_RIGHT = (
    "does not let this user do that: as its owner run bot/nonce/postgres/schema.sql there once,"
    " and GRANT SELECT, INSERT, UPDATE ON kraken_bot_keys to this user"
)
_BY_KIND: tuple[tuple[type[psycopg.Error] | tuple[type[psycopg.Error], ...], str], ...] = (
    ((NoAnswerInTime, errors.ConnectionTimeout), f"did not answer within {ANSWER_SECONDS:g} s"),
    (NoConnectionFree, f"kept all connections of this process waiting for {ANSWER_SECONDS:g} s"),
    (errors.ReadOnlySqlTransaction, "is read-only (a standby, or default_transaction_read_only is on)"),
    (errors.DiskFull, "has no space left on its disk"),
    ((errors.InsufficientPrivilege, errors.InvalidSchemaName), _NO_RIGHT),
    (
        (errors.UndefinedColumn, errors.UndefinedFunction, errors.DatatypeMismatch, errors.NotNullViolation),
        "has a table kraken_bot_keys that this version of the program does not know",
    ),
    (errors.SerializationFailure, "has a default_transaction_isolation other than read committed"),
    ((errors.AdminShutdown, errors.CrashShutdown, errors.CannotConnectNow), "is stopping or starting"),
    (errors.TooManyConnections, "has no connection free"),
    (errors.QueryCanceled, "called the statement off (statement_timeout, or its administrator)"),
)
# What a server says while a connection is made comes as text alone. In another language the last line is said.
_BY_TEXT = (
    ("password", "refuses this user name and password"),
    ("no pg_hba.conf entry", "does not let this user in from here (pg_hba.conf)"),
    ("SSL", "cannot be reached by TLS as the address wants it (sslmode)"),
    ("certificate", "cannot be reached by TLS as the address wants it (sslmode)"),
    ("does not exist", "has no such database or user"),
    ("too many", "has no connection free"),
    ("connection slots", "has no connection free"),
    ("starting up", "is stopping or starting"),
    ("shutting down", "is stopping or starting"),
    ("resolve host", "has a name that cannot be looked up (DNS)"),
    ("translate host name", "has a name that cannot be looked up (DNS)"),
    ("Connection refused", "cannot be reached: nothing listens there"),
    ("invalid sslmode", "cannot be asked: there is no such sslmode"),
)


def sentence(error: psycopg.Error, place: str) -> str:
    """Say what is wrong at `place`. The driver's own text is not repeated: it may hold the address."""
    return f"the nonce store {place} {_what(error)}"


def _what(error: psycopg.Error) -> str:
    for kind, what in _BY_KIND:
        if isinstance(error, kind):
            return what
    if error.sqlstate is not None:
        return f"refused a statement ({type(error).__name__}, SQLSTATE {error.sqlstate})"
    text = str(error)
    return next((what for mark, what in _BY_TEXT if mark in text), "cannot be reached, or lets nobody in")


SECOND_US = 1_000_000
# A refusal is explained by a second statement; where the row has changed between the two, both are done again.
ATTEMPTS = 5

_FOLDER = Path(__file__).parent / "postgres"
_STATEMENTS = {path.stem: Statement.read(path) for path in _FOLDER.glob("*.sql")}
# What two processes that make the table at the same time can be told.
_MADE_BY_ANOTHER = (
    psycopg.errors.UniqueViolation,
    psycopg.errors.DuplicateTable,
    psycopg.errors.DuplicateObject,
)


class PostgresEngine:
    """One key's row of the table `kraken_bot_keys`. `name` is a hash of the key; `url` is postgresql://...

    Raises ValueError where `url` cannot be read. Nothing is opened before the first step.
    """

    def __init__(self, url: str, name: str) -> None:
        self._connections = Connections(url)
        self._name = name
        self.place = self._connections.place

    def draw(self, wish: Wish) -> Drawn:
        """Draw a nonce: DRAWN, STALE or AHEAD."""
        return self._drawn("draw", wish)

    def take(self, wish: Wish, owner: str, lifetime_seconds: float, waited_seconds: float = 0.0) -> Drawn:
        """Take the turn and draw its nonce in one step, or neither: DRAWN, NEXT, BUSY, STALE or AHEAD."""
        return self._drawn("take", wish, owner, lifetime_seconds, waited_seconds)

    def give_back(self, nonce: int) -> None:
        """Give back the turn that was taken with this nonce; where it is another's by now, nothing happens."""
        self._run("give_back", nonce=nonce)

    def acquire(self, owner: str, lifetime_seconds: float) -> Lease:
        """Lead if nobody does; return the lease as it is then, which is another's where `owner` is."""
        for _ in range(ATTEMPTS):
            granted = self._run("acquire", owner=owner, lifetime=_microseconds(lifetime_seconds))
            if granted is not None:
                return _lease(granted)
            held = self._run("look")
            if held is None:
                self._run("row")
                continue
            _nonce, *lease, _turn_owner, too_far = held
            if too_far:
                self._run("notice")
            elif (standing := _lease(lease)).remaining_seconds:
                return standing
        raise self._restless()

    def renew(self, generation: int, lifetime_seconds: float) -> bool:
        """Let the lease of this generation live on from now; return False where it is over, or another's."""
        return self._run("renew", generation=generation, lifetime=_microseconds(lifetime_seconds)) is not None

    def sign_off(self, generation: int, settled: bool) -> None:
        """End the lease of this generation at once; `settled`: no order of its owner has an unknown fate."""
        self._run("sign_off", generation=generation, settled=settled)

    def look(self) -> Row | None:
        """Return what the store has of the key, or None. Writes nothing."""
        try:
            held = self._ask("look")
        except psycopg.errors.UndefinedTable:
            return None
        except psycopg.Error as error:
            raise StoreUnavailableError(sentence(error, self.place)) from None
        if held is None:
            return None
        nonce, *lease, turn_owner, _too_far = held
        standing = _lease(lease)
        return Row(nonce, standing, turn_owner) if nonce or standing.generation else None

    def close(self) -> None:
        """Close the connections; the next use opens them again."""
        self._connections.close()

    def _drawn(
        self, statement: str, wish: Wish, owner: str = "", lifetime_seconds: float = 0.0, waited_seconds: float = 0.0
    ) -> Drawn:
        wished: dict[str, Value] = {
            "floor": wish.floor,
            "ceiling": wish.ceiling,
            "ticks": wish.ticks,
            "generation": wish.generation,
            "owner": owner,
            "lifetime": _microseconds(lifetime_seconds),
            "next_lifetime": _microseconds(NEXT_SECONDS),
            "waited": _microseconds(waited_seconds),
        }
        for _ in range(ATTEMPTS):
            drawn = self._run(statement, **wished)
            if drawn is not None:
                return Drawn(Outcome.DRAWN, *drawn)
            refused = self._run("refused", **wished)
            if refused is None:
                self._run("row")
                continue
            last, stale, busy, ahead, is_next, reservable = refused
            if stale:
                return Drawn(Outcome.STALE, 0, last)
            if busy:
                if reservable:
                    reserved = self._run("reserve", **wished)
                    is_next = reserved is None or reserved[0]  # None: by now the turn is free
                return Drawn(Outcome.NEXT if is_next else Outcome.BUSY, 0, last)
            if ahead:
                return Drawn(Outcome.AHEAD, 0, last)
        if owner:
            return Drawn(Outcome.BUSY)  # the turn goes from hand to hand: whoever asks again gets it, too
        raise self._restless()

    def _run(self, statement: str, **parameters: Value) -> Answer | None:
        """Do one statement, where the table is missing after making it; return its row, if it has one."""
        try:
            try:
                return self._ask(statement, **parameters)
            except psycopg.errors.UndefinedTable:
                self._make_table()
                return self._ask(statement, **parameters)
        except psycopg.Error as error:
            raise StoreUnavailableError(sentence(error, self.place)) from None

    def _make_table(self) -> None:
        try:
            self._ask("schema")
        except _MADE_BY_ANOTHER:
            return

    def _ask(self, statement: str, **parameters: Value) -> Answer | None:
        return self._connections.ask(_STATEMENTS[statement], {"name": self._name, **parameters})

    def _restless(self) -> StoreUnavailableError:
        return StoreUnavailableError(f"the row of this key at {self.place} changes faster than it can be read")


def _microseconds(seconds: float) -> int:
    return round(seconds * SECOND_US)


def _lease(columns: Answer) -> Lease:
    owner, generation, remaining, clean = columns
    return Lease(owner, generation, remaining / SECOND_US, clean)

"""A few connections to one PostgreSQL server: none waits for longer than its time, none is used by two processes.

Statements go through libpq itself (psycopg.pq): what waits for an answer is then a poll with an end, which holds where
the server is stopped or the network swallows everything, and a statement costs half of what a cursor's costs.
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
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from bot import clock
from bot.nonce import forks

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
        forks.forget_in_child(self)

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

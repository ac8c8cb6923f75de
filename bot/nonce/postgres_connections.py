"""A few connections to one PostgreSQL server: none waits for longer than its time, none is used by two processes."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.conninfo import conninfo_to_dict

from bot import clock
from bot.nonce import forks

ANSWER_SECONDS = 2.0
CONNECTIONS = 4
# How long a statement that was given up may take to be called off, so that it does not stay behind in the server.
_CANCEL_SECONDS = 0.5
_CHECK_SECONDS = 0.1
# A server that is gone is noticed: by unanswered bytes within 2 s, on an idle connection by probes.
_DEFAULTS = {
    "application_name": "kraken-bot",
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 2000,
}

Parameter = int | str | bool
Answer = Sequence[Any]


class NoAnswerInTime(psycopg.OperationalError):
    """The server did not answer within ANSWER_SECONDS."""


class NoConnectionFree(psycopg.OperationalError):
    """All connections of this process were in use for ANSWER_SECONDS."""


class _Connection(psycopg.Connection[Answer]):
    """Whatever it waits for, it waits no longer than ANSWER_SECONDS: the server may be stopped, the network gone."""

    def wait(self, gen: PQGen[RV], interval: float = _CHECK_SECONDS, timeout: float | None = None) -> RV:
        return super().wait(_bounded(gen, clock.boottime_seconds() + ANSWER_SECONDS), interval, timeout)


def _bounded(gen: PQGen[RV], until_seconds: float) -> PQGen[RV]:
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and clock.boottime_seconds() >= until_seconds:
                raise NoAnswerInTime
            wanted = gen.send(ready)
    except StopIteration as end:
        answer: RV = end.value
        return answer


class Connections:
    """Up to four connections, opened when they are needed. Thread-safe. No statement leaves anything in a session.

    Raises ValueError where `url` cannot be read; it does not repeat it.
    """

    def __init__(self, url: str) -> None:
        try:
            self._settings: dict[str, Any] = {**_DEFAULTS, **conninfo_to_dict(url), "connect_timeout": 2}
        except psycopg.Error:
            raise ValueError("not a postgresql:// address that libpq can read") from None
        self.place = _place(self._settings)
        self._open: set[_Connection] = set()
        self._abandoned: list[_Connection] = []
        self._begin()
        forks.forget_in_child(self)

    def _begin(self) -> None:
        self._idle: list[_Connection] = []
        self._free = threading.BoundedSemaphore(CONNECTIONS)

    def after_fork_in_child(self) -> None:
        """Let go of the parent's connections without a word to the server."""
        for connection in self._open:
            with contextlib.suppress(psycopg.Error, OSError):
                os.close(connection.pgconn.socket)
        # Kept for good: their end would be told to the server.
        self._abandoned += self._open
        self._open = set()
        self._begin()

    def ask(self, statement: str, parameters: Mapping[str, Parameter]) -> Answer | None:
        """Do one statement by itself; return its first row, if any. Raises psycopg.Error."""
        if not self._free.acquire(timeout=ANSWER_SECONDS):
            raise NoConnectionFree
        try:
            used = self._take_idle()
            if used is not None:
                try:
                    return self._ask(used, statement, parameters)
                except psycopg.OperationalError as error:
                    if not _was_cut(error):
                        raise
                    # The server was restarted since; then the others are as stale as this one.
                    self.close()
            return self._ask(self._connect(), statement, parameters)
        finally:
            self._free.release()

    def close(self) -> None:
        """Close what is not in use."""
        while (connection := self._take_idle()) is not None:
            self._drop(connection)

    def _take_idle(self) -> _Connection | None:
        try:
            return self._idle.pop()
        except IndexError:  # another thread was quicker
            return None

    def _connect(self) -> _Connection:
        # Nothing is prepared: behind a pooler the next statement may reach another session.
        connection = _Connection.connect(**self._settings, autocommit=True, prepare_threshold=None)
        self._open.add(connection)
        return connection

    def _ask(self, connection: _Connection, statement: str, parameters: Mapping[str, Parameter]) -> Answer | None:
        done = False
        try:
            cursor = connection.execute(statement, parameters)
            row = cursor.fetchone() if cursor.description else None
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

    def _drop(self, connection: _Connection) -> None:
        self._open.discard(connection)
        connection.close()


def _was_cut(error: psycopg.OperationalError) -> bool:
    """Say whether the connection had ended, by itself or by a word of the server's, not by our own patience."""
    if isinstance(error, psycopg.errors.AdminShutdown | psycopg.errors.CrashShutdown):
        return True
    return error.sqlstate is None and not isinstance(error, NoAnswerInTime)


def _place(settings: Mapping[str, Any]) -> str:
    """Say where the server is, without user name and password."""
    hosts = str(settings.get("host") or settings.get("hostaddr") or "localhost").split(",")
    ports = str(settings.get("port") or "5432").split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    servers = ",".join(f"{host}:{port}" for host, port in zip(hosts, ports, strict=False))
    return f"postgresql://{servers}/{settings.get('dbname', '')}"

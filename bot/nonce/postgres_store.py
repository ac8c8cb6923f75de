"""The contract of a shared store on PostgreSQL: one row for each key, one atomic statement for each operation.

What a lost row or server can do is up to PostgreSQL: an answered operation is as durable as `synchronous_commit` makes
it, which this program does not change.
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
from bot.nonce.store_protocol import RESERVATION_SECONDS, GrantStatus, KeyRecord, Lease, NonceGrant, NonceRequest

RESPONSE_TIMEOUT_SECONDS = 2.0
MAX_CONNECTIONS = 4
# How long it may take to cancel an abandoned statement, so that it does not stay behind in the server.
_CANCEL_TIMEOUT_SECONDS = 0.5
# A dead server is detected: by unanswered bytes within 2 s, on an idle connection by probes.
_CONNECTION_DEFAULTS = {
    "application_name": "kraken-bot",
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 2000,
}
_BOOL_OID, _INT8_OID, _TEXT_OID = 16, 20, 25
# A forked child keeps its parent's connections here: psycopg warns of a connection that is dropped without being
# closed.
_parent_connections: list[psycopg.Connection] = []

Value = int | str | bool
ResultRow = Sequence[Any]


class ResponseTimeoutError(psycopg.OperationalError):
    """The server did not answer within RESPONSE_TIMEOUT_SECONDS."""


class PoolTimeoutError(psycopg.OperationalError):
    """All connections of this process were in use for RESPONSE_TIMEOUT_SECONDS."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement; `names` are its parameters in the order of $1, $2 ..."""

    text: bytes
    parameter_names: tuple[str, ...]

    @classmethod
    def from_file(cls, path: Path) -> Statement:
        """Read a file with %(name)s for each parameter; its comments are not sent."""
        text = re.sub(r"--.*", "", path.read_text(encoding="utf-8"))
        parameter_names = tuple(dict.fromkeys(re.findall(r"%\((\w+)\)s", text)))
        numbered = re.sub(r"%\((\w+)\)s", lambda found: f"${parameter_names.index(found[1]) + 1}", text)
        return cls(" ".join(numbered.split()).encode(), parameter_names)


class ConnectionPool:
    """Up to four connections, opened when they are needed. Thread-safe. No statement leaves anything in a session.

    Raises ValueError for a `url` that cannot be parsed; the error does not repeat it.
    """

    def __init__(self, url: str) -> None:
        try:
            self._settings: dict[str, Any] = {**_CONNECTION_DEFAULTS, **conninfo_to_dict(url), "connect_timeout": 2}
            for host in str(self._settings.get("host", "")).split(","):
                host.encode("idna")  # as the name look-up will do: its failure is not a psycopg.Error
        except (psycopg.Error, UnicodeError):
            raise ValueError("not a postgresql:// address that libpq can read") from None
        self.location = _format_location(self._settings)
        self._open_connections: set[psycopg.Connection] = set()
        self._reset()
        fork_safety.register_after_fork(self)

    def _reset(self) -> None:
        self._idle: list[psycopg.Connection] = []
        # One entry for each connection that may be in use. Ctrl-C in the middle of a `threading` semaphore's operation
        # may leave it locked for ever; this queue is atomic.
        self._free_slots: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(MAX_CONNECTIONS):
            self._free_slots.put(None)

    def after_fork_in_child(self) -> None:
        """Drop the parent's connections without sending anything to the server."""
        for connection in self._open_connections:
            with contextlib.suppress(psycopg.Error, OSError):
                os.close(connection.pgconn.socket)
        _parent_connections.extend(self._open_connections)
        self._open_connections = set()
        self._reset()

    def execute(self, statement: Statement, values: Mapping[str, Value]) -> ResultRow | None:
        """Execute one statement on its own; return its first row, if any. Raises psycopg.Error."""
        try:
            self._free_slots.get(timeout=RESPONSE_TIMEOUT_SECONDS)
        except queue.Empty:
            raise PoolTimeoutError from None
        try:
            connection = self._pop_idle()
            if connection is not None:
                try:
                    return self._execute_on(connection, statement, values)
                except psycopg.Error as error:
                    if not _is_connection_lost(error):
                        raise
            return self._execute_on(self._connect(), statement, values)
        finally:
            self._free_slots.put(None)

    def close(self) -> None:
        """Close the idle connections."""
        while (connection := self._pop_idle()) is not None:
            self._discard(connection)

    def _pop_idle(self) -> psycopg.Connection | None:
        try:
            return self._idle.pop()
        except IndexError:  # another thread was faster
            return None

    def _connect(self) -> psycopg.Connection:
        connection = psycopg.Connection.connect(**self._settings, autocommit=True)
        self._open_connections.add(connection)
        return connection

    def _execute_on(
        self, connection: psycopg.Connection, statement: Statement, values: Mapping[str, Value]
    ) -> ResultRow | None:
        is_done = False
        try:
            row = _first_row(_send_and_receive(connection.pgconn, statement, values))
            is_done = True
            return row
        except ResponseTimeoutError:
            with contextlib.suppress(psycopg.Error):
                connection.cancel_safe(timeout=_CANCEL_TIMEOUT_SECONDS)
            raise
        finally:
            if is_done:
                self._idle.append(connection)
            else:
                self._discard(connection)

    def _discard(self, connection: psycopg.Connection) -> None:
        self._open_connections.discard(connection)
        connection.close()


def _send_and_receive(connection: pq.abc.PGconn, statement: Statement, values: Mapping[str, Value]) -> pq.abc.PGresult:
    """Send one statement, not prepared: behind a pooler the next one may reach another session."""
    arguments = [values[name] for name in statement.parameter_names]
    connection.send_query_params(
        statement.text, [str(value).encode() for value in arguments], [_type_oid(value) for value in arguments]
    )
    deadline_seconds = clock.boottime_seconds() + RESPONSE_TIMEOUT_SECONDS
    while connection.flush():
        _wait_for_socket(connection, select.POLLIN | select.POLLOUT, deadline_seconds)
    first_result: pq.abc.PGresult | None = None
    while True:
        while connection.is_busy():
            _wait_for_socket(connection, select.POLLIN, deadline_seconds)
        result = connection.get_result()
        if result is None:
            break
        first_result = first_result or result
    if first_result is None:
        raise psycopg.OperationalError("the connection ended without an answer")
    return first_result


def _wait_for_socket(connection: pq.abc.PGconn, events: int, deadline_seconds: float) -> None:
    poll = select.poll()
    poll.register(connection.socket, events)
    remaining_seconds = deadline_seconds - clock.boottime_seconds()
    if remaining_seconds <= 0 or not poll.poll(remaining_seconds * 1000):
        raise ResponseTimeoutError
    connection.consume_input()


def _type_oid(value: Value) -> int:
    if isinstance(value, str):
        return _TEXT_OID
    return _BOOL_OID if isinstance(value, bool) else _INT8_OID


def _first_row(result: pq.abc.PGresult) -> ResultRow | None:
    if result.status not in {pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK}:
        raise psycopg.errors.error_from_result(result)
    if not result.ntuples:
        return None
    return tuple(_decode_value(result.get_value(0, column), result.ftype(column)) for column in range(result.nfields))


def _decode_value(text: bytes | None, type_oid: int) -> Value:
    if text is None:
        raise psycopg.DataError("an empty column, which the table does not allow")
    if type_oid == _BOOL_OID:
        return text == b"t"
    return int(text) if type_oid == _INT8_OID else text.decode()


def _is_connection_lost(error: psycopg.Error) -> bool:
    """Tell whether the server or the network has ended the connection, not a time-out of the bot."""
    if error.sqlstate is None:
        return not isinstance(error, ResponseTimeoutError)
    return error.diag.severity_nonlocalized in {"FATAL", "PANIC"}


def _format_location(settings: Mapping[str, Any]) -> str:
    """Return the server's location, without user name and password."""
    hosts = str(settings.get("host") or settings.get("hostaddr") or "localhost").split(",")
    ports = str(settings.get("port") or "5432").split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    # An IPv6 address in an URL stands in brackets.
    bracketed_hosts = [f"[{host}]" if ":" in host else host for host in hosts]
    servers = ",".join(f"{host}:{port or 5432}" for host, port in zip(bracketed_hosts, ports, strict=False))
    return f"postgresql://{servers}/{settings.get('dbname', '')}"


_MISSING_PRIVILEGE = (
    "does not let this user do that: as its owner run bot/nonce/postgres/schema.sql there once,"
    " and GRANT SELECT, INSERT, UPDATE ON kraken_bot_keys to this user"
)
_DESCRIPTION_BY_ERROR_TYPE: tuple[tuple[type[psycopg.Error] | tuple[type[psycopg.Error], ...], str], ...] = (
    ((ResponseTimeoutError, errors.ConnectionTimeout), f"did not answer within {RESPONSE_TIMEOUT_SECONDS:g} s"),
    (PoolTimeoutError, f"kept all connections of this process waiting for {RESPONSE_TIMEOUT_SECONDS:g} s"),
    (errors.ReadOnlySqlTransaction, "is read-only (a standby, or default_transaction_read_only is on)"),
    (errors.DiskFull, "has no space left on its disk"),
    ((errors.InsufficientPrivilege, errors.InvalidSchemaName), _MISSING_PRIVILEGE),
    (
        (errors.UndefinedColumn, errors.UndefinedFunction, errors.DatatypeMismatch, errors.NotNullViolation),
        "has a table kraken_bot_keys that this version of the program does not know",
    ),
    (errors.SerializationFailure, "has a default_transaction_isolation other than read committed"),
    ((errors.AdminShutdown, errors.CrashShutdown, errors.CannotConnectNow), "is stopping or starting"),
    (errors.TooManyConnections, "has no connection free"),
    (errors.QueryCanceled, "called the statement off (statement_timeout, or its administrator)"),
)
# While a connection is made, the server reports errors as text only. For other languages the last entry is used.
_DESCRIPTION_BY_MESSAGE = (
    ("password", "refuses this user name and password"),
    ("no pg_hba.conf entry", "does not let this user in from here (pg_hba.conf)"),
    ("SSL|certificate", "cannot be reached by TLS as the address wants it (sslmode)"),
    ("does not exist", "has no such database or user"),
    ("too many|connection slots", "has no connection free"),
    ("starting up|shutting down", "is stopping or starting"),
    ("resolve host|translate host name", "has a name that cannot be looked up (DNS)"),
    ("Connection refused", "cannot be reached: nothing listens there"),
    ("invalid sslmode", "cannot be asked: there is no such sslmode"),
)


def _describe_error(error: psycopg.Error) -> str:
    """Return what the store does. The driver's own text is not repeated: it may hold the address."""
    for error_type, description in _DESCRIPTION_BY_ERROR_TYPE:
        if isinstance(error, error_type):
            return description
    if error.sqlstate is not None:
        return f"refused a statement ({type(error).__name__}, SQLSTATE {error.sqlstate})"
    text = str(error)
    return next(
        (description for pattern, description in _DESCRIPTION_BY_MESSAGE if re.search(pattern, text)),
        "cannot be reached, or lets nobody in",
    )


MICROSECONDS_PER_SECOND = 1_000_000
# A second statement finds the reason of a refusal; where the row has changed between the two, both are repeated.
MAX_ATTEMPTS = 5

_SQL_FOLDER = Path(__file__).parent / "postgres"
_STATEMENTS = {path.stem: Statement.from_file(path) for path in _SQL_FOLDER.glob("*.sql")}
# The errors that two processes may get when they create the table at the same time.
_CONCURRENT_CREATE_ERRORS = (
    psycopg.errors.UniqueViolation,
    psycopg.errors.DuplicateTable,
    psycopg.errors.DuplicateObject,
)


class PostgresStore:
    """One key's row of the table `kraken_bot_keys`. `name` is a hash of the key; `url` is postgresql://...

    Raises ValueError for a `url` that cannot be parsed. Nothing is opened before the first operation.
    """

    def __init__(self, url: str, name: str) -> None:
        self._connections = ConnectionPool(url)
        self._name = name
        self.location = self._connections.location

    def next_nonce(self, request: NonceRequest) -> NonceGrant:
        """Issue a nonce: GRANTED, STALE or ABOVE_CEILING."""
        return self._request_nonce("draw", request)

    def acquire_lock(
        self, request: NonceRequest, owner: str, lifetime_seconds: float, waited_seconds: float = 0.0
    ) -> NonceGrant:
        """Acquire the request lock and issue its nonce in one operation, or neither: GRANTED, RESERVED, BUSY, STALE or
        ABOVE_CEILING."""
        return self._request_nonce("take", request, owner, lifetime_seconds, waited_seconds)

    def release_lock(self, nonce: int) -> None:
        """Release the lock that was acquired with this nonce; do nothing where another sender holds it by now."""
        self._execute("give_back", nonce=nonce)

    def acquire_lease(self, owner: str, lifetime_seconds: float) -> Lease:
        """Acquire the lease if nobody leads; return the current lease, which belongs to another instance if its `owner`
        is another."""
        for _ in range(MAX_ATTEMPTS):
            granted_row = self._execute("acquire", owner=owner, lifetime=_to_microseconds(lifetime_seconds))
            if granted_row is not None:
                return _parse_lease(granted_row)
            row = self._execute("look")
            if row is None:
                self._execute("row")
                continue
            _nonce, *lease, _lock_owner, is_expiry_too_far = row
            if is_expiry_too_far:
                self._execute("notice")
            elif (current_lease := _parse_lease(lease)).remaining_seconds:
                return current_lease
        raise self._contention_error()

    def renew_lease(self, fencing_token: int, lifetime_seconds: float) -> bool:
        """Extend the lease of this fencing token from now; return False where it has expired, or belongs to another
        instance."""
        return self._execute("renew", generation=fencing_token, lifetime=_to_microseconds(lifetime_seconds)) is not None

    def release_lease(self, fencing_token: int, is_reconciled: bool) -> None:
        """End the lease of this fencing token; `is_reconciled`: no order of its owner has an unknown outcome."""
        self._execute("sign_off", generation=fencing_token, settled=is_reconciled)

    def read_record(self) -> KeyRecord | None:
        """Return the key's record in the store, or None. Writes nothing."""
        try:
            row = self._execute_once("look")
        except psycopg.errors.UndefinedTable:
            return None
        except psycopg.Error as error:
            raise StoreUnavailableError(f"the nonce store {self.location} {_describe_error(error)}") from None
        if row is None:
            return None
        nonce, *lease, lock_owner, _is_expiry_too_far = row
        current_lease = _parse_lease(lease)
        return KeyRecord(nonce, current_lease, lock_owner) if nonce or current_lease.fencing_token else None

    def close(self) -> None:
        """Close the connections; the next use opens them again."""
        self._connections.close()

    def _request_nonce(
        self,
        statement: str,
        request: NonceRequest,
        owner: str = "",
        lifetime_seconds: float = 0.0,
        waited_seconds: float = 0.0,
    ) -> NonceGrant:
        parameters: dict[str, Value] = {
            "floor": request.floor,
            "ceiling": request.ceiling,
            "ticks": request.units_per_microsecond,
            "generation": request.fencing_token,
            "owner": owner,
            "lifetime": _to_microseconds(lifetime_seconds),
            "next_lifetime": _to_microseconds(RESERVATION_SECONDS),
            "waited": _to_microseconds(waited_seconds),
        }
        for _ in range(MAX_ATTEMPTS):
            granted_row = self._execute(statement, **parameters)
            if granted_row is not None:
                return NonceGrant(GrantStatus.GRANTED, *granted_row)
            refusal = self._execute("refused", **parameters)
            if refusal is None:
                self._execute("row")
                continue
            previous_nonce, is_stale, is_busy, is_above_ceiling, is_reserved, can_reserve = refusal
            if is_stale:
                return NonceGrant(GrantStatus.STALE, 0, previous_nonce)
            if is_busy:
                if can_reserve:
                    reservation = self._execute("reserve", **parameters)
                    is_reserved = reservation is None or reservation[0]  # None: the lock is free by now
                return NonceGrant(GrantStatus.RESERVED if is_reserved else GrantStatus.BUSY, 0, previous_nonce)
            if is_above_ceiling:
                return NonceGrant(GrantStatus.ABOVE_CEILING, 0, previous_nonce)
        if owner:
            return NonceGrant(GrantStatus.BUSY)  # the lock keeps changing hands: a repeated request gets it, too
        raise self._contention_error()

    def _execute(self, statement: str, **parameters: Value) -> ResultRow | None:
        """Execute one statement, if the table is missing after creating it; return its row, if any."""
        try:
            try:
                return self._execute_once(statement, **parameters)
            except psycopg.errors.UndefinedTable:
                self._create_table()
                return self._execute_once(statement, **parameters)
        except psycopg.Error as error:
            raise StoreUnavailableError(f"the nonce store {self.location} {_describe_error(error)}") from None

    def _create_table(self) -> None:
        try:
            self._execute_once("schema")
        except _CONCURRENT_CREATE_ERRORS:
            return

    def _execute_once(self, statement: str, **parameters: Value) -> ResultRow | None:
        return self._connections.execute(_STATEMENTS[statement], {"name": self._name, **parameters})

    def _contention_error(self) -> StoreUnavailableError:
        return StoreUnavailableError(f"the row of this key at {self.location} changes faster than it can be read")


def _to_microseconds(seconds: float) -> int:
    return round(seconds * MICROSECONDS_PER_SECOND)


def _parse_lease(columns: ResultRow) -> Lease:
    owner, fencing_token, remaining_us, is_clean_handover = columns
    return Lease(owner, fencing_token, remaining_us / MICROSECONDS_PER_SECOND, is_clean_handover)

"""What is wrong with a PostgreSQL server, in one sentence without credentials."""

from __future__ import annotations

import psycopg
from psycopg import errors

from bot.nonce.postgres_connections import ANSWER_SECONDS, NoAnswerInTime, NoConnectionFree

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

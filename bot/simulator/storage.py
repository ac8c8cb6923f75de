"""The file of an account: keys with their nonce floors, balances, orders, trades. SQLite, one file.

Every request's changes are one transaction, committed before the answer leaves, so a kill at any moment leaves a
whole account. A damaged file is never repaired and never begun anew in silence.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, TypeVar

from bot.simulator.account import Account, Order, Trade
from bot.simulator.errors import StateFileError
from bot.simulator.keys import ApiKey

FORMAT = "1"
# SQLite's own would grow with the file up to 2 MB.
CACHE_KIB = 256
_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS keys (id TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS trades (number INTEGER PRIMARY KEY, body TEXT NOT NULL);
"""
_READERS: dict[str, Any] = {
    "Decimal": lambda value: Decimal(value) if isinstance(value, str) else _refuse(value),
    "tuple[str, ...]": tuple,
    "int | None": lambda value: value if value is None else int(value),
    "float": float,
    "int": int,
    "str": str,
    "bool": bool,
}
Record = TypeVar("Record", Order, Trade, ApiKey)


@dataclass(slots=True)
class Kept:
    """What a state file holds. `now` is the market time up to which it was matched."""

    account: Account
    keys: list[ApiKey]
    now: float
    switch_at: float | None


def _refuse(value: object) -> Decimal:
    raise TypeError(f"an amount must be text, not {value!r}")


def _encode(record: Order | Trade | ApiKey) -> str:
    return json.dumps({field.name: getattr(record, field.name) for field in fields(record)}, default=str)


def _decode(kind: type[Record], body: str) -> Record:
    values = json.loads(body)
    return kind(**{field.name: _READERS[str(field.type)](values[field.name]) for field in fields(kind)})


class Storage:
    """One state file, held open and locked against a second program. Not thread-safe: the exchange's lock is around it.

    `world` names the prices the account lives with; a file from another world is refused.
    """

    def __init__(self, path: Path, world: str) -> None:
        self._path = path
        self._world = world
        with self._explained():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make_private(path)
            self._db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            with self._explained():
                self._prepare()
        except StateFileError:
            self._db.close()
            raise

    def _prepare(self) -> None:
        # Exclusive: a second program is refused at once. NORMAL with WAL: whole after a kill and after a power cut.
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=NORMAL", f"cache_size=-{CACHE_KIB}"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(f"BEGIN IMMEDIATE; {_TABLES} COMMIT;")
        damage = self._db.execute("PRAGMA quick_check").fetchone()[0]
        if damage != "ok":
            raise sqlite3.DatabaseError(damage)

    def load(self) -> Kept | None:
        """Return what the file holds, or None when it is new. Raises StateFileError."""
        with self._explained():
            facts: dict[str, str] = dict(self._db.execute("SELECT name, value FROM facts"))
            if not facts:
                if self._db.execute("SELECT count(*) FROM orders").fetchone()[0]:
                    raise ValueError("orders without an account")
                return None
            self._check_world(facts)
            start = {asset: Decimal(amount) for asset, amount in json.loads(facts["start"]).items()}
            account = Account(start, facts["salt"], int(facts["issued_ids"]))
            orders = self._records(Order, "SELECT body FROM orders")
            account.restore(orders, self._records(Trade, "SELECT body FROM trades ORDER BY number"))
            keys = list(self._records(ApiKey, "SELECT body FROM keys"))
            fires_at = facts["switch_at"]
            kept = Kept(account, keys, float(facts["now"]), float(fires_at) if fires_at else None)
        problems = account.audit()
        if problems:
            raise self._error(f"does not add up ({problems[0]})")
        return kept

    def save(self, account: Account, keys: Iterable[ApiKey], now: float, switch_at: float | None) -> None:
        """Commit what has changed since the last call. Raises StateFileError."""
        facts = {
            "format": FORMAT,
            "world": self._world,
            "salt": account.salt,
            "start": json.dumps(account.start, default=str),
            "issued_ids": str(account.issued_ids),
            "now": repr(now),
            "switch_at": "" if switch_at is None else repr(switch_at),
        }
        orders = [(order.txid, _encode(order)) for order in account.changed_orders.values()]
        trades = [(trade.number, _encode(trade)) for trade in account.new_trades]
        with self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("REPLACE INTO facts VALUES (?, ?)", facts.items())
            self._db.executemany("REPLACE INTO keys VALUES (?, ?)", [(key.key, _encode(key)) for key in keys])
            self._db.executemany("REPLACE INTO orders VALUES (?, ?)", orders)
            self._db.executemany("INSERT INTO trades VALUES (?, ?)", trades)
            self._db.execute("COMMIT")

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _records(self, kind: type[Record], query: str) -> Iterator[Record]:
        for (body,) in self._db.execute(query):
            yield _decode(kind, body)

    def _check_world(self, facts: Mapping[str, str]) -> None:
        if facts["format"] != FORMAT:
            raise self._error(f"has format {facts['format']}, which this version does not read")
        if facts["world"] != self._world:
            raise self._error(f"lives with {facts['world']}, not with {self._world}")

    def _error(self, problem: str) -> StateFileError:
        return StateFileError(
            f"The simulated account in {self._path} {problem}. Move the file away to begin a new account, or name "
            "another one."
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise self._error("is in use by another program") from error
            raise self._error(f"cannot be used ({error})") from error
        except OSError as error:
            raise self._error(f"cannot be opened ({error.strerror})") from error
        except (sqlite3.DatabaseError, ValueError, KeyError, TypeError, InvalidOperation) as error:
            raise self._error(f"is damaged ({error})") from error


def _make_private(path: Path) -> None:
    """Make the file, or see to it that it is one of the account's own, and for its owner alone."""
    for name in _files(path):
        if name.is_symlink():
            raise OSError(errno.ELOOP, f"{name.name} is a symbolic link")
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        # Not opened, which would end the locks that SQLite holds on it in this process when it is closed again.
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file") from None
        if found.st_mode & 0o077 and found.st_uid == os.geteuid():
            path.chmod(found.st_mode & 0o700)


def _files(path: Path) -> tuple[Path, ...]:
    return path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")


def peek(path: Path, world: str) -> Kept | None:
    """Return what a state file holds, or None where there is no account yet. Raises StateFileError."""
    if not path.exists():
        return None
    storage = Storage(path, world)
    try:
        return storage.load()
    finally:
        storage.close()


def remove(path: Path) -> None:
    """Delete a state file and what SQLite keeps beside it."""
    for name in _files(path):
        name.unlink(missing_ok=True)

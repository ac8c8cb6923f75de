"""The file of an account: keys with their nonce floors, balances, orders, trades. SQLite, one file.

Every request's changes are one transaction, committed before the answer leaves, so a kill at any moment leaves a
consistent account. A damaged file is never repaired and never silently replaced.
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

from bot.simulator.account import Account, SimOrder, SimTrade
from bot.simulator.errors import StateFileError, StateFileInUseError
from bot.simulator.keys import ApiKey

FORMAT_VERSION = "1"
# SQLite's own cache would grow with the file up to 2 MB.
CACHE_KIB = 256
_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS keys (id TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS trades (number INTEGER PRIMARY KEY, body TEXT NOT NULL);
"""
_FIELD_PARSERS: dict[str, Any] = {
    "Decimal": lambda value: Decimal(value) if isinstance(value, str) else _reject_amount(value),
    "tuple[str, ...]": tuple,
    "int | None": lambda value: value if value is None else int(value),
    "float": float,
    "int": int,
    "str": str,
    "bool": bool,
}
Record = TypeVar("Record", SimOrder, SimTrade, ApiKey)


@dataclass(slots=True)
class SavedState:
    """The content of a state file. `now` is the market time up to which it was matched."""

    account: Account
    keys: list[ApiKey]
    now: float
    dead_man_switch_at: float | None


def _reject_amount(value: object) -> Decimal:
    raise TypeError(f"an amount must be text, not {value!r}")


def _encode(record: SimOrder | SimTrade | ApiKey) -> str:
    values = {
        field.name: value
        for field in fields(record)
        if (value := getattr(record, field.name)) or not field.metadata.get("optional")
    }
    return json.dumps(values, default=str)


def _decode(record_type: type[Record], body: str) -> Record:
    values = json.loads(body)
    return record_type(
        **{
            field.name: _FIELD_PARSERS[str(field.type)](values[field.name])
            for field in fields(record_type)
            if field.name in values or not field.metadata.get("optional")
        }
    )


class Storage:
    """One state file, held open and locked against a second program. Not thread-safe: the exchange's lock is around it.

    `source_id` names the price source of the account; a file of another price source is refused.
    """

    def __init__(self, path: Path, source_id: str) -> None:
        self._path = path
        self._source_id = source_id
        with self._translate_errors():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _create_private_file(path)
            self._db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            with self._translate_errors():
                self._prepare()
        except StateFileError:
            self._db.close()
            raise

    def _prepare(self) -> None:
        # Exclusive: a second program is refused at once. NORMAL with WAL: consistent after a kill and after a power
        # cut.
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=NORMAL", f"cache_size=-{CACHE_KIB}"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        damage = self._db.execute("PRAGMA quick_check").fetchone()[0]
        if damage != "ok":
            raise sqlite3.DatabaseError(damage)

    def load(self) -> SavedState | None:
        """Return the content of the file, or None when it is new. Raises StateFileError."""
        with self._translate_errors():
            metadata: dict[str, str] = dict(self._db.execute("SELECT name, value FROM facts"))
            if not metadata:
                if self._db.execute("SELECT count(*) FROM orders").fetchone()[0]:
                    raise ValueError("orders without an account")
                return None
            self._check_metadata(metadata)
            start = {asset: Decimal(amount) for asset, amount in json.loads(metadata["start"]).items()}
            account = Account(start, metadata["salt"], int(metadata["issued_ids"]))
            orders = self._read_records(SimOrder, "SELECT body FROM orders")
            account.restore(orders, self._read_records(SimTrade, "SELECT body FROM trades ORDER BY number"))
            keys = list(self._read_records(ApiKey, "SELECT body FROM keys"))
            fires_at = metadata["switch_at"]
            saved_state = SavedState(account, keys, float(metadata["now"]), float(fires_at) if fires_at else None)
        problems = account.audit()
        if problems:
            raise self._file_error(f"does not add up ({problems[0]})")
        return saved_state

    def read_key_names(self) -> list[str]:
        """Return the API keys of the account, also of one that `load` refuses. Raises StateFileError."""
        with self._translate_errors():
            return [str(key) for (key,) in self._db.execute("SELECT id FROM keys")]

    def read_pair_ids(self) -> list[str]:
        """Return the pairs in which the account has ever had an order. Raises StateFileError."""
        with self._translate_errors():
            orders = self._read_records(SimOrder, "SELECT body FROM orders")
            return list(dict.fromkeys(order.pair_id for order in orders))

    def read_balances(self) -> dict[str, Decimal]:
        """Return the balances by asset id, also of an account that `load` refuses. Raises StateFileError."""
        with self._translate_errors():
            starts = [json.loads(text) for (text,) in self._db.execute("SELECT value FROM facts WHERE name = 'start'")]
            balances = {asset: Decimal(amount) for start in starts for asset, amount in start.items()}
            for trade in self._read_records(SimTrade, "SELECT body FROM trades"):
                for asset, change in ((trade.base_asset, trade.base_change), (trade.quote_asset, trade.quote_change)):
                    balances[asset] = balances.get(asset, Decimal(0)) + change
        return balances

    def save(self, account: Account, keys: Iterable[ApiKey], now: float, dead_man_switch_at: float | None) -> None:
        """Commit the changes since the last call. Raises StateFileError."""
        metadata = {
            "format": FORMAT_VERSION,
            "world": self._source_id,
            "salt": account.salt,
            "start": json.dumps(account.starting_balances, default=str),
            "issued_ids": str(account.issued_id_count),
            "now": repr(now),
            "switch_at": "" if dead_man_switch_at is None else repr(dead_man_switch_at),
        }
        orders = [(order.txid, _encode(order)) for order in account.changed_orders.values()]
        trades = [(trade.number, _encode(trade)) for trade in account.new_trades]
        with self._translate_errors():
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("REPLACE INTO facts VALUES (?, ?)", metadata.items())
            self._db.executemany("REPLACE INTO keys VALUES (?, ?)", [(key.key, _encode(key)) for key in keys])
            self._db.executemany("REPLACE INTO orders VALUES (?, ?)", orders)
            self._db.executemany("INSERT INTO trades VALUES (?, ?)", trades)
            self._db.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _read_records(self, record_type: type[Record], query: str) -> Iterator[Record]:
        for (body,) in self._db.execute(query):
            yield _decode(record_type, body)

    def _check_metadata(self, metadata: Mapping[str, str]) -> None:
        if metadata["format"] != FORMAT_VERSION:
            raise self._file_error(f"has format {metadata['format']}, which this version does not read")
        if metadata["world"] != self._source_id:
            raise self._file_error(f"lives with {metadata['world']}, not with {self._source_id}")

    def _file_error(self, problem: str, kind: type[StateFileError] = StateFileError) -> StateFileError:
        return kind(
            f"The simulated account in {self._path} {problem}. Move the file away to begin a new account, or name "
            "another one; for a paper account `python main.py paper reset` does that."
        )

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise self._file_error("is in use by another program", StateFileInUseError) from error
            raise self._file_error(f"cannot be used ({error})") from error
        except OSError as error:
            raise self._file_error(f"cannot be opened ({error.strerror})") from error
        except (sqlite3.DatabaseError, ValueError, KeyError, TypeError, InvalidOperation) as error:
            raise self._file_error(f"is damaged ({error})") from error


def _create_private_file(path: Path) -> None:
    """Create the file, or check that it is a private file of this user."""
    for name in _file_paths(path):
        if name.is_symlink():
            raise OSError(errno.ELOOP, f"{name.name} is a symbolic link")
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        # The file is not opened: closing it again would end the locks that SQLite holds on it in this process.
        file_status = path.stat()
        if not stat.S_ISREG(file_status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file") from None
        if file_status.st_mode & 0o077 and file_status.st_uid == os.geteuid():
            path.chmod(file_status.st_mode & 0o700)


def _file_paths(path: Path) -> tuple[Path, ...]:
    return path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")


def read_state(path: Path, source_id: str) -> SavedState | None:
    """Return the content of a state file, or None where there is no account yet. Raises StateFileError."""
    if not path.exists():
        return None
    storage = Storage(path, source_id)
    try:
        return storage.load()
    finally:
        storage.close()


def read_key_names(path: Path) -> list[str]:
    """Return the API keys of a state file; none where it is damaged. Raises StateFileInUseError."""
    try:
        storage = Storage(path, "")
        try:
            return storage.read_key_names()
        finally:
            storage.close()
    except StateFileInUseError:
        raise
    except StateFileError:
        return []


def read_pair_ids(path: Path) -> list[str]:
    """Return the pairs of an account's orders; none where there is no account. Raises StateFileError."""
    if not path.exists():
        return []
    storage = Storage(path, "")
    try:
        return storage.read_pair_ids()
    finally:
        storage.close()


def read_balances(path: Path) -> dict[str, Decimal]:
    """Return the balances of a state file by asset id; none where there is no account. Raises StateFileError."""
    if not path.exists():
        return {}
    storage = Storage(path, "")
    try:
        return storage.read_balances()
    finally:
        storage.close()


def delete_state(path: Path) -> None:
    """Delete a state file and the files that SQLite keeps beside it."""
    for name in _file_paths(path):
        name.unlink(missing_ok=True)

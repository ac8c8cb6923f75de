"""One key's record in a store of each kind, seen from outside: its clients, its server's clock, its loss."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
import redis

from bot.base import clock
from bot.nonce.postgres_store import PostgresStore
from bot.nonce.redis_store import RedisStore
from bot.nonce.store_protocol import GrantStatus, Lease, NonceGrant, NonceRequest, NonceStore
from tests.stores.memory_store import MemoryStore

# The highest integer of Redis and PostgreSQL.
MAX_NONCE = 2**63 - 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOUR_SECONDS = 3600.0


class StoreKey(ABC):
    """The record of one key; `connect` returns a new client of it."""

    def __init__(self) -> None:
        self._stores: list[NonceStore] = []

    def connect(self) -> NonceStore:
        """Return a store client with its own connections, which are closed when the test ends."""
        self._stores.append(self._connect())
        return self._stores[-1]

    def close(self) -> None:
        """Close every client."""
        for store in self._stores:
            store.close()

    @abstractmethod
    def _connect(self) -> NonceStore: ...

    @abstractmethod
    def server_us(self) -> int:
        """Return the server's clock in microseconds since the Unix epoch."""

    @abstractmethod
    def wipe(self) -> None:
        """Delete the record, as a store does that loses its data."""


class MemoryKey(StoreKey):
    """A memory store that all clients share; its clock is the machine's."""

    def __init__(self) -> None:
        super().__init__()
        self._store = MemoryStore(clock.wall_us)

    def _connect(self) -> NonceStore:
        return self._store

    def server_us(self) -> int:
        """Return the machine's clock."""
        return clock.wall_us()

    def wipe(self) -> None:
        """Delete the record."""
        self._store.wipe()


class RedisKey(StoreKey):
    """One key in Redis."""

    def __init__(self, url: str, name: str) -> None:
        super().__init__()
        self.url, self.name = url, name
        self.key = f"kraken-bot:{{{name}}}"
        self.raw: redis.Redis = redis.Redis.from_url(url, decode_responses=True)

    def _connect(self) -> NonceStore:
        return RedisStore(self.url, self.name)

    def close(self) -> None:
        """Close this object's own connection too."""
        super().close()
        self.raw.close()

    def server_us(self) -> int:
        """Return the result of TIME."""
        seconds, microseconds = self.raw.time()
        return int(seconds) * 1_000_000 + int(microseconds)

    def wipe(self) -> None:
        """Delete the key."""
        self.raw.delete(self.key)

    def shift_times(self, microseconds: int) -> None:
        """Add `microseconds` to every time and nonce in the record, as if the server's clock had been ahead."""
        for field, value in self.raw.hgetall(self.key).items():
            if value.isdigit() and len(value) == 16:
                self.raw.hset(self.key, field, str(int(value) + microseconds))


class PostgresKey(StoreKey):
    """One row of PostgreSQL's table; `options`, percent-encoded, go to the server with every connection."""

    def __init__(self, url: str, name: str, options: str = "") -> None:
        super().__init__()
        if options:
            url += f"{'&' if '?' in url else '?'}options={options}"
        self.url, self.name = url, name
        self.raw = psycopg.connect(url, autocommit=True)

    def _connect(self) -> NonceStore:
        return PostgresStore(self.url, self.name)

    def close(self) -> None:
        """Close this object's own connection too."""
        super().close()
        self.raw.close()

    def server_us(self) -> int:
        """Return clock_timestamp()."""
        row = self.raw.execute("SELECT clock_timestamp()").fetchone()
        assert row is not None
        server_time: datetime = row[0]
        return (server_time - EPOCH) // timedelta(microseconds=1)

    def wipe(self) -> None:
        """Delete the row if the table exists."""
        if self._has_table():
            self.raw.execute("DELETE FROM kraken_bot_keys WHERE name = %s", [self.name])

    def _has_table(self) -> bool:
        row = self.raw.execute("SELECT to_regclass('kraken_bot_keys') IS NOT NULL").fetchone()
        assert row is not None
        return bool(row[0])


def make_request(
    floor: int = 0, ceiling: int = MAX_NONCE, units_per_microsecond: int = 1, fencing_token: int = 0
) -> NonceRequest:
    """Return a request in which only the fields that a test is about differ from the defaults."""
    return NonceRequest(floor, ceiling, units_per_microsecond, fencing_token)


def granted_nonce(grant: NonceGrant) -> int:
    """Return the nonce of a grant; fail if none was granted."""
    assert grant.status is GrantStatus.GRANTED, grant
    return grant.nonce


def acquire_lease(store: NonceStore, owner: str, lifetime_seconds: float = HOUR_SECONDS) -> Lease:
    """Acquire a lease; fail if it is not granted."""
    lease = store.acquire_lease(owner, lifetime_seconds)
    assert lease.owner == owner, lease
    return lease


def poll_until(condition: Callable[[], bool]) -> None:
    """Poll a server until its own clock makes the condition true."""
    pause = threading.Event()
    for _ in range(5000):
        if condition():
            return
        pause.wait(0.002)
    raise AssertionError("it never came true")

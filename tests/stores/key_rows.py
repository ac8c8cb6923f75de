"""One key's row in a store of each kind, seen from outside the engines: its clients, its server's clock, its loss."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
import redis

from bot.base import clock
from bot.nonce.postgres_store import PostgresEngine
from bot.nonce.redis_store import RedisEngine
from bot.nonce.store_protocol import Drawn, Engine, Lease, Outcome, Wish
from tests.stores.memory_store import MemoryEngine

# The highest nonce that fits into what Redis and PostgreSQL count with.
HIGHEST = 2**63 - 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOUR_SECONDS = 3600.0


class KeyRow(ABC):
    """The row of one key; `connect` returns a new client of it."""

    def __init__(self) -> None:
        self._engines: list[Engine] = []

    def connect(self) -> Engine:
        """Return an engine with connections of its own, closed when the test ends."""
        self._engines.append(self._connect())
        return self._engines[-1]

    def close(self) -> None:
        """Close every engine."""
        for engine in self._engines:
            engine.close()

    @abstractmethod
    def _connect(self) -> Engine: ...

    @abstractmethod
    def server_us(self) -> int:
        """Return the server's clock, in microseconds since the Unix epoch."""

    @abstractmethod
    def lose(self) -> None:
        """Lose the row, as a store does that is wiped."""


class MemoryRow(KeyRow):
    """All clients are one object, by the machine's clock."""

    def __init__(self) -> None:
        super().__init__()
        self._engine = MemoryEngine(clock.wall_us)

    def _connect(self) -> Engine:
        return self._engine

    def server_us(self) -> int:
        """Return the machine's clock."""
        return clock.wall_us()

    def lose(self) -> None:
        """Begin anew."""
        self._engine.wipe()


class RedisRow(KeyRow):
    """One key of a Redis."""

    def __init__(self, url: str, name: str) -> None:
        super().__init__()
        self.url, self.name = url, name
        self.key = f"kraken-bot:{{{name}}}"
        self.raw: redis.Redis = redis.Redis.from_url(url, decode_responses=True)

    def _connect(self) -> Engine:
        return RedisEngine(self.url, self.name)

    def close(self) -> None:
        """Close our own connection too."""
        super().close()
        self.raw.close()

    def server_us(self) -> int:
        """Ask for TIME."""
        seconds, microseconds = self.raw.time()
        return int(seconds) * 1_000_000 + int(microseconds)

    def lose(self) -> None:
        """Delete the key."""
        self.raw.delete(self.key)

    def shift_times(self, microseconds: int) -> None:
        """Leave the row as a server would have, whose clock was so much ahead: every time, and every nonce, in it."""
        for field, value in self.raw.hgetall(self.key).items():
            if value.isdigit() and len(value) == 16:
                self.raw.hset(self.key, field, str(int(value) + microseconds))


class PostgresRow(KeyRow):
    """One row of a table of a PostgreSQL; `options`, quoted, go to the server with every connection."""

    def __init__(self, url: str, name: str, options: str = "") -> None:
        super().__init__()
        if options:
            url += f"{'&' if '?' in url else '?'}options={options}"
        self.url, self.name = url, name
        self.raw = psycopg.connect(url, autocommit=True)

    def _connect(self) -> Engine:
        return PostgresEngine(self.url, self.name)

    def close(self) -> None:
        """Close our own connection too."""
        super().close()
        self.raw.close()

    def server_us(self) -> int:
        """Ask for clock_timestamp()."""
        answer = self.raw.execute("SELECT clock_timestamp()").fetchone()
        assert answer is not None
        moment: datetime = answer[0]
        return (moment - EPOCH) // timedelta(microseconds=1)

    def lose(self) -> None:
        """Delete the row, if the table is there."""
        if self._has_table():
            self.raw.execute("DELETE FROM kraken_bot_keys WHERE name = %s", [self.name])

    def _has_table(self) -> bool:
        answer = self.raw.execute("SELECT to_regclass('kraken_bot_keys') IS NOT NULL").fetchone()
        assert answer is not None
        return bool(answer[0])


def wish(floor: int = 0, ceiling: int = HIGHEST, ticks: int = 1, generation: int = 0) -> Wish:
    """Return a wish that says only what a test is about."""
    return Wish(floor, ceiling, ticks, generation)


def drawn(answer: Drawn) -> int:
    """Return the nonce of an answer that must have one."""
    assert answer.outcome is Outcome.DRAWN, answer
    return answer.nonce


def lead(engine: Engine, owner: str, lifetime_seconds: float = HOUR_SECONDS) -> Lease:
    """Acquire a lease that must be granted."""
    lease = engine.acquire(owner, lifetime_seconds)
    assert lease.owner == owner, lease
    return lease


def until(condition: Callable[[], bool]) -> None:
    """Ask a server until its own clock has passed."""
    pause = threading.Event()
    for _ in range(5000):
        if condition():
            return
        pause.wait(0.002)
    raise AssertionError("it never came true")

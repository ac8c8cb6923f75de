"""Redis and PostgreSQL whose clock is moved by hand: what a row means after its server's clock was set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import timedelta
from urllib.parse import quote

from psycopg import sql

from bot.nonce.store_protocol import Drawn, Engine, Lease, Row, Wish
from tests.stores.key_rows import HIGHEST, PostgresRow, RedisRow

SECOND_US = 1_000_000
# Times and nonces of our days have sixteen digits; lifetimes have fewer.
TIME_US_MIN = 10**15


class MovedClock(ABC):
    """A server whose clock can be moved, by the row of one key; `engine` does steps on it."""

    engine: Engine

    @abstractmethod
    def now_us(self) -> int:
        """Return what the server's clock says now."""

    @abstractmethod
    def real_us(self) -> int:
        """Return a clock that nobody moves."""

    @abstractmethod
    def move(self, microseconds: int) -> None:
        """Move the server's clock; back, where this is negative."""

    @abstractmethod
    def lose(self) -> None:
        """Lose the row."""

    @abstractmethod
    def close(self) -> None:
        """Leave nothing behind."""


class MovedPostgres(MovedClock):
    """PostgreSQL with a clock_timestamp() of our own first on the search path: it stands still until it is moved."""

    def __init__(self, url: str, name: str) -> None:
        self._schema = sql.Identifier(f"clock_{name}")
        self._plain = PostgresRow(url, name)
        self._do("CREATE SCHEMA {}")
        self._do("CREATE TABLE {}.hand AS SELECT pg_catalog.clock_timestamp() AS moment")
        self._do(
            "CREATE FUNCTION {0}.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT moment FROM {0}.hand'"
        )
        options = quote(f"-c search_path=clock_{name},pg_catalog,public", safe="")
        self._moved = PostgresRow(url, name, options)
        self.engine = self._moved.connect()

    def _do(self, text: str, *values: object) -> None:
        self._plain.raw.execute(sql.SQL(text).format(self._schema), values)

    def now_us(self) -> int:
        """Return where the hand stands."""
        return self._moved.server_us()

    def real_us(self) -> int:
        """Return the server's own clock."""
        return self._plain.server_us()

    def move(self, microseconds: int) -> None:
        """Move the hand."""
        self._do("UPDATE {}.hand SET moment = moment + %s", timedelta(microseconds=microseconds))

    def lose(self) -> None:
        """Delete the row."""
        self._moved.lose()

    def close(self) -> None:
        """Drop the clock."""
        self._moved.close()
        self._do("DROP SCHEMA {} CASCADE")
        self._plain.close()


class MovedRedis(MovedClock, Engine):
    """Redis, whose TIME cannot be moved: every time in its row is moved the other way instead.

    So the row is as a server would have left it, whose clock was ahead (or behind) and has been set. Nonces are moved
    along, and are translated on their way: from outside it looks as if the clock had moved.
    """

    place = "redis"

    def __init__(self, url: str, name: str) -> None:
        self._row = RedisRow(url, name)
        self._inner = self._row.connect()
        self._moved_us = 0
        self.engine = self

    def now_us(self) -> int:
        """Return TIME, moved."""
        return self.real_us() + self._moved_us

    def real_us(self) -> int:
        """Return TIME."""
        return self._row.server_us()

    def move(self, microseconds: int) -> None:
        """Move all that the row has by as much the other way."""
        self._row.shift_times(-microseconds)
        self._moved_us += microseconds

    def lose(self) -> None:
        """Delete the row."""
        self._row.lose()
        self._moved_us = 0

    def close(self) -> None:
        """Close the connections."""
        self._row.close()

    def _in(self, number: int) -> int:
        return min(HIGHEST, number - self._moved_us) if number >= TIME_US_MIN else number

    def _out(self, number: int) -> int:
        return number + self._moved_us if number >= TIME_US_MIN else number

    def _wish(self, wish: Wish) -> Wish:
        return Wish(self._in(wish.floor), self._in(wish.ceiling), wish.ticks, self._in(wish.generation))

    def _drawn(self, drawn: Drawn) -> Drawn:
        return Drawn(drawn.outcome, self._out(drawn.nonce), self._out(drawn.last))

    def _lease(self, lease: Lease) -> Lease:
        return Lease(lease.owner, self._out(lease.generation), lease.remaining_seconds, lease.clean)

    def draw(self, wish: Wish) -> Drawn:
        """Draw."""
        return self._drawn(self._inner.draw(self._wish(wish)))

    def take(self, wish: Wish, owner: str, lifetime_seconds: float, waited_seconds: float = 0.0) -> Drawn:
        """Take."""
        return self._drawn(self._inner.take(self._wish(wish), owner, lifetime_seconds, waited_seconds))

    def give_back(self, nonce: int) -> None:
        """Give back."""
        self._inner.give_back(self._in(nonce))

    def acquire(self, owner: str, lifetime_seconds: float) -> Lease:
        """Acquire."""
        return self._lease(self._inner.acquire(owner, lifetime_seconds))

    def renew(self, generation: int, lifetime_seconds: float) -> bool:
        """Renew."""
        return self._inner.renew(self._in(generation), lifetime_seconds)

    def sign_off(self, generation: int, settled: bool) -> None:
        """Sign off."""
        self._inner.sign_off(self._in(generation), settled)

    def look(self) -> Row | None:
        """Look."""
        row = self._inner.look()
        return row and Row(self._out(row.nonce), self._lease(row.lease), row.turn_owner)

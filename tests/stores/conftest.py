"""Stores of a test's own, and a clock that stands still where a test says so."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from bot.base import clock
from tests.servers import Server, open_postgres, open_redis
from tests.stores.key_rows import KeyRow, MemoryRow, PostgresRow, RedisRow
from tests.stores.moved_clocks import MovedClock, MovedPostgres, MovedRedis


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the test's nonce file is to be."""
    return tmp_path / "kraken_nonce.txt"


class StillClock:
    """The wall clock and the boot clock of the program, moved by hand only."""

    def __init__(self) -> None:
        self.us = 1_790_000_000_000_000
        self.boot_seconds = 1000.0

    def now_us(self) -> int:
        """Return the wall clock."""
        return self.us

    def boottime_seconds(self) -> float:
        """Return the boot clock."""
        return self.boot_seconds

    def advance(self, seconds: float) -> None:
        """Let both clocks go on."""
        self.us += int(seconds * 1_000_000)
        self.boot_seconds += seconds


@pytest.fixture
def still_clock(monkeypatch: pytest.MonkeyPatch) -> StillClock:
    """Stop the clocks that nonces follow."""
    still = StillClock()
    monkeypatch.setattr(clock.nonce_clock, "now_us", still.now_us)
    monkeypatch.setattr(clock, "boottime_seconds", still.boottime_seconds)
    return still


@pytest.fixture(autouse=True)
def follow_the_wall() -> Iterator[None]:
    """Let no test leave Kraken's clock behind."""
    yield
    clock.nonce_clock.follow_wall()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until something that other threads or processes do has come true."""
    pause = threading.Event()
    for _ in range(4000):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("it never came true")


@pytest.fixture(params=["memory", "redis", "postgres"])
def key_row(request: pytest.FixtureRequest) -> Iterator[KeyRow]:
    """Return the row of a key that nobody else uses, in a store of each kind."""
    name = secrets.token_hex(8)
    row: KeyRow = MemoryRow()
    if request.param == "redis":
        row = RedisRow(request.getfixturevalue("redis_url"), name)
    elif request.param == "postgres":
        row = PostgresRow(request.getfixturevalue("postgres_url"), name)
    yield row
    row.close()


@pytest.fixture(params=["redis", "postgres"])
def moved_clock(request: pytest.FixtureRequest) -> Iterator[MovedClock]:
    """Return a server of each kind whose clock is moved by hand, and a key that nobody else uses."""
    url, name = request.getfixturevalue(f"{request.param}_url"), secrets.token_hex(8)
    moved = MovedRedis(url, name) if request.param == "redis" else MovedPostgres(url, name)
    yield moved
    moved.close()


@pytest.fixture(params=["redis", "postgres"], scope="module")
def any_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server of each kind that one module has for itself; each test leaves it running."""
    folder = tmp_path_factory.mktemp(request.param)
    opened: AbstractContextManager[Server] = open_redis(folder) if request.param == "redis" else open_postgres(folder)
    with opened as server:
        yield server

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
from tests.stores.key_rows import MemoryKey, PostgresKey, RedisKey, StoreKey
from tests.stores.moved_clocks import MovedClock, MovedPostgres, MovedRedis


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the test's nonce file is to be."""
    return tmp_path / "kraken_nonce.txt"


class FrozenClock:
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
def frozen_clock(monkeypatch: pytest.MonkeyPatch) -> FrozenClock:
    """Stop the clocks that nonces follow."""
    frozen = FrozenClock()
    monkeypatch.setattr(clock.nonce_clock, "now_us", frozen.now_us)
    monkeypatch.setattr(clock, "boottime_seconds", frozen.boottime_seconds)
    return frozen


@pytest.fixture(autouse=True)
def reset_nonce_clock() -> Iterator[None]:
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
def store_key(request: pytest.FixtureRequest) -> Iterator[StoreKey]:
    """Return the row of a key that nobody else uses, in a store of each kind."""
    name = secrets.token_hex(8)
    key: StoreKey = MemoryKey()
    if request.param == "redis":
        key = RedisKey(request.getfixturevalue("redis_url"), name)
    elif request.param == "postgres":
        key = PostgresKey(request.getfixturevalue("postgres_url"), name)
    yield key
    key.close()


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

"""Fixtures for the store tests: stores that each test has to itself, and a frozen clock."""

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
    """Return the path of the test's nonce file, which does not exist yet."""
    return tmp_path / "kraken_nonce.txt"


class FrozenClock:
    """Wall clock and boot clock that move only when the test moves them."""

    def __init__(self) -> None:
        self.us = 1_790_000_000_000_000
        self.boot_seconds = 1000.0

    def now_us(self) -> int:
        """Return the wall clock in microseconds."""
        return self.us

    def boottime_seconds(self) -> float:
        """Return the boot clock in seconds."""
        return self.boot_seconds

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        self.us += int(seconds * 1_000_000)
        self.boot_seconds += seconds


@pytest.fixture
def frozen_clock(monkeypatch: pytest.MonkeyPatch) -> FrozenClock:
    """Freeze the clocks that nonces are derived from."""
    frozen = FrozenClock()
    monkeypatch.setattr(clock.nonce_clock, "now_us", frozen.now_us)
    monkeypatch.setattr(clock, "boottime_seconds", frozen.boottime_seconds)
    return frozen


@pytest.fixture(autouse=True)
def reset_nonce_clock() -> Iterator[None]:
    """Undo any correction by Kraken's clock after each test."""
    yield
    clock.nonce_clock.follow_wall()


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll until a condition holds that other threads or processes bring about."""
    pause = threading.Event()
    for _ in range(4000):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("it never came true")


@pytest.fixture(params=["memory", "redis", "postgres"])
def store_key(request: pytest.FixtureRequest) -> Iterator[StoreKey]:
    """Return a key that no other test uses, in a store of each kind."""
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
    """Return a server of each kind with an adjustable clock, and a key that no other test uses."""
    url, name = request.getfixturevalue(f"{request.param}_url"), secrets.token_hex(8)
    moved = MovedRedis(url, name) if request.param == "redis" else MovedPostgres(url, name)
    yield moved
    moved.close()


@pytest.fixture(params=["redis", "postgres"], scope="module")
def any_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server of each kind for one module; each test leaves it running."""
    folder = tmp_path_factory.mktemp(request.param)
    opened: AbstractContextManager[Server] = open_redis(folder) if request.param == "redis" else open_postgres(folder)
    with opened as server:
        yield server

"""Fixtures of real servers: one of each kind per test process, and servers that a single test uses.

Ordinary tests share a server and keep apart by their own key (`key_name`); TEST_REDIS_URL and TEST_DATABASE_URL name
another one for them. A test that stops, kills, pauses or wipes a server uses its own.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import PostgresServer, RedisServer, open_postgres, open_redis


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URL of a Redis that other tests use too."""
    if given := os.environ.get("TEST_REDIS_URL"):
        yield given
        return
    with open_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URL of a PostgreSQL database that other tests use too."""
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield given
        return
    with open_postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server.url


@pytest.fixture
def key_name() -> str:
    """Return a name that no other test has, like the hash of a key."""
    return uuid.uuid4().hex


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """Run a Redis for one test, with its append-only file written at every command."""
    with open_redis(tmp_path) as server:
        yield server


@pytest.fixture
def postgres_server(tmp_path: Path) -> Iterator[PostgresServer]:
    """Run a PostgreSQL for one test, with fsync off."""
    with open_postgres(tmp_path) as server:
        yield server

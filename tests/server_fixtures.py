"""Fixtures of real servers: one of each kind for the ordinary tests of a test process, and servers of a test's own.

Ordinary tests share a server: they keep apart by a row of their own (`key_name`). Where TEST_REDIS_URL or
TEST_DATABASE_URL is set, that server is theirs. What stops, kills, pauses or wipes a server takes one of its own.
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
    """Return a name, such as the hash of a key is, that no other test has."""
    return uuid.uuid4().hex


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """Run a Redis of the test's own, with its append-only file written at every command."""
    with open_redis(tmp_path) as server:
        yield server


@pytest.fixture
def postgres_server(tmp_path: Path) -> Iterator[PostgresServer]:
    """Run a PostgreSQL of the test's own, with fsync off."""
    with open_postgres(tmp_path) as server:
        yield server

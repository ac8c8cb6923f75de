"""Fixtures for tests of the whole program: a state folder, a local Kraken, and the key's record in a shared store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bot.nonce.open_store import open_nonce_store
from bot.nonce.store_protocol import NonceStore
from tests.acceptance.local_kraken import LocalKraken, local_kraken


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return the path of a state folder that does not exist yet."""
    return tmp_path / "state"


@pytest.fixture
def kraken(state: Path) -> Iterator[LocalKraken]:
    """Open a local Kraken with a key of its own."""
    with local_kraken(state) as opened:
        yield opened


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """Return the URL of a shared store: Redis unless the test asks for another."""
    return str(request.getfixturevalue(getattr(request, "param", "redis_url")))


@pytest.fixture
def nonce_store(url: str, kraken: LocalKraken) -> Iterator[NonceStore]:
    """Open the store for the key of the local Kraken."""
    with closing(open_nonce_store(url, kraken.simulator.key)) as opened:
        yield opened


# PostgreSQL runs in the soak only: tests/stores compares both stores step by step, and
# test_leader_election_chaos.py uses both.
@pytest.fixture(params=["redis", pytest.param("postgres", marks=pytest.mark.soak)])
def store(request: pytest.FixtureRequest) -> str:
    """Return the URL of a store of each kind."""
    return str(request.getfixturevalue(f"{request.param}_url"))

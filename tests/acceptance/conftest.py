"""What tests of the whole program share: a state folder, a local Kraken, and a shared store's row of its key."""

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
    """Return a state folder that is not there yet."""
    return tmp_path / "state"


@pytest.fixture
def kraken(state: Path) -> Iterator[LocalKraken]:
    """Open a local Kraken, whose key no other test has."""
    with local_kraken(state) as opened:
        yield opened


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """Return the address of a shared store: Redis, but for a test that asks for another."""
    return str(request.getfixturevalue(getattr(request, "param", "redis_url")))


@pytest.fixture
def nonce_store(url: str, kraken: LocalKraken) -> Iterator[NonceStore]:
    """Open the row of the key in the store."""
    with closing(open_nonce_store(url, kraken.simulator.key)) as opened:
        yield opened


# PostgreSQL's part is the soak's: tests/stores compares both stores step by step, and test_lease_chaos.py takes both.
@pytest.fixture(params=["redis", pytest.param("postgres", marks=pytest.mark.soak)])
def store(request: pytest.FixtureRequest) -> str:
    """Return the address of a store of each kind."""
    return str(request.getfixturevalue(f"{request.param}_url"))

"""What the tests of the words about nonces share: the row of a key, its files, and another program on the key."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bot.base.clock import DAY_US, nonce_clock
from bot.base.paths import key_file
from bot.kraken import transport
from bot.nonce.file_store import MICROSECONDS, Unit
from bot.nonce.store_protocol import Engine, Row, Wish
from tests.acceptance.local_kraken import LocalKraken

HOUR_US = 3_600_000_000
LEASE_SECONDS = 60.0
# What the other program on a burnt key asks.
OTHERS = "TradeBalance"
BOTH_STORES = pytest.mark.parametrize("url", ["redis_url", "postgres_url"], indirect=True)


def place_of(url: str) -> str:
    """Return where a store is, without credentials."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port}{parts.path}"


def draw(engine: Engine, floor: int = 0, unit: Unit = MICROSECONDS) -> int:
    """Draw a nonce from a row."""
    return engine.draw(Wish(floor, (nonce_clock.now_us() + DAY_US) * unit.ticks, unit.ticks)).nonce


def held(engine: Engine) -> Row:
    """Return what the store has of the key, which must be something."""
    row = engine.look()
    assert row is not None
    return row


def own_file(kraken: LocalKraken, kind: str = "txt") -> Path:
    """Return a file that belongs to the key alone."""
    return Path(key_file(kraken.state / "kraken_nonce.txt", kraken.simulator.key, kind))


def write_common(state: Path, nonce: int) -> None:
    """Let the common nonce file hold a nonce."""
    state.mkdir(exist_ok=True)
    (state / "kraken_nonce.txt").write_text(str(nonce), "ascii")


def burn(kraken: LocalKraken, nonce: int) -> None:
    """Do what another program does: have a nonce of its own accepted on the key."""
    with closing(transport.open_api(kraken.simulator.key, kraken.simulator.secret, kraken.simulator.url)) as api:
        api._nonce = lambda: str(nonce)
        assert api.query_private(OTHERS)["error"] == []


def sent(kraken: LocalKraken) -> list[str]:
    """Return the private requests that were not those of the other program."""
    return [method for method in kraken.methods if method != OTHERS]


def closed_port() -> int:
    """Return a port where nothing listens."""
    with socket.socket() as once:
        once.bind(("127.0.0.1", 0))
        return int(once.getsockname()[1])

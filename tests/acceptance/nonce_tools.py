"""Tools for tests of the `nonce` commands: the record of a key, its files, and another program on the key."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bot.base.clock import DAY_US, nonce_clock
from bot.base.paths import key_file_path
from bot.kraken.transport import KrakenAPI
from bot.nonce.file_store import MICROSECONDS, NonceUnit
from bot.nonce.store_protocol import KeyRecord, NonceRequest, NonceStore
from tests.acceptance.local_kraken import LocalKraken

HOUR_US = 3_600_000_000
LEASE_SECONDS = 60.0
# The method that the other program on the key calls.
EXTERNAL_METHOD = "TradeBalance"
BOTH_STORES = pytest.mark.parametrize("url", ["redis_url", "postgres_url"], indirect=True)


def store_location(url: str) -> str:
    """Return the location of a store, without credentials."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port}{parts.path}"


def next_nonce(store: NonceStore, floor: int = 0, unit: NonceUnit = MICROSECONDS) -> int:
    """Take the next nonce of the key from the store."""
    return store.next_nonce(
        NonceRequest(floor, (nonce_clock.now_us() + DAY_US) * unit.units_per_microsecond, unit.units_per_microsecond)
    ).nonce


def stored_record(store: NonceStore) -> KeyRecord:
    """Return the store's record of the key, which must exist."""
    record = store.read_record()
    assert record is not None
    return record


def key_state_file(kraken: LocalKraken, kind: str = "txt") -> Path:
    """Return the path of a state file of the key."""
    return Path(key_file_path(kraken.state / "kraken_nonce.txt", kraken.simulator.key, kind))


def write_nonce_file(state_folder: Path, nonce: int) -> None:
    """Write a nonce to the common nonce file."""
    state_folder.mkdir(exist_ok=True)
    (state_folder / "kraken_nonce.txt").write_text(str(nonce), "ascii")


def raise_nonce_floor(kraken: LocalKraken, nonce: int) -> None:
    """Have a nonce of another program accepted on the key."""
    with closing(KrakenAPI(kraken.simulator.key, kraken.simulator.secret, kraken.simulator.url)) as api:
        api._nonce = lambda: str(nonce)
        assert api.query_private(EXTERNAL_METHOD)["error"] == []


def bot_request_methods(kraken: LocalKraken) -> list[str]:
    """Return the methods of the private requests that the other program did not send."""
    return [method for method in kraken.request_methods if method != EXTERNAL_METHOD]


def closed_port() -> int:
    """Return a port where nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])

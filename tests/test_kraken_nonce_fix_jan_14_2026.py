"""The numbered assertions of the published nonce suite of 14 January 2026, against the real KrakenBroker.

The published suite tested a stub of its own. The file can also be run directly:
`python tests/test_kraken_nonce_fix_jan_14_2026.py` ends with 0 if everything holds, else with 1.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pytest

import bot.broker_manager
from bot.broker_manager import KrakenBroker

SECOND_US = 1_000_000
# No server listens there, and nothing is sent.
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Take the nonces from a file of the test's own, never from the user's."""
    path = tmp_path / "kraken_nonce.txt"
    monkeypatch.setattr(bot.broker_manager, "NONCE_FILE", str(path))
    return path


def new_broker() -> KrakenBroker:
    """Return a broker that has not made a call yet."""
    return KrakenBroker("JAN-14", "a2V5", api_url=NOWHERE)


def wall_us() -> int:
    """Return the wall clock in microseconds."""
    return time.time_ns() // 1000


def test_nonces_are_texts_of_rising_integers() -> None:
    """1: ten nonces in a row are `str` of 16 digits, and each is above the one before."""
    broker = new_broker()
    texts = [broker._nonce_monotonic() for _ in range(10)]
    assert all(type(text) is str and text.isdigit() and len(text) == 16 for text in texts)
    numbers = [int(text) for text in texts]
    assert numbers == sorted(set(numbers))


def test_a_hundred_calls_without_a_pause_rise() -> None:
    """2: a hundred calls without a pause are strictly rising, and so all different."""
    broker = new_broker()
    numbers = [int(broker._nonce_monotonic()) for _ in range(100)]
    assert numbers == sorted(set(numbers))


def test_the_start_is_at_most_five_seconds_ahead() -> None:
    """3: over a hundred new brokers `_last_nonce` and the first nonce are 0 to 5.1 s ahead of the wall clock."""
    offsets = []
    for _ in range(100):
        before = wall_us()
        broker = new_broker()
        offsets += [broker._last_nonce - before, int(broker._nonce_monotonic()) - before]
    assert min(offsets) >= 0
    assert max(offsets) <= 5.1 * SECOND_US


def test_a_jump_is_a_minute() -> None:
    """4: after `_immediate_nonce_jump()` the next nonce is 59 to 61 s above the last one, and again after a second
    jump."""
    broker = new_broker()
    for _ in range(2):
        last = broker._last_nonce
        broker._immediate_nonce_jump()
        assert 59 * SECOND_US <= int(broker._nonce_monotonic()) - last <= 61 * SECOND_US


def test_a_jump_is_written_down(path: Path) -> None:
    """A jump returns the new floor, which is in the file: the next nonce is one above it."""
    broker = new_broker()
    floor = broker._immediate_nonce_jump()
    assert path.read_text() == str(floor)
    assert int(broker._nonce_monotonic()) == floor + 1
    assert int(new_broker()._nonce_monotonic()) > floor + 1


def test_the_attributes_that_users_know() -> None:
    """`_last_nonce` is the last nonce as an int, `_nonce_lock` a lock, and krakenex takes its nonces from
    `_nonce_monotonic`."""
    broker = new_broker()
    text = broker._nonce_monotonic()
    assert type(broker._last_nonce) is int
    assert broker._last_nonce == int(text)
    assert isinstance(broker._nonce_lock, type(threading.Lock()))
    assert broker._nonce_lock.acquire(blocking=False)
    broker._nonce_lock.release()
    assert int(broker.api._nonce()) > int(text)


if __name__ == "__main__":
    sys.exit(min(1, pytest.main([__file__, "--quiet", "-p", "no:cacheprovider"])))

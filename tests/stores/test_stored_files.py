"""Files beside the nonce file, and client order ids, are what commit c70f41a made of the same key and signals.

Its files are in the folder `stored`. Another version on the same disk has to see this version's locks, counters,
breaker and nonces, and this version has to see the other's.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import freezegun
import pytest

from bot import config
from bot.app.instance_lock import InstanceLock, is_running, read_instance_file
from bot.base.errors import BotAlreadyRunningError, InvalidNonceError, LockoutError, RequestLockTimeout
from bot.broker_manager import KrakenBroker, get_kraken_nonce
from bot.kraken.breaker_file import BreakerFile
from bot.kraken.circuit_breaker import CircuitBreaker, NonceRefusedError
from bot.kraken.new_order import client_order_id, derive_bot_id
from bot.kraken.rate_counters import PRO, UNLIMITED, Action
from bot.kraken.rate_limiter import RateLimiter
from bot.nonce.local_lock import Priority, RequestLock
from bot.simulator.options import SimulatorOptions
from bot.simulator.server import Simulator
from tests.conftest import ROOT
from tests.stores.conftest import FrozenClock
from tests.stores.stored_formats import API_KEY, API_SECRET, stored

NOW = 1_790_000_000.0


# The files of a key


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock a file or a folder, as another program does."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def test_a_key_has_its_files_under_their_names(nonce_file: Path) -> None:
    """A broker whose key was used and locked out leaves exactly these files beside the nonce file."""
    with Simulator(SimulatorOptions(key=API_KEY, secret=API_SECRET)) as simulator:
        broker = KrakenBroker(API_KEY, API_SECRET, api_url=simulator.url, tier=UNLIMITED)
        broker.connect()
        broker.journal.set_complete_until("mybot", 1.0)
        simulator.faults.raise_next("BalanceEx", "EGeneral:Temporary lockout")
        with pytest.raises(LockoutError):
            broker.get_account_balance()
        broker.close()
    get_kraken_nonce(api_key=API_KEY, unit="ns")
    assert sorted(path.name for path in nonce_file.parent.iterdir()) == json.loads(stored("file_names.json"))


@pytest.mark.parametrize("ending", ["lock", "gate"])
def test_the_lock_of_another_program_is_respected(tmp_path: Path, ending: str) -> None:
    """The request lock waits for another program's lock on the lock file or the queue lock file, and holds its own."""
    lock, path = RequestLock(str(tmp_path / "kraken_nonce.lock")), tmp_path / f"kraken_nonce.{ending}"
    path.touch()
    with locked(path), pytest.raises(RequestLockTimeout), lock.hold(Priority.ORDER, 0.05):
        pass
    with lock.hold(Priority.ORDER), pytest.raises(BlockingIOError), locked(tmp_path / "kraken_nonce.lock"):
        pass
    lock.close()


def test_the_nonce_file_is_written_as_it_was(nonce_file: Path, frozen_clock: FrozenClock) -> None:
    """The nonce file has sixteen digits and nothing else; that of a key in nanoseconds has nineteen."""
    assert get_kraken_nonce() == frozen_clock.us
    assert nonce_file.read_bytes() == b"1790000000000000"
    frozen_clock.advance(1)
    get_kraken_nonce(api_key=API_KEY, unit="ns")
    fine = next(path for path in nonce_file.parent.iterdir() if path != nonce_file)
    assert [path.read_bytes() for path in (nonce_file, fine)] == [b"1790000001000000", b"1790000001000000000"]


def test_nonces_continue_above_the_stored_ones(nonce_file: Path, frozen_clock: FrozenClock) -> None:
    """Where the stored nonces are ahead of the clock, the next ones are above them, in either unit."""
    names = json.loads(stored("file_names.json"))
    fine = next(nonce_file.with_name(name) for name in names if name.endswith(".txt") and name != nonce_file.name)
    nonce_file.write_bytes(b"%d" % (frozen_clock.us + 60_000_000))
    fine.write_bytes(b"%d" % ((frozen_clock.us + 120_000_000) * 1000))
    assert get_kraken_nonce() > 1790000060000000
    assert get_kraken_nonce(api_key=API_KEY, unit="ns") > 1790000120000000000


def write_counters(path: Path) -> None:
    """Count calls and orders, and set a pause."""
    rate_limiter = RateLimiter(str(path), PRO)
    for method in ("BalanceEx", "ClosedOrders"):
        rate_limiter.try_acquire_rest(method, NOW)
    rate_limiter.try_acquire_engine("BTC/USD", Action.ADD, NOW)
    rate_limiter.try_acquire_engine("ETH/USD", Action.CANCEL, NOW, 1.0)
    rate_limiter.pause(NOW + 30.0, "EService:Throttled")
    rate_limiter.close()


def write_refusals(path: Path) -> None:
    """Record an accepted nonce and two refusals; needs a frozen clock."""
    breaker = CircuitBreaker(str(path.with_suffix(".silence")), str(path))
    breaker.record_accepted(1790000000000000)
    for nonce in (1790000000000001, 1790000000000002):
        breaker.handle_refusal(InvalidNonceError("Balance", ["EAPI:Invalid nonce"]), nonce, "us", is_repeatable=True)
    breaker.close()


def write_breaker(path: Path) -> None:
    """Open the breaker."""
    with freezegun.freeze_time("2026-11-22 12:00:00"):
        BreakerFile(str(path)).trip(900.0, "a reason")


@pytest.mark.usefixtures("frozen_clock")
@pytest.mark.parametrize(
    ("write_file", "stored_name"),
    [(write_counters, "budget.json"), (write_refusals, "refusals.json"), (write_breaker, "silence.json")],
    ids=["rate counters", "refusals", "breaker"],
)
def test_shared_state_is_written_as_it_was(
    tmp_path: Path, write_file: Callable[[Path], None], stored_name: str
) -> None:
    """Rate counters, refusals and breaker state of a key are written byte for byte as in the stored files."""
    write_file(tmp_path / "written")
    assert (tmp_path / "written").read_text("ascii") == stored(stored_name).rstrip("\n")


def test_stored_rate_counters_count(tmp_path: Path) -> None:
    """The calls and orders that another version has counted are on the key's counters, and its pause applies to every
    call."""
    (tmp_path / "budget").write_text(stored("budget.json"))
    rate_limiter = RateLimiter(str(tmp_path / "budget"), PRO)
    assert rate_limiter.rest_level(NOW) == (3.0, 20)
    assert rate_limiter.engine_levels(NOW) == {"BTC/USD": 1.0, "ETH/USD": 8.0}
    assert rate_limiter.try_acquire_rest("CancelOrder", NOW + 10.0) == 20.0
    rate_limiter.close()


def test_stored_refusals_count(tmp_path: Path, frozen_clock: FrozenClock) -> None:
    """After an accepted nonce and two refusals of another version, the third refusal opens the breaker."""
    (tmp_path / "refused").write_text(stored("refusals.json"))
    breaker = CircuitBreaker(str(tmp_path / "silence"), str(tmp_path / "refused"))
    frozen_clock.advance(10)
    third = breaker.handle_refusal(
        InvalidNonceError("Balance", ["EAPI:Invalid nonce"]), 1790000010000000, "us", is_repeatable=True
    )
    breaker.close()
    assert not isinstance(third, NonceRefusedError)
    assert breaker.state is not None


def test_a_stored_open_breaker_stays_open(tmp_path: Path) -> None:
    """A breaker that another version has opened stays open for its time, with its length and its reason."""
    (tmp_path / "silence").write_text(stored("silence.json"))
    with freezegun.freeze_time("2026-11-22 12:14:59") as frozen:
        state = BreakerFile(str(tmp_path / "silence")).read()
        assert state is not None
        assert (state.open_seconds, state.reason, state.is_half_open) == (900.0, "a reason", False)
        frozen.tick(1)
        assert state.is_half_open


# The state folder


def test_the_instance_file_is_as_it_was(tmp_path: Path) -> None:
    """A running bot describes itself in bot.json under the stored field names, and reads another version's file."""
    other = json.loads(stored("note.json"))
    lock = InstanceLock(tmp_path)
    lock.publish(status_url="http://127.0.0.1:8080")
    published = json.loads((tmp_path / "bot.json").read_text("ascii"))
    assert {name: type(value) for name, value in published.items()} == {
        name: type(value) for name, value in other.items()
    }
    (tmp_path / "bot.json").write_text(stored("note.json"))
    assert read_instance_file(tmp_path) == other
    lock.release()
    assert not (tmp_path / "bot.json").exists()


def test_the_folder_of_another_bot_stays_locked(tmp_path: Path) -> None:
    """A folder that another program has locked belongs to a running bot and cannot be locked; nor can a bot's own."""
    with locked(tmp_path):
        assert is_running(tmp_path)
        with pytest.raises(BotAlreadyRunningError):
            InstanceLock(tmp_path)
    lock = InstanceLock(tmp_path)
    with pytest.raises(BlockingIOError), locked(tmp_path):
        pass
    lock.release()


def test_the_state_folder_is_where_it_was() -> None:
    """Without a setting the nonce file is in the folder bot beside main.py, and all other state in the folder state."""
    assert config.nonce_folder({}) == ROOT / "bot"
    assert config.state_folder({}) == ROOT / "state"
    assert Path(config.default_nonce_file()).name == "kraken_nonce.txt"


# Client order ids


def test_client_order_ids_are_as_they_were() -> None:
    """Each signal has the stored client order id, and a key the stored bot id: no signal is sent under another id."""
    ids = json.loads(stored("order_ids.json"))
    assert derive_bot_id(API_KEY) == ids["bot_id"]
    for signal in ids["signals"]:
        order_id = client_order_id(
            signal["bot_id"],
            signal["pair"],
            signal["strategy"],
            signal["candle"],
            kind=signal["kind"],
            attempt=signal["attempt"],
        )
        assert order_id == signal["id"], signal

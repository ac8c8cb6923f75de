"""A key's rate counters are shared by its processes, survive a crash, and never block for ever."""

from __future__ import annotations

import json
import logging
import signal
from pathlib import Path

import pytest

from bot.base.event_catalog import Event
from bot.kraken.rate_counters import PRO, STARTER, Action
from bot.kraken.rate_limiter import RateLimiter
from tests.child_process import Child
from tests.event_log import EventLog

NOW = 1_790_000_000.0
CHILDREN = "tests.stores.shared_children"
# Starter's maximum of 15, less what decays in one of Kraken's steps.
STARTER_READS = 14


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return the path of the test's counter file."""
    return str(tmp_path / "kraken_nonce.0a1b2c3d.budget")


def reads_until_full(rate_limiter: RateLimiter, now: float) -> int:
    """Acquire reads until one has to wait; return how many were acquired."""
    acquired = 0
    while not rate_limiter.try_acquire_rest("BalanceEx", now):
        acquired += 1
    return acquired


def test_two_rate_limiters_of_a_key_share_counters(path: str) -> None:
    """Points that one limiter has spent, for reads and orders, are not available to another one on the same file."""
    first, second = RateLimiter(path, STARTER), RateLimiter(path, STARTER)
    assert reads_until_full(first, NOW) == STARTER_READS
    assert reads_until_full(second, NOW) == 0
    while not first.try_acquire_engine("BTC/USD", Action.ADD, NOW):
        pass
    assert second.try_acquire_engine("BTC/USD", Action.ADD, NOW) > 0
    assert second.try_acquire_engine("ETH/USD", Action.ADD, NOW) == 0.0
    assert second.try_acquire_engine("BTC/USD", Action.CANCEL, NOW, 1.0) == 0.0


def test_a_delayed_call_is_not_booked(path: str) -> None:
    """After the returned wait, however often the caller asked, one call is allowed and the next one waits."""
    rate_limiter = RateLimiter(path, PRO)
    reads_until_full(rate_limiter, NOW)
    waits = [rate_limiter.try_acquire_rest("BalanceEx", NOW) for _ in range(10)]
    assert waits == [waits[0]] * 10
    assert reads_until_full(rate_limiter, NOW + waits[0]) == 1


def test_a_crash_loop_does_not_overspend(path: str) -> None:
    """A process that is killed once it has spent the allowance leaves nothing of it to the next one."""
    acquired = []
    for _ in range(3):
        with Child(CHILDREN, "crash_after_exhausting_reads", path, NOW) as child:
            acquired.append(child.read_line())
    assert acquired == [f"{STARTER_READS}", "0", "0"]


def test_a_rate_limit_refusal_is_shared(path: str) -> None:
    """When Kraken tells one process that a counter is full, the others wait as well."""
    first, second = RateLimiter(path, STARTER), RateLimiter(path, STARTER)
    first.saturate_rest(NOW)
    first.saturate_engine("BTC/USD", NOW)
    assert second.try_acquire_rest("BalanceEx", NOW) == pytest.approx(6.03, abs=0.01)
    assert second.try_acquire_rest("CancelOrder", NOW) == 0.0
    assert second.try_acquire_engine("BTC/USD", Action.CANCEL, NOW, 1.0) == pytest.approx(8.0)


def test_unconditional_calls_are_booked(path: str) -> None:
    """Calls and cancels that are sent unconditionally count for every later caller."""
    first, second = RateLimiter(path, STARTER), RateLimiter(path, STARTER)
    for _ in range(STARTER_READS):
        first.spend_rest("CancelAll", NOW)
    for _ in range(8):
        first.spend_engine("BTC/USD", Action.CANCEL, NOW)
    assert second.try_acquire_rest("BalanceEx", NOW) > 0
    assert second.try_acquire_engine("BTC/USD", Action.CANCEL, NOW) > 0


def test_a_pause_applies_to_every_call_and_process(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """A pause refuses every call of every process, cancels too; each logs the reason once; then all go on."""
    first, second = RateLimiter(path, PRO), RateLimiter(path, PRO)
    first.pause(NOW + 30.0, "EService:Throttled")
    for rate_limiter in (first, second):
        for method in ("BalanceEx", "AddOrder", "CancelOrder"):
            assert rate_limiter.try_acquire_rest(method, NOW + 10.0) == 20.0
        assert rate_limiter.try_acquire_engine("BTC/USD", Action.CANCEL, NOW + 10.0) == 20.0
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "20 s: EService:Throttled" in caplog.text
    assert first.try_acquire_rest("AddOrder", NOW + 30.0) == second.try_acquire_rest("AddOrder", NOW + 30.0) == 0.0


def test_the_longer_of_two_pauses_holds(path: str) -> None:
    """A shorter pause does not end a longer one."""
    rate_limiter = RateLimiter(path, PRO)
    rate_limiter.pause(int(NOW) + 30, "long")
    rate_limiter.pause(NOW + 10.0, "short")
    assert rate_limiter.try_acquire_rest("BalanceEx", NOW + 10.0) == 20.0


def test_a_pause_lasts_a_minute_at_most(path: str) -> None:
    """A pause that claims to last a year ends a minute after the first process has asked."""
    rate_limiter = RateLimiter(path, PRO)
    rate_limiter.pause(NOW + 365 * 86_400.0, "another clock")
    assert rate_limiter.try_acquire_rest("BalanceEx", NOW) == 60.0
    assert RateLimiter(path, PRO).try_acquire_rest("BalanceEx", NOW + 59.0) == pytest.approx(1.0)
    assert RateLimiter(path, PRO).try_acquire_rest("BalanceEx", NOW + 60.0) == 0.0


def test_a_counter_state_from_the_future_is_not_waited_for(path: str) -> None:
    """A full counter dated a year ahead delays a call only for as long as its points need to decay."""
    reads_until_full(RateLimiter(path, STARTER), NOW + 365 * 86_400.0)
    rate_limiter = RateLimiter(path, STARTER)
    wait_seconds = rate_limiter.try_acquire_rest("BalanceEx", NOW)
    assert 0 < wait_seconds <= 3.1
    assert rate_limiter.try_acquire_rest("BalanceEx", NOW + wait_seconds) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        '{"rest": "x", "engine": [], "pause": 3}',
        '{"rest": [1], "engine": {"BTC/USD": null}, "pause": [1]}',
        '{"rest": [NaN, 0.0], "engine": {"BTC/USD": [Infinity, 0.0]}, "pause": [NaN, "x"]}',
        '{"rest": [1000, 0.0], "pause": [1000, "x"]}'.replace("000", "0" * 5000),
        "[]",
        "",
    ],
)
def test_invalid_fields_count_as_nothing_spent(path: str, text: str) -> None:
    """Invalid fields count as nothing spent, and are overwritten."""
    Path(path).write_text(text)
    rate_limiter = RateLimiter(path, STARTER)
    assert reads_until_full(rate_limiter, NOW) == STARTER_READS
    assert rate_limiter.try_acquire_engine("BTC/USD", Action.ADD, NOW) == 0.0
    assert json.loads(Path(path).read_text()) | {"pause": 0} == {
        "rest": [float(STARTER_READS), NOW],
        "engine": {"BTC/USD": [1.0, NOW]},
        "pause": 0,
    }


def test_local_counts_are_merged_when_the_file_is_usable_again(path: str) -> None:
    """Calls counted while the file was unusable are seen by others once it is usable again."""
    Path(path).mkdir()
    first, second = RateLimiter(path, STARTER), RateLimiter(path, STARTER)
    assert reads_until_full(first, NOW) == STARTER_READS
    Path(path).rmdir()
    assert second.try_acquire_rest("BalanceEx", NOW) == 0.0
    assert first.try_acquire_rest("BalanceEx", NOW) > 0
    assert second.try_acquire_rest("BalanceEx", NOW) > 0


def test_a_file_that_is_deleted_costs_nothing(path: str) -> None:
    """A running process remembers what it has spent when the file is deleted, and writes it down again."""
    first, second = RateLimiter(path, STARTER), RateLimiter(path, STARTER)
    reads_until_full(first, NOW)
    Path(path).unlink()
    assert first.try_acquire_rest("BalanceEx", NOW) > 0
    assert second.try_acquire_rest("BalanceEx", NOW) > 0


def test_a_closed_rate_limiter_reopens(path: str) -> None:
    """After `close` the limiter counts as before."""
    rate_limiter = RateLimiter(path, STARTER)
    rate_limiter.spend_rest("BalanceEx", NOW)
    rate_limiter.close()
    assert reads_until_full(rate_limiter, NOW) == STARTER_READS - 1


def test_a_stopped_process_does_not_stop_the_others(path: str, event_log: EventLog) -> None:
    """While a stopped process holds the file's lock, a call is counted locally, with a WARNING."""
    rate_limiter = RateLimiter(path, STARTER)
    with Child(CHILDREN, "hold", path) as holder:
        holder.expect_line("held")
        holder.signal(signal.SIGSTOP)
        assert reads_until_full(rate_limiter, NOW) == STARTER_READS
        (problem,) = event_log.of(Event.SHARED_FILE_UNUSABLE)
        assert (problem.event.level, problem["path"]) == (logging.WARNING, path)

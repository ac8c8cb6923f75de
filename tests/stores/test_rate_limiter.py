"""A key's budget is one for all who use the key, outlives a crash, and never blocks for ever."""

from __future__ import annotations

import json
import logging
import signal
from pathlib import Path

import pytest

from bot.kraken.rate_counters import PRO, STARTER, Action
from bot.kraken.rate_limiter import KeyBudget
from tests.child_process import Child

NOW = 1_790_000_000.0
CHILDREN = "tests.stores.shared_children"
# The starter's maximum of 15, less what decays in a step of Kraken's.
STARTER_READS = 14


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return where the test's budget is."""
    return str(tmp_path / "kraken_nonce.0a1b2c3d.budget")


def reads_until_full(budget: KeyBudget, now: float) -> int:
    """Book reads until one has to wait; return how many were booked."""
    booked = 0
    while not budget.take_rest("BalanceEx", now):
        booked += 1
    return booked


def test_two_budgets_of_a_key_are_one(path: str) -> None:
    """What one object books, reads and orders, another one on the same file does not give again."""
    one, other = KeyBudget(path, STARTER), KeyBudget(path, STARTER)
    assert reads_until_full(one, NOW) == STARTER_READS
    assert reads_until_full(other, NOW) == 0
    while not one.take_engine("BTC/USD", Action.ADD, NOW):
        pass
    assert other.take_engine("BTC/USD", Action.ADD, NOW) > 0
    assert other.take_engine("ETH/USD", Action.ADD, NOW) == 0.0
    assert other.take_engine("BTC/USD", Action.CANCEL, NOW, 1.0) == 0.0


def test_what_has_to_wait_is_not_booked(path: str) -> None:
    """After the wait that was asked for, and however often it was asked, one call goes and the next one waits."""
    budget = KeyBudget(path, PRO)
    reads_until_full(budget, NOW)
    waits = [budget.take_rest("BalanceEx", NOW) for _ in range(10)]
    assert waits == [waits[0]] * 10
    assert reads_until_full(budget, NOW + waits[0]) == 1


def test_a_crash_loop_does_not_overspend(path: str) -> None:
    """A process that is killed when it has spent the allowance leaves nothing of it to the next one."""
    booked = []
    for _ in range(3):
        with Child(CHILDREN, "crash_after_reads", path, NOW) as child:
            booked.append(child.line())
    assert booked == [f"{STARTER_READS}", "0", "0"]


def test_a_refusal_is_known_to_all(path: str) -> None:
    """When Kraken says to one that a counter is full, the others wait for it as well."""
    one, other = KeyBudget(path, STARTER), KeyBudget(path, STARTER)
    one.saturate_rest(NOW)
    one.saturate_engine("BTC/USD", NOW)
    assert other.take_rest("BalanceEx", NOW) == pytest.approx(6.03, abs=0.01)
    assert other.take_rest("CancelOrder", NOW) == 0.0
    assert other.take_engine("BTC/USD", Action.CANCEL, NOW, 1.0) == pytest.approx(8.0)


def test_what_goes_without_asking_is_booked(path: str) -> None:
    """A call and a cancel that are sent whether there is room or not count for all who ask afterwards."""
    one, other = KeyBudget(path, STARTER), KeyBudget(path, STARTER)
    for _ in range(STARTER_READS):
        one.spend_rest("CancelAll", NOW)
    for _ in range(8):
        one.spend_engine("BTC/USD", Action.CANCEL, NOW)
    assert other.take_rest("BalanceEx", NOW) > 0
    assert other.take_engine("BTC/USD", Action.CANCEL, NOW) > 0


def test_a_pause_is_for_everything_and_everybody(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """During a pause nobody is given anything, orders and cancels included; each process says why once; then all go."""
    one, other = KeyBudget(path, PRO), KeyBudget(path, PRO)
    one.pause(NOW + 30.0, "EService:Throttled")
    for budget in (one, other):
        for method in ("BalanceEx", "AddOrder", "CancelOrder"):
            assert budget.take_rest(method, NOW + 10.0) == 20.0
        assert budget.take_engine("BTC/USD", Action.CANCEL, NOW + 10.0) == 20.0
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "20 s: EService:Throttled" in caplog.text
    assert one.take_rest("AddOrder", NOW + 30.0) == other.take_rest("AddOrder", NOW + 30.0) == 0.0


def test_the_longer_of_two_pauses_holds(path: str) -> None:
    """A shorter pause does not end a longer one."""
    budget = KeyBudget(path, PRO)
    budget.pause(int(NOW) + 30, "long")
    budget.pause(NOW + 10.0, "short")
    assert budget.take_rest("BalanceEx", NOW + 10.0) == 20.0


def test_a_pause_lasts_a_minute_at_most(path: str) -> None:
    """A pause that is said to last for a year is over a minute after the first one asks."""
    budget = KeyBudget(path, PRO)
    budget.pause(NOW + 365 * 86_400.0, "another clock")
    assert budget.take_rest("BalanceEx", NOW) == 60.0
    assert KeyBudget(path, PRO).take_rest("BalanceEx", NOW + 59.0) == pytest.approx(1.0)
    assert KeyBudget(path, PRO).take_rest("BalanceEx", NOW + 60.0) == 0.0


def test_a_future_of_another_clock_is_not_waited_for(path: str) -> None:
    """A full counter of a year from now keeps a call waiting for as long as its points need to decay, no longer."""
    reads_until_full(KeyBudget(path, STARTER), NOW + 365 * 86_400.0)
    budget = KeyBudget(path, STARTER)
    wait_seconds = budget.take_rest("BalanceEx", NOW)
    assert 0 < wait_seconds <= 3.1
    assert budget.take_rest("BalanceEx", NOW + wait_seconds) == 0.0


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
def test_odd_fields_are_no_budget_spent(path: str, text: str) -> None:
    """Fields that hold something else count as nothing spent, and are overwritten."""
    Path(path).write_text(text)
    budget = KeyBudget(path, STARTER)
    assert reads_until_full(budget, NOW) == STARTER_READS
    assert budget.take_engine("BTC/USD", Action.ADD, NOW) == 0.0
    assert json.loads(Path(path).read_text()) | {"pause": 0} == {
        "rest": [float(STARTER_READS), NOW],
        "engine": {"BTC/USD": [1.0, NOW]},
        "pause": 0,
    }


def test_what_was_counted_alone_counts_together_again(path: str) -> None:
    """Calls booked while the file could not be used are seen by others when it can be used again."""
    Path(path).mkdir()
    one, other = KeyBudget(path, STARTER), KeyBudget(path, STARTER)
    assert reads_until_full(one, NOW) == STARTER_READS
    Path(path).rmdir()
    assert other.take_rest("BalanceEx", NOW) == 0.0
    assert one.take_rest("BalanceEx", NOW) > 0
    assert other.take_rest("BalanceEx", NOW) > 0


def test_a_file_that_is_deleted_costs_nothing(path: str) -> None:
    """A running process remembers what it has spent when the file is deleted, and writes it down again."""
    one, other = KeyBudget(path, STARTER), KeyBudget(path, STARTER)
    reads_until_full(one, NOW)
    Path(path).unlink()
    assert one.take_rest("BalanceEx", NOW) > 0
    assert other.take_rest("BalanceEx", NOW) > 0


def test_a_closed_budget_opens_again(path: str) -> None:
    """After close a call is booked as before."""
    budget = KeyBudget(path, STARTER)
    budget.spend_rest("BalanceEx", NOW)
    budget.close()
    assert reads_until_full(budget, NOW) == STARTER_READS - 1


def test_a_stopped_process_does_not_stop_the_others(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """Behind a process that is stopped with the file in its hands a call is booked all the same, with a WARNING."""
    budget = KeyBudget(path, STARTER)
    with Child(CHILDREN, "hold", path) as holder:
        holder.expect("held")
        holder.signal(signal.SIGSTOP)
        assert reads_until_full(budget, NOW) == STARTER_READS
        assert "counted by each process for itself" in caplog.text

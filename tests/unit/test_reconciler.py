"""When a journal is complete at start, and which orders are queried and recorded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bot.base.clock import ServerTime
from bot.base.models import Order
from bot.orders.journal import Journal
from bot.orders.reconciler import JOURNAL_MAX_AGE_SECONDS, Reconciler
from tests.journal_rows import BOT_ID, make_intent, make_open_kraken_order
from tests.trading_fakes import SteppedClock

NOW = 10_000.0
ID = f"{BOT_ID}0000000000001"


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """Return a journal that has every order of this bot."""
    journal = Journal(str(tmp_path / "journal.sqlite"))
    journal.set_complete_until(BOT_ID, NOW)
    return journal


class FakeAccount:
    """An account with given open orders and no closed ones."""

    def __init__(self, open_orders: Callable[[], list[Order]]) -> None:
        self._open_orders = open_orders

    def get_open_orders(self) -> list[Order]:
        """Return the open orders."""
        return self._open_orders()

    def get_closed_orders(self, since_seconds: float = 0.0) -> list[Order]:
        """Return no order."""
        return []

    def is_own_order(self, order: Order) -> bool:
        """Tell by the id."""
        return order.cl_ord_id.startswith(BOT_ID)


def make_reconciler(
    journal: Journal,
    clock: SteppedClock,
    open_orders: Callable[[], list[Order]] = list,
    *,
    overlap_seconds: float = 0.0,
) -> Reconciler:
    """Return the reconciler of a process that has just started; there are no closed orders."""
    return Reconciler(journal, FakeAccount(open_orders), BOT_ID, ServerTime(clock), overlap_seconds)


def seconds_until_complete(reconciler: Reconciler, clock: SteppedClock) -> float:
    """Query as soon as each query is due; return the seconds until the history is complete."""
    begin = clock.time_seconds
    while not reconciler.history_is_complete():
        clock.time_seconds = max(clock.time_seconds, reconciler.unknown.due_seconds() or 0.0)
        reconciler.reconcile()
    return clock.time_seconds - begin


@pytest.mark.parametrize(
    ("age_seconds", "known"), [(JOURNAL_MAX_AGE_SECONDS, True), (JOURNAL_MAX_AGE_SECONDS + 1, False)]
)
def test_journal_history_is_complete_for_a_minute(journal: Journal, age_seconds: float, known: bool) -> None:
    """A journal that was current a minute ago is complete; after a longer pause the history must be queried."""
    assert make_reconciler(journal, SteppedClock(NOW + age_seconds)).history_is_complete() is known


def test_order_of_another_process_is_not_taken_over_before_its_deadline(journal: Journal) -> None:
    """An order that another process sends meanwhile is taken over once its deadline has passed, and not before."""
    clock = SteppedClock(NOW)
    here = make_reconciler(journal, clock)
    assert here.unknown_orders() == []
    journal.record_intent(make_intent(ID))
    journal.mark_sent(ID, "1", NOW, NOW + 8)
    clock.time_seconds = NOW + 8
    assert here.unknown_orders() == []
    clock.time_seconds = NOW + 8.1
    assert [order.cl_ord_id for order in here.unknown_orders()] == [ID]


def test_unanswered_order_of_an_earlier_run_is_unknown_at_start(journal: Journal) -> None:
    """At start an order without an answer is unknown, whatever its deadline, because no process waits for it."""
    journal.record_intent(make_intent(ID))
    journal.mark_sent(ID, "1", NOW, NOW + 8)
    assert [order.cl_ord_id for order in make_reconciler(journal, SteppedClock(NOW)).unknown_orders()] == [ID]


def test_only_own_orders_are_recorded(journal: Journal) -> None:
    """A query that finds the unknown order and one of another sender records the first only."""
    journal.record_intent(make_intent(ID))
    journal.mark_sent(ID, "1", NOW, NOW + 8)
    found_orders = [make_open_kraken_order(ID, "OMINE"), make_open_kraken_order("other0000000000001", "OTHEIRS")]
    (resolution,) = make_reconciler(journal, SteppedClock(NOW), lambda: found_orders).reconcile()
    assert resolution.order == found_orders[0]
    assert journal.orders() == found_orders[:1]


@pytest.mark.parametrize(("clean", "seconds"), [(True, 8.0), (False, 16.0)])
def test_takeover_reconciles_even_with_a_current_journal(journal: Journal, clean: bool, seconds: float) -> None:
    """A new leader reconciles for 16 s, or for 8 s after a leader that had reconciled all its orders."""
    clock = SteppedClock(NOW)
    here = make_reconciler(journal, clock)
    assert here.history_is_complete()
    here.begin_takeover(clean, is_first_leader=False)
    assert not here.history_is_complete()
    assert here.history_wait_seconds() == seconds
    assert seconds_until_complete(here, clock) == seconds
    assert here.history_wait_seconds() == 0.0


def test_second_takeover_restarts_reconciliation(journal: Journal) -> None:
    """Queries that began in an earlier leadership of this process prove nothing about the leader in between."""
    clock = SteppedClock(NOW)
    here = make_reconciler(journal, clock)
    here.begin_takeover(is_clean=True, is_first_leader=False)
    here.reconcile()
    clock.time_seconds += 7
    here.reconcile()
    here.begin_takeover(is_clean=False, is_first_leader=False)
    assert seconds_until_complete(here, clock) == 16.0


def test_new_journal_waits_for_an_older_instance_to_end(tmp_path: Path) -> None:
    """With a new journal, where another instance may send for 120 s more, the history is complete 8 s after that."""
    clock = SteppedClock(NOW)
    here = make_reconciler(Journal(str(tmp_path / "new.sqlite")), clock, overlap_seconds=120.0)
    assert not here.history_is_complete()
    assert seconds_until_complete(here, clock) == 128.0


def test_existing_journal_skips_the_overlap_wait(journal: Journal) -> None:
    """With a journal of this bot, current or not, there is no wait for another instance."""
    clock = SteppedClock(NOW + JOURNAL_MAX_AGE_SECONDS + 1)
    assert seconds_until_complete(make_reconciler(journal, clock, overlap_seconds=120.0), clock) == 16.0


@pytest.mark.parametrize(("first", "seconds"), [(True, 128.0), (False, 16.0)])
def test_first_leader_without_journal_waits_for_other_instances(tmp_path: Path, first: bool, seconds: float) -> None:
    """If there was no leader before and there is no journal, an instance that uses no store is given time to end."""
    clock = SteppedClock(NOW)
    here = make_reconciler(Journal(str(tmp_path / "new.sqlite")), clock, overlap_seconds=120.0)
    here.begin_takeover(is_clean=False, is_first_leader=first)
    assert seconds_until_complete(here, clock) == seconds


def test_first_leader_with_journal_waits_no_longer(journal: Journal) -> None:
    """A store that lost its leader record causes no longer wait for an instance with a journal of this bot."""
    clock = SteppedClock(NOW)
    here = make_reconciler(journal, clock, overlap_seconds=120.0)
    here.begin_takeover(is_clean=False, is_first_leader=True)
    assert seconds_until_complete(here, clock) == 16.0

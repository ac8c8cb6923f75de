"""What a journal is worth when it is opened, and whose orders are looked up and written down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bot.base.clock import ServerTime
from bot.base.models import Order
from bot.orders.journal import Journal
from bot.orders.reconciler import CURRENT_SECONDS, LookUps, Settlement
from tests.journal_rows import BOT_ID, intent, open_row
from tests.trading_fakes import SteppedClock

NOW = 10_000.0
ID = f"{BOT_ID}0000000000001"


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """Return a journal that has all of this bot's past."""
    journal = Journal(str(tmp_path / "journal.sqlite"))
    journal.set_known_until(BOT_ID, NOW)
    return journal


def settlement(
    journal: Journal,
    clock: SteppedClock,
    open_orders: Callable[[], list[Order]] = list,
    *,
    overlap_seconds: float = 0.0,
) -> Settlement:
    """Return the settlement of a process that has just started; closed orders there are none."""
    look_ups = LookUps(open_orders, lambda _: [], lambda row: row.cl_ord_id.startswith(BOT_ID))
    return Settlement(journal, look_ups, BOT_ID, ServerTime(clock), overlap_seconds)


def known_after_seconds(here: Settlement, clock: SteppedClock) -> float:
    """Return after how many seconds of look-ups, each made as soon as it is due, the past is known."""
    begin = clock.time_seconds
    while not here.knows_the_past():
        clock.time_seconds = max(clock.time_seconds, here.due_seconds() or 0.0)
        here.settle()
    return clock.time_seconds - begin


@pytest.mark.parametrize(("age_seconds", "known"), [(CURRENT_SECONDS, True), (CURRENT_SECONDS + 1, False)])
def test_a_journal_knows_the_past_for_a_minute(journal: Journal, age_seconds: float, known: bool) -> None:
    """Kept up to date a minute ago it has all orders of this bot; after a longer rest what it lacks is looked for."""
    assert settlement(journal, SteppedClock(NOW + age_seconds)).knows_the_past() is known


def test_an_order_that_another_process_is_sending_is_left_to_it_until_its_deadline(journal: Journal) -> None:
    """An order that another process sends meanwhile is taken over once its deadline is past, and not before."""
    clock = SteppedClock(NOW)
    here = settlement(journal, clock)
    assert here.unknown_orders() == []
    journal.intend(intent(ID))
    journal.leave(ID, "1", NOW, NOW + 8)
    clock.time_seconds = NOW + 8
    assert here.unknown_orders() == []
    clock.time_seconds = NOW + 8.1
    assert [order.cl_ord_id for order in here.unknown_orders()] == [ID]


def test_what_an_earlier_life_was_sending_is_taken_over_at_once(journal: Journal) -> None:
    """At the start an order without an answer is unknown, whatever its deadline: nobody waits for it any more."""
    journal.intend(intent(ID))
    journal.leave(ID, "1", NOW, NOW + 8)
    assert [order.cl_ord_id for order in settlement(journal, SteppedClock(NOW)).unknown_orders()] == [ID]


def test_of_the_rows_that_are_found_only_own_ones_are_written_down(journal: Journal) -> None:
    """A look-up that finds the unknown order and one of another sender writes the first into the journal alone."""
    journal.intend(intent(ID))
    journal.leave(ID, "1", NOW, NOW + 8)
    rows = [open_row(ID, "OMINE"), open_row("other0000000000001", "OTHEIRS")]
    (fate,) = settlement(journal, SteppedClock(NOW), lambda: rows).settle()
    assert fate.order == rows[0]
    assert journal.orders() == rows[:1]


@pytest.mark.parametrize(("clean", "seconds"), [(True, 8.0), (False, 16.0)])
def test_after_another_leader_even_a_current_journal_is_not_enough(
    journal: Journal, clean: bool, seconds: float
) -> None:
    """Whoever takes over looks for the past 16 s long, or 8 s after a leader that had settled all its orders."""
    clock = SteppedClock(NOW)
    here = settlement(journal, clock)
    assert here.knows_the_past()
    here.take_over(clean, first=False)
    assert not here.knows_the_past()
    assert here.past_wait_seconds() == seconds
    assert known_after_seconds(here, clock) == seconds
    assert here.past_wait_seconds() == 0.0


def test_a_second_take_over_starts_the_look_for_the_past_again(journal: Journal) -> None:
    """Look-ups that an earlier leadership of this process had begun say nothing of the leader in between."""
    clock = SteppedClock(NOW)
    here = settlement(journal, clock)
    here.take_over(clean=True, first=False)
    here.settle()
    clock.time_seconds += 7
    here.settle()
    here.take_over(clean=False, first=False)
    assert known_after_seconds(here, clock) == 16.0


def test_without_a_journal_an_older_instance_is_given_time_to_end(tmp_path: Path) -> None:
    """A new journal, where another instance may send for 120 s more, knows the past 8 s after that."""
    clock = SteppedClock(NOW)
    here = settlement(Journal(str(tmp_path / "new.sqlite")), clock, overlap_seconds=120.0)
    assert not here.knows_the_past()
    assert known_after_seconds(here, clock) == 128.0


def test_a_journal_is_proof_that_no_other_instance_runs(journal: Journal) -> None:
    """With a journal of this bot, old or not, nothing is waited for on account of another instance."""
    clock = SteppedClock(NOW + CURRENT_SECONDS + 1)
    assert known_after_seconds(settlement(journal, clock, overlap_seconds=120.0), clock) == 16.0


@pytest.mark.parametrize(("first", "seconds"), [(True, 128.0), (False, 16.0)])
def test_the_first_leader_of_a_store_may_not_be_the_only_instance(tmp_path: Path, first: bool, seconds: float) -> None:
    """Where nobody has led before, and there is no journal, an instance that knows of no store is given time to end."""
    clock = SteppedClock(NOW)
    here = settlement(Journal(str(tmp_path / "new.sqlite")), clock, overlap_seconds=120.0)
    here.take_over(clean=False, first=first)
    assert known_after_seconds(here, clock) == seconds


def test_the_first_leader_of_a_store_with_a_journal_waits_as_others_do(journal: Journal) -> None:
    """A store that has lost who led makes nobody wait longer whose journal is of this bot."""
    clock = SteppedClock(NOW)
    here = settlement(journal, clock, overlap_seconds=120.0)
    here.take_over(clean=False, first=True)
    assert known_after_seconds(here, clock) == 16.0

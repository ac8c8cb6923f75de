"""Leaving a position with a resting stop: each step for itself, and all of them with fills and crashes in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import pytest

from bot.trading.exit_policy import (
    Cancel,
    Done,
    Leave,
    PairFacts,
    PlaceStop,
    Protect,
    Role,
    Sell,
    Wait,
    WorkingOrder,
    next_step,
)
from tests.unit.exit_model import (
    LEAVE,
    MINIMUM,
    PROTECT,
    PROTECT_CLOSER,
    Bot,
    State,
    calm,
    is_bad,
    search,
    steps_until_done,
    trace,
)

FACTS = PairFacts(
    held=Decimal(5),
    free=Decimal(5),
    minimum=Decimal("0.1"),
    largest=Decimal(10),
    lot=Decimal("0.01"),
)
ALL = Leave(Decimal(5))
AT_90 = Protect(Decimal(90))
ENTRY = WorkingOrder("E", Role.ENTRY, Decimal(1), Decimal(100))
STOP = WorkingOrder("S", Role.STOP, Decimal(5), Decimal(90))
EXIT = WorkingOrder("X", Role.EXIT, Decimal(5), Decimal(99))
STOPPED = replace(FACTS, free=Decimal(0), working=(STOP,))

# One stop for all, with a price that moves; and stops in parts, where one may hold three of at most five coins.
ONE_STOP = Bot((LEAVE, PROTECT, PROTECT_CLOSER), largest=9)
PARTS = Bot((LEAVE, PROTECT), largest=3)


def with_stops(*quantities: str, **fields: object) -> PairFacts:
    """Return the facts with stops of these quantities resting at 90."""
    stops = [WorkingOrder(f"S{at}", Role.STOP, Decimal(one), Decimal(90)) for at, one in enumerate(quantities)]
    return replace(FACTS, working=tuple(stops), **fields)  # type: ignore[arg-type]  # the test names the fields


def test_leaving_goes_entries_then_stop_then_sale() -> None:
    """With an entry and a stop resting the entry is cancelled first, the stop next, and then all that is held sold."""
    assert next_step(replace(STOPPED, working=(STOP, ENTRY)), ALL) == Cancel(("E",))
    assert next_step(STOPPED, ALL) == Cancel(("S",))
    assert next_step(FACTS, ALL) == Sell(Decimal(5))
    assert next_step(replace(FACTS, held=Decimal(0)), ALL) == Done()


def test_what_the_stop_has_sold_is_not_sold_again() -> None:
    """After a stop of 5 that sold 3 before it was cancelled, 2 are sold; after one that sold all, nothing is."""
    assert next_step(replace(FACTS, held=Decimal(2)), ALL) == Sell(Decimal(2))
    assert next_step(replace(FACTS, held=Decimal(0)), ALL) == Done()


def test_an_order_in_neither_list_holds_up_everything_but_the_cancel_of_an_entry() -> None:
    """While a stop is neither open nor closed nothing is sold or protected, and a resting entry is still cancelled."""
    facts = replace(FACTS, working=(replace(STOP, is_open=False),))
    waiting = Wait("the stop S was accepted and is neither open nor closed yet")
    assert (next_step(facts, ALL), next_step(facts, AT_90)) == (waiting, waiting)
    assert next_step(replace(facts, working=(*facts.working, ENTRY)), ALL) == Cancel(("E",))


def test_a_stop_stays_while_the_fate_of_an_order_is_not_known() -> None:
    """With an unknown order no order is sent and no stop is cancelled, whatever is wanted."""
    facts = replace(STOPPED, unknown=True)
    waiting = Wait("the fate of an order is not known")
    assert (next_step(facts, ALL), next_step(facts, Protect(Decimal(95)))) == (waiting, waiting)


def test_an_exit_that_is_still_open_is_waited_for() -> None:
    """While an exit is open nothing more is sold and no stop is placed."""
    facts = replace(FACTS, working=(EXIT,))
    waiting = Wait("the exit X is still open")
    assert (next_step(facts, ALL), next_step(facts, AT_90)) == (waiting, waiting)


def test_what_is_below_the_minimum_is_neither_sold_nor_protected() -> None:
    """0.09 with a minimum of 0.1 is left alone, and so is the stop that holds it."""
    facts = replace(FACTS, held=Decimal("0.09"))
    assert (next_step(facts, ALL), next_step(facts, AT_90)) == (Done(), Done())
    stopped = replace(facts, working=(replace(STOP, left=Decimal("0.09")),))
    assert (next_step(stopped, ALL), next_step(stopped, AT_90)) == (Done(), Done())


def test_a_sale_of_a_part_leaves_the_rest() -> None:
    """Of 5 held 2 are sold where 2 are wanted, and a want below the minimum takes no stop away."""
    assert next_step(FACTS, Leave(Decimal(2))) == Sell(Decimal(2))
    assert next_step(STOPPED, Leave(Decimal("0.09"))) == Done()


def test_coins_that_orders_of_others_tie_up_are_not_sold() -> None:
    """With 1 of 5 free, 1 is sold; with none, the sale waits and the stop, which would free nothing else, stays."""
    assert next_step(replace(FACTS, free=Decimal(1)), ALL) == Sell(Decimal(1))
    waiting = Wait("the coins are tied up in orders that are not this bot's")
    assert next_step(replace(FACTS, free=Decimal(0)), ALL) == waiting
    assert next_step(replace(with_stops("0.05"), free=Decimal(0)), ALL) == waiting


def test_quantities_are_cut_to_the_lot_grid() -> None:
    """5.006 held are sold and protected as 5.00, and the 0.006 beside a stop of 5 does not have it replaced."""
    facts = replace(FACTS, held=Decimal("5.006"), free=Decimal("5.006"))
    assert next_step(facts, Leave(Decimal(9))) == Sell(Decimal("5.00"))
    assert next_step(facts, AT_90) == PlaceStop(Decimal("5.00"), Decimal(90))
    assert next_step(replace(facts, working=(STOP,)), AT_90) == Done()


def test_a_stop_is_placed_once_and_kept() -> None:
    """What is held gets a stop at the price wanted, and with that stop resting nothing is to be done."""
    assert next_step(FACTS, AT_90) == PlaceStop(Decimal(5), Decimal(90))
    assert next_step(STOPPED, AT_90) == Done()
    assert next_step(replace(STOPPED, working=(STOP, ENTRY)), AT_90) == Done()


@pytest.mark.parametrize(
    "facts",
    [
        replace(STOPPED, held=Decimal(6), free=Decimal(1)),
        replace(STOPPED, held=Decimal(4)),
        replace(STOPPED, held=Decimal(0)),
        replace(STOPPED, working=(replace(STOP, price=Decimal(89)),)),
    ],
    ids=["another entry filled", "coins are gone", "nothing is held", "another price"],
)
def test_a_stop_that_does_not_fit_is_cancelled(facts: PairFacts) -> None:
    """A stop over more or fewer coins than are held, or at another price, is cancelled, to be placed anew."""
    assert next_step(facts, AT_90) == Cancel(("S",))


def test_a_position_beyond_the_largest_order_gets_stops_in_equal_parts() -> None:
    """25 coins with at most 10 in a stop get 8.33, 8.33 and 8.34, and then nothing more is to be done."""
    facts = replace(FACTS, held=Decimal(25), free=Decimal(25))
    placed: list[str] = []
    while isinstance(step := next_step(with_stops(*placed, held=facts.held, free=facts.held), AT_90), PlaceStop):
        placed.append(str(step.quantity))
    assert (placed, step) == (["8.33", "8.33", "8.34"], Done())


def test_a_few_coins_more_join_the_smallest_stop_that_has_room() -> None:
    """Beside stops of 10 and 6, another 2 have the one of 6 replaced; another 5 get a stop of their own."""
    free = Decimal(9)
    assert next_step(with_stops("10", "6", held=Decimal(18), free=free), AT_90) == Cancel(("S1",))
    assert next_step(with_stops("10", "6", held=Decimal(21), free=free), AT_90) == PlaceStop(Decimal(5), Decimal(90))


@pytest.mark.parametrize("bot", [ONE_STOP, PARTS], ids=["one stop", "parts"])
def test_no_fill_and_no_crash_between_two_steps_sells_more_than_is_held(bot: Bot) -> None:
    """In every state there can be, the bot's open and unanswered sales together are at most what it holds; and from
    each, undisturbed, at most four steps lead to what is wanted."""
    reached = search(bot)
    bad = [state for state in reached if is_bad(state)]
    assert not bad, trace(reached, bad[0])
    assert len(reached) > 20_000
    calmed = {calm(state): state for state in reached}
    for after, before in calmed.items():
        for wanted in bot.wishes:
            end, steps = steps_until_done(after, wanted, bot, exit_fills=99)
            assert Done() in steps[:5], f"{steps}\n{trace(reached, before)}"
            assert _is_so(end, wanted, bot), f"{wanted} ends as {end} by {steps}\n{trace(reached, before)}"


def _is_so(state: State, wanted: object, bot: Bot) -> bool:
    stops = [row for row in state.rows if row.role == Role.STOP.value]
    entries = [row for row in state.rows if row.role == Role.ENTRY.value]
    if isinstance(wanted, Protect):
        bare = state.held - state.committed
        prices = {row.price for row in stops}
        return prices <= {int(wanted.stop_price)} and (bare == 0 or (bare < MINIMUM and _no_room(state, bot)))
    return not entries and (state.held < MINIMUM or wanted != LEAVE)


def _no_room(state: State, bot: Bot) -> bool:
    bare = state.held - state.committed
    return all(row.volume - row.filled + bare > bot.largest for row in state.rows if row.role == Role.STOP.value)


def test_an_exit_that_fills_coin_by_coin_is_gone_on_with() -> None:
    """Five coins of which each exit sells one are sold in four exits, down to what is below the minimum."""
    end, steps = steps_until_done(State(5, ()), LEAVE, ONE_STOP, exit_fills=1)
    assert [step.quantity for step in steps if isinstance(step, Sell)] == [5, 4, 3, 2]
    assert (end.held, steps[-1]) == (1, Done())


def _without_the_unlisted(facts: PairFacts) -> PairFacts:
    return replace(facts, working=tuple(order for order in facts.working if order.is_open))


def _without_the_unknown(facts: PairFacts) -> PairFacts:
    return replace(facts, unknown=False)


def _without_stops(facts: PairFacts) -> PairFacts:
    return replace(facts, working=tuple(order for order in facts.working if order.role is not Role.STOP))


@pytest.mark.parametrize("blind", [_without_the_unlisted, _without_the_unknown, _without_stops])
def test_each_fact_is_needed(blind: Callable[[PairFacts], PairFacts]) -> None:
    """A bot that takes an order in neither list for gone, an unknown one for not placed, or does not look for its
    stops, sells coins twice."""
    assert any(map(is_bad, search(replace(ONE_STOP, blind=blind))))

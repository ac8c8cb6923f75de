"""Exits from a position with a resting stop: each step alone, and all steps with fills and crashes in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import pytest

from bot.trading.exit_policy import (
    CancelOrders,
    Done,
    ExitPosition,
    OrderRole,
    PairState,
    PlaceStop,
    ProtectPosition,
    Sell,
    Wait,
    WorkingOrder,
    next_step,
)
from tests.unit.exit_model import (
    EXIT,
    MINIMUM,
    ONLY_ADD,
    PROTECT,
    PROTECT_HIGHER,
    ModelBot,
    ModelState,
    decide,
    is_bad,
    quiesce,
    search,
    steps_until_done,
    trace,
)

PAIR_STATE = PairState(
    held_quantity=Decimal(5),
    free_quantity=Decimal(5),
    min_quantity=Decimal("0.1"),
    max_stop_quantity=Decimal(10),
    lot_size=Decimal("0.01"),
)
EXIT_ALL = ExitPosition(Decimal(5))
PROTECT_AT_90 = ProtectPosition(Decimal(90))
ENTRY = WorkingOrder("E", OrderRole.ENTRY, Decimal(1), Decimal(100))
STOP = WorkingOrder("S", OrderRole.STOP, Decimal(5), Decimal(90))
EXIT_ORDER = WorkingOrder("X", OrderRole.EXIT, Decimal(5), Decimal(99))
PROTECTED = replace(PAIR_STATE, free_quantity=Decimal(0), working_orders=(STOP,))

# One stop for everything, with a moving price; and several stops, with at most three of five coins in one stop.
ONE_STOP = ModelBot((EXIT, PROTECT, PROTECT_HIGHER), max_stop_quantity=9)
PARTS = ModelBot((EXIT, PROTECT), max_stop_quantity=3)
# A bot that is halted from time to time, in all its states.
HALTED = ModelBot((EXIT, PROTECT, ONLY_ADD), max_stop_quantity=9)


def with_stops(*quantities: str, **fields: object) -> PairState:
    """Return the pair state with stops of these quantities at 90."""
    stops = [
        WorkingOrder(f"S{index}", OrderRole.STOP, Decimal(quantity), Decimal(90))
        for index, quantity in enumerate(quantities)
    ]
    return replace(PAIR_STATE, working_orders=tuple(stops), **fields)  # type: ignore[arg-type]  # the test names the fields


def test_an_exit_cancels_entries_then_the_stop_then_sells() -> None:
    """With an entry and a stop open, the entry is canceled first, then the stop, and then everything held is sold."""
    assert next_step(replace(PROTECTED, working_orders=(STOP, ENTRY)), EXIT_ALL) == CancelOrders(("E",))
    assert next_step(PROTECTED, EXIT_ALL) == CancelOrders(("S",))
    assert next_step(PAIR_STATE, EXIT_ALL) == Sell(Decimal(5))
    assert next_step(replace(PAIR_STATE, held_quantity=Decimal(0)), EXIT_ALL) == Done()


def test_coins_the_stop_sold_are_not_sold_again() -> None:
    """After a stop of 5 that sold 3 before it was canceled, 2 are sold; after one that sold all, nothing is sold."""
    assert next_step(replace(PAIR_STATE, held_quantity=Decimal(2)), EXIT_ALL) == Sell(Decimal(2))
    assert next_step(replace(PAIR_STATE, held_quantity=Decimal(0)), EXIT_ALL) == Done()


def test_an_unlisted_order_blocks_every_step_except_canceling_an_entry() -> None:
    """While a stop is neither open nor closed nothing is sold or protected, but a resting entry is canceled."""
    state = replace(PAIR_STATE, working_orders=(replace(STOP, is_open=False),))
    wait = Wait("the stop S was accepted and is neither open nor closed yet")
    assert (next_step(state, EXIT_ALL), next_step(state, PROTECT_AT_90)) == (wait, wait)
    assert next_step(replace(state, working_orders=(*state.working_orders, ENTRY)), EXIT_ALL) == CancelOrders(("E",))


def test_a_stop_is_kept_while_an_order_outcome_is_unknown() -> None:
    """With an unknown order no order is sent and no stop is canceled, whatever the goal is."""
    state = replace(PROTECTED, has_unknown_order=True)
    wait = Wait("the outcome of an order is not known")
    assert (next_step(state, EXIT_ALL), next_step(state, ProtectPosition(Decimal(95)))) == (wait, wait)


def test_an_open_exit_blocks_further_steps() -> None:
    """While an exit is open nothing more is sold and no stop is placed."""
    state = replace(PAIR_STATE, working_orders=(EXIT_ORDER,))
    wait = Wait("the exit X is still open")
    assert (next_step(state, EXIT_ALL), next_step(state, PROTECT_AT_90)) == (wait, wait)


def test_a_quantity_below_the_minimum_is_neither_sold_nor_protected() -> None:
    """0.09 with a minimum of 0.1 is neither sold nor protected, and its stop is not canceled."""
    state = replace(PAIR_STATE, held_quantity=Decimal("0.09"))
    assert (next_step(state, EXIT_ALL), next_step(state, PROTECT_AT_90)) == (Done(), Done())
    stopped = replace(state, working_orders=(replace(STOP, remaining=Decimal("0.09")),))
    assert (next_step(stopped, EXIT_ALL), next_step(stopped, PROTECT_AT_90)) == (Done(), Done())


def test_a_partial_exit_keeps_the_rest() -> None:
    """Of 5 held, 2 are sold if 2 are requested; a request below the minimum cancels no stop."""
    assert next_step(PAIR_STATE, ExitPosition(Decimal(2))) == Sell(Decimal(2))
    assert next_step(PROTECTED, ExitPosition(Decimal("0.09"))) == Done()


def test_coins_held_by_external_orders_are_not_sold() -> None:
    """With 1 of 5 free, 1 is sold; with none, the sale waits, and a stop whose cancel would free nothing else stays."""
    assert next_step(replace(PAIR_STATE, free_quantity=Decimal(1)), EXIT_ALL) == Sell(Decimal(1))
    wait = Wait("the coins are tied up in orders that are not this bot's")
    assert next_step(replace(PAIR_STATE, free_quantity=Decimal(0)), EXIT_ALL) == wait
    assert next_step(replace(with_stops("0.05"), free_quantity=Decimal(0)), EXIT_ALL) == wait


def test_quantities_are_rounded_down_to_the_lot_size() -> None:
    """5.006 held are sold and protected as 5.00; the 0.006 beside a stop of 5 does not cause its replacement."""
    state = replace(PAIR_STATE, held_quantity=Decimal("5.006"), free_quantity=Decimal("5.006"))
    assert next_step(state, ExitPosition(Decimal(9))) == Sell(Decimal("5.00"))
    assert next_step(state, PROTECT_AT_90) == PlaceStop(Decimal("5.00"), Decimal(90))
    assert next_step(replace(state, working_orders=(STOP,)), PROTECT_AT_90) == Done()


def test_a_stop_is_placed_once_and_kept() -> None:
    """A position gets a stop at the requested price; with that stop resting there is nothing to do."""
    assert next_step(PAIR_STATE, PROTECT_AT_90) == PlaceStop(Decimal(5), Decimal(90))
    assert next_step(PROTECTED, PROTECT_AT_90) == Done()
    assert next_step(replace(PROTECTED, working_orders=(STOP, ENTRY)), PROTECT_AT_90) == Done()


@pytest.mark.parametrize(
    "state",
    [
        replace(PROTECTED, held_quantity=Decimal(6), free_quantity=Decimal(1)),
        replace(PROTECTED, held_quantity=Decimal(4)),
        replace(PROTECTED, held_quantity=Decimal(0)),
        replace(PROTECTED, working_orders=(replace(STOP, price=Decimal(89)),)),
    ],
    ids=["another entry filled", "coins are gone", "nothing is held", "another price"],
)
def test_a_mismatched_stop_is_canceled(state: PairState) -> None:
    """A stop with a quantity or price that differs from the goal is canceled, to be replaced."""
    assert next_step(state, PROTECT_AT_90) == CancelOrders(("S",))


def test_a_position_above_the_max_stop_quantity_gets_equal_stops() -> None:
    """25 coins with at most 10 in a stop get 8.33, 8.33 and 8.34; then there is nothing to do."""
    state = replace(PAIR_STATE, held_quantity=Decimal(25), free_quantity=Decimal(25))
    placed: list[str] = []
    while isinstance(
        step := next_step(
            with_stops(*placed, held_quantity=state.held_quantity, free_quantity=state.held_quantity), PROTECT_AT_90
        ),
        PlaceStop,
    ):
        placed.append(str(step.quantity))
    assert (placed, step) == (["8.33", "8.33", "8.34"], Done())


def test_additional_coins_are_merged_into_the_smallest_stop_with_room() -> None:
    """Beside stops of 10 and 6, another 2 coins replace the stop of 6; another 5 get their own stop."""
    free = Decimal(9)
    assert next_step(
        with_stops("10", "6", held_quantity=Decimal(18), free_quantity=free), PROTECT_AT_90
    ) == CancelOrders(("S1",))
    assert next_step(with_stops("10", "6", held_quantity=Decimal(21), free_quantity=free), PROTECT_AT_90) == PlaceStop(
        Decimal(5), Decimal(90)
    )


def test_no_maximum_keeps_coins_from_a_stop() -> None:
    """With at most 0.15 in a stop and a minimum of 0.1, 0.19 coins have one stop, and 0.09 more coins join it."""
    most = Decimal("0.15")
    state = replace(PAIR_STATE, held_quantity=Decimal("0.19"), max_stop_quantity=most)
    assert next_step(state, PROTECT_AT_90) == PlaceStop(Decimal("0.19"), Decimal(90))
    more = with_stops("0.15", held_quantity=Decimal("0.24"), max_stop_quantity=most)
    assert next_step(more, PROTECT_AT_90) == CancelOrders(("S0",))


@pytest.mark.parametrize("bot", [ONE_STOP, PARTS], ids=["one stop", "parts"])
def test_fills_and_crashes_between_steps_never_sell_more_than_is_held(bot: ModelBot) -> None:
    """In every reachable state the bot's open and unanswered sales together are at most what it holds, and from each
    state, undisturbed, at most four steps reach the goal."""
    reached = search(bot)
    bad = [state for state in reached if is_bad(state)]
    assert not bad, trace(reached, bad[0])
    assert len(reached) > 20_000
    quiesced = {quiesce(state): state for state in reached}
    for quiet_state, reached_state in quiesced.items():
        for goal in bot.goals:
            end, steps = steps_until_done(quiet_state, goal, bot, exit_fills=99)
            assert Done() in steps[:5], f"{steps}\n{trace(reached, reached_state)}"
            assert _is_goal_reached(end, goal, bot), f"{goal} ends as {end} by {steps}\n{trace(reached, reached_state)}"


def test_a_halt_between_steps_cancels_nothing_and_never_sells_more_than_is_held() -> None:
    """A bot that may be halted at any time never sells more than it holds; halted, it cancels and sells nothing in
    any state, and leaves less than the minimum without a stop."""
    reached = search(HALTED)
    bad = [state for state in reached if is_bad(state)]
    assert not bad, trace(reached, bad[0])
    for state in reached:
        step = decide(state, ONLY_ADD, HALTED)
        assert isinstance(step, PlaceStop | Wait | Done), f"{step}\n{trace(reached, state)}"
    for quiet_state in {quiesce(state) for state in reached}:
        end, steps = steps_until_done(quiet_state, ONLY_ADD, HALTED, exit_fills=99)
        assert Done() in steps[:3]
        assert end.held - end.committed < MINIMUM


def _is_goal_reached(state: ModelState, goal: object, bot: ModelBot) -> bool:
    stops = [order for order in state.orders if order.role == OrderRole.STOP.value]
    entries = [order for order in state.orders if order.role == OrderRole.ENTRY.value]
    if isinstance(goal, ProtectPosition):
        unprotected = state.held - state.committed
        prices = {order.price for order in stops}
        return prices <= {int(goal.stop_price)} and (
            unprotected == 0 or (unprotected < MINIMUM and _no_stop_has_room(state, bot))
        )
    return not entries and (state.held < MINIMUM or goal != EXIT)


def _no_stop_has_room(state: ModelState, bot: ModelBot) -> bool:
    unprotected = state.held - state.committed
    return all(
        order.volume - order.filled + unprotected > bot.max_stop_quantity
        for order in state.orders
        if order.role == OrderRole.STOP.value
    )


def test_a_partially_filled_exit_is_continued() -> None:
    """Five coins of which each exit sells one are sold in four exits, down to the quantity below the minimum."""
    end, steps = steps_until_done(ModelState(5, ()), EXIT, ONE_STOP, exit_fills=1)
    assert [step.quantity for step in steps if isinstance(step, Sell)] == [5, 4, 3, 2]
    assert (end.held, steps[-1]) == (1, Done())


def _ignore_unlisted_orders(state: PairState) -> PairState:
    return replace(state, working_orders=tuple(order for order in state.working_orders if order.is_open))


def _ignore_unknown_order(state: PairState) -> PairState:
    return replace(state, has_unknown_order=False)


def _ignore_stops(state: PairState) -> PairState:
    return replace(
        state, working_orders=tuple(order for order in state.working_orders if order.role is not OrderRole.STOP)
    )


@pytest.mark.parametrize("bot", [ONE_STOP, HALTED], ids=["one stop", "halted"])
@pytest.mark.parametrize("filter_state", [_ignore_unlisted_orders, _ignore_unknown_order, _ignore_stops])
def test_ignoring_any_part_of_the_pair_state_sells_coins_twice(
    filter_state: Callable[[PairState], PairState], bot: ModelBot
) -> None:
    """A bot that treats an unlisted order as closed, an unknown order as not placed, or ignores its stops sells coins
    twice."""
    assert any(map(is_bad, search(replace(bot, filter_state=filter_state))))

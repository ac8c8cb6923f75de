"""A model of one pair, the exchange and a bot that follows bot/trading/exit_policy.py, for an exhaustive search.

Quantities are whole numbers of coins; the minimum order is two coins. The account also holds many coins that are not
the bot's, so the exchange never refuses a sale for lack of coins: only the exit policy prevents the bot from selling
them. Between two steps of the bot, its orders may fill by one coin or completely, order records may appear late,
cancels and orders may be delayed or lost without an answer, and the bot may crash and forget everything except its
journaled orders. The bot reads the two order lists one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache

from bot.trading.exit_policy import (
    CancelOrders,
    Done,
    ExitGoal,
    ExitPosition,
    ExitStep,
    OrderRole,
    PairState,
    PlaceStop,
    ProtectPosition,
    Sell,
    Wait,
    WorkingOrder,
    next_step,
)

MINIMUM = 2
EXTERNAL_QUANTITY = 100
EXIT = ExitPosition(Decimal(99))
PROTECT = ProtectPosition(Decimal(90))
PROTECT_HIGHER = ProtectPosition(Decimal(95))
ONLY_ADD = ProtectPosition(Decimal(95), only_add=True)


@dataclass(frozen=True, slots=True, order=True)
class ModelOrder:
    """An order at the exchange whose final record the bot has not read; `known_filled` is what the bot knows of
    `filled`.

    An order that is not `is_listed` is in neither list, because it was accepted or closed a moment ago.
    """

    number: int
    role: str
    price: int
    volume: int
    filled: int = 0
    known_filled: int = 0
    is_open: bool = True
    is_listed: bool = False

    @property
    def sign(self) -> int:
        return 1 if self.role == OrderRole.ENTRY.value else -1


@dataclass(frozen=True, slots=True)
class ModelState:
    """`closed_quantity` is the sum of all orders that the bot knows are final. `listed_open` is the last OpenOrders
    answer, or None before it.

    `pending_step` is a step that the bot has decided and not yet executed. `unknown_order` was sent and not answered,
    and `is_unknown_in_flight` says whether it can still arrive. Each of `cancels_in_flight` may still arrive once, or
    never.
    """

    closed_quantity: int
    orders: tuple[ModelOrder, ...]
    listed_open: frozenset[int] | None = None
    pending_step: ExitStep | None = None
    unknown_order: ModelOrder | None = None
    is_unknown_in_flight: bool = False
    cancels_in_flight: frozenset[int] = frozenset()

    @property
    def held(self) -> int:
        return self.closed_quantity + sum(order.sign * order.filled for order in self.orders)

    @property
    def committed(self) -> int:
        """The quantity that the bot's orders may still sell, including orders that have not arrived yet."""
        in_flight = (
            self.unknown_order.volume
            if self.unknown_order and self.is_unknown_in_flight and self.unknown_order.sign < 0
            else 0
        )
        return in_flight + sum(order.volume - order.filled for order in self.orders if order.sign < 0 and order.is_open)


@dataclass(frozen=True, slots=True)
class ModelBot:
    """The bot's decisions: the goals it alternates between, the maximum quantity of one stop, and a filter on the pair
    state."""

    goals: tuple[ExitGoal, ...]
    max_stop_quantity: int
    filter_state: Callable[[PairState], PairState] = lambda state: state


def transitions(state: ModelState, bot: ModelBot) -> Iterator[tuple[str, ModelState]]:
    """Return every possible next state with the name of its transition."""
    for order in state.orders:
        for filled in _fills(order):
            yield f"{order.role} {order.number} fills {filled}", _with_order(state, _filled(order, filled))
        if not order.is_listed:
            yield f"{order.role} {order.number} is listed", _with_order(state, replace(order, is_listed=True))
    for number in state.cancels_in_flight:
        yield f"the cancel of {number} arrives", _canceled(state, number)
        yield f"the cancel of {number} is lost", replace(state, cancels_in_flight=state.cancels_in_flight - {number})
    yield from _unknown_order_transitions(state)
    if state.pending_step is not None or state.listed_open is not None:
        yield "crash", replace(state, pending_step=None, listed_open=None)
    if state.pending_step is not None:
        yield from _step_transitions(state, state.pending_step)
    elif state.listed_open is None:
        yield "OpenOrders", _read_open(state)
    else:
        for goal in bot.goals:
            step = decide(read_closed(state), goal, bot)
            yield (
                f"ClosedOrders; {goal}: {step}",
                replace(read_closed(state), listed_open=None, pending_step=_pending_action(step)),
            )


def decide(state: ModelState, goal: ExitGoal, bot: ModelBot) -> ExitStep:
    """Return the exit step for what the bot has read."""
    known_held = state.closed_quantity + sum(order.sign * order.known_filled for order in state.orders)
    listed_open = state.listed_open or frozenset()
    orders = tuple(
        (order.number, order.role, order.volume - order.known_filled, order.price, order.number in listed_open)
        for order in state.orders
    )
    return _decide(known_held, orders, state.unknown_order is not None, goal, bot)


@cache
def _decide(
    known_held: int,
    orders: tuple[tuple[int, str, int, int, bool], ...],
    has_unknown_order: bool,
    goal: ExitGoal,
    bot: ModelBot,
) -> ExitStep:
    working_orders = tuple(
        WorkingOrder(str(number), OrderRole(role), Decimal(remaining), Decimal(price), is_open)
        for number, role, remaining, price, is_open in orders
    )
    pair_state = PairState(
        held_quantity=Decimal(known_held),
        free_quantity=Decimal(EXTERNAL_QUANTITY),
        min_quantity=Decimal(MINIMUM),
        max_stop_quantity=Decimal(bot.max_stop_quantity),
        lot_size=Decimal(1),
        working_orders=working_orders,
        has_unknown_order=has_unknown_order,
    )
    return next_step(bot.filter_state(pair_state), goal)


def _pending_action(step: ExitStep) -> ExitStep | None:
    return None if isinstance(step, Done | Wait) else step


def _read_open(state: ModelState) -> ModelState:
    orders = tuple(
        replace(order, known_filled=order.filled) if order.is_open and order.is_listed else order
        for order in state.orders
    )
    return replace(
        state,
        orders=orders,
        listed_open=frozenset(order.number for order in orders if order.is_open and order.is_listed),
    )


def read_closed(state: ModelState) -> ModelState:
    """Let the bot read the final records that are listed: these orders are closed."""
    closed_orders = [order for order in state.orders if not order.is_open and order.is_listed]
    return replace(
        state,
        closed_quantity=state.closed_quantity + sum(order.sign * order.filled for order in closed_orders),
        orders=tuple(order for order in state.orders if order not in closed_orders),
        cancels_in_flight=state.cancels_in_flight - {order.number for order in closed_orders},
    )


def _fills(order: ModelOrder) -> set[int]:
    remaining = order.volume - order.filled
    return {1, remaining} if order.is_open and remaining else set()


def _filled(order: ModelOrder, quantity: int) -> ModelOrder:
    filled = order.filled + quantity
    # An order that closes is in neither list for a while.
    return (
        replace(order, filled=filled)
        if filled < order.volume
        else replace(order, filled=filled, is_open=False, is_listed=False)
    )


def _with_order(state: ModelState, order: ModelOrder) -> ModelState:
    other_orders = [other for other in state.orders if other.number != order.number]
    return replace(state, orders=tuple(sorted([*other_orders, order])))


def _canceled(state: ModelState, number: int) -> ModelState:
    state = replace(state, cancels_in_flight=state.cancels_in_flight - {number})
    order = next((order for order in state.orders if order.number == number and order.is_open), None)
    return _with_order(state, replace(order, is_open=False, is_listed=False)) if order else state


def _unknown_order_transitions(state: ModelState) -> Iterator[tuple[str, ModelState]]:
    if state.unknown_order is None:
        return
    if not state.is_unknown_in_flight:
        yield "the unknown order is reconciled", replace(state, unknown_order=None)
        return
    yield "the unknown order is lost", replace(state, is_unknown_in_flight=False)
    for arrived_order in arrivals(state.unknown_order):
        yield "the unknown order arrives", _with_order(replace(state, is_unknown_in_flight=False), arrived_order)


def arrivals(order: ModelOrder) -> list[ModelOrder]:
    """Return the possible states of an order on arrival: a stop stays open, and the unfilled rest of an exit is
    canceled."""
    if order.role == OrderRole.STOP.value:
        return [order]
    return [replace(order, filled=filled, is_open=False) for filled in {0, 1, order.volume}]


def _step_transitions(state: ModelState, step: ExitStep) -> Iterator[tuple[str, ModelState]]:
    after_step = replace(state, pending_step=None)
    if isinstance(step, CancelOrders):
        numbers = frozenset(map(int, step.txids))
        after_cancels = after_step
        for number in numbers:
            after_cancels = _canceled(after_cancels, number)
        yield "the cancels are done", after_cancels
        yield "the cancels are not answered", replace(after_step, cancels_in_flight=state.cancels_in_flight | numbers)
        return
    order = order_for_step(state, step)
    yield "the order is refused", after_step
    yield "the order is not answered", replace(after_step, unknown_order=order, is_unknown_in_flight=True)
    for arrived_order in arrivals(order):
        yield "the order is accepted", _with_order(after_step, arrived_order)


def order_for_step(state: ModelState, step: ExitStep) -> ModelOrder:
    """Return the order that a step places, with a number that no existing order has."""
    number = next(number for number in range(99) if number not in {order.number for order in state.orders})
    match step:
        case Sell(quantity):
            return ModelOrder(number, OrderRole.EXIT.value, 0, int(quantity))
        case PlaceStop(quantity, price):
            return ModelOrder(number, OrderRole.STOP.value, int(price), int(quantity))
        case _:
            raise AssertionError(f"{step} is no order")


def initial_states() -> list[ModelState]:
    """Return the initial states: a held quantity, and either no entry or one that was just accepted."""
    entry = ModelOrder(0, OrderRole.ENTRY.value, 100, 2)
    return [ModelState(held_quantity, orders) for held_quantity in range(4) for orders in ((), (entry,))]


def search(bot: ModelBot) -> dict[ModelState, tuple[ModelState, str] | None]:
    """Return every reachable state with its predecessor and transition; stop at the first bad state."""
    predecessors: dict[ModelState, tuple[ModelState, str] | None] = dict.fromkeys(initial_states())
    frontier = list(predecessors)
    while frontier:
        next_frontier = []
        for state in frontier:
            for name, after in transitions(state, bot):
                if after not in predecessors:
                    predecessors[after] = (state, name)
                    next_frontier.append(after)
                    if is_bad(after):
                        return predecessors
        frontier = next_frontier
    return predecessors


def is_bad(state: ModelState) -> bool:
    """Whether the bot's open orders may sell more than it holds; this includes a stop without coins to sell."""
    return state.committed > state.held


def trace(predecessors: dict[ModelState, tuple[ModelState, str] | None], state: ModelState) -> str:
    """Return the transitions that lead to a state, one per line."""
    lines = [str(state)]
    while (predecessor := predecessors[state]) is not None:
        state, name = predecessor
        lines.append(name)
    return "\n".join(reversed([*lines, str(state)]))


def quiesce(state: ModelState) -> ModelState:
    """Return the state after everything in flight has ended, every record is listed, and the bot has restarted."""
    orders = tuple(replace(order, is_listed=True) for order in state.orders)
    return ModelState(state.closed_quantity, orders)


def steps_until_done(
    state: ModelState, goal: ExitGoal, bot: ModelBot, exit_fills: int
) -> tuple[ModelState, list[ExitStep]]:
    """Let the bot work undisturbed, with each exit filling `exit_fills` coins; return the final state and at most 20
    steps."""
    steps: list[ExitStep] = []
    while len(steps) < 20:
        state = read_closed(_read_open(state))
        step = decide(state, goal, bot)
        steps.append(step)
        state = replace(state, listed_open=None)
        if isinstance(step, Done):
            break
        if isinstance(step, CancelOrders):
            for txid in step.txids:
                state = _canceled(state, int(txid))
        elif not isinstance(step, Wait):
            order = order_for_step(state, step)
            filled = min(exit_fills, order.volume) if order.role == OrderRole.EXIT.value else 0
            state = _with_order(state, replace(order, filled=filled, is_open=order.role == OrderRole.STOP.value))
        state = quiesce(state)
    return state, steps

"""The exit from a position that a resting stop protects, as one state machine. Pure: state in, next step out.

Nothing is stored between steps. Every cycle reads the state again (Kraken's order records, the journal, the balance),
so a crash or a fill between any two steps makes no difference: the machine continues from the current state. Its rules:

- an order with a cancel request counts as working until its final record is seen: it may have filled, in part or in
  full, whatever the answer to the cancel was. While Kraken lists it as open it is canceled again, which does no harm;
  so it does not matter whether the first cancel arrived, or whether anybody remembers it;
- coins are sold only while no own sell order may still fill, so no coin is sold twice;
- the stop is canceled last, when nothing else is open any more, so the coins are unprotected for two requests only.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_DOWN, Decimal
from enum import Enum

from bot.base.models import ZERO


class OrderRole(Enum):
    """The purpose of an own order."""

    ENTRY = "entry"
    STOP = "stop"
    EXIT = "exit"


@dataclass(frozen=True, slots=True)
class WorkingOrder:
    """An own order of the pair that Kraken has accepted and whose final record has not been seen.

    `remaining` is the quantity that it may still fill and `price` its limit or trigger. `is_open`: it was in the last
    answer of OpenOrders; if not, it is in neither list.
    """

    txid: str
    role: OrderRole
    remaining: Decimal
    price: Decimal
    is_open: bool = True


@dataclass(frozen=True, slots=True)
class PairState:
    """The known state of a pair. Quantities are in base units.

    `held_quantity` is what the bot bought and has not sold, by its own fills; `free_quantity` is the account's quantity
    of the coin that no open order reserves. `min_quantity` is the smallest sale, and a stop exceeds
    `max_stop_quantity` by at most that; `lot_size` is the step of quantities. `has_unknown_order`: the outcome of an
    order of the pair is unknown.
    """

    held_quantity: Decimal
    free_quantity: Decimal
    min_quantity: Decimal
    max_stop_quantity: Decimal
    lot_size: Decimal
    working_orders: tuple[WorkingOrder, ...] = ()
    has_unknown_order: bool = False


@dataclass(frozen=True, slots=True)
class ProtectPosition:
    """Keep stops on the managed position, at a trigger price that is a multiple of the tick. Entries stay open.

    `only_add`: cancel nothing, and place stops only for what no stop protects.
    """

    stop_price: Decimal
    only_add: bool = False


@dataclass(frozen=True, slots=True)
class ExitPosition:
    """Sell this quantity of the managed position at once; a quantity above the position is ignored."""

    quantity: Decimal


@dataclass(frozen=True, slots=True)
class CancelOrders:
    """Cancel these orders, whatever the answers; their records will show what became of them."""

    txids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing until the state has changed; the reason is for a person."""

    reason: str


@dataclass(frozen=True, slots=True)
class Sell:
    """Sell this quantity now."""

    quantity: Decimal


@dataclass(frozen=True, slots=True)
class PlaceStop:
    """Place one stop."""

    quantity: Decimal
    price: Decimal


@dataclass(frozen=True, slots=True)
class Done:
    """The goal is reached, or as nearly as the pair's minimum allows."""


def next_part(quantity: Decimal, minimum: Decimal, maximum: Decimal, lot_size: Decimal) -> Decimal:
    """Return the quantity of the next order of a sale: as few orders as `maximum` allows, and none below `minimum`.

    So a part may exceed `maximum`, by at most one `minimum`: the last part takes the rest.
    """
    fewest = (quantity / maximum).to_integral_value(rounding=ROUND_CEILING)
    count = max(Decimal(1), min(fewest, quantity // minimum))
    return _round_down(min(quantity / count, maximum + minimum), lot_size)


ExitGoal = ProtectPosition | ExitPosition
ExitStep = CancelOrders | Wait | Sell | PlaceStop | Done


def next_step(state: PairState, goal: ExitGoal) -> ExitStep:
    """Return the one step to take now towards the goal."""
    match goal:
        case ProtectPosition(stop_price, only_add):
            return _wait_if_unresolved(state) or _protect_position(state, stop_price, only_add=only_add)
        case ExitPosition(quantity):
            return _cancel_entries(state) or _wait_if_unresolved(state) or _exit_position(state, quantity)


def _cancel_entries(state: PairState) -> CancelOrders | None:
    entries = [order for order in state.working_orders if order.role is OrderRole.ENTRY and order.is_open]
    return _cancel_orders(entries) if entries else None


def _wait_if_unresolved(state: PairState) -> Wait | None:
    """Return what has to be known first: until then no order is sent, and no stop is canceled."""
    if state.has_unknown_order:
        return Wait("the outcome of an order is not known")
    for order in state.working_orders:
        if not order.is_open:
            return Wait(f"the {order.role.value} {order.txid} was accepted and is neither open nor closed yet")
        if order.role is OrderRole.EXIT:
            return Wait(f"the exit {order.txid} is still open")
    return None


def _exit_position(state: PairState, quantity: Decimal) -> ExitStep:
    stops = _stop_orders(state)
    target = _round_down(min(quantity, state.held_quantity), state.lot_size)
    if target < state.min_quantity:
        return Done()
    # The coins of a stop are free as soon as it is canceled.
    sellable = _round_down(min(target, state.free_quantity + _total_remaining(stops)), state.lot_size)
    if sellable < state.min_quantity:
        return Wait("the coins are tied up in orders that are not this bot's")
    return _cancel_orders(stops) if stops else Sell(sellable)


def _protect_position(state: PairState, stop_price: Decimal, *, only_add: bool) -> ExitStep:
    stops = _stop_orders(state)
    covered = _total_remaining(stops)
    mismatched = stops if covered > state.held_quantity else [stop for stop in stops if stop.price != stop_price]
    if mismatched and not only_add:
        return _cancel_orders(mismatched)
    unprotected = _round_down(min(state.held_quantity - covered, state.free_quantity), state.lot_size)
    if unprotected <= 0:
        return Done()
    # One stop for the whole position if one may hold it; a larger position has several. Coins that are too few for a
    # stop of their own join another one.
    max_quantity = state.max_stop_quantity + (state.min_quantity if unprotected < state.min_quantity else ZERO)
    extendable = [stop for stop in stops if state.min_quantity <= stop.remaining + unprotected <= max_quantity]
    if extendable and not only_add:
        return _cancel_orders([min(extendable, key=lambda stop: (stop.remaining, stop.txid))])
    part_quantity = next_part(unprotected, state.min_quantity, state.max_stop_quantity, state.lot_size)
    return PlaceStop(part_quantity, stop_price) if part_quantity >= state.min_quantity else Done()


def _round_down(quantity: Decimal, lot_size: Decimal) -> Decimal:
    return (quantity / lot_size).to_integral_value(rounding=ROUND_DOWN) * lot_size


def _stop_orders(state: PairState) -> list[WorkingOrder]:
    return [order for order in state.working_orders if order.role is OrderRole.STOP]


def _total_remaining(orders: list[WorkingOrder]) -> Decimal:
    return sum((order.remaining for order in orders), ZERO)


def _cancel_orders(orders: list[WorkingOrder]) -> CancelOrders:
    return CancelOrders(tuple(order.txid for order in orders))

"""Leaving a position that a resting stop protects, as one state machine. Pure: facts go in, the next step comes out.

Nothing is stored between steps. Every pass reads the facts again (Kraken's rows, the journal, the balance), so that
a crash between any two steps, and a fill between any two steps, are the same as none: the machine goes on from what
is true now. What it rests on:

- an order that was asked to be cancelled counts as working until its final row is seen: it may have filled, in part
  or wholly, whatever the answer to the cancel was. While Kraken lists it as open it is cancelled again, which harms
  nothing; so it does not matter whether the first cancel arrived, or whether anybody remembers it;
- coins are sold only while no own order that sells may still fill, so no coin is sold twice;
- the stop is taken away last, when nothing else is open any more, so that the coins lie bare for two requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_DOWN, Decimal
from enum import Enum

from bot.base.models import ZERO


class Role(Enum):
    """What an own order is for."""

    ENTRY = "entry"
    STOP = "stop"
    EXIT = "exit"


@dataclass(frozen=True, slots=True)
class WorkingOrder:
    """An own order of the pair that Kraken has accepted and whose final row has not been seen.

    `left` is what it may still fill and `price` its limit or trigger. `is_open`: it was in the last answer of
    OpenOrders; if not, it is in neither list.
    """

    txid: str
    role: Role
    left: Decimal
    price: Decimal
    is_open: bool = True


@dataclass(frozen=True, slots=True)
class PairFacts:
    """What is known of a pair. Quantities are in base units.

    `held` is what the bot bought and has not sold, by its own fills; `free` is what the account has of the coin and
    no open order ties up. `minimum` is the least that can be sold and `largest` the most that one stop may hold;
    `lot` is the step of quantities. `unknown`: the fate of an order of the pair is not known.
    """

    held: Decimal
    free: Decimal
    minimum: Decimal
    largest: Decimal
    lot: Decimal
    working: tuple[WorkingOrder, ...] = ()
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class Protect:
    """Keep stops on what is held, at a trigger price on the tick grid. Entries go on resting."""

    stop_price: Decimal


@dataclass(frozen=True, slots=True)
class Leave:
    """Sell so much of what is held, at once; what is more than held is ignored."""

    quantity: Decimal


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel these orders, whatever they answer; what became of them, the rows will tell."""

    txids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing until the facts have changed; the reason is for a person."""

    reason: str


@dataclass(frozen=True, slots=True)
class Sell:
    """Sell so much now."""

    quantity: Decimal


@dataclass(frozen=True, slots=True)
class PlaceStop:
    """Place one stop."""

    quantity: Decimal
    price: Decimal


@dataclass(frozen=True, slots=True)
class Done:
    """What is wanted is so, or as near to it as the pair's minimum allows."""


Wanted = Protect | Leave
Step = Cancel | Wait | Sell | PlaceStop | Done


def next_step(facts: PairFacts, wanted: Wanted) -> Step:
    """Return the one step to take now towards what is wanted."""
    match wanted:
        case Protect(stop_price):
            return _waiting(facts) or _protect(facts, stop_price)
        case Leave(quantity):
            return _without_entries(facts) or _waiting(facts) or _leave(facts, quantity)


def _without_entries(facts: PairFacts) -> Cancel | None:
    entries = [order for order in facts.working if order.role is Role.ENTRY and order.is_open]
    return _cancel(entries) if entries else None


def _waiting(facts: PairFacts) -> Wait | None:
    """Say what has to be known first: until then no order is sent, and no stop is taken away."""
    if facts.unknown:
        return Wait("the fate of an order is not known")
    for order in facts.working:
        if not order.is_open:
            return Wait(f"the {order.role.value} {order.txid} was accepted and is neither open nor closed yet")
        if order.role is Role.EXIT:
            return Wait(f"the exit {order.txid} is still open")
    return None


def _leave(facts: PairFacts, quantity: Decimal) -> Step:
    stops = _stops(facts)
    wanted = _on_grid(min(quantity, facts.held), facts)
    if wanted < facts.minimum:
        return Done()
    # The coins of a stop are free as soon as it is gone.
    sellable = _on_grid(min(wanted, facts.free + _left(stops)), facts)
    if sellable < facts.minimum:
        return Wait("the coins are tied up in orders that are not this bot's")
    return _cancel(stops) if stops else Sell(sellable)


def _protect(facts: PairFacts, stop_price: Decimal) -> Step:
    stops = _stops(facts)
    covered = _left(stops)
    wrong = stops if covered > facts.held else [stop for stop in stops if stop.price != stop_price]
    if wrong:
        return _cancel(wrong)
    bare = _on_grid(min(facts.held - covered, facts.free), facts)
    if bare <= 0:
        return Done()
    # One stop for all where one may hold all; a position beyond that has several.
    small = [stop for stop in stops if facts.minimum <= stop.left + bare <= facts.largest]
    if small:
        return _cancel([min(small, key=lambda stop: (stop.left, stop.txid))])
    parts = (bare / facts.largest).to_integral_value(rounding=ROUND_CEILING)
    part = _on_grid(bare / parts, facts)
    return PlaceStop(part, stop_price) if part >= facts.minimum else Done()


def _on_grid(quantity: Decimal, facts: PairFacts) -> Decimal:
    return (quantity / facts.lot).to_integral_value(rounding=ROUND_DOWN) * facts.lot


def _stops(facts: PairFacts) -> list[WorkingOrder]:
    return [order for order in facts.working if order.role is Role.STOP]


def _left(orders: list[WorkingOrder]) -> Decimal:
    return sum((order.left for order in orders), ZERO)


def _cancel(orders: list[WorkingOrder]) -> Cancel:
    return Cancel(tuple(order.txid for order in orders))

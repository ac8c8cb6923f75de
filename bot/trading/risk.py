"""Which wanted orders may be sent: each rule is a function that returns a reason to refuse, or nothing.

Exits are refused by fewer rules than entries. No limit on sizes, losses or pauses ever keeps the
bot in a position; what does is not knowing (stale prices, an order whose fate is open), an exchange or a pair
that is not open for it, and the kill switch, which means that no order at all is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_DOWN, Decimal

from bot.base.models import Pair, Side, SystemStatus, WantedOrder
from bot.kraken import trading_status
from bot.kraken.trading_status import What

STATUS_AGE_SECONDS = 60.0
STALE_TIMEFRAMES = 2
# A part of a large exit is made this much smaller than the largest order, because its price is only known later.
_EXIT_PART = Decimal("0.95")


@dataclass(frozen=True, slots=True)
class RiskLimits:
    """What the user allows. Values are in the quote currency; each is the largest value still allowed."""

    largest_order_value: Decimal
    largest_position_value: Decimal
    largest_daily_loss: Decimal
    cool_down_seconds: float


@dataclass(frozen=True, slots=True)
class RiskState:
    """What the rules judge by, for one pair at one moment of the market's time.

    `price` is the last close and `closed_seconds` when that candle closed. `held_quantity` is what
    could be sold; `committed_quantity` is what is held plus whatever resting entries may still buy.
    `day_loss` is today's net realised loss and `last_loss_seconds` the time of the last losing exit,
    both over all pairs. `unsettled` says which order of the pair has an open fate, or is empty. `pair_status` is
    Kraken's word for the pair, "" where it is not known.
    """

    pair: Pair
    timeframe_seconds: int
    now_seconds: float
    price: Decimal
    closed_seconds: float
    status: SystemStatus | None
    pair_status: str
    halted: bool
    stopping: bool
    history_known: bool
    unsettled: str
    held_quantity: Decimal
    committed_quantity: Decimal
    day_loss: Decimal
    last_loss_seconds: float | None
    entries_stopped: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """An order that may not be sent, the rule that says so, and the reason as a sentence."""

    order: WantedOrder
    rule: str
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The orders that may be sent, and the refusals."""

    allowed: tuple[WantedOrder, ...]
    refusals: tuple[Refusal, ...]


def check(wanted: Iterable[WantedOrder], state: RiskState, limits: RiskLimits) -> Verdict:
    """Judge the orders one after the other, each as if those allowed before it had filled."""
    allowed: list[WantedOrder] = []
    refusals: list[Refusal] = []
    for order in wanted:
        refusal = _refusal(order, state, limits)
        if refusal is not None:
            refusals.append(refusal)
            continue
        allowed.append(order)
        state = _as_if_filled(order, state)
    return Verdict(tuple(allowed), tuple(refusals))


def exit_parts(order: WantedOrder, state: RiskState, limits: RiskLimits) -> list[WantedOrder]:
    """Divide an exit into equal parts that are each worth less than the largest order, of what is held and free.

    A position may have grown beyond what one order may be worth; it must be sellable all the same.
    """
    quantity = min(order.quantity, state.held_quantity)
    count = max(1, int((quantity / largest_part(state, limits)).to_integral_value(rounding=ROUND_CEILING)))
    lot = Decimal(1).scaleb(-state.pair.lot_decimals)
    part = (quantity / count).quantize(lot, rounding=ROUND_DOWN)
    return [replace(order, quantity=one) for one in [part] * (count - 1) + [quantity - part * (count - 1)]]


def largest_part(state: RiskState, limits: RiskLimits) -> Decimal:
    """Return how many coins one order may sell."""
    return limits.largest_order_value * _EXIT_PART / state.price


def comes_again(refusal: Refusal) -> bool:
    """Whether an order was refused for something that passes: it is wanted again at the next pass.

    Of an entry that is the trading status alone: what else passes may take the price along.
    """
    return refusal.rule == _STATUS_RULE if refusal.order.kind == "entry" else refusal.rule in _PASSING_RULES


def _refusal(order: WantedOrder, state: RiskState, limits: RiskLimits) -> Refusal | None:
    rules = {"entry": ENTRY_RULES, "stop": STOP_RULES}.get(order.kind, EXIT_RULES)
    for name, rule in rules.items():
        reason = rule(order, state, limits)
        if reason:
            return Refusal(order, name, reason)
    return None


def _as_if_filled(order: WantedOrder, state: RiskState) -> RiskState:
    if order.side is Side.BUY:
        return replace(state, committed_quantity=state.committed_quantity + order.quantity)
    left = state.held_quantity - order.quantity
    return replace(state, held_quantity=left, committed_quantity=state.committed_quantity - order.quantity)


def _value(order: WantedOrder, state: RiskState) -> Decimal:
    return order.quantity * (state.price if order.price is None else order.price)


def _kill_switch(_order: WantedOrder, state: RiskState, _limits: RiskLimits) -> str:
    return "the kill switch is on: no order is sent" if state.halted else ""


def _trading_status(order: WantedOrder, state: RiskState, _limits: RiskLimits) -> str:
    if state.status is None:
        return "the system status is not known"
    age_seconds = state.now_seconds - state.status.checked_seconds
    if age_seconds > STATUS_AGE_SECONDS:
        return f"the system status is {age_seconds:.0f} s old, more than {STATUS_AGE_SECONDS:.0f} s"
    return trading_status.refusal(state.status.status, state.pair_status, _what(order))


def _what(order: WantedOrder) -> What:
    if order.kind == "stop":
        return What.OTHER
    # With a price or without, it leaves as a limit order.
    return What.LIMIT if order.side is Side.BUY else What.CLOSING_SELL


def _stale_prices(_order: WantedOrder, state: RiskState, _limits: RiskLimits) -> str:
    age_seconds = state.now_seconds - state.closed_seconds
    if age_seconds <= STALE_TIMEFRAMES * state.timeframe_seconds:
        return ""
    return f"the last closed candle is {age_seconds:.0f} s old, more than {STALE_TIMEFRAMES} timeframes"


def _unsettled(_order: WantedOrder, state: RiskState, _limits: RiskLimits) -> str:
    return f"the fate of an order of this pair is not known: {state.unsettled}" if state.unsettled else ""


def _minimum(order: WantedOrder, state: RiskState, _limits: RiskLimits) -> str:
    pair = state.pair
    if order.quantity < pair.order_minimum:
        return f"{order.quantity:f} {pair.base} is below the pair's minimum of {pair.order_minimum:f}"
    if _value(order, state) < pair.cost_minimum:
        return f"the order's value is below the pair's minimum of {pair.cost_minimum:f} {pair.quote}"
    return ""


def _own_coins(order: WantedOrder, state: RiskState, _limits: RiskLimits) -> str:
    if order.side is not Side.SELL:
        return "an exit has to sell"
    if order.quantity > state.held_quantity:
        return f"it sells {order.quantity:f}, but the bot holds {state.held_quantity:f} that are free"
    return ""


def _long_only(order: WantedOrder, _state: RiskState, _limits: RiskLimits) -> str:
    return "" if order.side is Side.BUY else "an entry has to buy: only coins that the bot bought are sold"


def _stopping(_order: WantedOrder, state: RiskState, _limits: RiskLimits) -> str:
    return "the bot is stopping" if state.stopping else ""


def _entries_stopped(_order: WantedOrder, state: RiskState, _limits: RiskLimits) -> str:
    return "entries were stopped; `python main.py resume` lets them go on" if state.entries_stopped else ""


def _history(_order: WantedOrder, state: RiskState, _limits: RiskLimits) -> str:
    return "" if state.history_known else "the bot's own history could not be read yet"


def _order_value(order: WantedOrder, state: RiskState, limits: RiskLimits) -> str:
    value = _value(order, state)
    if value <= limits.largest_order_value:
        return ""
    return f"it is worth {value:.2f} {state.pair.quote}, more than {limits.largest_order_value:f} for one order"


def _position_value(order: WantedOrder, state: RiskState, limits: RiskLimits) -> str:
    value = state.committed_quantity * state.price + _value(order, state)
    if value <= limits.largest_position_value:
        return ""
    return f"the position would be worth {value:.2f} {state.pair.quote}, more than {limits.largest_position_value:f}"


def _daily_loss(_order: WantedOrder, state: RiskState, limits: RiskLimits) -> str:
    if state.day_loss < limits.largest_daily_loss:
        return ""
    return f"today's loss of {state.day_loss:.2f} {state.pair.quote} has reached {limits.largest_daily_loss:f}"


def _cool_down(_order: WantedOrder, state: RiskState, limits: RiskLimits) -> str:
    if state.last_loss_seconds is None:
        return ""
    left_seconds = state.last_loss_seconds + limits.cool_down_seconds - state.now_seconds
    return f"it cools down after a loss, {left_seconds:.0f} s to go" if left_seconds > 0 else ""


# What may be over at the next pass, and not only at the next candle.
_STATUS_RULE = "trading status"
_PASSING_RULES = frozenset({"kill switch", _STATUS_RULE, "stale prices", "unsettled order"})

Rule = Callable[[WantedOrder, RiskState, RiskLimits], str]

# The first rule that refuses gives the reason.
_ALL_ORDERS: dict[str, Rule] = {
    "kill switch": _kill_switch,
    _STATUS_RULE: _trading_status,
    "stale prices": _stale_prices,
    "unsettled order": _unsettled,
}
EXIT_RULES: dict[str, Rule] = {**_ALL_ORDERS, "own coins": _own_coins, "minimum": _minimum}
# A stop sells at a future price, so the last price does not matter. `exit_policy.py` checks open and unknown orders.
STOP_RULES: dict[str, Rule] = {
    "kill switch": _kill_switch,
    _STATUS_RULE: _trading_status,
    "own coins": _own_coins,
}
ENTRY_RULES: dict[str, Rule] = {
    **_ALL_ORDERS,
    "long only": _long_only,
    "stopping": _stopping,
    "entries stopped": _entries_stopped,
    "history": _history,
    "order value": _order_value,
    "position value": _position_value,
    "daily loss": _daily_loss,
    "cool-down": _cool_down,
    "minimum": _minimum,
}

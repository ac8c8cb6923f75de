"""Which order requests may be sent: each rule is a function that returns a reason to refuse, or nothing.

Fewer rules refuse exits than entries. No limit on size, loss or cooldown ever keeps the bot in a position. An exit is
refused only for unknown conditions (stale prices, an order with an unknown outcome), for an exchange or a pair that is
not open for it, and while the bot is halted. A halted bot sends nothing but a missing stop of its position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from decimal import Decimal

from bot.base.models import OrderRequest, Pair, Side, SystemStatus
from bot.kraken import trading_status
from bot.kraken.new_order import max_slippage_price
from bot.kraken.pairs import minimum_volume
from bot.kraken.trading_status import OrderClass
from bot.trading.exit_policy import next_part

MAX_STATUS_AGE_SECONDS = 60.0
MAX_PRICE_AGE_TIMEFRAMES = 2
# A part of a large exit is this much smaller than the maximum order, because its price is only known later.
_EXIT_VALUE_FACTOR = Decimal("0.95")


@dataclass(frozen=True, slots=True)
class Controls:
    """Controls from outside the bot, read again before every order.

    `is_halted`: the kill switch, which cancels resting entries and lets nothing through but a missing stop.
    `entries_paused`: resting entries are canceled and none is sent; exits and stops go on. `check_state` raises
    StateLostError where the state folder no longer belongs to this bot. `is_watching`: the account is only watched, as
    long as the bot runs; nothing at all is sent or canceled, and `is_halted` is true.
    """

    is_halted: Callable[[], bool]
    entries_paused: Callable[[], bool]
    check_state: Callable[[], None]
    is_watching: bool = False

    def read(self) -> tuple[bool, bool]:
        """Return whether the bot is halted, and whether its entries are paused."""
        return self.is_halted(), self.entries_paused()

    def forbid_resting_entries(self) -> bool:
        """Tell whether resting entries have to be canceled now."""
        return not self.is_watching and any(self.read())


@dataclass(frozen=True, slots=True)
class RiskLimits:
    """The user's limits. Values are in the quote currency; each is the largest value still allowed.

    A market order fills at most `max_slippage_percent` from the last price.
    """

    max_order_value: Decimal
    max_position_value: Decimal
    max_daily_loss: Decimal
    cooldown_seconds: float
    max_slippage_percent: Decimal = Decimal(1)


@dataclass(frozen=True, slots=True)
class RiskState:
    """The input of the rules, for one pair at one time of the market.

    `price` is the last close and `closed_seconds` the time at which that candle closed. In a market without trades the
    last answers are later: `answered_seconds` is the time of the last one with candles, and `confirmed_seconds` of the
    last one with that price as the current one. `held_quantity` is the quantity
    that could be sold; `committed_quantity` is the held quantity plus what resting entries may still buy.
    `realised_loss_today` is today's net realised loss and `last_loss_seconds` the time of the last losing exit, both
    over all pairs; `last_loss_symbol` is the pair of that exit. `unresolved_order` describes an order of the pair
    without a final outcome, or is empty. `pair_status` is Kraken's status of the pair, "" where it is unknown.
    """

    pair: Pair
    timeframe_seconds: int
    now_seconds: float
    price: Decimal
    closed_seconds: float
    status: SystemStatus | None
    pair_status: str
    is_halted: bool
    is_stopping: bool
    is_history_loaded: bool
    unresolved_order: str
    held_quantity: Decimal
    committed_quantity: Decimal
    realised_loss_today: Decimal
    last_loss_seconds: float | None
    entries_paused: bool = False
    is_watching: bool = False
    last_loss_symbol: str = ""
    answered_seconds: float = 0.0
    confirmed_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """An order that may not be sent, the rule that refuses it, and the reason as a sentence."""

    order: OrderRequest
    rule: str
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The orders that may be sent, and the refusals."""

    allowed: tuple[OrderRequest, ...]
    refusals: tuple[Refusal, ...]


def check_orders(requests: Iterable[OrderRequest], state: RiskState, limits: RiskLimits) -> Verdict:
    """Check the orders one after the other, each as if the orders allowed before it had filled."""
    allowed: list[OrderRequest] = []
    refusals: list[Refusal] = []
    for order in requests:
        refusal = _find_refusal(order, state, limits)
        if refusal is not None:
            refusals.append(refusal)
            continue
        allowed.append(order)
        state = _assume_filled(order, state)
    return Verdict(tuple(allowed), tuple(refusals))


def split_exit(order: OrderRequest, state: RiskState, limits: RiskLimits) -> list[OrderRequest]:
    """Divide an exit of held and free coins into equal parts that are each worth less than the maximum order.

    A position may have grown beyond the value of one order; it must be sellable all the same. So no part is below the
    pair's minimum, and a part exceeds the maximum by at most that.
    """
    remaining, minimum = min(order.quantity, state.held_quantity), min_exit_quantity(state, limits)
    maximum, lot_size = max_exit_quantity(state, limits), Decimal(1).scaleb(-state.pair.lot_decimals)
    parts: list[OrderRequest] = []
    while remaining >= minimum:
        parts.append(replace(order, quantity=next_part(remaining, minimum, maximum, lot_size)))
        remaining -= parts[-1].quantity
    return parts


def max_exit_quantity(state: RiskState, limits: RiskLimits) -> Decimal:
    """Return the maximum quantity of one sell order. A part of an exit exceeds it by at most the pair's minimum."""
    return limits.max_order_value * _EXIT_VALUE_FACTOR / state.price


def worst_exit_price(state: RiskState, limits: RiskLimits) -> Decimal:
    """Return the limit price of an exit, at which Kraken applies the pair's minimum cost."""
    return max_slippage_price(state.pair, Side.SELL, state.price, limits.max_slippage_percent)


def min_exit_quantity(state: RiskState, limits: RiskLimits) -> Decimal:
    """Return the minimum quantity of one exit."""
    return minimum_volume(state.pair, worst_exit_price(state, limits))


def is_retryable(refusal: Refusal) -> bool:
    """Tell whether an order was refused for a transient reason: it is requested again in the next cycle.

    For an entry that is the trading status alone: any other reason may last while the price moves away.
    """
    return refusal.rule == _STATUS_RULE if refusal.order.kind == "entry" else refusal.rule in _TRANSIENT_RULES


def _find_refusal(order: OrderRequest, state: RiskState, limits: RiskLimits) -> Refusal | None:
    rules = {"entry": ENTRY_RULES, "stop": STOP_RULES}.get(order.kind, EXIT_RULES)
    for name, rule in rules.items():
        reason = rule(order, state, limits)
        if reason:
            return Refusal(order, name, reason)
    return None


def _assume_filled(order: OrderRequest, state: RiskState) -> RiskState:
    if order.side is Side.BUY:
        return replace(state, committed_quantity=state.committed_quantity + order.quantity)
    remaining = state.held_quantity - order.quantity
    return replace(state, held_quantity=remaining, committed_quantity=state.committed_quantity - order.quantity)


def _value(order: OrderRequest, state: RiskState) -> Decimal:
    return order.quantity * (state.price if order.price is None else order.price)


def _check_watching(_order: OrderRequest, state: RiskState, _limits: RiskLimits) -> str:
    return "TRADING_MODE is halt, so the account is only watched" if state.is_watching else ""


def _check_halted(order: OrderRequest, state: RiskState, limits: RiskLimits) -> str:
    if reason := _check_watching(order, state, limits):
        return reason
    return "no order is sent until `python main.py resume --halt`" if state.is_halted else ""


def _check_trading_status(order: OrderRequest, state: RiskState, _limits: RiskLimits) -> str:
    if state.status is None:
        return "the system status is not known"
    age_seconds = state.now_seconds - state.status.checked_seconds
    if age_seconds > MAX_STATUS_AGE_SECONDS:
        return f"the system status is {age_seconds:.0f} s old, more than {MAX_STATUS_AGE_SECONDS:.0f} s"
    return trading_status.block_reason(state.status.status, state.pair_status, _order_class(order))


def _order_class(order: OrderRequest) -> OrderClass:
    if order.kind == "stop":
        return OrderClass.OTHER
    # With or without a price, it is sent as a limit order.
    return OrderClass.LIMIT if order.side is Side.BUY else OrderClass.CLOSING_SELL


def _check_price_age(_order: OrderRequest, state: RiskState, _limits: RiskLimits) -> str:
    age_seconds = state.now_seconds - max(state.closed_seconds, state.confirmed_seconds)
    if age_seconds <= max_price_age_seconds(state.timeframe_seconds):
        return ""
    return f"the last closed candle is {age_seconds:.0f} s old, more than {MAX_PRICE_AGE_TIMEFRAMES} timeframes"


def _check_answer_age(_order: OrderRequest, state: RiskState, _limits: RiskLimits) -> str:
    # Without a trade there is no new candle; the price is current all the same, because Kraken has just said so.
    age_seconds = state.now_seconds - max(state.closed_seconds, state.answered_seconds)
    if age_seconds <= max_price_age_seconds(state.timeframe_seconds):
        return ""
    return f"Kraken's last candles are {age_seconds:.0f} s old, more than {MAX_PRICE_AGE_TIMEFRAMES} timeframes"


def max_price_age_seconds(timeframe_seconds: int) -> float:
    """Return how old a price may be for an order."""
    return MAX_PRICE_AGE_TIMEFRAMES * timeframe_seconds


def _check_unresolved_order(_order: OrderRequest, state: RiskState, _limits: RiskLimits) -> str:
    return (
        f"the outcome of an order of this pair is not known: {state.unresolved_order}" if state.unresolved_order else ""
    )


def _check_minimum(order: OrderRequest, state: RiskState, limits: RiskLimits) -> str:
    pair = state.pair
    if order.quantity < pair.order_minimum:
        return f"{order.quantity:f} {pair.base} is below the pair's minimum of {pair.order_minimum:f}"
    is_exit = order.kind != "entry"
    value = order.quantity * worst_exit_price(state, limits) if is_exit else _value(order, state)
    if value < pair.cost_minimum:
        return f"the order's value is below the pair's minimum of {pair.cost_minimum:f} {pair.quote}"
    return ""


def _check_managed_position(order: OrderRequest, state: RiskState, _limits: RiskLimits) -> str:
    if order.side is not Side.SELL:
        return "an exit has to sell"
    if order.quantity > state.held_quantity:
        return f"it sells {order.quantity:f}, but only {state.held_quantity:f} of the managed position are free"
    return ""


def _check_long_only(order: OrderRequest, _state: RiskState, _limits: RiskLimits) -> str:
    return "" if order.side is Side.BUY else "an entry has to buy: only coins that the bot bought are sold"


def _check_stopping(_order: OrderRequest, state: RiskState, _limits: RiskLimits) -> str:
    return "the bot is stopping" if state.is_stopping else ""


def _check_entries_paused(_order: OrderRequest, state: RiskState, _limits: RiskLimits) -> str:
    return "no entry is sent until `python main.py resume`" if state.entries_paused else ""


def _check_history(_order: OrderRequest, state: RiskState, _limits: RiskLimits) -> str:
    return "" if state.is_history_loaded else "the bot's own history could not be read yet"


# `OrderGateway` checks MAX_ORDER_VALUE again, at the worst price that the order may get: scripts do not come by here.
def _check_order_value(order: OrderRequest, state: RiskState, limits: RiskLimits) -> str:
    value = _value(order, state)
    if value <= limits.max_order_value:
        return ""
    return f"it is worth {value:.2f} {state.pair.quote}, more than {limits.max_order_value:f} for one order"


def _check_position_value(order: OrderRequest, state: RiskState, limits: RiskLimits) -> str:
    value = state.committed_quantity * state.price + _value(order, state)
    if value <= limits.max_position_value:
        return ""
    return f"the position would be worth {value:.2f} {state.pair.quote}, more than {limits.max_position_value:f}"


def _check_daily_loss(_order: OrderRequest, state: RiskState, limits: RiskLimits) -> str:
    if state.realised_loss_today < limits.max_daily_loss:
        return ""
    loss = f"today's loss over all pairs of {state.realised_loss_today:.2f} {state.pair.quote}"
    return f"{loss} has reached {limits.max_daily_loss:f}"


def _check_cooldown(_order: OrderRequest, state: RiskState, limits: RiskLimits) -> str:
    if state.last_loss_seconds is None:
        return ""
    remaining_seconds = state.last_loss_seconds + limits.cooldown_seconds - state.now_seconds
    if remaining_seconds <= 0:
        return ""
    where = f" in {state.last_loss_symbol}" if state.last_loss_symbol else ""
    return f"the cooldown after a loss{where}, which holds for all pairs, lasts {remaining_seconds:.0f} s more"


def _check_stop_price(order: OrderRequest, state: RiskState, _limits: RiskLimits) -> str:
    # Rounded up, it could be the current price, and would sell at once.
    return "" if order.price else f"no price of {state.pair.symbol} is as low as STOP_LOSS_PERCENT asks for"


# A refusal that may be over in the next cycle, and not only at the next candle.
_HALTED_RULE = "halted"
_STATUS_RULE = "trading status"
_TRANSIENT_RULES = frozenset({_HALTED_RULE, _STATUS_RULE, "stale prices", "unresolved order"})

Rule = Callable[[OrderRequest, RiskState, RiskLimits], str]

# The first rule that refuses gives the reason.
_COMMON_RULES: dict[str, Rule] = {
    _HALTED_RULE: _check_halted,
    _STATUS_RULE: _check_trading_status,
    "stale prices": _check_price_age,
    "unresolved order": _check_unresolved_order,
}
EXIT_RULES: dict[str, Rule] = {
    **_COMMON_RULES,
    "stale prices": _check_answer_age,
    "managed position": _check_managed_position,
    "minimum": _check_minimum,
}
# A stop sells at a future price, so the last price does not matter. `exit_policy.py` checks open and unknown orders. A
# halted bot places the stop that is missing.
STOP_RULES: dict[str, Rule] = {
    "stop price": _check_stop_price,
    _HALTED_RULE: _check_watching,
    _STATUS_RULE: _check_trading_status,
    "managed position": _check_managed_position,
}
ENTRY_RULES: dict[str, Rule] = {
    **_COMMON_RULES,
    "long only": _check_long_only,
    "stopping": _check_stopping,
    "entries paused": _check_entries_paused,
    "history": _check_history,
    "order value": _check_order_value,
    "position value": _check_position_value,
    "daily loss": _check_daily_loss,
    "cooldown": _check_cooldown,
    "minimum": _check_minimum,
}

"""The protocol of a strategy: a pure function from the context of one market to order requests."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from typing import Protocol

from bot.base.models import Candle, OrderRequest, Pair
from bot.kraken.pairs import round_volume

# Reserved for the fee of a buy, which Kraken takes on top of the cost (0.8 % at most, July 2026 schedule).
_FEE_RESERVE = Decimal("1.01")


@dataclass(frozen=True, slots=True)
class StrategyContext:
    """Everything that a strategy may see, for one pair at one closed candle.

    `candles` are closed, oldest first. `position_quantity` is the bot's own position, zero when that is too little to
    sell; `entry_seconds` is the time of its purchase. `has_open_entry`: an own buy is still working. `order_value` is
    the size of an entry and `quote_available` the amount that could be spent, both in the quote currency.
    """

    pair: Pair
    timeframe_seconds: int
    candles: tuple[Candle, ...]
    position_quantity: Decimal
    average_price: Decimal
    entry_seconds: float
    has_open_entry: bool
    order_value: Decimal
    quote_available: Decimal


class Strategy(Protocol):
    """One file in this package, and one line in its registry.

    `name` becomes part of every order's client order id: a renamed strategy is another strategy.
    """

    @property
    def name(self) -> str:
        """The name in the registry."""

    def decide(self, context: StrategyContext) -> list[OrderRequest]:
        """Return the orders wanted now.

        Called once for each closed candle, and again with the same context after a restart: the same context must give
        the same orders.
        """


def entry_quantity(context: StrategyContext, price: Decimal) -> Decimal:
    """Return the quantity that `order_value` buys at `price`, within the available amount, on the pair's lot grid."""
    value = min(context.order_value, context.quote_available / _FEE_RESERVE)
    return round_volume(context.pair, max(Decimal(0), value / price))


def buy_price(pair: Pair, price: Decimal) -> Decimal:
    """Return the price on the pair's tick grid that is not above `price`."""
    return (price / pair.tick_size).to_integral_value(rounding=ROUND_FLOOR) * pair.tick_size

"""What a strategy is: a pure function from a view of one market to wanted orders."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_FLOOR, Decimal
from typing import Protocol

from bot.base.models import Candle, OrderRequest, Pair

# Kept back for the fee of a buy, which Kraken takes on top of the cost (0.8 % at most, July 2026 schedule).
_FEE_RESERVE = Decimal("1.01")


@dataclass(frozen=True, slots=True)
class StrategyContext:
    """Everything a strategy may look at, for one pair at one closed candle.

    `candles` are closed, oldest first. `position_quantity` is what the bot itself holds, zero when
    that is too little to sell; `entry_seconds` is when it was bought. `has_open_entry`: a buy of
    ours is still working. `order_value` is the size of an entry and `quote_available` what could be
    spent, both in the quote currency.
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

    `name` becomes part of every order's identity: to rename a strategy is to make it another one.
    """

    @property
    def name(self) -> str:
        """The name in the registry."""

    def decide(self, context: StrategyContext) -> list[OrderRequest]:
        """Return the orders wanted now. Called once for each closed candle, and again with the same
        view after a restart: the same view must give the same orders."""


def entry_quantity(context: StrategyContext, price: Decimal) -> Decimal:
    """Return how many coins `order_value` buys at `price`, within what can be spent, on the pair's lot grid."""
    value = min(context.order_value, context.quote_available / _FEE_RESERVE)
    lot = Decimal(1).scaleb(-context.pair.lot_decimals)
    return max(Decimal(0), value / price).quantize(lot, rounding=ROUND_DOWN)


def buy_price(pair: Pair, price: Decimal) -> Decimal:
    """Return the price on the pair's tick grid that is not above `price`."""
    return (price / pair.tick_size).to_integral_value(rounding=ROUND_FLOOR) * pair.tick_size

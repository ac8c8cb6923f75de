"""Buy when a fast moving average crosses above a slow one; sell when it is below, or at a volatility stop."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise

from bot.base.models import ZERO, Candle, Side, WantedOrder
from bot.trading.strategies.base import MarketView, buy_price, entry_quantity


class MovingAverage:
    """A crossover of simple moving averages of closes.

    Entry: a limit order at the last close, in the candle of the crossing and no other. Exit: a
    market order while the fast average is below the slow one (a state, not a crossing, so that no
    missed candle can miss it), or when the last close is more than `stop_ranges` average true
    ranges under the highest close since the entry.
    """

    name = "moving_average"

    def __init__(
        self, fast: int = 10, slow: int = 30, stop_candles: int = 14, stop_ranges: Decimal = Decimal(3)
    ) -> None:
        self._fast = fast
        self._slow = slow
        self._stop_candles = stop_candles
        self._stop_ranges = stop_ranges

    def decide(self, market: MarketView) -> list[WantedOrder]:
        """Return at most one order: an exit while holding, else an entry."""
        if len(market.candles) <= max(self._slow, self._stop_candles):
            return []
        if market.position_quantity > 0:
            reason = self._exit_reason(market)
            return [_exit(market, reason)] if reason else []
        if market.has_open_entry:
            return []
        reason = self._entry_reason(market.candles)
        return [_entry(market, reason)] if reason else []

    def _entry_reason(self, candles: Sequence[Candle]) -> str:
        before_fast, before_slow = self._averages(candles[:-1])
        fast, slow = self._averages(candles)
        if before_fast <= before_slow and fast > slow:
            return f"the {self._fast} average crossed above the {self._slow} average"
        return ""

    def _exit_reason(self, market: MarketView) -> str:
        fast, slow = self._averages(market.candles)
        if fast < slow:
            return f"the {self._fast} average is below the {self._slow} average"
        stop = self._stop_price(market)
        if market.candles[-1].close < stop:
            return f"the close is below the volatility stop at {_rounded(stop, market)}"
        return ""

    def _averages(self, candles: Sequence[Candle]) -> tuple[Decimal, Decimal]:
        return _average_close(candles[-self._fast :]), _average_close(candles[-self._slow :])

    def _stop_price(self, market: MarketView) -> Decimal:
        since_entry = (
            candle.close
            for candle in market.candles
            if candle.time_seconds + market.timeframe_seconds > market.entry_seconds
        )
        highest = max(since_entry, default=market.average_price)
        span = average_true_range(market.candles, self._stop_candles)
        return max(highest, market.average_price) - self._stop_ranges * span


def average_true_range(candles: Sequence[Candle], count: int) -> Decimal:
    """Return the mean true range of the last `count` candles; one candle more is needed before them."""
    recent = candles[-count - 1 :]
    ranges = (max(now.high, before.close) - min(now.low, before.close) for before, now in pairwise(recent))
    return sum(ranges, ZERO) / count


def _average_close(candles: Sequence[Candle]) -> Decimal:
    return sum((candle.close for candle in candles), ZERO) / len(candles)


def _rounded(price: Decimal, market: MarketView) -> Decimal:
    return price.quantize(Decimal(1).scaleb(-market.pair.price_decimals))


def _entry(market: MarketView, reason: str) -> WantedOrder:
    last = market.candles[-1]
    price = buy_price(market.pair, last.close)
    return WantedOrder(
        symbol=market.pair.symbol,
        side=Side.BUY,
        quantity=entry_quantity(market, price),
        price=price,
        kind="entry",
        candle_seconds=last.time_seconds,
        reason=reason,
    )


def _exit(market: MarketView, reason: str) -> WantedOrder:
    return WantedOrder(
        symbol=market.pair.symbol,
        side=Side.SELL,
        quantity=market.position_quantity,
        price=None,
        kind="exit",
        candle_seconds=market.candles[-1].time_seconds,
        reason=reason,
    )

"""Buy when a fast moving average crosses above a slow one; sell when it is below, or at a volatility stop."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise

from bot.base.models import ZERO, Candle, OrderRequest, Side
from bot.trading.strategies.base import StrategyContext, buy_price, entry_quantity


class MovingAverage:
    """A crossover of simple moving averages of closes.

    Entry: a limit order at the last close, in the candle of the crossing and no other. Exit: a market order while the
    fast average is below the slow one (a state, not a crossing, so that a missed candle does no harm), or when the last
    close is more than `stop_ranges` average true ranges below the highest close since the entry.
    """

    name = "moving_average"

    def __init__(
        self, fast: int = 10, slow: int = 30, stop_candles: int = 14, stop_ranges: Decimal = Decimal(3)
    ) -> None:
        self._fast = fast
        self._slow = slow
        self._stop_candles = stop_candles
        self._stop_ranges = stop_ranges

    def decide(self, context: StrategyContext) -> list[OrderRequest]:
        """Return at most one order: an exit while holding, else an entry."""
        if len(context.candles) <= max(self._slow, self._stop_candles):
            return []
        if context.position_quantity > 0:
            reason = self._find_exit_reason(context)
            return [_exit_request(context, reason)] if reason else []
        if context.has_open_entry:
            return []
        reason = self._find_entry_reason(context.candles)
        return [_entry_request(context, reason)] if reason else []

    def _find_entry_reason(self, candles: Sequence[Candle]) -> str:
        previous_fast, previous_slow = self._averages(candles[:-1])
        fast, slow = self._averages(candles)
        if previous_fast <= previous_slow and fast > slow:
            return f"the {self._fast} average crossed above the {self._slow} average"
        return ""

    def _find_exit_reason(self, context: StrategyContext) -> str:
        fast, slow = self._averages(context.candles)
        if fast < slow:
            return f"the {self._fast} average is below the {self._slow} average"
        stop = self._stop_price(context)
        if context.candles[-1].close < stop:
            return f"the close is below the volatility stop at {_round_price(stop, context)}"
        return ""

    def _averages(self, candles: Sequence[Candle]) -> tuple[Decimal, Decimal]:
        return _average_close(candles[-self._fast :]), _average_close(candles[-self._slow :])

    def _stop_price(self, context: StrategyContext) -> Decimal:
        since_entry = (
            candle.close
            for candle in context.candles
            if candle.time_seconds + context.timeframe_seconds > context.entry_seconds
        )
        highest = max(since_entry, default=context.average_price)
        average_range = average_true_range(context.candles, self._stop_candles)
        return max(highest, context.average_price) - self._stop_ranges * average_range


def average_true_range(candles: Sequence[Candle], count: int) -> Decimal:
    """Return the mean true range of the last `count` candles; one candle more is needed before them."""
    recent = candles[-count - 1 :]
    ranges = (
        max(current.high, previous.close) - min(current.low, previous.close) for previous, current in pairwise(recent)
    )
    return sum(ranges, ZERO) / count


def _average_close(candles: Sequence[Candle]) -> Decimal:
    return sum((candle.close for candle in candles), ZERO) / len(candles)


def _round_price(price: Decimal, context: StrategyContext) -> Decimal:
    return price.quantize(Decimal(1).scaleb(-context.pair.price_decimals))


def _entry_request(context: StrategyContext, reason: str) -> OrderRequest:
    last_candle = context.candles[-1]
    price = buy_price(context.pair, last_candle.close)
    return OrderRequest(
        symbol=context.pair.symbol,
        side=Side.BUY,
        quantity=entry_quantity(context, price),
        price=price,
        kind="entry",
        candle_seconds=last_candle.time_seconds,
        reason=reason,
    )


def _exit_request(context: StrategyContext, reason: str) -> OrderRequest:
    return OrderRequest(
        symbol=context.pair.symbol,
        side=Side.SELL,
        quantity=context.position_quantity,
        price=None,
        kind="exit",
        candle_seconds=context.candles[-1].time_seconds,
        reason=reason,
    )

"""Calls the strategy. An exception in it stops its decisions for that pair, and nothing else of the bot."""

from __future__ import annotations

from bot.base.clock import format_utc
from bot.base.event_catalog import Event
from bot.base.models import OrderRequest
from bot.trading.decision_log import DecisionLog
from bot.trading.strategies.base import Strategy, StrategyContext


class StrategyRunner:
    """One strategy for all pairs. `failures` says why it decides nothing more, by pair."""

    def __init__(self, strategy: Strategy, decision_log: DecisionLog) -> None:
        self._strategy = strategy
        self._decision_log = decision_log
        self.failures: dict[str, str] = {}

    def decide(self, context: StrategyContext) -> list[OrderRequest]:
        """Return the orders that the strategy wants; none where it has failed for this pair."""
        symbol = context.pair.symbol
        if symbol in self.failures:
            return []
        try:
            return list(self._strategy.decide(context))
        except Exception as error:  # a strategy is anybody's code; without it, the position is managed all the same
            self.failures[symbol] = f"the strategy {self._strategy.name} has failed ({error!r})"
            self._decision_log.record(
                Event.STRATEGY_FAILED,
                symbol=symbol,
                strategy=self._strategy.name,
                candle_time=format_utc(context.candles[-1].time_seconds),
                error=repr(error),
                exc_info=error,
            )
            return []

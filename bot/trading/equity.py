"""What the account is worth: at the start and the end of a run, and as a curve in the journal."""

from __future__ import annotations

import contextlib
from decimal import Decimal

from bot.clock import MarketClock
from bot.errors import JournalError
from bot.journal import EquityPoint
from bot.trading.broker import Broker
from bot.trading.executor import Executor
from bot.trading.feed import Feed
from bot.trading.situation import Situation


class Equity:
    """The quote balance and the coins of the traded pairs, in the quote currency."""

    def __init__(
        self, broker: Broker, feed: Feed, executor: Executor, situation: Situation, clock: MarketClock
    ) -> None:
        self._broker = broker
        self._feed = feed
        self._executor = executor
        self._situation = situation
        self._clock = clock
        self.due = False

    def now(self, symbols: tuple[str, ...], quote: str) -> Decimal:
        """Return it at current prices."""
        return self._situation.equity(symbols, quote, self._broker.get_current_price)

    def keep(self, symbols: tuple[str, ...], quote: str) -> None:
        """If it is due, write down what the account is worth at the candles' closes."""
        if not self.due:
            return
        if not self._clock.replaying:
            self._executor.forget_balances()
        value = self._situation.equity(symbols, quote, self._feed.close)
        # Where it cannot be written, the executor says so; a point of a curve is no loss.
        with contextlib.suppress(JournalError):
            self._broker.journal.add_equity(EquityPoint(self._broker.now(), quote, value))
        self.due = False

"""Start-up reconciliation: the bot has to know every order of its own, and its outcome, before it trades."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from bot.base.clock import MarketClock
from bot.base.event_catalog import Event
from bot.trading.broker import Broker
from bot.trading.decision_log import DecisionLog
from bot.trading.executor import Executor

LONG_WAIT_SECONDS = 60.0


class StartupReconciliation:
    """Reads the bot's own history at the start."""

    def __init__(self, broker: Broker, executor: Executor, decision_log: DecisionLog, clock: MarketClock) -> None:
        self._broker = broker
        self._executor = executor
        self._decision_log = decision_log
        self._clock = clock
        self._working_txids: list[str] | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the history has been read."""
        return self._executor.order_tracker.is_loaded

    def reconcile(self, symbols: Iterable[str], stop: threading.Event) -> None:
        """Wait for orders that an earlier run may have sent, unless the journal has them all; then take them over.

        Raises BotError; then the history is read later.
        """
        if self._working_txids is None:
            # Before start-up reconciliation, which already updates the journal.
            self._working_txids = [intent.txid for intent in self._broker.journal.working_intents()]
        if self._wait_for_history(stop):
            return
        self._executor.rebuild()
        self._executor.record_ended(self._working_txids)
        for symbol, holding in sorted(self._executor.order_tracker.book.holdings.items()):
            self._decision_log.record(
                Event.POSITION_FOUND if symbol in symbols else Event.UNTRADED_POSITION_FOUND,
                symbol=symbol,
                volume=holding.quantity,
                price=holding.average_price,
            )

    def _wait_for_history(self, stop: threading.Event) -> bool:
        """Wait until orders of an earlier run that the journal does not know have appeared; return whether it was
        stopped."""
        while not self._broker.history_is_complete():
            if not self._clock.is_replaying:
                seconds = self._broker.history_wait_seconds()
                self._decision_log.record_once("history wait", "", Event.HISTORY_AWAITED, wait_seconds=seconds)
                if seconds > LONG_WAIT_SECONDS:
                    self._decision_log.record_once("long history wait", "", Event.HISTORY_WAIT_EXPLAINED)
            self._executor.reconcile()
            if self._clock.wait(self._broker.next_query_seconds() or 0.0, stop):
                return True
        return False

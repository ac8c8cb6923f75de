"""Fetches the fills of the bot's own orders from Kraken's trade history into the journal, a page at a time.

For the books only: position and P&L come from the order records.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from bot.base.errors import JournalError
from bot.base.models import ZERO, Order
from bot.orders.reconciliation import LOOKBACK_SECONDS
from bot.trading.broker import Broker

# A trade may appear in the history a moment later than in the order's record.
RETRY_SECONDS = 30.0


class FillFetcher:
    """Keeps the fills in the journal equal to the executed quantities of the order records."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._missing: dict[str, tuple[float, Decimal]] = {}
        self._offset = 0
        self._since_seconds = 0.0
        self._due_seconds = 0.0

    def load_missing(self) -> None:
        """Start with the orders whose fills the journal lacks. Raises JournalError."""
        self.expect(self._broker.journal.orders_with_missing_fills())

    def expect(self, orders: Iterable[Order]) -> None:
        """Add orders that have executed something since their fills were last fetched."""
        for order in orders:
            self._missing[order.txid] = order.opened_seconds, order.executed
            self._offset, self._due_seconds = 0, 0.0

    def fetch_page(self) -> bool:
        """Fetch one page of missing fills, if there are any; return whether Kraken was asked.

        Raises BotError; then the page is fetched later.
        """
        if not self._missing or self._broker.now() < self._due_seconds:
            return False
        if self._offset == 0:
            self._since_seconds = min(opened for opened, _ in self._missing.values()) - LOOKBACK_SECONDS
        self._due_seconds = self._broker.now() + RETRY_SECONDS  # if the request gets no answer
        page, total = self._broker.get_trades_page(max(0.0, self._since_seconds), self._offset)
        self._due_seconds = 0.0
        own_fills = [fill for fill in page if fill.order_txid in self._missing]
        try:
            self._broker.journal.add_fills(own_fills)
            journal_volumes = self._broker.journal.filled_volumes({fill.order_txid for fill in own_fills})
        except JournalError:
            self._due_seconds = self._broker.now() + RETRY_SECONDS
            return True
        for txid, (_, executed) in list(self._missing.items()):
            if journal_volumes.get(txid, ZERO) == executed:
                del self._missing[txid]
        self._offset += len(page)
        if not page or self._offset >= total:
            self._offset, self._due_seconds = 0, self._broker.now() + RETRY_SECONDS
        return True

"""The account's balances, positions, orders and fills, read with the API key."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from bot.base.errors import BotError, OrderRefusedError, RequestError, SymbolError
from bot.base.event_catalog import Event
from bot.base.events import emit
from bot.base.models import Balance, Fill, KeyInfo, Order, Position
from bot.kraken import responses
from bot.kraken.client import KrakenCalls
from bot.kraken.market_data import MarketData
from bot.kraken.pairs import FIAT_ASSETS, PairTable

# Rows in a page of ClosedOrders and TradesHistory (Kraken: their pages).
HISTORY_PAGE_SIZE = 50

# By then an order that has closed is in ClosedOrders.
SETTLED_SECONDS = 60.0
PROGRESS_INTERVAL_SECONDS = 30.0

Record = TypeVar("Record")


class _Progress:
    """Reports how far a long reading of the order history has come, and how long it will take at its last rate."""

    def __init__(self, begin_seconds: float) -> None:
        self._count, self._seconds = 0, begin_seconds

    def report(self, count: int, total: int, now: float) -> None:
        """Report the progress, if half a minute has passed since the last time."""
        if now - self._seconds < PROGRESS_INTERVAL_SECONDS or count <= self._count:
            return
        wait_seconds = (total - count) * (now - self._seconds) / (count - self._count)
        emit(Event.HISTORY_PROGRESS, count=count, total=total, wait_seconds=wait_seconds)
        self._count, self._seconds = count, now


class Account:
    """One account at Kraken, read by its private endpoints. Raises what `KrakenCalls.private_call` raises."""

    def __init__(self, calls: KrakenCalls, market_data: MarketData, bot_id: str) -> None:
        self._calls = calls
        self._market_data = market_data
        self._bot_id = bot_id
        # By the start of their span, the orders of a reading of ClosedOrders that failed.
        self._interrupted_reading: dict[int, dict[str, Order]] = {}

    def get_key_info(self) -> KeyInfo:
        """Return what Kraken knows of the key: its permissions and its limits."""
        return responses.read_key_info(self._calls.private_call("GetApiKeyInfo"))

    def get_balances(self) -> dict[str, Balance]:
        """Return what the account holds, by asset name (BTC, USD); `free` excludes what open orders hold."""
        result = self._calls.private_call("BalanceEx")
        # Without an error, no result is what Kraken says of an account that has never held anything.
        return {} if result is None else responses.read_balance_ex(result, self._market_data.pair_table)

    def get_positions(self) -> list[Position]:
        """Return the coins that the account holds, without fiat money, also where that earns interest (USD.M)."""
        pair_table = self._market_data.pair_table
        return [
            Position(_usd_symbol(pair_table, asset), asset, balance.total)
            for asset, balance in self.get_balances().items()
            if balance.total > 0 and asset.partition(".")[0] not in FIAT_ASSETS
        ]

    def get_open_orders(self) -> list[Order]:
        """Return all open orders of the account, those of other programs too."""
        return responses.read_open_orders(self._calls.private_call("OpenOrders"), self._market_data.pair_table)

    def get_closed_orders(self, since_seconds: float = 0.0) -> list[Order]:
        """Return the orders of the account that closed after `since_seconds`, newest first, from all pages.

        A reading that fails is continued by the next one with the same `since_seconds`: that reads what has closed
        meanwhile, and then the pages that are missing. Long readings report their progress.
        """
        since, begin_seconds = int(since_seconds), self._market_data.now()
        # What a former reading has read without a gap; it joins the newer pages where these reach it.
        known = self._interrupted_reading.get(since, {})
        orders: dict[str, Order] = {}
        progress = _Progress(begin_seconds)
        try:
            while True:
                page, total = self._get_closed_orders_page(since, len(orders))
                new = {order.txid: order for order in page if order.txid not in orders}
                if any(order.txid in known for order in page):
                    new, known = new | {txid: order for txid, order in known.items() if txid not in orders}, {}
                orders |= new
                if not new or len(orders) >= total or len(page) < HISTORY_PAGE_SIZE:
                    break
                progress.report(len(orders), total, self._market_data.now())
        except BotError:
            # An order may appear in the list a moment after it has closed.
            self._interrupted_reading = {
                since: {
                    txid: order
                    for txid, order in (known or orders).items()
                    if order.closed_seconds < begin_seconds - SETTLED_SECONDS
                }
            }
            raise
        self._interrupted_reading = {}
        return sorted(orders.values(), key=lambda order: -order.closed_seconds)

    def _get_closed_orders_page(self, since: int, offset: int) -> tuple[list[Order], int]:
        params = {"start": since, "ofs": offset, "closetime": "close"}
        result = self._calls.private_call("ClosedOrders", params)
        return responses.read_closed_orders(result, self._market_data.pair_table)

    def query_order(self, txid: str) -> Order | None:
        """Return an order by its id, open or closed; None where Kraken says that there is none."""
        try:
            result = self._calls.private_call("QueryOrders", {"txid": txid})
        except (OrderRefusedError, RequestError):
            return None
        return responses.read_queried_order(result, txid, self._market_data.pair_table)

    def get_trades(self, since_seconds: float = 0.0) -> list[Fill]:
        """Return the fills of the account after `since_seconds`, newest first, from all pages."""

        def fetch_page(offset: int) -> tuple[list[Fill], int]:
            return self.get_trades_page(since_seconds, offset)

        return sorted(_fetch_all_pages(fetch_page, lambda fill: fill.trade_id), key=lambda fill: -fill.time_seconds)

    def get_trades_page(self, since_seconds: float, offset: int) -> tuple[list[Fill], int]:
        """Return one page of the account's fills, newest first, and how many there are after `since_seconds`."""
        params = {"start": int(since_seconds), "ofs": offset}
        return responses.read_trades(self._calls.private_call("TradesHistory", params), self._market_data.pair_table)

    def is_own_order(self, order: Order) -> bool:
        """Whether this bot placed the order, on this host or another."""
        return order.cl_ord_id.startswith(self._bot_id)


def _usd_symbol(pair_table: PairTable, asset: str) -> str:
    try:
        return pair_table.find(f"{asset}/USD").symbol
    except SymbolError:
        return ""


def _fetch_all_pages(
    fetch_page: Callable[[int], tuple[list[Record], int]], record_id: Callable[[Record], str]
) -> list[Record]:
    """Return the records of all pages. Records that arrive meanwhile shift the pages, so one may come twice."""
    records: dict[str, Record] = {}
    while True:
        page, total = fetch_page(len(records))
        new = {record_id(record): record for record in page if record_id(record) not in records}
        records |= new
        if not new or len(records) >= total or len(page) < HISTORY_PAGE_SIZE:
            return list(records.values())

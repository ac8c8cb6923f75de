"""The account's balances, positions, orders and fills, read with the API key."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from bot.base.errors import OrderRefusedError, RequestError, SymbolError
from bot.base.models import Balance, Fill, KeyInfo, Order, Position
from bot.kraken import responses
from bot.kraken.client import KrakenCalls
from bot.kraken.market_data import MarketData
from bot.kraken.pairs import PairTable

# Rows in a page of ClosedOrders and TradesHistory (Kraken: their pages).
HISTORY_PAGE_SIZE = 50

Record = TypeVar("Record")
_FIAT_ASSETS = frozenset({"USD", "EUR", "GBP", "CAD", "JPY", "AUD", "CHF"})


class Account:
    """One account at Kraken, read by its private endpoints. Raises what `KrakenCalls.private_call` raises."""

    def __init__(self, calls: KrakenCalls, market_data: MarketData, bot_id: str) -> None:
        self._calls = calls
        self._market_data = market_data
        self._bot_id = bot_id

    def get_key_info(self) -> KeyInfo:
        """Return what Kraken knows of the key: its permissions and its limits."""
        return responses.read_key_info(self._calls.private_call("GetApiKeyInfo"))

    def get_balances(self) -> dict[str, Balance]:
        """Return what the account holds, by asset name (BTC, USD); `free` excludes what open orders hold."""
        return responses.read_balance_ex(self._calls.private_call("BalanceEx"), self._market_data.pair_table)

    def get_positions(self) -> list[Position]:
        """Return the coins that the account holds, without fiat money, also where that earns interest (USD.M)."""
        pair_table = self._market_data.pair_table
        return [
            Position(_usd_symbol(pair_table, asset), asset, balance.total)
            for asset, balance in self.get_balances().items()
            if balance.total > 0 and asset.partition(".")[0] not in _FIAT_ASSETS
        ]

    def get_open_orders(self) -> list[Order]:
        """Return all open orders of the account, those of other programs too."""
        return responses.read_open_orders(self._calls.private_call("OpenOrders"), self._market_data.pair_table)

    def get_closed_orders(self, since_seconds: float = 0.0) -> list[Order]:
        """Return the orders of the account that closed after `since_seconds`, newest first, from all pages."""

        def fetch_page(offset: int) -> tuple[list[Order], int]:
            params = {"start": int(since_seconds), "ofs": offset, "closetime": "close"}
            result = self._calls.private_call("ClosedOrders", params)
            return responses.read_closed_orders(result, self._market_data.pair_table)

        return sorted(_fetch_all_pages(fetch_page, lambda order: order.txid), key=lambda order: -order.closed_seconds)

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

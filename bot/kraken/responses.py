"""Kraken's answers, read into `bot.base.models`.

Each function takes the `result` of one endpoint. What cannot be read raises NoAnswerError: a failed read is never
zero, and a number is taken exactly as it was written or not at all. The shapes are those of Kraken's endpoint pages.
"""

from __future__ import annotations

import re
from decimal import Decimal
from sys import intern
from typing import Any

from bot.base.errors import NoAnswerError
from bot.base.models import ZERO, Balance, Candle, Fill, KeyInfo, Order, OrderStatus, Side, SystemStatus
from bot.kraken.pairs import PairTable

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?")
# The end of the year 9999: what is not before it cannot be written as a date, on the page or in a report.
_MAX_TIMESTAMP_SECONDS = 253_402_300_800
MIN_CANDLES_PER_ODD_ONE = 100
MAX_ODD_CANDLE_LENGTH = 120
_RELATIVE_PRICE = re.compile(r"[+#-].*|.*%")


class _JsonObject:
    """One JSON object of an answer; names the endpoint and the field when something cannot be read."""

    def __init__(self, method: str, value: object) -> None:
        self._method = method
        if not isinstance(value, dict):
            raise self.unreadable("an object was expected")
        self.fields: dict[str, Any] = value

    def unreadable(self, problem: str) -> NoAnswerError:
        return NoAnswerError(f"unreadable reply to {self._method}: {problem}")

    def get(self, field: str) -> Any:
        return self.fields.get(field)

    def child(self, field: str) -> _JsonObject:
        return _JsonObject(self._method, self.get(field))

    def text(self, field: str) -> str:
        value = self.get(field)
        if not isinstance(value, str):
            raise self.unreadable(f"{field} is not a text")
        return value

    def text_or_empty(self, field: str) -> str:
        return "" if self.get(field) is None else self.text(field)

    def decimal(self, field: str) -> Decimal:
        return self.parse_decimal(self.fields.get(field), field)

    def decimal_or_zero(self, field: str) -> Decimal:
        return ZERO if self.fields.get(field) is None else self.decimal(field)

    def parse_decimal(self, value: object, field: str) -> Decimal:
        # A float has lost what was written; Kraken writes money as text.
        if isinstance(value, float) or not _NUMBER.fullmatch(str(value)):
            raise self.unreadable(f"{field} is not an exact number")
        return Decimal(str(value))

    def integer(self, field: str) -> int:
        value = self.decimal(field)
        if value != value.to_integral_value():
            raise self.unreadable(f"{field} is not a whole number")
        return int(value)

    def seconds(self, field: str) -> float:
        value = self.get(field)
        if not _NUMBER.fullmatch(str(value)):
            raise self.unreadable(f"{field} is not a time")
        return self.check_timestamp(float(value), field)

    def check_timestamp(self, seconds: float, field: str) -> float:
        if not 0 <= seconds < _MAX_TIMESTAMP_SECONDS:
            raise self.unreadable(f"{field} is no time that there is")
        return seconds

    def seconds_or_zero(self, field: str) -> float:
        return 0.0 if self.get(field) is None else self.seconds(field)

    def side(self) -> Side:
        if self.get("type") not in ("buy", "sell"):
            raise self.unreadable("type is neither buy nor sell")
        return Side(self.get("type"))


def read_time(result: object) -> float:
    """Time: Kraken's clock in Unix seconds (whole ones)."""
    return _JsonObject("Time", result).seconds("unixtime")


def read_system_status(result: object, checked_seconds: float) -> SystemStatus:
    """SystemStatus: the word as Kraken gave it; treat an unknown one as maintenance."""
    return SystemStatus(_JsonObject("SystemStatus", result).text("status"), checked_seconds)


def read_pair_row(result: object) -> dict[str, Any]:
    """AssetPairs of one pair: its row."""
    row = _JsonObject("AssetPairs", result)
    values = [value for _, value in row.fields.items()]
    if len(values) != 1:
        raise row.unreadable("one pair was expected")
    return _JsonObject("AssetPairs", values[0]).fields


def read_pair_status(result: object) -> str:
    """AssetPairs of one pair: the status as Kraken gave it, and online where it gave none, which may be."""
    return _JsonObject("AssetPairs", read_pair_row(result)).text_or_empty("status") or "online"


def read_price(result: object) -> Decimal:
    """Ticker of one pair: the price of the last trade."""
    return _read_ticker_price(result, "c", "last trade")


def read_best_bid(result: object) -> Decimal:
    """Ticker of one pair: the book's best price for a sale."""
    return _read_ticker_price(result, "b", "bid")


def _read_ticker_price(result: object, field: str, name: str) -> Decimal:
    row = _JsonObject("Ticker", result)
    values = [value for _, value in row.fields.items()]
    if len(values) != 1:
        raise row.unreadable("one pair was expected")
    entry = _JsonObject("Ticker", values[0]).get(field)
    if not isinstance(entry, list) or not entry:
        raise row.unreadable(f"there is no {name}")
    price = row.parse_decimal(entry[0], f"the price of the {name}")
    if price <= 0:
        raise row.unreadable(f"the price of the {name} is not above zero")
    return price


def read_candles(
    result: object, timeframe_seconds: int, now: float, odd_candles: list[str] | None = None
) -> list[Candle]:
    """OHLC of one pair: the closed candles, oldest first.

    The running candle is left out twice over: by Kraken's `last`, the newest committed row, and by the clock
    (`now`, Unix seconds). With `odd_candles`, single candles that cannot be used are left out and added to it, each as
    a sentence; without it, or where more than one in a hundred is odd, they make the answer unreadable.
    """
    row = _JsonObject("OHLC", result)
    committed_seconds = row.integer("last")
    candle_lists = [value for name, value in row.fields.items() if name != "last"]
    if len(candle_lists) != 1 or not isinstance(candle_lists[0], list):
        raise row.unreadable("the rows of one pair were expected")
    candles: list[Candle] = []
    odd_count_max = 0 if odd_candles is None else max(1, len(candle_lists[0]) // MIN_CANDLES_PER_ODD_ONE)
    for fields in candle_lists[0]:
        try:
            candle = _read_candle(row, fields)
            if candles and candle.time_seconds <= candles[-1].time_seconds:
                raise row.unreadable("the candles are not in order")
        except NoAnswerError as error:
            if odd_candles is None or len(odd_candles) >= odd_count_max:
                raise
            odd_candles.append(f"{str(fields)[:MAX_ODD_CANDLE_LENGTH]} ({error})")
        else:
            candles.append(candle)
    closed_seconds = min(now - timeframe_seconds, committed_seconds)
    return [candle for candle in candles if candle.time_seconds <= closed_seconds]


def _read_candle(row: _JsonObject, fields: object) -> Candle:
    if not isinstance(fields, list) or len(fields) < 7:
        raise row.unreadable("a candle has too few fields")
    start_seconds = row.parse_decimal(fields[0], "the time of a candle")
    opened, high, low, close, volume = (
        row.parse_decimal(fields[index], "a field of a candle") for index in (1, 2, 3, 4, 6)
    )
    if not (0 < low <= min(opened, close) and max(opened, close) <= high and volume >= 0):
        raise row.unreadable("a candle contradicts itself")
    row.check_timestamp(int(start_seconds), "the time of a candle")
    return Candle(int(start_seconds), opened, high, low, close, volume)


def read_balance_ex(result: object, pair_table: PairTable) -> dict[str, Balance]:
    """BalanceEx: totals by asset name, with what open orders hold.

    Free is balance + credit - credit_used - hold_trade (Kraken: BalanceEx page); the credit is part of the total.
    """
    balances: dict[str, Balance] = {}
    for name, value in _JsonObject("BalanceEx", result).fields.items():
        row = _JsonObject("BalanceEx", value)
        total = row.decimal("balance") + row.decimal_or_zero("credit") - row.decimal_or_zero("credit_used")
        asset = pair_table.asset_name(name)
        previous = balances.get(asset, Balance(asset, ZERO, ZERO))
        balances[asset] = Balance(asset, previous.total + total, previous.held + row.decimal("hold_trade"))
    return balances


def read_open_orders(result: object, pair_table: PairTable) -> list[Order]:
    """OpenOrders: every open order of the account."""
    return _read_orders("OpenOrders", _JsonObject("OpenOrders", result).child("open"), pair_table)


def read_closed_orders(result: object, pair_table: PairTable) -> tuple[list[Order], int]:
    """ClosedOrders: one page, newest first, and the number of all orders that match (not of this page)."""
    row = _JsonObject("ClosedOrders", result)
    return _read_orders("ClosedOrders", row.child("closed"), pair_table), row.integer("count")


def read_queried_order(result: object, txid: str, pair_table: PairTable) -> Order | None:
    """QueryOrders: the order of that id, or None where the answer lacks it."""
    rows = _JsonObject("QueryOrders", result)
    return _read_order(txid, rows.child(txid), pair_table) if txid in rows.fields else None


def _read_orders(method: str, rows: _JsonObject, pair_table: PairTable) -> list[Order]:
    return [_read_order(txid, _JsonObject(method, value), pair_table) for txid, value in rows.fields.items()]


def _read_order(txid: str, row: _JsonObject, pair_table: PairTable) -> Order:
    description = row.child("descr")
    status = row.text("status")
    if status not in set(OrderStatus):
        raise row.unreadable("status is not one of Kraken's")
    return Order(
        txid=txid,
        cl_ord_id=row.text_or_empty("cl_ord_id"),
        symbol=pair_table.symbol_of(description.text("pair")),
        side=description.side(),
        # One string object for all orders: the trader keeps every record of its own.
        kind=intern(description.text("ordertype")),
        status=OrderStatus(status),
        price=_read_order_price(description),
        volume=row.decimal("vol"),
        executed=row.decimal("vol_exec"),
        cost=row.decimal("cost"),
        fee=row.decimal("fee"),
        # The price beside the description is that of the fills (Kraken: SDK).
        average_price=row.decimal("price"),
        opened_seconds=row.seconds("opentm"),
        closed_seconds=row.seconds_or_zero("closetm"),
        expires_seconds=row.seconds_or_zero("expiretm"),
        reason=row.text_or_empty("reason"),
    )


def _read_order_price(description: _JsonObject) -> Decimal:
    # Trailing orders, placed by hand, have an offset such as +1.5% here: no price of their own.
    if _RELATIVE_PRICE.fullmatch(description.text("price")):
        return ZERO
    return description.decimal("price")


def read_trades(result: object, pair_table: PairTable) -> tuple[list[Fill], int]:
    """TradesHistory: one page of fills, newest first, and the number of all that match."""
    row = _JsonObject("TradesHistory", result)
    rows = [(trade_id, _JsonObject("TradesHistory", value)) for trade_id, value in row.child("trades").fields.items()]
    return [_read_fill(trade_id, trade, pair_table) for trade_id, trade in rows], row.integer("count")


def _read_fill(trade_id: str, row: _JsonObject, pair_table: PairTable) -> Fill:
    return Fill(
        trade_id=trade_id,
        order_txid=row.text("ordertxid"),
        symbol=pair_table.symbol_of(row.text("pair")),
        side=row.side(),
        price=row.decimal("price"),
        volume=row.decimal("vol"),
        cost=row.decimal("cost"),
        fee=row.decimal("fee"),
        time_seconds=row.seconds("time"),
    )


def read_key_info(result: object) -> KeyInfo:
    """GetApiKeyInfo: the key's last nonce, its permissions and its limits. The key itself is not read."""
    row = _JsonObject("GetApiKeyInfo", result)
    permissions = row.get("permissions")
    if not isinstance(permissions, list) or not all(isinstance(name, str) for name in permissions):
        raise row.unreadable("permissions is not a list of names")
    addresses = row.get("ipAllowlist") or []
    if not isinstance(addresses, list) or not all(isinstance(address, str) for address in addresses):
        raise row.unreadable("ipAllowlist is not a list of addresses")
    return KeyInfo(
        name=row.text_or_empty("apiKeyName"),
        nonce=row.integer("nonce"),
        nonce_window=row.integer("nonceWindow"),
        permissions=frozenset(permissions),
        valid_until_seconds=row.seconds_or_zero("validUntil"),
        query_from_seconds=row.seconds_or_zero("queryFrom"),
        query_to_seconds=row.seconds_or_zero("queryTo"),
        modified_seconds=None if row.get("modifiedTime") is None else row.seconds("modifiedTime"),
        ip_allowlist=tuple(addresses),
    )


def read_add_order_txid(result: object) -> str:
    """AddOrder: the txid. An answer without one leaves the order unknown, so it raises NoAnswerError."""
    row = _JsonObject("AddOrder", result)
    txids = row.get("txid")
    if not isinstance(txids, list) or len(txids) != 1 or not isinstance(txids[0], str) or not txids[0]:
        raise row.unreadable("one txid was expected")
    return txids[0]


def read_cancel_count(result: object) -> int:
    """CancelOrder and CancelAll: how many orders Kraken counted as cancelled or about to be."""
    return _JsonObject("CancelOrder", result).integer("count")

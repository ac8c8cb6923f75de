"""The private endpoints: what each needs, and how it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from itertools import takewhile
from typing import Any, TypeVar

from bot.simulator.account import ZERO, Order, Trade
from bot.simulator.errors import Refusal
from bot.simulator.exchange import Exchange
from bot.simulator.fees import LADDER, next_tier, tier_at
from bot.simulator.keys import ApiKey
from bot.simulator.orders import Params, find_pair, invalid, truth
from bot.simulator.query_lag import Lag
from bot.simulator.serializers import fixed, key_row, order_row, trade_row

PAGE_ROWS = 50
QUERY_MAXIMUM = 50
Result = dict[str, Any]
Row = TypeVar("Row")

_CANCEL = frozenset({"modify-trades", "close-trades"})
_QUERY = frozenset({"query-open-trades", "query-closed-trades"})
# One of these permissions is enough (Kraken: the endpoint pages). GetApiKeyInfo needs none.
PERMISSIONS: dict[str, frozenset[str]] = {
    "Balance": frozenset({"query-funds"}),
    "BalanceEx": frozenset({"query-funds"}),
    "TradeBalance": frozenset({"query-funds"}),
    "TradeVolume": frozenset({"query-funds"}),
    "OpenOrders": frozenset({"query-open-trades"}),
    "ClosedOrders": frozenset({"query-closed-trades"}),
    "QueryOrders": _QUERY,
    "TradesHistory": frozenset({"query-closed-trades"}),
    "AddOrder": frozenset({"modify-trades"}),
    "CancelOrder": _CANCEL,
    "CancelAll": _CANCEL,
    "CancelAllOrdersAfter": _CANCEL,
}


class Private:
    """Answers what only the account's keys may ask."""

    def __init__(self, exchange: Exchange, lag: Lag) -> None:
        self._exchange = exchange
        self._lag = lag
        self._account = exchange.account
        self.methods: dict[str, Callable[[Params, ApiKey], Result]] = {
            "Balance": self._balance,
            "BalanceEx": self._balance_ex,
            "TradeBalance": self._trade_balance,
            "OpenOrders": self._open_orders,
            "ClosedOrders": self._closed_orders,
            "QueryOrders": self._query_orders,
            "TradesHistory": self._trades_history,
            "TradeVolume": self._trade_volume,
            "AddOrder": lambda params, key: exchange.add_order(params),
            "CancelOrder": lambda params, key: exchange.cancel(params),
            "CancelAll": lambda params, key: exchange.cancel_all(),
            "CancelAllOrdersAfter": self._cancel_all_after,
            "GetApiKeyInfo": lambda params, key: key_row(key),
        }

    def admit(self, method: str, key: ApiKey) -> None:
        """Check that there is such a method, and the key's permission and rate limit. Raises Refusal."""
        if method not in self.methods:
            raise Refusal("EGeneral:Unknown method")
        needed = PERMISSIONS.get(method)
        if needed and not needed & set(key.permissions):
            raise Refusal("EGeneral:Permission denied")
        self._exchange.limits.spend_rest(key.key, method, self._exchange.now)

    def _balance(self, params: Params, key: ApiKey) -> Result:
        return {asset: self._amount(asset, amount) for asset, amount in self._account.balances.items()}

    def _balance_ex(self, params: Params, key: ApiKey) -> Result:
        return {
            asset: {
                "balance": self._amount(asset, amount),
                "hold_trade": self._amount(asset, self._account.held.get(asset, ZERO)),
            }
            for asset, amount in self._account.balances.items()
        }

    def _amount(self, asset: str, amount: Decimal) -> str:
        known = self._exchange.catalogue.assets.get(asset)
        return fixed(amount, known.decimals) if known else f"{amount:f}"

    def _trade_balance(self, params: Params, key: ApiKey) -> Result:
        asset = self._exchange.catalogue.find_asset(params.get("asset", "") or "ZUSD")
        if asset is None:
            raise Refusal("EQuery:Unknown asset")
        worth = sum((self._exchange.value_of(a, asset.asset_id) for a in self._account.balances), ZERO)
        total = fixed(worth, 4)
        zeros = dict.fromkeys(("m", "uv", "n", "c", "v"), "0.0000")
        return {"eb": total, "tb": total, **zeros, "e": total, "mf": total}

    def _order_row(self, order: Order, params: Params) -> Result:
        trades = self._account.trades_of(order) if truth(params.get("trades", "")) else None
        return order_row(order, self._exchange.pair_of(order), trades)

    def _open_orders(self, params: Params, key: ApiKey) -> Result:
        now, newest_first = self._exchange.now, reversed(list(self._account.open_orders.values()))
        chosen = _by_reference((order for order in newest_first if not self._lag.hides_open(order, now)), params)
        return {"open": {order.txid: self._order_row(order, params) for order in chosen}}

    def _closed_orders(self, params: Params, key: ApiKey) -> Result:
        which = params.get("closetime", "") or "both"
        if which not in ("open", "close", "both"):
            raise invalid("closetime")
        start, end = self._time_bound(params, "start"), self._time_bound(params, "end")
        # Newest first, so nothing after the first order that was closed before the start can belong to the answer.
        recent = takewhile(lambda order: start is None or order.closed > start, reversed(self._account.closed_orders))
        found = [
            order
            for order in _by_reference(recent, params)
            if (
                (which != "close" and _within(order.opened, start, end))
                or (which != "open" and _within(order.closed, start, end))
            )
            and not self._lag.hides_closed(order, self._exchange.now)
        ]
        page = _page(found, params)
        rows = {order.txid: self._order_row(order, params) for order in page}
        return {"closed": rows} if truth(params.get("without_count", "")) else {"closed": rows, "count": len(found)}

    def _query_orders(self, params: Params, key: ApiKey) -> Result:
        names = [name for name in params.get("txid", "").split(",") if name]
        if not 1 <= len(names) <= QUERY_MAXIMUM:
            raise invalid("txid")
        if any(name not in self._account.orders for name in names):
            raise Refusal("EOrder:Invalid order")
        chosen = _by_reference((self._account.orders[name] for name in names), params)
        return {order.txid: self._order_row(order, params) for order in chosen}

    def _trades_history(self, params: Params, key: ApiKey) -> Result:
        kind = params.get("type", "") or "all"
        if kind not in ("all", "any position", "closed position", "closing position", "no position"):
            raise invalid("type")
        start, end = self._time_bound(params, "start"), self._time_bound(params, "end")
        newest_first: list[Trade] = sorted(self._account.trades, key=lambda trade: trade.time, reverse=True)
        found = [t for t in newest_first if _within(t.time, start, end) and kind in ("all", "no position")]
        rows = {t.trade_id: trade_row(t, self._exchange.catalogue.get(t.pair_id)) for t in _page(found, params)}
        return {"trades": rows} if truth(params.get("without_count", "")) else {"trades": rows, "count": len(found)}

    def _time_bound(self, params: Params, name: str) -> float | None:
        """Read `start` or `end`: Unix time, or the id of an order or trade."""
        text = params.get(name, "")
        if text in self._account.orders:
            return self._account.orders[text].opened
        traded = next((trade.time for trade in self._account.trades if text and trade.trade_id == text), None)
        if traded is not None or not text:
            return traded
        if not text.replace(".", "", 1).isdigit():
            raise invalid(name)
        return float(text)

    def _trade_volume(self, params: Params, key: ApiKey) -> Result:
        volume = self._account.volume_30_days(self._exchange.now)
        result: Result = {"currency": "ZUSD", "volume": fixed(volume, 4)}
        names = [name.strip() for name in params.get("pair", "").split(",") if name.strip()]
        if names:
            pairs = [find_pair(self._exchange.catalogue, name).pair_id for name in names]
            result["fees"] = {pair: _fee_row(volume, "taker") for pair in pairs}
            result["fees_maker"] = {pair: _fee_row(volume, "maker") for pair in pairs}
        return result

    def _cancel_all_after(self, params: Params, key: ApiKey) -> Result:
        text = params.get("timeout", "")
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise invalid("timeout")
        fires = self._exchange.arm_switch(int(text))
        return {"currentTime": _moment(self._exchange.now), "triggerTime": "0" if fires is None else _moment(fires)}


def _by_reference(orders: Iterable[Order], params: Params) -> list[Order]:
    userref, client_id = params.get("userref", ""), params.get("cl_ord_id", "")
    return [
        order
        for order in orders
        if (not userref or str(order.userref) == userref) and (not client_id or order.cl_ord_id == client_id)
    ]


def _within(when: float, start: float | None, end: float | None) -> bool:
    return (start is None or when > start) and (end is None or when <= end)


def _page(found: list[Row], params: Params) -> list[Row]:
    text = params.get("ofs", "") or "0"
    if not (text.isascii() and text.isdigit()):
        raise invalid("ofs")
    return found[int(text) : int(text) + PAGE_ROWS]


def _fee_row(volume: Decimal, side: str) -> Result:
    def rate(tier: Any) -> str:
        return fixed(getattr(tier, side), 4)

    tier, above = tier_at(volume), next_tier(volume)
    return {
        "fee": rate(tier),
        "minfee": rate(LADDER[-1]),
        "maxfee": rate(LADDER[0]),
        "nextfee": rate(above) if above else None,
        "tiervolume": fixed(tier.volume, 4),
        "nextvolume": fixed(above.volume, 4) if above else None,
    }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

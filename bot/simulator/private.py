"""The private endpoints: their permissions and their answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal
from itertools import takewhile
from typing import Any, TypeVar

from bot.base.clock import format_utc
from bot.simulator.account import ZERO, SimOrder, SimTrade
from bot.simulator.errors import Refusal
from bot.simulator.exchange import Exchange
from bot.simulator.fees import FEE_TIERS, fee_tier_at, next_fee_tier
from bot.simulator.keys import ApiKey
from bot.simulator.orders import Params, find_pair, invalid_argument, parse_bool, parse_int, split_names
from bot.simulator.serializers import format_decimal, serialize_key, serialize_order, serialize_trade

PAGE_SIZE = 50
QUERY_TXIDS_MAX = 50
Result = dict[str, Any]
Item = TypeVar("Item")

_CANCEL_PERMISSIONS = frozenset({"modify-trades", "close-trades"})
_QUERY_PERMISSIONS = frozenset({"query-open-trades", "query-closed-trades"})
# One of these permissions is enough (Kraken: the endpoint pages). GetApiKeyInfo needs none.
PERMISSIONS: dict[str, frozenset[str]] = {
    "Balance": frozenset({"query-funds"}),
    "BalanceEx": frozenset({"query-funds"}),
    "TradeBalance": frozenset({"query-funds"}),
    "TradeVolume": frozenset({"query-funds"}),
    "OpenOrders": frozenset({"query-open-trades"}),
    "ClosedOrders": frozenset({"query-closed-trades"}),
    "QueryOrders": _QUERY_PERMISSIONS,
    "TradesHistory": frozenset({"query-closed-trades"}),
    "AddOrder": frozenset({"modify-trades"}),
    "CancelOrder": _CANCEL_PERMISSIONS,
    "CancelAll": _CANCEL_PERMISSIONS,
    "CancelAllOrdersAfter": _CANCEL_PERMISSIONS,
}


class PrivateEndpoints:
    """Answers requests that need a key."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._behavior = exchange.behavior
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
            "GetApiKeyInfo": lambda params, key: serialize_key(key),
        }

    def execute(self, method: str, params: Params, key: ApiKey) -> Result:
        """Authorize a request and answer it. Raises Refusal."""
        self.authorize(method, key)
        return self.methods[method](params, key)

    def authorize(self, method: str, key: ApiKey) -> None:
        """Check that the method exists, and the key's permission and rate limit. Raises Refusal."""
        if method not in self.methods:
            raise Refusal("EGeneral:Unknown method")
        needed = PERMISSIONS.get(method)
        if needed and not needed & set(key.permissions):
            raise Refusal("EGeneral:Permission denied")
        self._exchange.limits.spend_rest(key.key, method, self._exchange.now)

    def _balance(self, params: Params, key: ApiKey) -> Result:
        return {asset: self._format_amount(asset, amount) for asset, amount in self._account.balances.items()}

    def _balance_ex(self, params: Params, key: ApiKey) -> Result:
        return {
            asset: {
                "balance": self._format_amount(asset, amount),
                "hold_trade": self._format_amount(asset, self._account.held.get(asset, ZERO)),
            }
            for asset, amount in self._account.balances.items()
        }

    def _format_amount(self, asset: str, amount: Decimal) -> str:
        known = self._exchange.instruments.assets.get(asset)
        return format_decimal(amount, known.decimals) if known else f"{amount:f}"

    def _trade_balance(self, params: Params, key: ApiKey) -> Result:
        asset = self._exchange.instruments.find_asset(params.get("asset", "") or "ZUSD")
        if asset is None:
            raise Refusal("EQuery:Unknown asset")
        equity = sum((self._exchange.value_of(a, asset.asset_id) for a in self._account.balances), ZERO)
        total = format_decimal(equity, 4)
        zeros = dict.fromkeys(("m", "uv", "n", "c", "v"), "0.0000")
        return {"eb": total, "tb": total, **zeros, "e": total, "mf": total}

    def _serialize_order(self, order: SimOrder, params: Params) -> Result:
        trades = self._account.list_trade_ids(order) if parse_bool(params.get("trades", "")) else None
        return serialize_order(order, self._exchange.pair_of(order), trades)

    def _open_orders(self, params: Params, key: ApiKey) -> Result:
        now, newest_first = self._exchange.now, reversed(list(self._account.open_orders.values()))
        chosen = _filter_by_reference(
            (order for order in newest_first if self._behavior.is_open_order_visible(order, now)), params
        )
        return {"open": {order.txid: self._serialize_order(order, params) for order in chosen}}

    def _closed_orders(self, params: Params, key: ApiKey) -> Result:
        closetime = params.get("closetime", "") or "both"
        if closetime not in ("open", "close", "both"):
            raise invalid_argument("closetime")
        start, end = self._time_bound(params, "start"), self._time_bound(params, "end")
        # Newest first, so no order after the first one that was closed before the start can belong to the answer.
        recent = takewhile(lambda order: start is None or order.closed > start, reversed(self._account.closed_orders))
        found = [
            order
            for order in _filter_by_reference(recent, params)
            if (
                (closetime != "close" and _is_within(order.opened, start, end))
                or (closetime != "open" and _is_within(order.closed, start, end))
            )
            and self._behavior.is_closed_order_visible(order, self._exchange.now)
        ]
        page = {order.txid: self._serialize_order(order, params) for order in _paginate(found, params)}
        return {"closed": page} | _count(found, params)

    def _query_orders(self, params: Params, key: ApiKey) -> Result:
        names = [name for name in params.get("txid", "").split(",") if name]
        if not 1 <= len(names) <= QUERY_TXIDS_MAX:
            raise invalid_argument("txid")
        if any(name not in self._account.orders for name in names):
            raise Refusal("EOrder:Invalid order")
        chosen = _filter_by_reference((self._account.orders[name] for name in names), params)
        return {order.txid: self._serialize_order(order, params) for order in chosen}

    def _trades_history(self, params: Params, key: ApiKey) -> Result:
        kind = params.get("type", "") or "all"
        if kind not in ("all", "any position", "closed position", "closing position", "no position"):
            raise invalid_argument("type")
        start, end = self._time_bound(params, "start"), self._time_bound(params, "end")
        newest_first: list[SimTrade] = sorted(self._account.trades, key=lambda trade: trade.time, reverse=True)
        found = [t for t in newest_first if _is_within(t.time, start, end) and kind in ("all", "no position")]
        page = {
            t.trade_id: serialize_trade(t, self._exchange.instruments.get(t.pair_id)) for t in _paginate(found, params)
        }
        return {"trades": page} | _count(found, params)

    def _time_bound(self, params: Params, name: str) -> float | None:
        """Read `start` or `end`: Unix time, or the id of an order or trade."""
        text = params.get(name, "")
        if text in self._account.orders:
            return self._account.orders[text].opened
        traded = next((trade.time for trade in self._account.trades if text and trade.trade_id == text), None)
        if traded is not None or not text:
            return traded
        if not text.replace(".", "", 1).isdigit():
            raise invalid_argument(name)
        return float(text)

    def _trade_volume(self, params: Params, key: ApiKey) -> Result:
        volume = self._account.volume_30_days(self._exchange.now)
        result: Result = {"currency": "ZUSD", "volume": format_decimal(volume, 4)}
        names = split_names(params, "pair")
        if names:
            pairs = [find_pair(self._exchange.instruments, name).pair_id for name in names]
            result["fees"] = {pair: _fee_info(volume, "taker") for pair in pairs}
            result["fees_maker"] = {pair: _fee_info(volume, "maker") for pair in pairs}
        return result

    def _cancel_all_after(self, params: Params, key: ApiKey) -> Result:
        text = params.get("timeout", "")
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise invalid_argument("timeout")
        fires_at = self._exchange.arm_dead_man_switch(int(text))
        return {
            "currentTime": format_utc(self._exchange.now),
            "triggerTime": "0" if fires_at is None else format_utc(fires_at),
        }


def _filter_by_reference(orders: Iterable[SimOrder], params: Params) -> list[SimOrder]:
    userref, client_id = params.get("userref", ""), params.get("cl_ord_id", "")
    return [
        order
        for order in orders
        if (not userref or str(order.userref) == userref) and (not client_id or order.cl_ord_id == client_id)
    ]


def _is_within(timestamp: float, start: float | None, end: float | None) -> bool:
    return (start is None or timestamp > start) and (end is None or timestamp <= end)


def _paginate(found: list[Item], params: Params) -> list[Item]:
    offset = parse_int(params, "ofs", 0)
    return found[offset : offset + PAGE_SIZE]


def _count(found: list[Item], params: Params) -> Result:
    return {} if parse_bool(params.get("without_count", "")) else {"count": len(found)}


def _fee_info(volume: Decimal, side: str) -> Result:
    def rate(tier: Any) -> str:
        return format_decimal(getattr(tier, side), 4)

    tier, tier_above = fee_tier_at(volume), next_fee_tier(volume)
    return {
        "fee": rate(tier),
        "minfee": rate(FEE_TIERS[-1]),
        "maxfee": rate(FEE_TIERS[0]),
        "nextfee": rate(tier_above) if tier_above else None,
        "tiervolume": format_decimal(tier.min_volume, 4),
        "nextvolume": format_decimal(tier_above.min_volume, 4) if tier_above else None,
    }

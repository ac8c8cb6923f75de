"""Responses in exactly Kraken's form: numbers as text, times as JSON numbers, null where Kraken has it."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from bot.simulator.account import SimOrder, SimTrade
from bot.simulator.instruments import AssetRules, PairRules
from bot.simulator.keys import ApiKey

JsonObject = dict[str, Any]
ZERO_TEXT = "0.00000"


def format_decimal(number: Decimal, decimals: int) -> str:
    """Write a number with that many decimals, never with an exponent."""
    return f"{number.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP):f}"


def _format_price(pair: PairRules, price: Decimal) -> str:
    return format_decimal(price, pair.price_decimals)


def describe_order(order: SimOrder, pair: PairRules) -> str:
    """Return the description that Kraken calls descr.order."""
    volume, kind = format_decimal(order.volume, pair.lot_decimals), order.kind.replace("-", " ")
    start = f"{order.side} {volume} {pair.altname} @ {kind}"
    return start if order.kind == "market" else f"{start} {_format_price(pair, order.price)}"


def serialize_order(order: SimOrder, pair: PairRules, trades: list[str] | None = None) -> JsonObject:
    """Return an entry of OpenOrders, ClosedOrders or QueryOrders. `trades` None leaves the trades out."""
    average = order.cost / order.executed if order.executed else Decimal(0)
    entry: JsonObject = {
        "refid": None,
        "userref": order.userref,
        "cl_ord_id": order.cl_ord_id,
        "status": order.status,
        "opentm": round(order.opened, 4),
        "starttm": 0,
        "expiretm": round(order.expires, 4) if order.expires else 0,
        "descr": _serialize_description(order, pair),
        "vol": format_decimal(order.volume, pair.lot_decimals),
        "vol_exec": format_decimal(order.executed, pair.lot_decimals),
        "cost": format_decimal(order.cost, pair.cost_decimals),
        "fee": format_decimal(order.fee, pair.cost_decimals),
        "price": format_decimal(average, max(5, pair.price_decimals)),
        "stopprice": ZERO_TEXT,
        "limitprice": ZERO_TEXT,
        "misc": order.misc,
        "oflags": ",".join(order.flags),
        "time_in_force": order.time_in_force.lower(),
        "margin": False,
        "trigger": "last",
    }
    if not order.cl_ord_id:
        del entry["cl_ord_id"]
    if order.kind in {"market", "limit"}:
        del entry["trigger"]
    if order.closed:
        entry |= {"closetm": round(order.closed, 4), "reason": order.reason or None}
    if trades:
        entry["trades"] = trades
    return entry


def _serialize_description(order: SimOrder, pair: PairRules) -> JsonObject:
    return {
        "pair": pair.altname,
        "aclass": "forex",
        "type": order.side,
        "ordertype": order.kind,
        "price": _format_price(pair, order.price) if order.price else "0",
        "price2": "0",
        "leverage": "none",
        "order": describe_order(order, pair),
        "close": "",
    }


def serialize_trade(trade: SimTrade, pair: PairRules) -> JsonObject:
    """Return an entry of TradesHistory."""
    return {
        "ordertxid": trade.order_txid,
        "postxid": "TKH2SE-M7IF5-CFI7LT",
        "pair": pair.pair_id,
        "aclass": "forex",
        "time": round(trade.time, 4),
        "type": trade.side,
        "ordertype": trade.kind,
        "price": _format_price(pair, trade.price),
        "cost": format_decimal(trade.cost, pair.cost_decimals),
        "fee": format_decimal(trade.fee, pair.cost_decimals),
        "vol": format_decimal(trade.volume, pair.lot_decimals),
        "margin": ZERO_TEXT,
        "leverage": "0",
        "misc": "",
        "trade_id": trade.number,
        "maker": trade.maker,
    }


def serialize_asset(asset: AssetRules) -> JsonObject:
    """Return an entry of Assets."""
    return {
        "aclass": "currency",
        "altname": asset.altname,
        "decimals": asset.decimals,
        "display_decimals": asset.display_decimals,
        "status": "enabled",
    }


def serialize_pair(pair: PairRules, status: str) -> JsonObject:
    """Return an entry of AssetPairs. The fee arrays are empty, as Kraken's are since 8 September 2026."""
    return {
        "altname": pair.altname,
        "wsname": pair.wsname,
        "aclass_base": "currency",
        "base": pair.base.asset_id,
        "aclass_quote": "currency",
        "quote": pair.quote.asset_id,
        "lot": "unit",
        "execution_venue": "international",
        "cost_decimals": pair.cost_decimals,
        "pair_decimals": pair.price_decimals,
        "lot_decimals": pair.lot_decimals,
        "lot_multiplier": 1,
        "leverage_buy": [],
        "leverage_sell": [],
        "fees": [],
        "fees_maker": [],
        "fee_volume_currency": "ZUSD",
        "margin_call": 80,
        "margin_stop": 40,
        "ordermin": f"{pair.order_minimum:f}",
        "costmin": f"{pair.cost_minimum:f}",
        "tick_size": f"{pair.tick_size:f}",
        "status": status,
    }


def serialize_key(key: ApiKey) -> JsonObject:
    """Return the result of GetApiKeyInfo. Its nonce is the one of this very call (Kraken does not say which)."""
    return {
        "apiKeyName": key.name,
        "apiKey": key.key,
        "nonce": str(key.floor),
        "nonceWindow": key.nonce_window,
        "permissions": list(key.permissions),
        "iban": "",
        "validUntil": "0",
        "queryFrom": "0",
        "queryTo": "0",
        "createdTime": str(int(key.created)),
        "modifiedTime": str(int(key.created)),
        "ipAllowlist": [],
        "lastUsed": str(int(key.used)),
    }

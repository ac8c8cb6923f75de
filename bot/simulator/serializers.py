"""Rows in exactly the shapes of Kraken's answers: numbers as text, times as JSON numbers, null where Kraken has it."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from bot.simulator.account import Order, Trade
from bot.simulator.instruments import AssetRules, PairRules
from bot.simulator.keys import ApiKey

Row = dict[str, Any]
ZERO_TEXT = "0.00000"


def fixed(number: Decimal, decimals: int) -> str:
    """Write a number with that many decimals, never with an exponent."""
    return f"{number.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP):f}"


def _price(pair: PairRules, price: Decimal) -> str:
    return fixed(price, pair.price_decimals)


def describe(order: Order, pair: PairRules) -> str:
    """Return the sentence that Kraken calls descr.order."""
    start = f"{order.side} {fixed(order.volume, pair.lot_decimals)} {pair.altname} @ {order.kind.replace('-', ' ')}"
    return start if order.kind == "market" else f"{start} {_price(pair, order.price)}"


def order_row(order: Order, pair: PairRules, trades: list[str] | None = None) -> Row:
    """Return a row of OpenOrders, ClosedOrders or QueryOrders. `trades` None leaves them out."""
    average = order.cost / order.executed if order.executed else Decimal(0)
    row: Row = {
        "refid": None,
        "userref": order.userref,
        "cl_ord_id": order.cl_ord_id,
        "status": order.status,
        "opentm": round(order.opened, 4),
        "starttm": 0,
        "expiretm": round(order.expires, 4) if order.expires else 0,
        "descr": _description(order, pair),
        "vol": fixed(order.volume, pair.lot_decimals),
        "vol_exec": fixed(order.executed, pair.lot_decimals),
        "cost": fixed(order.cost, pair.cost_decimals),
        "fee": fixed(order.fee, pair.cost_decimals),
        "price": fixed(average, max(5, pair.price_decimals)),
        "stopprice": ZERO_TEXT,
        "limitprice": ZERO_TEXT,
        "misc": order.misc,
        "oflags": ",".join(order.flags),
        "time_in_force": order.time_in_force.lower(),
        "margin": False,
        "trigger": "last",
    }
    if not order.cl_ord_id:
        del row["cl_ord_id"]
    if order.kind in {"market", "limit"}:
        del row["trigger"]
    if order.closed:
        row |= {"closetm": round(order.closed, 4), "reason": order.reason or None}
    if trades:
        row["trades"] = trades
    return row


def _description(order: Order, pair: PairRules) -> Row:
    return {
        "pair": pair.altname,
        "aclass": "forex",
        "type": order.side,
        "ordertype": order.kind,
        "price": _price(pair, order.price) if order.price else "0",
        "price2": "0",
        "leverage": "none",
        "order": describe(order, pair),
        "close": "",
    }


def trade_row(trade: Trade, pair: PairRules) -> Row:
    """Return a row of TradesHistory."""
    return {
        "ordertxid": trade.order_txid,
        "postxid": "TKH2SE-M7IF5-CFI7LT",
        "pair": pair.pair_id,
        "aclass": "forex",
        "time": round(trade.time, 4),
        "type": trade.side,
        "ordertype": trade.kind,
        "price": _price(pair, trade.price),
        "cost": fixed(trade.cost, pair.cost_decimals),
        "fee": fixed(trade.fee, pair.cost_decimals),
        "vol": fixed(trade.volume, pair.lot_decimals),
        "margin": ZERO_TEXT,
        "leverage": "0",
        "misc": "",
        "trade_id": trade.number,
        "maker": trade.maker,
    }


def asset_row(asset: AssetRules) -> Row:
    """Return a row of Assets."""
    return {
        "aclass": "currency",
        "altname": asset.altname,
        "decimals": asset.decimals,
        "display_decimals": asset.display_decimals,
        "status": "enabled",
    }


def pair_row(pair: PairRules, status: str) -> Row:
    """Return a row of AssetPairs. The fee arrays are empty, as Kraken's are since 8 September 2026."""
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


def key_row(key: ApiKey) -> Row:
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

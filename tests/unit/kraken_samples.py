"""Responses in the shapes of Kraken's endpoint pages; the values are invented."""

from __future__ import annotations

import copy
from typing import Any

from bot.kraken.pairs import PairTable

ASSET_PAIRS: dict[str, Any] = {
    "XXBTZEUR": {
        "altname": "XBTEUR",
        "wsname": "XBT/EUR",
        "base": "XXBT",
        "quote": "ZEUR",
        "pair_decimals": 1,
        "lot_decimals": 8,
        "cost_decimals": 5,
        "ordermin": "0.00005",
        "costmin": "0.5",
        "tick_size": "0.1",
    }
}
ASSETS: dict[str, Any] = {"XXBT": {"altname": "XBT"}, "ZEUR": {"altname": "EUR"}, "SOL": {"altname": "SOL"}}
PAIR_TABLE = PairTable(ASSET_PAIRS, ASSETS)

ORDER: dict[str, Any] = {
    "refid": None,
    "userref": None,
    "cl_ord_id": "bot-0001",
    "status": "open",
    "opentm": 1790000000.1234,
    "starttm": 0,
    "expiretm": 1790003600,
    "descr": {
        "pair": "XBTEUR",
        "aclass": "forex",
        "type": "buy",
        "ordertype": "limit",
        "price": "51234.5",
        "price2": "0",
        "leverage": "none",
        "order": "buy 0.00100000 XBTEUR @ limit 51234.5",
        "close": "",
    },
    "vol": "0.00100000",
    "vol_exec": "0.00040000",
    "cost": "20.49380",
    "fee": "0.08197",
    "price": "51234.4",
    "stopprice": "0.00000",
    "limitprice": "0.00000",
    "misc": "",
    "oflags": "fciq",
    "time_in_force": "gtc",
    "margin": False,
    "trigger": "last",
}
TRADE: dict[str, Any] = {
    "ordertxid": "OQ7TEX-3F5KA-9ZPLMN",
    "postxid": "TKH2AA-BBBBB-CCCCCC",
    "pair": "XXBTZEUR",
    "aclass": "forex",
    "time": 1790000012.55,
    "type": "sell",
    "ordertype": "limit",
    "price": "51234.5",
    "cost": "51.23450",
    "fee": "0.20494",
    "vol": "0.00100000",
    "margin": "0.00000",
    "leverage": "0",
    "misc": "",
    "trade_id": 4711,
    "maker": True,
}
KEY_INFO: dict[str, Any] = {
    "apiKeyName": "bot",
    "apiKey": "the key itself",
    "nonce": "1790000000123456789",
    "nonceWindow": 0,
    "permissions": ["query-funds", "query-open-trades", "modify-trades"],
    "iban": "AA00 0000 0000 0000",
    "validUntil": "0",
    "queryFrom": "0",
    "queryTo": "0",
    "createdTime": "1770000000",
    "modifiedTime": "1770000000",
    "ipAllowlist": [],
    "lastUsed": "1790000000",
}
OHLC: dict[str, Any] = {
    "XBTEUR": [
        [1790000000, "10.0", "12.0", "9.0", "11.0", "10.5", "3.50000000", 7],
        [1790000060, "11.0", "11.0", "11.0", "11.0", "0.0", "0.00000000", 0],
        [1790000120, "11.0", "13.0", "11.0", "12.5", "12.0", "0.25000000", 2],
    ],
    "last": 1790000060,
}


def replace_entry(value: Any, path: str, new: Any) -> Any:
    """Return a copy with the entry at a path such as `open/O1/vol` replaced, or removed if `new` is `...`."""
    result = copy.deepcopy(value)
    *steps, last = [int(step) if step.isdigit() else step for step in path.split("/")]
    inner = result
    for step in steps:
        inner = inner[step]
    if new is ...:
        del inner[last]
    else:
        inner[last] = new
    return result

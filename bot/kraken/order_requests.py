"""Orders as Kraken wants to read them. Pure."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from bot.base.errors import OrderRuleError
from bot.base.models import Pair, Side
from bot.kraken.pairs import as_text, round_price

# Free text of a cl_ord_id may have 18 characters (Kraken: cl_ord_id guide).
CLIENT_ORDER_ID_LENGTH = 18
BOT_ID_LENGTH = 5

# An AddOrder with any other field could not be valued or settled: a deadline of its own, a userref, leverage, a
# closing order.
_FIELDS = frozenset({"pair", "type", "ordertype", "volume", "price", "cl_ord_id", "timeinforce", "expiretm", "oflags"})
_KINDS = ("limit", "market", "stop-loss", "take-profit")
# Kraken reads +10, -10, #10 and 1% as prices relative to the market (Kraken: AddOrder page).
_PLAIN_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")


def bot_id_of(api_key: str) -> str:
    """Return the bot id of a key: the same on every host, and not telling the key."""
    return _base32(api_key)[:BOT_ID_LENGTH]


def client_order_id(bot_id: str, symbol: str, strategy: str, candle_seconds: int, *, kind: str, attempt: int) -> str:
    """Return the `cl_ord_id` of a signal: the same signal makes the same id, on any host, after any crash."""
    signal = "|".join((symbol, strategy, str(candle_seconds), kind, str(attempt)))
    return bot_id + _base32(signal)[: CLIENT_ORDER_ID_LENGTH - BOT_ID_LENGTH]


def limit_order(
    pair: Pair,
    side: Side,
    volume: Decimal,
    price: Decimal,
    cl_ord_id: str,
    *,
    expires_seconds: int | None = None,
    post_only: bool = False,
    immediate_or_cancel: bool = False,
) -> dict[str, str]:
    """Return AddOrder's parameters for a limit order (Kraken: AddOrder page)."""
    params = _order("limit", pair, side, volume, price, cl_ord_id)
    if post_only:
        params["oflags"] = f"post,{params['oflags']}"
    if immediate_or_cancel:
        params["timeinforce"] = "IOC"
    elif expires_seconds is not None:
        params["timeinforce"] = "GTD"
        params["expiretm"] = str(expires_seconds)
    return params


def stop_order(pair: Pair, side: Side, volume: Decimal, stop_price: Decimal, cl_ord_id: str) -> dict[str, str]:
    """Return AddOrder's parameters for a stop that rests until it is triggered or cancelled (Kraken: AddOrder page)."""
    return _order("stop-loss", pair, side, volume, stop_price, cl_ord_id)


def _order(kind: str, pair: Pair, side: Side, volume: Decimal, price: Decimal, cl_ord_id: str) -> dict[str, str]:
    return {
        "pair": pair.altname,
        "type": str(side),
        "ordertype": kind,
        "volume": as_text(volume),
        "price": as_text(price),
        "cl_ord_id": cl_ord_id,
        # A sell would by default pay its fee in coins (Kraken: AddOrder page), and the books count it in money.
        "oflags": "fciq",
    }


def check_fields(params: Mapping[str, Any]) -> None:
    """Raise OrderRuleError for an AddOrder that could not be valued or settled, TypeError for a float in it."""
    given = {name: value for name, value in params.items() if value not in (None, "", False)}
    strange = sorted(given.keys() - _FIELDS)
    if "viqc" in str(given.get("oflags")):
        strange.append("viqc")
    if strange:
        raise OrderRuleError(
            f"AddOrder takes no {', '.join(strange)} here: such an order could not be valued or settled", "AddOrder"
        )
    if given.get("ordertype") not in _KINDS or given.get("type") not in tuple(Side):
        raise OrderRuleError(f"AddOrder needs type (buy, sell) and ordertype ({', '.join(_KINDS)})", "AddOrder")
    numbers = {name: given.get(name, "") for name in ("volume", "price")}
    if given["ordertype"] == "market":
        del numbers["price"]
    for name, value in numbers.items():
        if isinstance(value, float):
            raise TypeError(f"{name} must be a Decimal or a text, not a float: floats lose money")
        if not _PLAIN_NUMBER.fullmatch(str(value)) or not Decimal(str(value)):
            raise OrderRuleError(f"AddOrder needs a {name} in plain digits, not {value!r}", "AddOrder")


def collared_price(pair: Pair, side: Side, price: Decimal, collar_percent: Decimal) -> Decimal:
    """Return the worst price that a market order may get: `collar_percent` away from `price`, on the tick grid."""
    share = collar_percent / 100
    return round_price(pair, side, price * (1 + share if side is Side.BUY else 1 - share))


def _base32(text: str) -> str:
    # 16 characters, of which no id takes more than 13.
    return base64.b32encode(hashlib.sha256(text.encode()).digest()[:10]).decode().lower()

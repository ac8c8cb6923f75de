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
from bot.kraken.pairs import format_decimal, round_price

# Free text of a cl_ord_id may have 18 characters (Kraken: cl_ord_id guide).
CLIENT_ORDER_ID_LENGTH = 18
BOT_ID_LENGTH = 5

# An AddOrder with any other field could not be valued or settled: a deadline of its own, a userref, leverage, a
# closing order.
_ALLOWED_FIELDS = frozenset(
    {"pair", "type", "ordertype", "volume", "price", "cl_ord_id", "timeinforce", "expiretm", "oflags"}
)
_ORDER_TYPES = ("limit", "market", "stop-loss", "take-profit")
# Kraken reads +10, -10, #10 and 1% as prices relative to the market (Kraken: AddOrder page).
_PLAIN_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")


def derive_bot_id(api_key: str) -> str:
    """Return the bot id of a key: the same on every host, and not telling the key."""
    return _base32(api_key)[:BOT_ID_LENGTH]


def client_order_id(bot_id: str, symbol: str, strategy: str, candle_seconds: int, *, kind: str, attempt: int) -> str:
    """Return the `cl_ord_id` of a signal: the same signal makes the same id, on any host, after any crash."""
    signal = "|".join((symbol, strategy, str(candle_seconds), kind, str(attempt)))
    return bot_id + _base32(signal)[: CLIENT_ORDER_ID_LENGTH - BOT_ID_LENGTH]


def limit_order_params(
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
    params = _order_params("limit", pair, side, volume, price, cl_ord_id)
    if post_only:
        params["oflags"] = f"post,{params['oflags']}"
    if immediate_or_cancel:
        params["timeinforce"] = "IOC"
    elif expires_seconds is not None:
        params["timeinforce"] = "GTD"
        params["expiretm"] = str(expires_seconds)
    return params


def stop_order_params(pair: Pair, side: Side, volume: Decimal, stop_price: Decimal, cl_ord_id: str) -> dict[str, str]:
    """Return AddOrder's parameters for a stop that rests until it is triggered or cancelled (Kraken: AddOrder page)."""
    return _order_params("stop-loss", pair, side, volume, stop_price, cl_ord_id)


def _order_params(kind: str, pair: Pair, side: Side, volume: Decimal, price: Decimal, cl_ord_id: str) -> dict[str, str]:
    return {
        "pair": pair.altname,
        "type": str(side),
        "ordertype": kind,
        "volume": format_decimal(volume),
        "price": format_decimal(price),
        "cl_ord_id": cl_ord_id,
        # A sell would by default pay its fee in coins (Kraken: AddOrder page), and the books count it in money.
        "oflags": "fciq",
    }


def check_fields(params: Mapping[str, Any]) -> None:
    """Raise OrderRuleError for an AddOrder that could not be valued or settled, TypeError for a float in it."""
    present = {name: value for name, value in params.items() if value not in (None, "", False)}
    unsupported = sorted(present.keys() - _ALLOWED_FIELDS)
    if "viqc" in str(present.get("oflags")):
        unsupported.append("viqc")
    if unsupported:
        raise OrderRuleError(
            f"AddOrder takes no {', '.join(unsupported)} here: such an order could not be valued or settled", "AddOrder"
        )
    if present.get("ordertype") not in _ORDER_TYPES or present.get("type") not in tuple(Side):
        raise OrderRuleError(f"AddOrder needs type (buy, sell) and ordertype ({', '.join(_ORDER_TYPES)})", "AddOrder")
    numbers = {name: present.get(name, "") for name in ("volume", "price")}
    if present["ordertype"] == "market":
        del numbers["price"]
    for name, value in numbers.items():
        if isinstance(value, float):
            raise TypeError(f"{name} must be a Decimal or a text, not a float: floats lose money")
        if not _PLAIN_NUMBER.fullmatch(str(value)) or not Decimal(str(value)):
            raise OrderRuleError(f"AddOrder needs a {name} in plain digits, not {value!r}", "AddOrder")


def max_slippage_price(pair: Pair, side: Side, price: Decimal, max_slippage_percent: Decimal) -> Decimal:
    """Return the worst price that a market order may get: `collar_percent` away from `price`, on the tick grid."""
    ratio = max_slippage_percent / 100
    return round_price(pair, side, price * (1 + ratio if side is Side.BUY else 1 - ratio))


def _base32(text: str) -> str:
    # 16 characters, of which no id takes more than 13.
    return base64.b32encode(hashlib.sha256(text.encode()).digest()[:10]).decode().lower()

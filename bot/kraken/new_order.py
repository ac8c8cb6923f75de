"""AddOrder parameters and client order ids. Pure."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from bot.base.errors import OrderRuleError
from bot.base.models import ZERO, Pair, Side
from bot.kraken.pairs import format_decimal, round_price

# Free text of a cl_ord_id may have 18 characters (Kraken: cl_ord_id guide).
CLIENT_ORDER_ID_LENGTH = 18
BOT_ID_LENGTH = 5

# How long after it is sent an order may still reach the matching engine (Kraken: AddOrder page, `deadline`).
ORDER_DEADLINE_SECONDS = 8.0

# An AddOrder with any other field could not be valued or reconciled: a deadline of its own, a userref, leverage, a
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


@dataclass(frozen=True, slots=True)
class NewOrder:
    """An order for AddOrder, typed from the signal to the wire (Kraken: AddOrder page).

    `kind` is Kraken's ordertype, `price` the limit or trigger price, zero for a market order. `expires` is Kraken's
    expiretm, `time_in_force` its timeinforce, `flags` its oflags, `stptype` its self-trade prevention.
    """

    pair: Pair
    side: Side
    kind: str
    volume: Decimal
    price: Decimal
    cl_ord_id: str
    # A sell would by default pay its fee in coins (Kraken: AddOrder page), and the books count it in money.
    flags: tuple[str, ...] = ("fciq",)
    time_in_force: str = ""
    expires: str = ""
    stptype: str = ""

    def to_params(self) -> dict[str, str]:
        """Return the parameters as Kraken reads them."""
        params = {
            "pair": self.pair.altname,
            "type": str(self.side),
            "ordertype": self.kind,
            "volume": format_decimal(self.volume),
            "price": format_decimal(self.price) if self.price else "",
            "cl_ord_id": self.cl_ord_id,
            "oflags": ",".join(self.flags),
            "timeinforce": self.time_in_force,
            "expiretm": self.expires,
            "stptype": self.stptype,
        }
        return {name: value for name, value in params.items() if value}


def parse_order(pair: Pair, params: Mapping[str, Any], cl_ord_id: str) -> NewOrder:
    """Return the order that AddOrder's parameters, checked by `check_fields`, describe."""
    kind = str(params["ordertype"])
    return NewOrder(
        pair=pair,
        side=Side(params["type"]),
        kind=kind,
        volume=Decimal(str(params["volume"])),
        price=ZERO if kind == "market" else Decimal(str(params["price"])),
        cl_ord_id=cl_ord_id,
        flags=tuple(flag.strip() for flag in str(params.get("oflags") or "").split(",") if flag.strip()),
        time_in_force=str(params.get("timeinforce") or ""),
        expires=str(params.get("expiretm") or ""),
    )


def check_fields(params: Mapping[str, Any]) -> None:
    """Raise OrderRuleError for an AddOrder that could not be valued or reconciled, TypeError for a float in it."""
    present = {name: value for name, value in params.items() if value not in (None, "", False)}
    unsupported = sorted(present.keys() - _ALLOWED_FIELDS)
    if "viqc" in str(present.get("oflags")):
        unsupported.append("viqc")
    if unsupported:
        raise OrderRuleError(
            f"AddOrder takes no {', '.join(unsupported)} here: such an order could not be valued or reconciled",
            "AddOrder",
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
    """Return the worst price of a market order: `max_slippage_percent` from `price`, rounded to the tick size."""
    ratio = max_slippage_percent / 100
    return round_price(pair, side, price * (1 + ratio if side is Side.BUY else 1 - ratio))


def _base32(text: str) -> str:
    # 16 characters, of which no id takes more than 13.
    return base64.b32encode(hashlib.sha256(text.encode()).digest()[:10]).decode().lower()

"""AddOrder's arguments: checked in Kraken's order and refused with Kraken's strings.

Every string here is from Kraken's AddOrder and error pages or was seen live by others, except those for arguments that
this simulator does not offer, which get Kraken's general `EGeneral:Invalid arguments:<name>`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from sys import intern

from bot.simulator.account import ZERO, SimOrder
from bot.simulator.errors import Refusal
from bot.simulator.instruments import Instruments, PairRules

Params = Mapping[str, str]

ORDER_TYPES = ("market", "limit", "stop-loss", "take-profit")
TIMES_IN_FORCE = ("GTC", "IOC", "GTD", "FOK")
SELF_TRADE_PREVENTIONS = ("cancel-newest", "cancel-oldest", "cancel-both")
ORDER_FLAGS = ("post", "fcib", "fciq", "viqc", "nompp")
EXPIRY_SECONDS_MAX = 31 * 86400
DEADLINE_SECONDS_MAX = 60
_PLAIN_NUMBER = re.compile(r"\d{1,20}(\.\d{1,20})?", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_UNSUPPORTED = ("leverage", "reduce_only", "displayvol", "price2", "starttm", "asset_class")


def invalid_argument(argument: str) -> Refusal:
    """Return Kraken's general refusal of one argument."""
    return Refusal(f"EGeneral:Invalid arguments:{argument}")


def parse_bool(text: str) -> bool:
    """Read a boolean parameter."""
    return text.lower() in ("true", "1")


def parse_int(params: Params, name: str, default: int) -> int:
    """Read a whole number, zero or more. Raises Refusal."""
    text = params.get(name, "") or str(default)
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise invalid_argument(name)
    return int(text)


def split_names(params: Params, name: str) -> list[str]:
    """Read a parameter that lists names, separated by commas."""
    return [text.strip() for text in params.get(name, "").split(",") if text.strip()]


def find_pair(instruments: Instruments, name: str) -> PairRules:
    """Return the pair of a request. Raises Refusal."""
    if not name:
        raise invalid_argument("pair")
    pair = instruments.find(name)
    if pair is None:
        raise Refusal("EQuery:Unknown asset pair")
    return pair


def parse_order(pair: PairRules, params: Params, now: float) -> SimOrder:
    """Return the order that the arguments describe, without a txid. Raises Refusal for the first one that is wrong.

    The volume of an order with the flag viqc is in the quote currency.
    """
    # One string for all orders, and not one for each: every order is kept in memory.
    side, kind = intern(params.get("type", "")), intern(params.get("ordertype", ""))
    if side not in ("buy", "sell"):
        raise invalid_argument("type")
    if kind not in ORDER_TYPES:
        raise invalid_argument("ordertype")
    _refuse_unsupported(params)
    flags = _read_flags(params, side, kind)
    volume = _read_volume(pair, params, "viqc" in flags)
    price = _read_price(pair, params) if kind != "market" else ZERO
    if price and price * volume < pair.cost_minimum:
        raise Refusal("EOrder:Cost minimum not met")
    time_in_force = _read_time_in_force(params, kind)
    return SimOrder(
        "", pair.pair_id, side, kind, price, volume, flags, time_in_force,
        spends=(pair.quote if side == "buy" else pair.base).asset_id,
        opened=now,
        expires=_read_expiry(params, time_in_force, kind, now),
        userref=_read_userref(params),
        cl_ord_id=_read_client_id(params),
        stptype=_read_stptype(params),
    )  # fmt: skip


def check_deadline(params: Params, now: float) -> None:
    """Raise Refusal when the order's deadline has passed or is invalid (Kraken: RFC3339, at most 60 s ahead)."""
    text = params.get("deadline", "")
    if not text:
        return
    try:
        deadline = datetime.fromisoformat(text)
    except ValueError:
        raise invalid_argument("deadline") from None
    if deadline.tzinfo is None or deadline.timestamp() > now + DEADLINE_SECONDS_MAX + 1:
        raise invalid_argument("deadline")
    if deadline.timestamp() <= now:
        raise Refusal("EService:Deadline elapsed")


def _refuse_unsupported(params: Params) -> None:
    for name in _UNSUPPORTED:
        if params.get(name, "") not in ("", "0", "none", "false"):
            raise invalid_argument(name)
    close_param = next((name for name in params if name.startswith("close[")), "")
    if close_param:
        raise invalid_argument(close_param)
    if params.get("trigger", "last") == "index":
        raise invalid_argument("Index unavailable")
    if params.get("trigger", "last") != "last":
        raise invalid_argument("trigger")


def _read_flags(params: Params, side: str, kind: str) -> tuple[str, ...]:
    flags = tuple(intern(flag.strip()) for flag in params.get("oflags", "").split(",") if flag.strip())
    unknown = any(flag not in ORDER_FLAGS for flag in flags)
    if unknown or ("fcib" in flags and "fciq" in flags) or ("post" in flags and kind != "limit"):
        raise invalid_argument("oflags")
    if "viqc" in flags and (kind != "market" or side != "buy"):
        raise invalid_argument("viqc")
    if "fcib" in flags or "fciq" in flags:
        return flags
    # Kraken, AddOrder page: fee in quote is the default when buying, fee in base when selling.
    return (*flags, "fciq" if side == "buy" else "fcib")


def _read_volume(pair: PairRules, params: Params, is_in_quote: bool) -> Decimal:
    text = params.get("volume", "")
    if not _PLAIN_NUMBER.fullmatch(text):
        raise invalid_argument("volume")
    volume = Decimal(text)
    if volume <= 0 or _count_decimals(volume) > pair.lot_decimals:
        raise invalid_argument("volume")
    if not is_in_quote and volume < pair.order_minimum:
        raise invalid_argument("volume minimum not met")
    return volume


def _read_price(pair: PairRules, params: Params) -> Decimal:
    text = params.get("price", "")
    if not text:
        raise invalid_argument("price")
    if not _PLAIN_NUMBER.fullmatch(text) or Decimal(text) <= 0:
        raise Refusal("EOrder:Invalid price:Invalid price argument.")
    price = Decimal(text)
    if _count_decimals(price) > pair.price_decimals:
        limit = f"{pair.wsname} price can only be specified up to {pair.price_decimals} decimals."
        raise Refusal(f"EOrder:Invalid price:{limit}")
    if price % pair.tick_size:
        raise Refusal("EOrder:Tick size check failed")
    return price


def _count_decimals(number: Decimal) -> int:
    exponent = number.normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _read_time_in_force(params: Params, kind: str) -> str:
    time_in_force = intern(params.get("timeinforce", "") or "GTC")
    if time_in_force not in TIMES_IN_FORCE or (time_in_force == "FOK" and kind != "limit"):
        raise invalid_argument("timeinforce")
    return time_in_force


def _read_stptype(params: Params) -> str:
    stptype = intern(params.get("stptype", ""))
    if stptype not in ("", *SELF_TRADE_PREVENTIONS):
        raise invalid_argument("stptype")
    return stptype


def _read_expiry(params: Params, time_in_force: str, kind: str, now: float) -> float:
    text = params.get("expiretm", "") or "0"
    relative = text.startswith("+")
    digits = text.removeprefix("+")
    if not _PLAIN_NUMBER.fullmatch(digits):
        raise invalid_argument("expiretm")
    seconds = float(digits)
    if seconds == 0 and time_in_force == "GTD":
        raise invalid_argument("expiretm")
    if seconds == 0 or kind == "market":
        return 0.0
    expires = now + seconds if relative else seconds
    if (relative and seconds < 5) or not now < expires <= now + EXPIRY_SECONDS_MAX:
        raise invalid_argument("expiretm")
    return expires


def _read_userref(params: Params) -> int | None:
    text = params.get("userref", "")
    if not text:
        return None
    if not re.fullmatch(r"-?\d{1,10}", text, re.ASCII) or not -(2**31) <= int(text) < 2**31:
        raise invalid_argument("userref")
    return int(text)


def _read_client_id(params: Params) -> str:
    text = params.get("cl_ord_id", "")
    well_formed = (len(text) <= 18 and text.isascii() and text.isprintable()) or _UUID.fullmatch(text)
    # Kraken: cl_ord_id and userref exclude each other; its string for that is not published.
    if not well_formed or (text and params.get("userref", "")):
        raise invalid_argument("cl_ord_id")
    return text

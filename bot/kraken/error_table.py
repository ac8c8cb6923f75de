"""Every error string of Kraken's Spot API, as data, and what follows from one.

The strings come from Kraken's errors guide, its support articles, its Rust SDK, and reports of users where those are
silent. They are matched by prefix, case-sensitively, after trimming blanks around the colons
(seen: `EService: Throttled: 1741500000`); the longest prefix wins.

Two questions are kept apart. `ran` is about the copy of a request that Kraken answered. `final_for_order` is about
the order: a gateway that refuses one copy says nothing about another copy of it, so only the engine's own no and an
error that follows from the request's content alone settle an order. Everything else leaves it unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from bot.base.errors import (
    CredentialsError,
    InvalidNonceError,
    KrakenError,
    LockoutError,
    OrderRefusedError,
    PermissionDeniedError,
    RateLimitError,
    RequestError,
    ServiceError,
    UnknownKrakenError,
)

THROTTLE_SECONDS_MAX = 60.0


class Category(Enum):
    """What kind of trouble a string means, the most severe first."""

    LOCKOUT = "lockout"
    CREDENTIALS = "credentials"
    PERMISSION = "permission"
    UNDECIDED = "undecided"
    NONCE = "nonce"
    SERVICE = "service"
    RATE_LIMIT = "rate limit"
    REQUEST = "request"
    ORDER = "order"


class Ran(Enum):
    """Whether the answered request may have changed anything at Kraken."""

    NO = "no"
    MAYBE = "maybe"


class Repeat(Enum):
    """How a read or a cancel may be sent again. An order is never sent again, whatever stands here."""

    NEVER = "never"
    FRESH_NONCE = "fresh nonce"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """One error string.

    `wait_seconds` is the least time before anything of the kind is sent again; `meaning` completes the
    sentence "This means: ...".
    """

    prefix: str
    category: Category
    meaning: str
    ran: Ran = Ran.NO
    repeat: Repeat = Repeat.NEVER
    wait_seconds: float = 0.0
    final_for_order: bool = False


def _credentials(prefix: str, meaning: str) -> ErrorRow:
    return ErrorRow(prefix, Category.CREDENTIALS, meaning)


def _permission(prefix: str, meaning: str) -> ErrorRow:
    return ErrorRow(prefix, Category.PERMISSION, meaning)


def _limit(prefix: str, meaning: str, wait_seconds: float) -> ErrorRow:
    return ErrorRow(prefix, Category.RATE_LIMIT, meaning, Ran.NO, Repeat.WAIT, wait_seconds)


def _engine_limit(prefix: str, meaning: str, wait_seconds: float) -> ErrorRow:
    return ErrorRow(prefix, Category.ORDER, meaning, Ran.NO, Repeat.WAIT, wait_seconds, final_for_order=True)


def _maybe(prefix: str, meaning: str) -> ErrorRow:
    return ErrorRow(prefix, Category.SERVICE, meaning, Ran.MAYBE, Repeat.WAIT, 1.0)


def _mode(prefix: str, meaning: str) -> ErrorRow:
    return ErrorRow(prefix, Category.SERVICE, meaning, Ran.NO, Repeat.WAIT, 30.0)


def _request(prefix: str, meaning: str, final: bool = True) -> ErrorRow:
    return ErrorRow(prefix, Category.REQUEST, meaning, final_for_order=final)


def _order(prefix: str, meaning: str) -> ErrorRow:
    return ErrorRow(prefix, Category.ORDER, meaning, final_for_order=True)


# Key, signature and account. None is final for an order: each depends on more than the request's content.
_ACCOUNT_ROWS = (
    _credentials("EAPI:Invalid key", "the API key is unknown, deleted or malformed"),
    _credentials("EAPI:Invalid signature", "the API secret does not belong to the key"),
    ErrorRow(
        "EAPI:Invalid nonce",
        Category.NONCE,
        "Kraken had already accepted this nonce or a higher one for the key",
        repeat=Repeat.FRESH_NONCE,
    ),
    _request("EAPI:Bad request", "the body was not understood", final=False),
    _request("EAPI:Feature disabled", "the feature is switched off", final=False),
    _permission("EGeneral:Permission denied", "the key lacks a permission for this"),
    _permission("EAPI:Permission denied", "the key lacks a permission for this"),
    ErrorRow(
        "EGeneral:Temporary lockout",
        Category.LOCKOUT,
        "the key or this address is locked out after too many failed calls",
        wait_seconds=900.0,
    ),
    _request("EGeneral:Unknown method", "there is no such endpoint"),
    _credentials("EAuth:Account temporary disabled", "the account is disabled for now"),
    _credentials("EAuth:Account unconfirmed", "the account is not confirmed"),
    _credentials("EAuth:Failed", "authentication failed"),
    _limit("EAuth:Rate limit exceeded", "too many authentications", 30.0),
    _limit("EAuth:Too many requests", "too many authentications", 30.0),
    _permission("EAccount:Invalid permissions", "the account may not trade this product or in this region"),
    _credentials("ETrade:Locked", "the account is locked for trading"),
    _credentials("ETrade:User Locked", "the account is locked for trading"),
    _credentials("EAPI:Invalid token", "the WebSocket token is stale"),
    _credentials("ESession:Invalid session", "the WebSocket session is stale"),
    _permission("EBM:limit exceeded:CAL", "the Canadian purchase limit is reached"),
)

# Limits. The engine's own (EOrder) are final for an order and have nothing to do with the REST counter.
_LIMIT_ROWS = (
    _limit("EAPI:Rate limit exceeded", "the key's REST counter is over its maximum", 5.0),
    _limit("EGeneral:Too many requests", "too many requests from this key or address", 5.0),
    _limit("EService:Throttled", "too many requests at the same time", 1.0),
    _engine_limit("EOrder:Rate limit exceeded", "the engine counter of this pair is over its threshold", 5.0),
    _engine_limit("EOrder:Domain rate limit exceeded", "the engine counter of the whole account is over", 30.0),
    _order("EOrder:Orders limit exceeded", "the pair has as many open orders as it may have"),
    _order("EOrder:Scheduled orders limit exceeded", "there are too many trigger or scheduled orders"),
    _order("EOrder:Positions limit exceeded", "there are too many margin positions"),
)

_SERVICE_ROWS = (
    _maybe("EService:Unavailable", "the engine or the API is offline"),
    _maybe("EService:Busy", "Kraken is overloaded"),
    _maybe("EService:Timeout", "Kraken's own backend timed out"),
    # Meant to be a no, but Kraken's page does not promise it; the order is looked up.
    ErrorRow("EService:Deadline elapsed", Category.SERVICE, "the order's deadline had passed", Ran.MAYBE),
    _maybe("EGeneral:Internal error", "Kraken had an internal fault"),
    _maybe("EDatabase:Internal error", "Kraken had an internal fault"),
    _mode("EService:Market in cancel_only mode", "the market takes cancels only"),
    _mode("EService:Market in post_only mode", "the market takes post-only limit orders only"),
    _mode("EService:Market in limit_only mode", "the market takes limit orders only"),
)

_REQUEST_ROWS = (
    _request("EGeneral:Invalid arguments", "an argument is malformed or missing"),
    _request("EGeneral:Invalid arguments:volume minimum not met", "the volume is below the pair's ordermin"),
    # Whether the index is there depends on the moment, not on the request.
    _request("EGeneral:Invalid arguments:Index unavailable", "there is no index price for this pair", final=False),
    _request("EGeneral:Invalid timeout argument", "the dead man's switch takes at most a day"),
    _request("EQuery:Unknown asset pair", "there is no such pair"),
    _request("EQuery:Invalid asset pair", "there is no such pair"),
    _request("EQuery:Unknown asset", "there is no such asset"),
    _request("ETrade:Invalid request", "the request has the wrong structure"),
    # These carry no prefix, and Kraken is known to say one of them of a request that works.
    _request("Limit_price(s) not found", "a limit price was not found", final=False),
    _request("Price(s) not found", "a price was not found", final=False),
    _request("Symbol(s) not found", "a symbol was not found", final=False),
    _request("EFunding:", "a deposit or withdrawal was refused", final=False),
)

_ORDER_ROWS = (
    _order("EOrder:", "the engine refused the order for a reason that is not in the table"),
    _order("EOrder:Insufficient funds", "the free balance does not cover the order and its fee"),
    _order("EOrder:Order minimum not met", "the volume is below the pair's ordermin"),
    _order("EOrder:Cost minimum not met", "price times volume is below the pair's costmin"),
    _order("EOrder:Tick size check failed", "the price is not a multiple of the pair's tick_size"),
    _order("EOrder:Invalid price", "the price is malformed or has too many decimals"),
    _order("EOrder:Post only order", "a post-only order would have traded at once"),
    # The next two answer a cancel of an order that is gone: it may have filled as well as been cancelled.
    _order("EOrder:Unknown order", "there is no such open order; it may have filled"),
    _order("EOrder:Invalid order", "the order is gone or never was; it may have filled"),
    _order("EOrder:No amendable parameters specified", "the amendment would change nothing"),
    _order("EOrder:Order not editable", "the order can no longer be edited"),
    _order("EOrder:Not enough leaves qty", "less is left of the order than the edit needs"),
    _order("EOrder:Cancel pending", "the order is being cancelled already"),
    _order("EOrder:Unknown order action", "there is no such action"),
    _order("EOrder:Reduce only:No position exists", "there is no position to reduce"),
    # The one refusal of the engine that may come with a fill (Kraken: errors guide).
    ErrorRow(
        "EOrder:Reduce only:Position is closed",
        Category.UNDECIDED,
        "the position was closed on the way; part may have filled",
        Ran.MAYBE,
    ),
    _order("EOrder:Reduce only:Non-PC", "this client may not place reduce-only orders of this kind"),
    _order("EOrder:Reduce only:Non-ECP", "this client may not place reduce-only orders of this kind"),
    _order("EOrder:Cannot open position", "the account or pair does not allow margin"),
    _order("EOrder:Cannot open opposing position", "an opposing margin position is not allowed"),
    _order("EOrder:Margin allowance exceeded", "the margin allowance is used up"),
    _order("EOrder:Margin level too low", "the margin level is too low"),
    _order("EOrder:Margin position size exceeded", "the margin position would be too large"),
    _order("EOrder:Insufficient margin", "Kraken has not enough margin funds to lend"),
    _order("EOrder:Insufficient initial margin", "the collateral does not cover the margin position"),
    _order("EOrder:Unknown position", "there is no such margin position"),
    _order("EOrder:Trading agreement required", "the account has not accepted the trading agreement"),
)

ERROR_TABLE = _ACCOUNT_ROWS + _LIMIT_ROWS + _SERVICE_ROWS + _REQUEST_ROWS + _ORDER_ROWS

# Kraken documents no text for a cl_ord_id that is in use, so any mention of it counts: an order with it may stand.
_DUPLICATE = ErrorRow(
    "", Category.UNDECIDED, "an order with this client order id may already stand at Kraken", Ran.MAYBE
)
_UNLISTED = ErrorRow("", Category.UNDECIDED, "this string is not in the table, so nothing is assumed", Ran.MAYBE)

_LONGEST_FIRST = sorted(ERROR_TABLE, key=lambda row: len(row.prefix), reverse=True)
_SEVERITY = list(Category)
_NAMES_ORDER_ID = re.compile(r"duplicate|cl_?ord_?id|client order id", re.IGNORECASE)
_WARNING = re.compile(r"W[A-Z]\w*:")
_THROTTLED_UNTIL = re.compile(r"EService:Throttled:(\d{1,13})")

_CLASSES: dict[Category, type[KrakenError]] = {
    Category.LOCKOUT: LockoutError,
    Category.CREDENTIALS: CredentialsError,
    Category.PERMISSION: PermissionDeniedError,
    Category.UNDECIDED: UnknownKrakenError,
    Category.NONCE: InvalidNonceError,
    Category.SERVICE: ServiceError,
    Category.RATE_LIMIT: RateLimitError,
    Category.REQUEST: RequestError,
    Category.ORDER: OrderRefusedError,
}

_ADVICE = {
    Category.LOCKOUT: "Send nothing for 15 minutes; each call may prolong it",
    Category.CREDENTIALS: "Repeating it brings a lockout: check the key, its secret and the account on kraken.com",
    Category.PERMISSION: "Change the key's permissions or the account on kraken.com",
    Category.UNDECIDED: "Look at open and closed orders before doing anything else",
    Category.NONCE: "Another program may use this key: give each program a key of its own",
    Category.SERVICE: "Wait; an order sent meanwhile has to be looked up",
    Category.RATE_LIMIT: "Wait until the counter has decayed",
    Category.REQUEST: "Do not repeat it unchanged",
    Category.ORDER: "Do not repeat it unchanged",
}


def look_up(string: str) -> ErrorRow | None:
    """Return the row for one of Kraken's error strings, or None for a string that is not in the table."""
    if _NAMES_ORDER_ID.search(string):
        return _DUPLICATE
    text = _trimmed(string)
    return next((row for row in _LONGEST_FIRST if text.startswith(row.prefix)), None)


def errors_in(strings: Iterable[str]) -> list[str]:
    """Return the strings that are errors; warnings (`W...:`) accompany an answer that worked."""
    return [string for string in strings if not _WARNING.match(string)]


def error_for(method: str, strings: list[str]) -> KrakenError:
    """Return the exception for an answer of `method` with these error strings: the most severe one decides.

    Raises ValueError when no string is an error; ask `errors_in` first.
    """
    rows = [look_up(string) or _UNLISTED for string in errors_in(strings)]
    if not rows:
        raise ValueError(f"the answer to {method} has no error in it")
    worst = min(rows, key=lambda row: _SEVERITY.index(row.category))
    advice = f"This means: {worst.meaning}. {_ADVICE[worst.category]}."
    return _CLASSES[worst.category](method, strings, advice)


def is_final_for_order(strings: list[str]) -> bool:
    """Return whether these strings prove that the order was not placed.

    False means that its fate is unknown, never that it was placed.
    """
    rows = [look_up(string) for string in errors_in(strings)]
    return bool(rows) and all(row is not None and row.final_for_order for row in rows)


def wait_seconds(strings: list[str], now: float) -> float:
    """Return how long to wait, from `now` (Unix seconds), before anything of the kind is sent again.

    `EService:Throttled` names the moment itself (Kraken: REST rate limits page); a minute is the most we believe.
    """
    return max((_wait_for(string, now) for string in errors_in(strings)), default=0.0)


def _wait_for(string: str, now: float) -> float:
    row = look_up(string) or _UNLISTED
    until = _THROTTLED_UNTIL.match(_trimmed(string))
    if until is None:
        return row.wait_seconds
    return max(row.wait_seconds, min(int(until[1]) - now, THROTTLE_SECONDS_MAX))


def _trimmed(string: str) -> str:
    return ":".join(part.strip() for part in string.split(":"))

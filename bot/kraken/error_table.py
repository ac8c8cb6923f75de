"""Every error string of Kraken's Spot API, as data, and what each of them implies.

The strings come from Kraken's errors guide, its support articles, its Rust SDK, and reports of users where those have
nothing. They are matched by prefix, case-sensitively, after trimming blanks around the colons
(seen: `EService: Throttled: 1741500000`); the longest prefix wins.

Two questions are kept apart. `executed` is about the copy of a request that Kraken answered. `is_final_for_order` is
about the order: Kraken's gateway may refuse one copy and accept another, so only a refusal by the matching engine, or
an error that depends on the request's content alone, is final for an order. Any other error leaves its outcome unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import partial

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

MAX_THROTTLE_SECONDS = 60.0


class Category(Enum):
    """The category of an error string, the most severe first."""

    LOCKOUT = "lockout"
    CREDENTIALS = "credentials"
    PERMISSION = "permission"
    UNKNOWN = "undecided"
    NONCE = "nonce"
    SERVICE = "service"
    RATE_LIMIT = "rate limit"
    REQUEST = "request"
    ORDER = "order"


class Executed(Enum):
    """Whether the answered request may have changed anything at Kraken."""

    NO = "no"
    MAYBE = "maybe"


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """One error string.

    `wait_seconds` is the least time before anything of the kind is sent again; `meaning` completes the
    sentence "This means: ...".
    """

    prefix: str
    meaning: str
    category: Category
    executed: Executed = Executed.NO
    wait_seconds: float = 0.0
    is_final_for_order: bool = False


_credentials_error = partial(ErrorRule, category=Category.CREDENTIALS)
_permission_error = partial(ErrorRule, category=Category.PERMISSION)
_rate_limit = partial(ErrorRule, category=Category.RATE_LIMIT)
_possibly_executed = partial(ErrorRule, category=Category.SERVICE, executed=Executed.MAYBE, wait_seconds=1.0)
_market_mode = partial(ErrorRule, category=Category.SERVICE, wait_seconds=30.0)
_request_error = partial(ErrorRule, category=Category.REQUEST, is_final_for_order=True)
_order_refusal = partial(ErrorRule, category=Category.ORDER, is_final_for_order=True)

# Key, signature and account. None is final for an order: each depends on more than the request's content.
_ACCOUNT_RULES = (
    _credentials_error("EAPI:Invalid key", "the API key is unknown, deleted or malformed"),
    _credentials_error("EAPI:Invalid signature", "the API secret does not belong to the key"),
    ErrorRule(
        "EAPI:Invalid nonce", "Kraken had already accepted this nonce or a higher one for the key", Category.NONCE
    ),
    _request_error("EAPI:Bad request", "the body was not understood", is_final_for_order=False),
    _request_error("EAPI:Feature disabled", "the feature is switched off", is_final_for_order=False),
    _permission_error("EGeneral:Permission denied", "the key lacks a permission for this"),
    _permission_error("EAPI:Permission denied", "the key lacks a permission for this"),
    ErrorRule(
        "EGeneral:Temporary lockout",
        "the key or this address is locked out after too many failed calls",
        Category.LOCKOUT,
        wait_seconds=900.0,
    ),
    _request_error("EGeneral:Unknown method", "there is no such endpoint"),
    _credentials_error("EAuth:Account temporary disabled", "the account is disabled for now"),
    _credentials_error("EAuth:Account unconfirmed", "the account is not confirmed"),
    _credentials_error("EAuth:Failed", "authentication failed"),
    _rate_limit("EAuth:Rate limit exceeded", "too many authentications", wait_seconds=30.0),
    _rate_limit("EAuth:Too many requests", "too many authentications", wait_seconds=30.0),
    _permission_error("EAccount:Invalid permissions", "the account may not trade this product or in this region"),
    _credentials_error("ETrade:Locked", "the account is locked for trading"),
    _credentials_error("ETrade:User Locked", "the account is locked for trading"),
    _credentials_error("EAPI:Invalid token", "the WebSocket token is stale"),
    _credentials_error("ESession:Invalid session", "the WebSocket session is stale"),
    _permission_error("EBM:limit exceeded:CAL", "the Canadian purchase limit is reached"),
)

# Limits. Those of the matching engine (EOrder) are final for an order and independent of the REST counter.
_LIMIT_RULES = (
    _rate_limit("EAPI:Rate limit exceeded", "the key's REST counter is over its maximum", wait_seconds=5.0),
    _rate_limit("EGeneral:Too many requests", "too many requests from this key or address", wait_seconds=5.0),
    _rate_limit("EService:Throttled", "too many requests at the same time", wait_seconds=1.0),
    _order_refusal(
        "EOrder:Rate limit exceeded", "the engine counter of this pair is over its threshold", wait_seconds=5.0
    ),
    _order_refusal(
        "EOrder:Domain rate limit exceeded", "the engine counter of the whole account is over", wait_seconds=30.0
    ),
    _order_refusal("EOrder:Orders limit exceeded", "the pair has as many open orders as it may have"),
    _order_refusal("EOrder:Scheduled orders limit exceeded", "there are too many trigger or scheduled orders"),
    _order_refusal("EOrder:Positions limit exceeded", "there are too many margin positions"),
)

_SERVICE_RULES = (
    _possibly_executed("EService:Unavailable", "the engine or the API is offline"),
    _possibly_executed("EService:Busy", "Kraken is overloaded"),
    _possibly_executed("EService:Timeout", "Kraken's own backend timed out"),
    # A refusal in intent, but Kraken's page does not guarantee it, so the order is queried.
    ErrorRule("EService:Deadline elapsed", "the order's deadline had passed", Category.SERVICE, Executed.MAYBE),
    _possibly_executed("EGeneral:Internal error", "Kraken had an internal fault"),
    _possibly_executed("EDatabase:Internal error", "Kraken had an internal fault"),
    _market_mode("EService:Market in cancel_only mode", "the market takes cancels only"),
    _market_mode("EService:Market in post_only mode", "the market takes post-only limit orders only"),
    _market_mode("EService:Market in limit_only mode", "the market takes limit orders only"),
)

_REQUEST_RULES = (
    _request_error("EGeneral:Invalid arguments", "an argument is malformed or missing"),
    _request_error("EGeneral:Invalid arguments:volume minimum not met", "the volume is below the pair's ordermin"),
    # Whether the index is there depends on the moment, not on the request.
    _request_error(
        "EGeneral:Invalid arguments:Index unavailable",
        "there is no index price for this pair",
        is_final_for_order=False,
    ),
    _request_error("EGeneral:Invalid timeout argument", "the dead man's switch takes at most a day"),
    _request_error("EQuery:Unknown asset pair", "there is no such pair"),
    _request_error("EQuery:Invalid asset pair", "there is no such pair"),
    _request_error("EQuery:Unknown asset", "there is no such asset"),
    _request_error("ETrade:Invalid request", "the request has the wrong structure"),
    # These carry no prefix, and Kraken is known to say one of them of a request that works.
    _request_error("Limit_price(s) not found", "a limit price was not found", is_final_for_order=False),
    _request_error("Price(s) not found", "a price was not found", is_final_for_order=False),
    _request_error("Symbol(s) not found", "a symbol was not found", is_final_for_order=False),
    _request_error("EFunding:", "a deposit or withdrawal was refused", is_final_for_order=False),
)

_ORDER_RULES = (
    _order_refusal("EOrder:", "the engine refused the order for a reason that is not in the table"),
    _order_refusal("EOrder:Insufficient funds", "the free balance does not cover the order and its fee"),
    _order_refusal("EOrder:Order minimum not met", "the volume is below the pair's ordermin"),
    _order_refusal("EOrder:Cost minimum not met", "price times volume is below the pair's costmin"),
    _order_refusal("EOrder:Tick size check failed", "the price is not a multiple of the pair's tick_size"),
    _order_refusal("EOrder:Invalid price", "the price is malformed or has too many decimals"),
    _order_refusal("EOrder:Post only order", "a post-only order would have traded at once"),
    # The next two answer a cancel of an order that is gone: it may have filled as well as been cancelled.
    _order_refusal("EOrder:Unknown order", "there is no such open order; it may have filled"),
    _order_refusal("EOrder:Invalid order", "the order is gone or never was; it may have filled"),
    _order_refusal("EOrder:No amendable parameters specified", "the amendment would change nothing"),
    _order_refusal("EOrder:Order not editable", "the order can no longer be edited"),
    _order_refusal("EOrder:Not enough leaves qty", "less is left of the order than the edit needs"),
    _order_refusal("EOrder:Cancel pending", "the order is being cancelled already"),
    _order_refusal("EOrder:Unknown order action", "there is no such action"),
    _order_refusal("EOrder:Reduce only:No position exists", "there is no position to reduce"),
    # The only refusal by the matching engine that may come with a fill (Kraken: errors guide).
    ErrorRule(
        "EOrder:Reduce only:Position is closed",
        "the position was closed on the way; part may have filled",
        Category.UNKNOWN,
        Executed.MAYBE,
    ),
    _order_refusal("EOrder:Reduce only:Non-PC", "this client may not place reduce-only orders of this kind"),
    _order_refusal("EOrder:Reduce only:Non-ECP", "this client may not place reduce-only orders of this kind"),
    _order_refusal("EOrder:Cannot open position", "the account or pair does not allow margin"),
    _order_refusal("EOrder:Cannot open opposing position", "an opposing margin position is not allowed"),
    _order_refusal("EOrder:Margin allowance exceeded", "the margin allowance is used up"),
    _order_refusal("EOrder:Margin level too low", "the margin level is too low"),
    _order_refusal("EOrder:Margin position size exceeded", "the margin position would be too large"),
    _order_refusal("EOrder:Insufficient margin", "Kraken has not enough margin funds to lend"),
    _order_refusal("EOrder:Insufficient initial margin", "the collateral does not cover the margin position"),
    _order_refusal("EOrder:Unknown position", "there is no such margin position"),
    _order_refusal("EOrder:Trading agreement required", "the account has not accepted the trading agreement"),
)

ERROR_TABLE = _ACCOUNT_RULES + _LIMIT_RULES + _SERVICE_RULES + _REQUEST_RULES + _ORDER_RULES

# What Kraken says where an order breaks a rule of its pair, which may have changed (Kraken: errors guide; the texts of
# the arguments are those that users were shown).
_PAIR_RULE_PREFIXES = (
    "EOrder:Invalid price",
    "EOrder:Tick size check failed",
    "EOrder:Order minimum not met",
    "EOrder:Cost minimum not met",
    "EGeneral:Invalid arguments:price",
    "EGeneral:Invalid arguments:volume",
)

# Kraken documents no text for a cl_ord_id that is in use, so any mention of it counts: an order with it may stand.
_DUPLICATE_ORDER_ID = ErrorRule(
    "", "an order with this client order id may already exist at Kraken", Category.UNKNOWN, Executed.MAYBE
)
_UNLISTED = ErrorRule("", "this string is not in the table, so nothing is assumed", Category.UNKNOWN, Executed.MAYBE)

_RULES_LONGEST_PREFIX_FIRST = sorted(ERROR_TABLE, key=lambda row: len(row.prefix), reverse=True)
_SEVERITY = list(Category)
_ORDER_ID_PATTERN = re.compile(r"duplicate|cl_?ord_?id|client order id", re.IGNORECASE)
_WARNING_PATTERN = re.compile(r"W[A-Z]\w*:")
_THROTTLED_UNTIL_PATTERN = re.compile(r"EService:Throttled:(\d{1,13})")

# The exception of each category, and what to do.
_CONSEQUENCES: dict[Category, tuple[type[KrakenError], str]] = {
    Category.LOCKOUT: (LockoutError, "Send nothing for 15 minutes; each call may prolong it"),
    Category.CREDENTIALS: (
        CredentialsError,
        "Repeating it brings a lockout: check the key, its secret and the account on kraken.com",
    ),
    Category.PERMISSION: (PermissionDeniedError, "Change the key's permissions or the account on kraken.com"),
    Category.UNKNOWN: (UnknownKrakenError, "Check open and closed orders before doing anything else"),
    Category.NONCE: (InvalidNonceError, "Another program may use this key: give each program a key of its own"),
    Category.SERVICE: (ServiceError, "Wait; query every order that was sent meanwhile"),
    Category.RATE_LIMIT: (RateLimitError, "Wait until the counter has decayed"),
    Category.REQUEST: (RequestError, "Do not repeat it unchanged"),
    Category.ORDER: (OrderRefusedError, "Do not repeat it unchanged"),
}


def find_rule(string: str) -> ErrorRule | None:
    """Return the row for one of Kraken's error strings, or None for a string that is not in the table."""
    if _ORDER_ID_PATTERN.search(string):
        return _DUPLICATE_ORDER_ID
    text = _strip_blanks(string)
    return next((rule for rule in _RULES_LONGEST_PREFIX_FIRST if text.startswith(rule.prefix)), None)


def filter_errors(strings: Iterable[str]) -> list[str]:
    """Return the strings that are errors; warnings (`W...:`) accompany an answer that worked."""
    return [string for string in strings if not _WARNING_PATTERN.match(string)]


def make_error(method: str, strings: list[str]) -> KrakenError:
    """Return the exception for an answer of `method` with these error strings: the most severe one decides.

    Raises ValueError when no string is an error; ask `filter_errors` first.
    """
    rules = [find_rule(string) or _UNLISTED for string in filter_errors(strings)]
    if not rules:
        raise ValueError(f"the answer to {method} has no error in it")
    most_severe = min(rules, key=lambda row: _SEVERITY.index(row.category))
    exception_type, advice = _CONSEQUENCES[most_severe.category]
    return exception_type(method, strings, f"This means: {most_severe.meaning}. {advice}.")


def is_final_for_order(strings: list[str]) -> bool:
    """Return whether these strings prove that the order was not placed.

    False means that its outcome is unknown, never that it was placed.
    """
    rules = [find_rule(string) for string in filter_errors(strings)]
    return bool(rules) and all(rule is not None and rule.is_final_for_order for rule in rules)


def is_pair_rule_refusal(strings: list[str]) -> bool:
    """Return whether an order was finally refused for its price, tick, lot or minimum, and for nothing else."""
    errors = filter_errors(strings)
    return is_final_for_order(strings) and all(
        _strip_blanks(string).startswith(_PAIR_RULE_PREFIXES) for string in errors
    )


def retry_after_seconds(strings: list[str], now: float) -> float:
    """Return how long to wait, from `now` (Unix seconds), before anything of the kind is sent again.

    `EService:Throttled` contains that time (Kraken: REST rate limits page); the wait is capped at a minute.
    """
    return max((_retry_after(string, now) for string in filter_errors(strings)), default=0.0)


def _retry_after(string: str, now: float) -> float:
    rule = find_rule(string) or _UNLISTED
    until = _THROTTLED_UNTIL_PATTERN.match(_strip_blanks(string))
    if until is None:
        return rule.wait_seconds
    return max(rule.wait_seconds, min(int(until[1]) - now, MAX_THROTTLE_SECONDS))


def _strip_blanks(string: str) -> str:
    return ":".join(part.strip() for part in string.split(":"))

"""The requirements that an API key must meet before it may trade, and what its limits mean. Pure."""

from __future__ import annotations

from bot.base.clock import format_utc
from bot.base.errors import KeyRuleError
from bot.base.models import KeyInfo

# Permission names of GetApiKeyInfo (Kraken: get-api-key-info page), and the words on Kraken's key page.
_QUERY_PERMISSIONS = {
    "query-open-trades": "Orders and trades: Query open orders & trades",
    "query-closed-trades": "Orders and trades: Query closed orders & trades",
}
_REQUIRED_PERMISSIONS = {
    "query-funds": "Funds: Query",
    **_QUERY_PERMISSIONS,
    "modify-trades": "Orders and trades: Create & modify orders",
}
_WITHDRAW_PERMISSION = "withdraw-funds"

# From how many days before its end a key's expiry is a warning, and from how many it is an alert.
EXPIRY_WARNING_DAYS = 14
EXPIRY_ALERT_DAYS = 3
_DAY_SECONDS = 86_400


def check_key(info: KeyInfo, allow_withdraw: bool) -> None:
    """Raise KeyRuleError with every reason why this key may not be used."""
    problems = []
    if info.nonce_window > 0:
        problems.append(
            f"it has a nonce window of {info.nonce_window}: one duplicated packet could double an order. "
            "Set the window of the key to 0"
        )
    if window := _query_window(info):
        problems.append(
            f"it has {window}: an order outside of it looks as if it had not been placed. Make a key without a query "
            "window"
        )
    missing = _missing_permissions(info, _REQUIRED_PERMISSIONS)
    if missing:
        problems.append(f"it lacks {missing}. Add what is missing on Kraken's key page")
    if _WITHDRAW_PERMISSION in info.permissions and not allow_withdraw:
        problems.append(
            "it may withdraw funds, which a trading bot never needs. Take the permission away, or set "
            "ALLOW_WITHDRAW_KEY=1"
        )
    if problems:
        raise KeyRuleError("This API key is not used: " + "; ".join(problems) + ".")


def sight_problem(info: KeyInfo, since_seconds: float) -> str:
    """Return why queries since `since_seconds` (Unix seconds) may have missed an order; "" where they missed none.

    A key that can query everything now, and was not changed since then, could query everything all that time.
    """
    if missing := _missing_permissions(info, _QUERY_PERMISSIONS):
        return f"the key lacks {missing}"
    if window := _query_window(info):
        return f"the key has {window}"
    if info.nonce_window > 0:
        return f"the key has a nonce window of {info.nonce_window}"
    if info.modified_seconds is None:
        return "Kraken does not tell when the key was changed"
    # Kraken tells whole seconds. The first of the queries is later than that by the margin of the proof.
    if info.modified_seconds > since_seconds:
        return f"the key was changed at {format_utc(info.modified_seconds)}, after the order was sent"
    return ""


def days_until_expiry(info: KeyInfo, now: float) -> float | None:
    """Return in how many days the key expires; None for a key that does not expire."""
    return (info.valid_until_seconds - now) / _DAY_SECONDS if info.valid_until_seconds else None


def describe_limits(info: KeyInfo) -> list[str]:
    """Return a clause for the expiry and one for the allowed addresses, where the key has them."""
    clauses = []
    if info.valid_until_seconds:
        clauses.append(f"valid until {format_utc(info.valid_until_seconds)}")
    if info.ip_allowlist:
        clauses.append(f"accepted from {', '.join(info.ip_allowlist)} only")
    return clauses


def _query_window(info: KeyInfo) -> str:
    limits = [
        f"{word} {format_utc(seconds)}"
        for word, seconds in (("from", info.query_from_seconds), ("to", info.query_to_seconds))
        if seconds
    ]
    return f"a query window {' '.join(limits)}" if limits else ""


def _missing_permissions(info: KeyInfo, needed: dict[str, str]) -> str:
    return ", ".join(label for name, label in needed.items() if name not in info.permissions)

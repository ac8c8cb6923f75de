"""Numbers, times and durations in readable form; an unknown value is shown as such."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from markupsafe import Markup, escape

UNKNOWN = Markup('<span class="unknown">unknown</span>')

_MONEY_DIGITS, _NUMBER_DIGITS = 3, 6
_DURATION_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def format_rounded(exact: str, digits: int = _NUMBER_DIGITS) -> str:
    """Return an amount with two decimals, or with as many as `digits` significant digits need; then no trailing
    zeros."""
    value = Decimal(exact)
    decimals = max(2, digits - 1 - value.adjusted()) if value else 2
    text = f"{value:,.{decimals}f}"
    shortest = len(text) - decimals + 2
    return text[:shortest] + text[shortest:].rstrip("0")


def _format_amount(exact: str | None, digits: int) -> Markup:
    if exact is None:
        return UNKNOWN
    escaped = escape(exact)
    html = f'<data value="{escaped}" title="{escaped}">{format_rounded(exact, digits)}</data>'
    return Markup(html)  # nosec B704 # noqa: S704 - escaped above


def format_money(exact: str | None) -> Markup:
    """Return a sum of money, rounded, with the exact one in its title."""
    return _format_amount(exact, _MONEY_DIGITS)


def format_number(exact: str | None) -> Markup:
    """Return a price or a volume, rounded to its significant digits, with the exact one in its title."""
    return _format_amount(exact, _NUMBER_DIGITS)


def is_zero(exact: str | None) -> bool:
    """Tell whether an amount is known to be zero."""
    return exact is not None and not Decimal(exact)


def format_known(text: object) -> str | Markup:
    """Return a text as it is, or the word for an unknown value."""
    return UNKNOWN if text is None or text == "" else str(text)


def format_day_time(unix_seconds: float) -> str:
    """Return a time in UTC as day, month and time of day, to the minute."""
    return f"{datetime.fromtimestamp(unix_seconds, UTC):%d %b %H:%M}"


def format_timestamp(iso_text: str | None) -> Markup:
    """Return a time in UTC, given as ISO text, as day, month and time of day."""
    if not iso_text:
        return UNKNOWN
    timestamp = datetime.fromisoformat(iso_text)
    html = f'<time datetime="{escape(iso_text)}">{timestamp:%d %b %H:%M:%S}</time>'
    return Markup(html)  # nosec B704 # noqa: S704 - escaped above


def format_duration(seconds: float | None) -> str | Markup:
    """Return a duration in its two largest units, one of a few seconds with a decimal, a shorter one in ms."""
    if seconds is None:
        return UNKNOWN
    if seconds and abs(seconds) < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds != int(seconds) and abs(seconds) < 10:
        return f"{seconds:.1f} s"
    remaining_seconds, parts = int(seconds), []
    for size, unit in _DURATION_UNITS:
        count, remaining_seconds = divmod(remaining_seconds, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"

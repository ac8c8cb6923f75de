"""The candle lengths that Kraken serves (Kraken: OHLC page)."""

from __future__ import annotations

TIMEFRAMES = {
    "1m": 60,
    "5m": 300,
    "15m": 900,
    "30m": 1800,
    "1h": 3600,
    "4h": 14400,
    "1d": 86400,
}


def parse_timeframe(timeframe: str) -> int:
    """Return the length of a timeframe such as 5m or 1h in seconds. Raises ValueError for others."""
    try:
        return TIMEFRAMES[timeframe]
    except KeyError:
        raise ValueError(f"{timeframe!r} is not a timeframe; take one of {', '.join(TIMEFRAMES)}") from None

"""What the trader knows of the market: the system's status and closed candles, asked for only when due."""

from __future__ import annotations

from bot.models import Candle, SystemStatus
from bot.timeframes import seconds_of
from bot.trading.broker import Broker

# OHLC has 720 rows, the last of them still running (Kraken: OHLC page).
CANDLES_KEPT = 719
STATUS_AGE_SECONDS = 30.0


class Feed:
    """Caches of the market's public data, for the trader's pairs and timeframe."""

    def __init__(self, broker: Broker, timeframe: str) -> None:
        self._broker = broker
        self._timeframe = timeframe
        self._timeframe_seconds = seconds_of(timeframe)
        self._candles: dict[str, list[Candle]] = {}
        self.status: SystemStatus | None = None

    def refresh_status(self) -> None:
        """Ask for the system's status if the last answer is getting old."""
        if self.status is None or self._broker.now() - self.status.checked_seconds >= STATUS_AGE_SECONDS:
            self.status = self._broker.system_status()

    def refresh_candles(self, symbol: str) -> None:
        """Ask for the candles that have closed since the last ones known, if any can have."""
        kept = self._candles.get(symbol, [])
        missing = self._missing(kept)
        if missing == 0:
            return
        fetched = self._broker.get_candles(symbol, self._timeframe, missing)
        if fetched and kept and fetched[0].time_seconds > kept[-1].time_seconds + self._timeframe_seconds:
            # A hole. Perhaps the market was quiet, perhaps an answer was short: the long answer decides.
            fetched = self._broker.get_candles(symbol, self._timeframe, CANDLES_KEPT)
        known_until = kept[-1].time_seconds if kept else -1
        kept = kept + [candle for candle in fetched if candle.time_seconds > known_until]
        self._candles[symbol] = kept[-CANDLES_KEPT:]

    def candles(self, symbol: str) -> tuple[Candle, ...]:
        """Return the closed candles known, oldest first."""
        return tuple(self._candles.get(symbol, ()))

    def newest(self, symbol: str) -> Candle | None:
        """Return the last closed candle known."""
        kept = self._candles.get(symbol)
        return kept[-1] if kept else None

    def _missing(self, kept: list[Candle]) -> int:
        if not kept:
            return CANDLES_KEPT
        running = int(self._broker.now() // self._timeframe_seconds) * self._timeframe_seconds
        closed = (running - kept[-1].time_seconds) // self._timeframe_seconds - 1
        return max(0, min(closed, CANDLES_KEPT))

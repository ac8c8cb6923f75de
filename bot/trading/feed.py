"""What the trader knows of the market: what may be traded, and closed candles, asked for only when due."""

from __future__ import annotations

from decimal import Decimal

from bot.base.models import ZERO, Candle, SystemStatus
from bot.base.timeframes import seconds_of
from bot.kraken import trading_status
from bot.trading.broker import Broker
from bot.trading.decision_log import Narrator

# OHLC has 720 rows, the last of them still running (Kraken: OHLC page).
CANDLES_KEPT = 719
STATUS_AGE_SECONDS = 30.0
PAIR_STATUS_AGE_SECONDS = 300.0


class Feed:
    """Caches of the market's public data, for the trader's pairs and timeframe.

    It tells once when a status of the exchange or of a pair holds trading up, and once when trading goes on.
    """

    def __init__(self, broker: Broker, timeframe: str, narrator: Narrator) -> None:
        self._broker = broker
        self._narrator = narrator
        self._timeframe = timeframe
        self._timeframe_seconds = seconds_of(timeframe)
        self._candles: dict[str, list[Candle]] = {}
        self._pair_statuses: dict[str, str] = {}
        self._pair_asked_seconds: dict[str, float] = {}
        self.status: SystemStatus | None = None

    def refresh_status(self) -> None:
        """Ask for the system's status if the last answer is getting old."""
        if self.status is None or self._age_seconds(self.status) >= STATUS_AGE_SECONDS:
            self.status = self._broker.system_status()
            self._tell("the exchange", self.status.status)

    def refresh_pair_status(self, symbol: str) -> None:
        """Ask for a pair's status if the last answer is getting old."""
        asked_seconds, now = self._pair_asked_seconds.get(symbol), self._broker.now()
        if asked_seconds is None or now - asked_seconds >= PAIR_STATUS_AGE_SECONDS:
            self._pair_statuses[symbol] = self._broker.pair_status(symbol)
            self._pair_asked_seconds[symbol] = now
            self._tell(symbol, self._pair_statuses[symbol])

    def pair_status(self, symbol: str) -> str:
        """Return Kraken's last word for a pair; "" where it has not been asked yet."""
        return self._pair_statuses.get(symbol, "")

    def held_up(self) -> str:
        """Say that the exchange is not online, and what it allows; "" where it is."""
        if self.status is None or self.status.status == trading_status.ONLINE:
            return ""
        return trading_status.held_up("the exchange", self.status.status)

    def _age_seconds(self, status: SystemStatus) -> float:
        return self._broker.now() - status.checked_seconds

    def _tell(self, who: str, status: str) -> None:
        topic = f"status of {who}"
        if status == trading_status.ONLINE:
            self._narrator.over(topic, f"trading goes on: {who}'s status is online again")
        else:
            self._narrator.once(topic, status, f"trading is held up: {trading_status.held_up(who, status)}")

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

    def close(self, symbol: str) -> Decimal:
        """Return the close of the last closed candle known; zero where there is none."""
        candle = self.newest(symbol)
        return candle.close if candle else ZERO

    def _missing(self, kept: list[Candle]) -> int:
        if not kept:
            return CANDLES_KEPT
        running = int(self._broker.now() // self._timeframe_seconds) * self._timeframe_seconds
        closed = (running - kept[-1].time_seconds) // self._timeframe_seconds - 1
        return max(0, min(closed, CANDLES_KEPT))

"""Market data for the trader: tradable pairs and closed candles, requested only when due."""

from __future__ import annotations

from bot.base.event_catalog import Event
from bot.base.models import Candle, SystemStatus
from bot.base.timeframes import parse_timeframe
from bot.kraken import trading_status
from bot.kraken.market_data import MAX_CANDLES
from bot.trading.broker import Broker
from bot.trading.decision_log import DecisionLog
from bot.trading.risk import max_price_age_seconds

STATUS_REFRESH_SECONDS = 30.0
PAIR_STATUS_REFRESH_SECONDS = 300.0


class Feed:
    """Caches of the market's public data, for the trader's pairs and timeframe.

    It records once when a status of the exchange or of a pair blocks trading, and once when trading continues.
    """

    def __init__(self, broker: Broker, timeframe: str, decision_log: DecisionLog) -> None:
        self._broker = broker
        self._decision_log = decision_log
        self._timeframe = timeframe
        self._timeframe_seconds = parse_timeframe(timeframe)
        self._candles: dict[str, list[Candle]] = {}
        # When Kraken last answered with the candles of a pair, and when with the last close as the current price.
        self._answered_seconds: dict[str, float] = {}
        self._confirmed_seconds: dict[str, float] = {}
        self._pair_statuses: dict[str, str] = {}
        self._pair_checked_seconds: dict[str, float] = {}
        self.status: SystemStatus | None = None

    def refresh_status(self) -> None:
        """Request the exchange's status if the last answer is outdated."""
        if self.status is None or self._broker.now() - self.status.checked_seconds >= STATUS_REFRESH_SECONDS:
            self.status = self._broker.system_status()
            self._record_status("the exchange", self.status.status)

    def refresh_pair(self, symbol: str) -> None:
        """Request a pair's status and candles, where the last answers are outdated."""
        self.refresh_pair_status(symbol)
        self.refresh_candles(symbol)

    def refresh_pair_status(self, symbol: str) -> None:
        """Request a pair's status if the last answer is outdated."""
        checked_seconds, now = self._pair_checked_seconds.get(symbol), self._broker.now()
        if checked_seconds is None or now - checked_seconds >= PAIR_STATUS_REFRESH_SECONDS:
            self._pair_statuses[symbol] = self._broker.pair_status(symbol)
            self._pair_checked_seconds[symbol] = now
            self._record_status(symbol, self._pair_statuses[symbol])

    def pair_status(self, symbol: str) -> str:
        """Return Kraken's last status of a pair; "" before the first request."""
        return self._pair_statuses.get(symbol, "")

    def blocked_reason(self) -> str:
        """Describe that the exchange is not online, and what it allows; "" where it is online."""
        if self.status is None or self.status.status == trading_status.ONLINE:
            return ""
        return trading_status.describe_status("the exchange", self.status.status)

    def _record_status(self, source: str, status: str) -> None:
        topic = f"status of {source}"
        if status == trading_status.ONLINE:
            self._decision_log.record_resolved(topic, Event.MARKET_STATUS_RESTORED, source=source, status=status)
        else:
            self._decision_log.record_once(
                topic,
                status,
                Event.MARKET_STATUS_RESTRICTED,
                reason=trading_status.describe_status(source, status),
                source=source,
                status=status,
            )

    def refresh_candles(self, symbol: str) -> None:
        """Request the candles that have closed since the last known ones, if any can have."""
        candles = self._candles.get(symbol, [])
        missing_count = self._missing_count(candles)
        if missing_count == 0:
            return
        requested_seconds = self._broker.now()
        fetched = self._broker.get_candles(symbol, self._timeframe, missing_count)
        if fetched and candles and fetched[0].time_seconds > candles[-1].time_seconds + self._timeframe_seconds:
            # A gap. Either the market was quiet or the answer was incomplete: the long answer decides.
            fetched = self._broker.get_candles(symbol, self._timeframe, MAX_CANDLES)
        self._answered_seconds[symbol] = requested_seconds
        last_known_seconds = candles[-1].time_seconds if candles else -1
        new_candles = [candle for candle in fetched if candle.time_seconds > last_known_seconds]
        if new_candles:
            self._confirmed_seconds.pop(symbol, None)
        self._candles[symbol] = (candles + new_candles)[-MAX_CANDLES:]

    def confirm_price(self, symbol: str) -> None:
        """Ask for the current price where the last candle is too old for an entry: without a trade since, it is the
        last close."""
        candle, now = self.last_candle(symbol), self._broker.now()
        if candle is None:
            return
        closed_seconds = candle.time_seconds + self._timeframe_seconds
        is_old = now - closed_seconds > max_price_age_seconds(self._timeframe_seconds)
        if is_old and self._broker.get_current_price(symbol) == candle.close:
            self._confirmed_seconds[symbol] = now

    def answered_seconds(self, symbol: str) -> float:
        """Return when Kraken last answered with candles; 0.0 before that."""
        return self._answered_seconds.get(symbol, 0.0)

    def confirmed_seconds(self, symbol: str) -> float:
        """Return when Kraken last named an old close as the current price; 0.0 where it has not."""
        return self._confirmed_seconds.get(symbol, 0.0)

    def candles(self, symbol: str) -> tuple[Candle, ...]:
        """Return the known closed candles, oldest first."""
        return tuple(self._candles.get(symbol, ()))

    def last_candle(self, symbol: str) -> Candle | None:
        """Return the last known closed candle."""
        candles = self._candles.get(symbol)
        return candles[-1] if candles else None

    def _missing_count(self, candles: list[Candle]) -> int:
        if not candles:
            return MAX_CANDLES
        open_candle_seconds = int(self._broker.now() // self._timeframe_seconds) * self._timeframe_seconds
        closed_count = (open_candle_seconds - candles[-1].time_seconds) // self._timeframe_seconds - 1
        return max(0, min(closed_count, MAX_CANDLES))

"""What a broker can ask of the market, with no key: time, statuses, pairs, candles, prices."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from decimal import Decimal
from typing import Any

from bot.base.clock import MarketClock, ServerTime, nonce_clock
from bot.base.models import Candle, Pair, SystemStatus
from bot.base.timeframes import parse_timeframe
from bot.kraken import responses, trading_status
from bot.kraken.pairs import PairTable
from bot.kraken.trading_status import OrderClass

log = logging.getLogger(__name__)

TIME_SYNC_INTERVAL_SECONDS = 3600.0
SYSTEM_STATUS_MAX_AGE_SECONDS = 60.0
PAIR_STATUS_MAX_AGE_SECONDS = 600.0
# Kraken serves 720 rows, the last of which is still running (Kraken: OHLC page).
MAX_CANDLES = 719


class MarketData(ABC):
    """The public verbs of KrakenBroker. They are also what paces it: Kraken's time, and the exchange's status."""

    def __init__(self, market_clock: MarketClock) -> None:
        self._market_clock = market_clock
        self._server_time = ServerTime(market_clock)
        self._pair_table: PairTable | None = None
        self._system_status = SystemStatus("", 0.0)
        self._pair_statuses: dict[str, tuple[str, float]] = {}

    @abstractmethod
    def public_call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """Call a public endpoint; return its result."""

    def now(self) -> float:
        """Return Kraken's time in Unix seconds, carried forward from the last `sync_time`."""
        return self._server_time.now()

    def sync_time(self) -> None:
        """Compare our clock with Kraken's, once an hour; use Kraken's for nonces where ours is wrong."""
        if not self._server_time.needs_sync(TIME_SYNC_INTERVAL_SECONDS):
            return
        started_seconds = self._market_clock.elapsed()
        kraken_seconds = responses.read_time(self.public_call("Time"))
        ahead_seconds = self._server_time.sync(kraken_seconds, self._market_clock.elapsed() - started_seconds)
        if abs(ahead_seconds) > ServerTime.CORRECTION_THRESHOLD_SECONDS:
            log.warning(
                "The clock of this machine is %.0f s %s Kraken's: nonces follow Kraken's time. Set the clock.",
                abs(ahead_seconds),
                "ahead of" if ahead_seconds > 0 else "behind",
            )
            nonce_clock.follow_kraken(kraken_seconds)
        else:
            nonce_clock.follow_wall()

    def system_status(self) -> SystemStatus:
        """Return Kraken's system status; keeps the time as well."""
        self.sync_time()
        self._system_status = responses.read_system_status(self.public_call("SystemStatus"), self.now())
        return self._system_status

    def pair_status(self, symbol: str) -> str:
        """Ask for the status of one pair, as Kraken has it now (`bot/kraken/trading_status.py`). Raises SymbolError."""
        pair = self.pair(symbol)
        status = responses.read_pair_status(self.public_call("AssetPairs", {"pair": pair.altname}))
        self._pair_statuses[pair.symbol] = status, self.now()
        return status

    def _status_block_reason(self, symbol: str, order_class: OrderClass) -> str:
        """Say why something may not be sent now; "" where it may. Asks Kraken where the last answers are old, but not
        for a cancel, which does no harm where it is refused."""
        if order_class is not OrderClass.CANCEL:
            if not self._is_fresh(self._system_status.checked_seconds, SYSTEM_STATUS_MAX_AGE_SECONDS):
                self.system_status()
            if not self._is_fresh(self._pair_statuses.get(symbol, ("", 0.0))[1], PAIR_STATUS_MAX_AGE_SECONDS):
                self.pair_status(symbol)
        is_known = self._is_fresh(self._system_status.checked_seconds, SYSTEM_STATUS_MAX_AGE_SECONDS)
        pair_status, _ = self._pair_statuses.get(symbol, ("", 0.0))
        return trading_status.block_reason(
            self._system_status.status if is_known else trading_status.ONLINE, pair_status, order_class
        )

    def _is_fresh(self, checked_seconds: float, max_age_seconds: float) -> bool:
        return self.now() - checked_seconds <= max_age_seconds

    def pair(self, symbol: str) -> Pair:
        """Return a pair by any of its names: BTC/USD, XBTUSD, XXBTZUSD. Raises SymbolError."""
        return self._get_pair_table().find(symbol)

    def _get_pair_table(self) -> PairTable:
        if self._pair_table is None:
            self._pair_table = PairTable(self.public_call("AssetPairs"), self.public_call("Assets"))
        return self._pair_table

    def get_candles(self, symbol: str, timeframe: str, count: int) -> list[Candle]:
        """Return the last `count` closed candles (at most 719), oldest first."""
        timeframe_seconds = parse_timeframe(timeframe)
        params = {"pair": self.pair(symbol).altname, "interval": timeframe_seconds // 60}
        if count < MAX_CANDLES:
            # Kraken answers with what began after `since`.
            params["since"] = int(self.now()) // timeframe_seconds * timeframe_seconds - (count + 1) * timeframe_seconds
        candles = responses.read_candles(self.public_call("OHLC", params), timeframe_seconds, self.now())
        return candles[-count:]

    def get_current_price(self, symbol: str) -> Decimal:
        """Return the last trade's price."""
        pair = self.pair(symbol)
        price = responses.read_price(self.public_call("Ticker", {"pair": pair.altname}))
        # Ticker writes more decimals than the pair has.
        return price.quantize(Decimal(1).scaleb(-pair.price_decimals))

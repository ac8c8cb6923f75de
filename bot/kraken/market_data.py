"""Public data of Kraken: time, statuses, pairs, candles, prices."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any

from bot.base.clock import MarketClock, ServerTime, judge_kraken_time, nonce_clock
from bot.base.errors import KrakenError, TransportError
from bot.base.event_catalog import Event
from bot.base.events import emit
from bot.base.models import Candle, Pair, SystemStatus
from bot.base.timeframes import parse_timeframe
from bot.kraken import responses, trading_status
from bot.kraken.client import KrakenCalls
from bot.kraken.pairs import PairTable, describe_rules
from bot.kraken.trading_status import OrderClass

TIME_SYNC_INTERVAL_SECONDS = 3600.0
SYSTEM_STATUS_MAX_AGE_SECONDS = 60.0
PAIR_STATUS_MAX_AGE_SECONDS = 600.0
# Kraken serves 720 rows, the last of which is still running (Kraken: OHLC page).
MAX_CANDLES = 719


class _ReadOnce:
    """A property that is read once. functools.cached_property would hold a lock while it reads, on Python 3.11: a child
    that is forked in that moment would wait for it for ever."""

    def __init__(self, read: Callable[[Any], PairTable]) -> None:
        self._read = read

    def __get__(self, instance: Any, _owner: type) -> PairTable:
        # The attribute of the instance hides this descriptor from then on.
        instance.__dict__[self._read.__name__] = value = self._read(instance)
        return value


class MarketData:
    """The public endpoints, with Kraken's time and the exchange's status that the private ones depend on."""

    def __init__(self, calls: KrakenCalls, server_time: ServerTime, market_clock: MarketClock) -> None:
        self._calls = calls
        self._server_time = server_time
        self._market_clock = market_clock
        self._system_status = SystemStatus("", 0.0)
        self._pair_statuses: dict[str, tuple[str, float]] = {}
        # Those of the last answer for each pair.
        self._odd_candles: set[tuple[str, str]] = set()
        self._is_time_doubted = False

    def now(self) -> float:
        """Return Kraken's time in Unix seconds, carried forward from the last `sync_time`."""
        return self._server_time.now()

    def sync_time(self) -> None:
        """Compare our clock with Kraken's, once an hour and when ours has stepped forward; use Kraken's for nonces
        where ours is wrong.

        A Time that is more than a minute ahead of the expected one is followed only where the HTTP Date of the answer
        or the machine's clock confirms it. Until then nonces and deadlines go on from the last confirmed time.
        """
        if not self._server_time.needs_sync(TIME_SYNC_INTERVAL_SECONDS) and not nonce_clock.has_stepped:
            return
        if not nonce_clock.is_noted:
            nonce_clock.note_wall()
        started_seconds = self._market_clock.elapsed()
        kraken_seconds = self._judge_time(responses.read_time(self._calls.public_call("Time")))
        if kraken_seconds is None:
            return
        ahead_seconds = self._server_time.sync(kraken_seconds, self._market_clock.elapsed() - started_seconds)
        if abs(ahead_seconds) > ServerTime.CORRECTION_THRESHOLD_SECONDS:
            emit(Event.CLOCK_FOUND_WRONG, **_difference_fields(ahead_seconds))
            nonce_clock.follow_kraken(kraken_seconds)
        else:
            nonce_clock.follow_wall()
        nonce_clock.note_wall()

    def _judge_time(self, kraken_seconds: float) -> float | None:
        """Return the time to follow after an answer to Time, or None for one that nothing confirms."""
        wall_seconds, speed = self._market_clock.now(), self._market_clock.speed
        date_seconds, expected_seconds = self._calls.response_date(), self._server_time.now()
        judged = judge_kraken_time(kraken_seconds, date_seconds, wall_seconds, expected_seconds, speed)
        is_doubted = judged != kraken_seconds
        if is_doubted and not self._is_time_doubted:
            emit(
                Event.KRAKEN_TIME_NOT_FOLLOWED,
                **_difference_fields(wall_seconds - kraken_seconds),
                reason="no other clock confirms it" if judged is None else "the HTTP Date of the answer confirms ours",
            )
        self._is_time_doubted = is_doubted
        return judged

    def system_status(self) -> SystemStatus:
        """Return Kraken's system status; keeps the time as well."""
        self.sync_time()
        self._system_status = responses.read_system_status(self._calls.public_call("SystemStatus"), self.now())
        return self._system_status

    def pair_status(self, symbol: str) -> str:
        """Ask for the status of one pair, as Kraken has it now (`bot/kraken/trading_status.py`). Raises SymbolError.

        The answer has the rules of the pair as well, which are taken over.
        """
        pair = self.pair(symbol)
        answer = self._calls.public_call("AssetPairs", {"pair": pair.altname})
        status = responses.read_pair_status(answer)
        self._pair_statuses[pair.symbol] = status, self.now()
        self._update_rules(pair, responses.read_pair_row(answer))
        return status

    def _update_rules(self, pair: Pair, row: dict[str, Any]) -> None:
        try:
            changed = self.pair_table.update(pair, row)
        except ValueError as error:
            # Whatever is wrong with the answer, no exit is refused for it.
            emit(Event.PAIR_RULES_NOT_READ, symbol=pair.symbol, error=error)
            return
        if changed != pair:
            emit(Event.PAIR_RULES_CHANGED, symbol=pair.symbol, rules=describe_rules(changed))

    def current_pair(self, symbol: str) -> Pair:
        """Return a pair by its rules of the last minutes, or by older ones where Kraken does not tell newer ones."""
        pair = self.pair(symbol)
        if self.now() - self._pair_statuses.get(pair.symbol, ("", 0.0))[1] > PAIR_STATUS_MAX_AGE_SECONDS:
            # Whether an order may be sent without an answer is decided by its status.
            with suppress(KrakenError, TransportError):
                self.pair_status(symbol)
        return self.pair(symbol)

    def block_reason(self, symbol: str, order_class: OrderClass) -> str:
        """Return why the status of exchange or pair forbids an order or a cancel now; "" where it allows it.

        Asks Kraken where the last answers are old, but not for a cancel, which does no harm where it is refused.
        """
        now, is_cancel, status = self.now(), order_class is OrderClass.CANCEL, self._system_status
        if now - status.checked_seconds > SYSTEM_STATUS_MAX_AGE_SECONDS:
            status = SystemStatus(trading_status.ONLINE, now) if is_cancel else self.system_status()
        pair_status, pair_checked_seconds = self._pair_statuses.get(symbol, ("", 0.0))
        if not is_cancel and now - pair_checked_seconds > PAIR_STATUS_MAX_AGE_SECONDS:
            pair_status = self.pair_status(symbol)
        if status.status == pair_status == trading_status.ONLINE:
            return ""
        return trading_status.block_reason(status.status, pair_status, order_class)

    def pair(self, symbol: str) -> Pair:
        """Return a pair by any of its names: BTC/USD, XBTUSD, XXBTZUSD. Raises SymbolError."""
        return self.pair_table.find(symbol)

    @_ReadOnce
    def pair_table(self) -> PairTable:
        """The pairs and assets of Kraken, read once; `pair_status` reads the rules of a pair again."""
        return PairTable(self._calls.public_call("AssetPairs"), self._calls.public_call("Assets"))

    def get_candles(self, symbol: str, timeframe: str, count: int) -> list[Candle]:
        """Return the last `count` closed candles (at most 719), oldest first."""
        timeframe_seconds = parse_timeframe(timeframe)
        params = {"pair": self.pair(symbol).altname, "interval": timeframe_seconds // 60}
        if count < MAX_CANDLES:
            # Kraken answers with what began after `since`.
            params["since"] = int(self.now()) // timeframe_seconds * timeframe_seconds - (count + 1) * timeframe_seconds
        odd_candles: list[str] = []
        result = self._calls.public_call("OHLC", params)
        candles = responses.read_candles(result, timeframe_seconds, self.now(), odd_candles)
        # The same ones may come again with every answer.
        for odd_candle in odd_candles:
            if (symbol, odd_candle) not in self._odd_candles:
                emit(Event.CANDLE_LEFT_OUT, symbol=symbol, content=odd_candle)
        self._odd_candles = {one for one in self._odd_candles if one[0] != symbol}
        self._odd_candles |= {(symbol, odd_candle) for odd_candle in odd_candles}
        return candles[-count:]

    def get_current_price(self, symbol: str) -> Decimal:
        """Return the last trade's price."""
        pair = self.pair(symbol)
        return _on_grid(pair, responses.read_price(self._calls.public_call("Ticker", {"pair": pair.altname})))

    def get_best_bid(self, symbol: str) -> Decimal:
        """Return the book's best price for a sale."""
        pair = self.pair(symbol)
        return _on_grid(pair, responses.read_best_bid(self._calls.public_call("Ticker", {"pair": pair.altname})))


def _on_grid(pair: Pair, price: Decimal) -> Decimal:
    # Ticker writes more decimals than the pair has.
    return price.quantize(Decimal(1).scaleb(-pair.price_decimals))


def _difference_fields(ahead_seconds: float) -> dict[str, Any]:
    """Return how far our clock is ahead of Kraken's or behind it, as the fields of an event."""
    return {
        "ahead_seconds": ahead_seconds if ahead_seconds > 0 else None,
        "behind_seconds": -ahead_seconds if ahead_seconds < 0 else None,
    }

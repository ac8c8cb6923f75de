"""Live prices: Kraken's public API, read once a second. Nothing is invented when it stops answering.

History is Kraken's OHLC at the timeframe; the path continues with the last price of Ticker. A candle counts as closed
when Kraken has served it as closed, not before.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from http.client import HTTPConnection, HTTPSConnection
from typing import Any
from urllib.parse import urlencode, urlsplit

from bot.base.clock import MarketClock, wall_seconds
from bot.simulator.errors import LivePricesError, SimulatorError
from bot.simulator.instruments import Instruments, PairRules, instruments_from_kraken
from bot.simulator.prices import PricePoint, SimCandle
from bot.simulator.prices_recorded import CandlePath

POLL_SECONDS = 1.0
STALE_AFTER_SECONDS = 60.0
STATUS_POLL_SECONDS = 60.0
REQUEST_TIMEOUT_SECONDS = 5.0
POINT_AGE_SECONDS_MAX = 2 * 86400.0


class PublicApiClient:
    """Kraken's public endpoints over one connection. Not thread-safe."""

    def __init__(self, url: str, timeout_seconds: float = REQUEST_TIMEOUT_SECONDS) -> None:
        parts = urlsplit(url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._connection = kind(parts.hostname or "", parts.port, timeout=timeout_seconds)

    def get(self, method: str, params: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return the result of one call. Raises LivePricesError."""
        try:
            self._connection.request("GET", f"/0/public/{method}?{urlencode(params or {})}")
            body = self._connection.getresponse().read()
            answer = json.loads(body, parse_float=Decimal)
            errors, result = answer["error"], answer.get("result")
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            self._connection.close()
            raise LivePricesError(
                f"Kraken's public API does not answer {method} ({error or type(error).__name__})."
            ) from error
        if errors or not isinstance(result, dict):
            raise LivePricesError(f"Kraken's public API refused {method}: {errors}.")
        return result

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def is_kraken_reachable(url: str, timeout_seconds: float) -> bool:
    """Tell whether Kraken's Time answers within the time-out. A name look-up that hangs counts as no answer."""
    is_answered = threading.Event()

    def probe() -> None:
        api = PublicApiClient(url, timeout_seconds)
        try:
            api.get("Time")
            is_answered.set()
        except LivePricesError:
            pass
        finally:
            is_finished.set()
            api.close()

    is_finished = threading.Event()
    threading.Thread(target=probe, name="probe", daemon=True).start()
    is_finished.wait(timeout_seconds)
    return is_answered.is_set()


class LivePrices:
    """The prices of the pairs, followed by a thread of its own from `start` to `close`."""

    def __init__(self, names: Iterable[str], interval: int, url: str) -> None:
        self.source_id = "live prices"
        self.shortest_candle_seconds = interval
        self._api = PublicApiClient(url)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._status = "online"
        self._status_polled_at = 0.0
        self._polled_candle_last = False
        try:
            self.instruments = self._read_instruments(list(names))
            self._paths = {pair.pair_id: self._read_history(pair) for pair in self.instruments.pairs}
        except SimulatorError:
            self._api.close()
            raise
        self._last_response_at = wall_seconds()

    def _read_instruments(self, names: list[str]) -> Instruments:
        rows = self._api.get("AssetPairs", {"pair": ",".join(names)})
        assets = sorted({row[side] for row in rows.values() for side in ("base", "quote")})
        return instruments_from_kraken(names, rows, self._api.get("Assets", {"asset": ",".join(assets)}))

    def _read_history(self, pair: PairRules) -> CandlePath:
        candles = self._read_candles(pair, 0)
        if len(candles) < 2:
            raise LivePricesError(f"Kraken has no history for {pair.symbol} at this timeframe.")
        path = CandlePath(pair, candles[:-1], self.shortest_candle_seconds)
        path.extend_with_candle(candles[-1], wall_seconds())
        return path

    def _read_candles(self, pair: PairRules, since: int) -> list[SimCandle]:
        """Return Kraken's candles after `since`; the last one is unfinished."""
        params = {"pair": pair.altname, "interval": str(self.shortest_candle_seconds // 60)}
        result = self._api.get("OHLC", params | ({"since": str(since)} if since else {}))
        try:
            return [_parse_candle(row) for row in result[pair.pair_id]]
        except (KeyError, TypeError, ValueError, IndexError, InvalidOperation) as error:
            raise LivePricesError(f"Kraken's OHLC for {pair.symbol} is unreadable ({error}).") from error

    @property
    def start_seconds(self) -> int:
        """The start of the shortest history."""
        return max(path.start_seconds for path in self._paths.values())

    def start(self) -> None:
        """Start to follow the prices."""
        self._thread = threading.Thread(target=self._poll_loop, name="live prices", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop following the prices."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(REQUEST_TIMEOUT_SECONDS)
        self._api.close()

    def _poll_loop(self) -> None:
        clock, pause_seconds = MarketClock(), POLL_SECONDS
        while not clock.wait(pause_seconds, self._stop):
            try:
                self._poll()
                self._last_response_at = wall_seconds()
                pause_seconds = POLL_SECONDS
            except LivePricesError:
                pause_seconds = min(30.0, pause_seconds * 2)

    def _poll(self) -> None:
        """Make one call: the candle that has just closed, now and then the status, otherwise the prices."""
        now = wall_seconds()
        due = [path for path in self._paths.values() if now >= path.end_seconds + self.shortest_candle_seconds]
        # Every other call at most: where Kraken is late with a candle, prices must continue.
        self._polled_candle_last = bool(due) and not self._polled_candle_last
        if self._polled_candle_last:
            self._read_closed_candles(min(due, key=lambda path: path.end_seconds))
        elif now - self._status_polled_at >= STATUS_POLL_SECONDS:
            self._status_polled_at = now
            self._status = str(self._api.get("SystemStatus").get("status", "maintenance"))
        else:
            self._read_prices()

    def _read_closed_candles(self, path: CandlePath) -> None:
        closed = self._read_candles(path.pair, path.end_seconds - self.shortest_candle_seconds)[:-1]
        with self._lock:
            for candle in closed:
                path.append_closed_candle(candle)
            path.discard_before(wall_seconds() - POINT_AGE_SECONDS_MAX - 2 * self.shortest_candle_seconds)

    def _read_prices(self) -> None:
        names = ",".join(pair.altname for pair in self.instruments.pairs)
        rows = self._api.get("Ticker", {"pair": names})
        try:
            prices = {pair_id: Decimal(rows[pair_id]["c"][0]) for pair_id in self._paths}
        except (KeyError, TypeError, IndexError, InvalidOperation) as error:
            raise LivePricesError(f"Kraken's Ticker is unreadable ({error}).") from error
        with self._lock:
            for pair_id, price in prices.items():
                self._paths[pair_id].add_point(wall_seconds(), price)

    def status(self, now: float) -> str:
        """Return Kraken's own status, or maintenance when its prices are older than a minute."""
        return "maintenance" if wall_seconds() - self._last_response_at > STALE_AFTER_SECONDS else self._status

    def price(self, pair: PairRules, now: float) -> Decimal:
        """Return the last price at `now`."""
        with self._lock:
            return self._paths[pair.pair_id].price(now)

    def price_points(self, pair: PairRules, after: float, until: float) -> list[PricePoint]:
        """Return the points with after < time <= until, ending with one at `until`."""
        with self._lock:
            return self._paths[pair.pair_id].price_points(after, until)

    def candles(self, pair: PairRules, interval: int, first: int, now: float) -> list[SimCandle]:
        """Return Kraken's candles from `first` on, and the unfinished one."""
        with self._lock:
            return self._paths[pair.pair_id].candles(interval, first, now)


def _parse_candle(row: list[Any]) -> SimCandle:
    first, high, low, last = (Decimal(text) for text in row[1:5])
    return SimCandle(int(row[0]), first, high, low, last, Decimal(row[6]), int(row[7]))

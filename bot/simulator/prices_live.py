"""Live prices: Kraken's public API, read once a second. Nothing is invented when it stops answering.

History is Kraken's OHLC at the timeframe; the path goes on with the last price of Ticker. A candle counts as closed
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
from bot.simulator.errors import SimulatorError
from bot.simulator.instruments import Catalogue, PairRules, pairs_from_kraken
from bot.simulator.prices import Candle, Knot
from bot.simulator.prices_recorded import CandlePath

POLL_SECONDS = 1.0
STALE_SECONDS = 60.0
STATUS_SECONDS = 60.0
REQUEST_SECONDS = 5.0
POINTS_KEPT_SECONDS = 2 * 86400.0


class LiveError(SimulatorError):
    """Kraken's public API did not answer, or not as documented."""


class PublicApi:
    """Kraken's public endpoints over one connection. Not thread-safe."""

    def __init__(self, url: str, timeout_seconds: float = REQUEST_SECONDS) -> None:
        parts = urlsplit(url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._connection = kind(parts.hostname or "", parts.port, timeout=timeout_seconds)

    def get(self, method: str, params: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return the result of one call. Raises LiveError."""
        try:
            self._connection.request("GET", f"/0/public/{method}?{urlencode(params or {})}")
            body = self._connection.getresponse().read()
            answer = json.loads(body, parse_float=Decimal)
            errors, result = answer["error"], answer.get("result")
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            self._connection.close()
            raise LiveError(
                f"Kraken's public API does not answer {method} ({error or type(error).__name__})."
            ) from error
        if errors or not isinstance(result, dict):
            raise LiveError(f"Kraken's public API refused {method}: {errors}.")
        return result

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def answers_within(url: str, seconds: float) -> bool:
    """Tell whether Kraken's Time answers in time. A name look-up that hangs counts as no."""
    answered = threading.Event()

    def ask() -> None:
        api = PublicApi(url, seconds)
        try:
            api.get("Time")
            answered.set()
        except LiveError:
            pass
        finally:
            finished.set()
            api.close()

    finished = threading.Event()
    threading.Thread(target=ask, name="probe", daemon=True).start()
    finished.wait(seconds)
    return answered.is_set()


class LivePrices:
    """The prices of the pairs, followed by a thread of its own from `start` to `close`."""

    def __init__(self, names: Iterable[str], interval: int, url: str) -> None:
        self.world = "live prices"
        self.finest_seconds = interval
        self._api = PublicApi(url)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._status = "online"
        self._status_at = 0.0
        self._asked_candle = False
        try:
            self.catalogue = self._read_catalogue(list(names))
            self._paths = {pair.pair_id: self._read_history(pair) for pair in self.catalogue.pairs}
        except SimulatorError:
            self._api.close()
            raise
        self._answered_at = wall_seconds()

    def _read_catalogue(self, names: list[str]) -> Catalogue:
        rows = self._api.get("AssetPairs", {"pair": ",".join(names)})
        assets = sorted({row[side] for row in rows.values() for side in ("base", "quote")})
        return pairs_from_kraken(names, rows, self._api.get("Assets", {"asset": ",".join(assets)}))

    def _read_history(self, pair: PairRules) -> CandlePath:
        candles = self._read_candles(pair, 0)
        if len(candles) < 2:
            raise LiveError(f"Kraken has no history for {pair.symbol} at this timeframe.")
        path = CandlePath(pair, candles[:-1], self.finest_seconds)
        path.draw(candles[-1], wall_seconds())
        return path

    def _read_candles(self, pair: PairRules, since: int) -> list[Candle]:
        """Return Kraken's rows after `since`; the last one is still running."""
        params = {"pair": pair.altname, "interval": str(self.finest_seconds // 60)}
        result = self._api.get("OHLC", params | ({"since": str(since)} if since else {}))
        try:
            return [_candle(row) for row in result[pair.pair_id]]
        except (KeyError, TypeError, ValueError, IndexError, InvalidOperation) as error:
            raise LiveError(f"Kraken's OHLC for {pair.symbol} is unreadable ({error}).") from error

    @property
    def begin(self) -> int:
        """When the shortest history begins."""
        return max(path.begin for path in self._paths.values())

    def start(self) -> None:
        """Begin to follow the prices."""
        self._thread = threading.Thread(target=self._follow, name="live prices", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop following."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(REQUEST_SECONDS)
        self._api.close()

    def _follow(self) -> None:
        clock, pause = MarketClock(), POLL_SECONDS
        while not clock.wait(pause, self._stop):
            try:
                self._poll()
                self._answered_at = wall_seconds()
                pause = POLL_SECONDS
            except LiveError:
                pause = min(30.0, pause * 2)

    def _poll(self) -> None:
        """Make one call: the candle that has just closed, now and then the status, else the prices."""
        now = wall_seconds()
        due = [path for path in self._paths.values() if now >= path.end + self.finest_seconds]
        # Every other call at most: where Kraken is late with a candle, prices must go on.
        self._asked_candle = bool(due) and not self._asked_candle
        if self._asked_candle:
            self._confirm(min(due, key=lambda path: path.end))
        elif now - self._status_at >= STATUS_SECONDS:
            self._status_at = now
            self._status = str(self._api.get("SystemStatus").get("status", "maintenance"))
        else:
            self._read_prices()

    def _confirm(self, path: CandlePath) -> None:
        closed = self._read_candles(path.pair, path.end - self.finest_seconds)[:-1]
        with self._lock:
            for candle in closed:
                path.confirm(candle)
            path.forget(wall_seconds() - POINTS_KEPT_SECONDS - 2 * self.finest_seconds)

    def _read_prices(self) -> None:
        names = ",".join(pair.altname for pair in self.catalogue.pairs)
        rows = self._api.get("Ticker", {"pair": names})
        try:
            prices = {pair_id: Decimal(rows[pair_id]["c"][0]) for pair_id in self._paths}
        except (KeyError, TypeError, IndexError, InvalidOperation) as error:
            raise LiveError(f"Kraken's Ticker is unreadable ({error}).") from error
        with self._lock:
            for pair_id, price in prices.items():
                self._paths[pair_id].add_point(wall_seconds(), price)

    def status(self, now: float) -> str:
        """Return Kraken's own status, or maintenance when its prices are older than a minute."""
        return "maintenance" if wall_seconds() - self._answered_at > STALE_SECONDS else self._status

    def price(self, pair: PairRules, now: float) -> Decimal:
        """Return the last price at `now`."""
        with self._lock:
            return self._paths[pair.pair_id].price(now)

    def knots(self, pair: PairRules, after: float, until: float) -> list[Knot]:
        """Return the knots with after < time <= until, ending with one at `until`."""
        with self._lock:
            return self._paths[pair.pair_id].knots(after, until)

    def candles(self, pair: PairRules, interval: int, first: int, now: float) -> list[Candle]:
        """Return Kraken's candles from `first` on, and the running one."""
        with self._lock:
            return self._paths[pair.pair_id].candles(interval, first, now)


def _candle(row: list[Any]) -> Candle:
    first, high, low, last = (Decimal(text) for text in row[1:5])
    return Candle(int(row[0]), first, high, low, last, Decimal(row[6]), int(row[7]))

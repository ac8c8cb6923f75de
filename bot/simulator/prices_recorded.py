"""Recorded prices: candles read from Kraken's downloadable CSV files, and the path drawn through them.

Kraken's OHLCVT files have no header; each line is `unix,open,high,low,close,volume,trades`.
"""

from __future__ import annotations

import hashlib
import itertools
from bisect import bisect_left, bisect_right
from decimal import Decimal, InvalidOperation
from pathlib import Path

from bot.simulator.catalogue import PairRules
from bot.simulator.errors import PriceFileError
from bot.simulator.prices import Candle, Knot

_CANDLES_KEPT = 4000


class CandlePath:
    """One pair's closed candles of `interval` seconds, and the line of prices through them.

    Inside a candle the line goes from the open to one extreme, to the other and to the close; the extreme on the far
    side of the close comes first. Between candles without trades it is flat. `add_point` continues it.
    """

    def __init__(self, pair: PairRules, candles: list[Candle], interval: int) -> None:
        self.pair = pair
        self.interval = interval
        self._rows = candles
        self._row_times = [candle.time for candle in candles]
        self._times: list[float] = []
        self._prices: list[Decimal] = []
        self._closed: dict[tuple[int, int], Candle] = {}
        for candle in candles:
            self.draw(candle, candle.time + interval - 1)

    @property
    def begin(self) -> int:
        """When the first candle began."""
        return self._row_times[0]

    @property
    def end(self) -> int:
        """When the last closed candle ended."""
        return self._row_times[-1] + self.interval

    def draw(self, candle: Candle, until: float) -> None:
        """Continue the line through a candle, up to `until`."""
        if self._times and self._times[-1] < candle.time - 1:
            self.add_point(candle.time - 1, self._prices[-1])
        rising = candle.close >= candle.open
        quarter = (until - candle.time) / 4
        self.add_point(candle.time, candle.open)
        self.add_point(candle.time + quarter, candle.low if rising else candle.high)
        self.add_point(candle.time + 2 * quarter, candle.high if rising else candle.low)
        self.add_point(until, candle.close)

    def add_point(self, moment: float, price: Decimal) -> None:
        """Continue the line to a price; a moment that is not later than the last one is left out."""
        if not self._times or moment > self._times[-1]:
            self._times.append(moment)
            self._prices.append(price)

    def forget_points(self, before: float) -> None:
        """Forget the line before a moment."""
        keep = bisect_left(self._times, before)
        del self._times[:keep], self._prices[:keep]

    def confirm(self, candle: Candle) -> None:
        """Add a closed candle to the rows (not to the line). Older ones than the last are known already."""
        if not self._row_times or candle.time > self._row_times[-1]:
            self._rows.append(candle)
            self._row_times.append(candle.time)

    def price(self, now: float) -> Decimal:
        """Return the price at `now`, on the tick grid; before the first and after the last point it is theirs."""
        index = bisect_right(self._times, now)
        if index in (0, len(self._times)):
            return self._on_grid(self._prices[max(0, index - 1)])
        begin, end = self._times[index - 1], self._times[index]
        start, stop = self._prices[index - 1], self._prices[index]
        return self._on_grid(start + (stop - start) * Decimal((now - begin) / (end - begin)))

    def _on_grid(self, price: Decimal) -> Decimal:
        return round(price / self.pair.tick_size) * self.pair.tick_size

    def knots(self, after: float, until: float) -> list[Knot]:
        """Return the line's points with after < time <= until, ending with one at `until`."""
        first, last = bisect_right(self._times, after), bisect_left(self._times, until)
        inside = zip(self._times[first:last], self._prices[first:last], strict=True)
        return [*((moment, self._on_grid(price)) for moment, price in inside), (until, self.price(until))]

    def candles(self, interval: int, first: int, now: float) -> list[Candle]:
        """Return the candles of a multiple of the interval that begin from `first` on; the last one may be running.

        A candle that has ended but is not recorded to its end is not invented: there the answer stops.
        """
        if interval % self.interval or not self._rows:
            return []
        start = max(-(-first // interval), self._row_times[0] // interval) * interval
        found: list[Candle] = []
        for begin in range(start, int(now) + 1, interval):
            if begin + interval > now:
                found.append(self._running(begin, now))
            elif begin + interval <= self.end:
                found.append(self._whole(begin, interval))
            else:
                break
        return found

    def _whole(self, begin: int, interval: int) -> Candle:
        key = (interval, begin)
        if key not in self._closed:
            if len(self._closed) >= _CANDLES_KEPT:
                self._closed.clear()
            self._closed[key] = self._joined(begin, begin + interval, [])
        return self._closed[key]

    def _running(self, begin: int, now: float) -> Candle:
        rows_end = max(begin, int(now) // self.interval * self.interval)
        recorded = min(rows_end, self.end)
        path = [self.price(max(begin, recorded)), *(price for _, price in self.knots(max(begin, recorded), now))]
        return self._joined(begin, recorded, path)

    def _joined(self, begin: int, end: int, more: list[Decimal]) -> Candle:
        """Join the rows of [begin, end) and further prices into one candle."""
        rows = self._rows[bisect_left(self._row_times, begin) : bisect_left(self._row_times, end)]
        if not rows:
            more = more or [self.price(begin)]
            return Candle(begin, more[0], max(more), min(more), more[-1], Decimal(0), 0)
        return Candle(
            begin,
            rows[0].open,
            max(*more, *(row.high for row in rows), rows[0].open),
            min(*more, *(row.low for row in rows), rows[0].open),
            more[-1] if more else rows[-1].close,
            sum((row.volume for row in rows), Decimal(0)),
            sum(row.count for row in rows),
        )


class RecordedPrices:
    """The prices of one pair from one file. The market begins with the file and ends with it."""

    def __init__(self, pair: PairRules, path: Path) -> None:
        candles = read_candles(path)
        steps = [later.time - earlier.time for earlier, later in itertools.pairwise(candles)]
        self.finest_seconds = min(steps)
        self.begin = candles[0].time
        self._path = CandlePath(pair, candles, self.finest_seconds)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        self.short_name = digest
        self.world = f"{pair.symbol} as recorded in a file ({digest})"

    @property
    def end(self) -> int:
        """When the last candle ends."""
        return self._path.end

    def status(self, now: float) -> str:
        """Return online."""
        return "online"

    def price(self, pair: PairRules, now: float) -> Decimal:
        """Return the last price at `now`."""
        return self._path.price(now)

    def knots(self, pair: PairRules, after: float, until: float) -> list[Knot]:
        """Return the knots with after < time <= until, ending with one at `until`."""
        return self._path.knots(after, until)

    def candles(self, pair: PairRules, interval: int, first: int, now: float) -> list[Candle]:
        """Return the candles from `first` on; the last one may be running."""
        return self._path.candles(interval, first, now)


def read_candles(path: Path) -> list[Candle]:
    """Read a file of Kraken's OHLCVT export. Raises PriceFileError with the number of the first bad line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise PriceFileError(f"The prices in {path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise PriceFileError(f"The prices in {path} cannot be read: it is no text file.") from error
    candles: list[Candle] = []
    for number, line in enumerate(lines, start=1):
        candle = _read_line(line)
        if candle is None or (candles and candle.time <= candles[-1].time):
            problem = "is not unix,open,high,low,close,volume,trades" if candle is None else "is not in order of time"
            raise PriceFileError(f"{path}, line {number}: {line[:60]!r} {problem}.")
        candles.append(candle)
    if len(candles) < 2:
        raise PriceFileError(f"{path} has fewer than two candles.")
    return candles


def _read_line(line: str) -> Candle | None:
    fields = line.split(",")
    if len(fields) != 7:
        return None
    try:
        first, high, low, last, volume = (Decimal(field) for field in fields[1:6])
        candle = Candle(int(fields[0]), first, high, low, last, volume, int(fields[6]))
    except (ValueError, InvalidOperation):
        return None
    if not all(amount.is_finite() for amount in (first, high, low, last, volume)):
        return None
    inside = low <= min(first, last) <= max(first, last) <= high
    return candle if inside and low > 0 and volume >= 0 else None

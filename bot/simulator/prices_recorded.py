"""Recorded prices: the path drawn through candles, and that of a file, of which only a part is drawn at a time."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from decimal import Decimal
from pathlib import Path

from bot.simulator.csv_file import Recording
from bot.simulator.instruments import PairRules
from bot.simulator.prices import Candle, Knot

_CANDLES_KEPT = 4000
# OHLC has 720 rows, and Ticker looks back for a day, of minutes at the finest.
_ROWS_KEPT = 1500
_ROWS_AHEAD = 1000


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

    def forget(self, before: float) -> None:
        """Forget the line before a moment, and the rows that are older than any answer's."""
        keep = bisect_left(self._times, before)
        del self._times[:keep], self._prices[:keep]
        del self._rows[:-_ROWS_KEPT], self._row_times[:-_ROWS_KEPT]

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
    """The prices of one pair from one file. The market begins with the file and ends with it.

    Drawn are only the candles that were asked for last, and some after them.
    """

    def __init__(self, pair: PairRules, path: Path) -> None:
        self._recording = Recording(path)
        self._pair = pair
        times = self._recording.times
        self.finest_seconds = min(later - earlier for earlier, later in itertools.pairwise(times))
        self.begin = times[0]
        self.end = times[-1] + self.finest_seconds
        self.short_name = self._recording.digest[:8]
        self.world = f"{pair.symbol} as recorded in a file ({self.short_name})"
        self._path = CandlePath(pair, [], self.finest_seconds)
        # What the path is good for: from the first moment, and before the last one.
        self._drawn = math.inf, -math.inf

    def status(self, now: float) -> str:
        """Return online."""
        return "online"

    def price(self, pair: PairRules, now: float) -> Decimal:
        """Return the last price at `now`."""
        return self._path_over(now, now).price(now)

    def knots(self, pair: PairRules, after: float, until: float) -> list[Knot]:
        """Return the knots with after < time <= until, ending with one at `until`."""
        return self._path_over(after, until).knots(after, until)

    def candles(self, pair: PairRules, interval: int, first: int, now: float) -> list[Candle]:
        """Return the candles from `first` on; the last one may be running."""
        return self._path_over(first, now).candles(interval, first, now)

    def _path_over(self, first: float, last: float) -> CandlePath:
        """Return the path with the rows of a span, the one before it and the one after it."""
        if not (self._drawn[0] <= first and last < self._drawn[1]):
            times = self._recording.times
            begin = max(0, bisect_right(times, first) - 1)
            end = min(len(times), bisect_right(times, last) + _ROWS_AHEAD)
            self._path = CandlePath(self._pair, self._recording.rows(begin, end), self.finest_seconds)
            self._drawn = (
                times[begin] if begin else -math.inf,
                times[end - 1] if end < len(times) else math.inf,
            )
        return self._path

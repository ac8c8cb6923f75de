"""Recorded prices: the path through candles, and that of a file, of which only a part is computed at a time."""

from __future__ import annotations

import hashlib
import io
import itertools
import math
from array import array
from bisect import bisect_left, bisect_right
from decimal import Decimal, InvalidOperation
from pathlib import Path

from bot.simulator.errors import PriceFileError
from bot.simulator.instruments import PairRules
from bot.simulator.prices import PricePoint, SimCandle

_CACHED_CANDLES_MAX = 4000
# OHLC has 720 candles, and Ticker needs a day of candles, of a minute at the shortest.
_HISTORY_CANDLES_MAX = 1500
_READ_AHEAD_CANDLES = 1000


class CandlePath:
    """One pair's closed candles of `interval` seconds, and the line of prices through them.

    Inside a candle the line goes from the open to one extreme, to the other and to the close; the extreme on the far
    side of the close comes first. Between candles without trades it is flat. `add_point` continues it.
    """

    def __init__(self, pair: PairRules, candles: list[SimCandle], interval_seconds: int) -> None:
        self.pair = pair
        self.interval_seconds = interval_seconds
        self._candles = candles
        self._point_times: list[float] = []
        self._point_prices: list[Decimal] = []
        self._aggregated: dict[tuple[int, int], SimCandle] = {}
        for candle in candles:
            self.extend_with_candle(candle, candle.time + interval_seconds - 1)

    @property
    def start_seconds(self) -> int:
        """The start of the first candle."""
        return self._candles[0].time

    @property
    def end_seconds(self) -> int:
        """The end of the last closed candle."""
        return self._candles[-1].time + self.interval_seconds

    def extend_with_candle(self, candle: SimCandle, until: float) -> None:
        """Continue the line through a candle, up to `until`."""
        if self._point_times and self._point_times[-1] < candle.time - 1:
            self.add_point(candle.time - 1, self._point_prices[-1])
        is_rising = candle.close >= candle.open
        quarter = (until - candle.time) / 4
        self.add_point(candle.time, candle.open)
        self.add_point(candle.time + quarter, candle.low if is_rising else candle.high)
        self.add_point(candle.time + 2 * quarter, candle.high if is_rising else candle.low)
        self.add_point(until, candle.close)

    def add_point(self, timestamp: float, price: Decimal) -> None:
        """Continue the line to a price; a time that is not later than the last one is left out."""
        if not self._point_times or timestamp > self._point_times[-1]:
            self._point_times.append(timestamp)
            self._point_prices.append(price)

    def discard_before(self, timestamp: float) -> None:
        """Drop the line before a time, and candles that are too old for any answer."""
        first_kept = bisect_left(self._point_times, timestamp)
        del self._point_times[:first_kept], self._point_prices[:first_kept]
        del self._candles[:-_HISTORY_CANDLES_MAX]

    def append_closed_candle(self, candle: SimCandle) -> None:
        """Add a closed candle to the candles (not to the line). Candles older than the last are known already."""
        if not self._candles or candle.time > self._candles[-1].time:
            self._candles.append(candle)

    def price(self, now: float) -> Decimal:
        """Return the price at `now`, on the tick grid; before the first and after the last point, that point's
        price."""
        index = bisect_right(self._point_times, now)
        if index in (0, len(self._point_times)):
            return self._round_to_tick(self._point_prices[max(0, index - 1)])
        start_time, end_time = self._point_times[index - 1], self._point_times[index]
        start_price, end_price = self._point_prices[index - 1], self._point_prices[index]
        return self._round_to_tick(
            start_price + (end_price - start_price) * Decimal((now - start_time) / (end_time - start_time))
        )

    def _round_to_tick(self, price: Decimal) -> Decimal:
        return round(price / self.pair.tick_size) * self.pair.tick_size

    def price_points(self, after: float, until: float) -> list[PricePoint]:
        """Return the line's points with after < time <= until, ending with one at `until`."""
        first, last = bisect_right(self._point_times, after), bisect_left(self._point_times, until)
        inside = zip(self._point_times[first:last], self._point_prices[first:last], strict=True)
        return [*((moment, self._round_to_tick(price)) for moment, price in inside), (until, self.price(until))]

    def candles(self, interval: int, first: int, now: float) -> list[SimCandle]:
        """Return the candles of a multiple of the interval that begin from `first` on; the last one may be unfinished.

        A candle that has ended but is not recorded to its end is not invented: there the answer stops.
        """
        if interval % self.interval_seconds or not self._candles:
            return []
        start = max(-(-first // interval), self._candles[0].time // interval) * interval
        found: list[SimCandle] = []
        for begin in range(start, int(now) + 1, interval):
            if begin + interval > now:
                found.append(self._running_candle(begin, now))
            elif begin + interval <= self.end_seconds:
                found.append(self._closed_candle(begin, interval))
            else:
                break
        return found

    def _closed_candle(self, begin: int, interval: int) -> SimCandle:
        key = (interval, begin)
        if key not in self._aggregated:
            if len(self._aggregated) >= _CACHED_CANDLES_MAX:
                self._aggregated.clear()
            self._aggregated[key] = self._aggregate(begin, begin + interval, [])
        return self._aggregated[key]

    def _running_candle(self, begin: int, now: float) -> SimCandle:
        candles_end = max(begin, int(now) // self.interval_seconds * self.interval_seconds)
        recorded_end = min(candles_end, self.end_seconds)
        path = [
            self.price(max(begin, recorded_end)),
            *(price for _, price in self.price_points(max(begin, recorded_end), now)),
        ]
        return self._aggregate(begin, recorded_end, path)

    def _aggregate(self, begin: int, end: int, extra_prices: list[Decimal]) -> SimCandle:
        """Join the candles of [begin, end) and further prices into one candle."""
        first, last = (bisect_left(self._candles, time, key=lambda candle: candle.time) for time in (begin, end))
        candles = self._candles[first:last]
        prices = extra_prices if candles or extra_prices else [self.price(begin)]
        opened = candles[0].open if candles else prices[0]
        return SimCandle(
            begin,
            opened,
            max(opened, *prices, *(row.high for row in candles)),
            min(opened, *prices, *(row.low for row in candles)),
            prices[-1] if prices else candles[-1].close,
            sum((row.volume for row in candles), Decimal(0)),
            sum(row.count for row in candles),
        )


class CandleFile:
    """A file of candles, oldest first: checked completely, and kept as text, for candles need ten times the memory.

    Kraken's OHLCVT files have no header; each line is `unix,open,high,low,close,volume,trades`. `times` are the starts
    of the candles; `digest` identifies the file by its content.

    Raises PriceFileError with the number of the first bad line.
    """

    def __init__(self, path: Path) -> None:
        raw = _read_file(path)
        self.digest = hashlib.sha256(raw).hexdigest()
        self.times = array("q")
        self._text = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        # The offset of each line, and the end of the last one.
        self._line_offsets = array("q", [0])
        for number, line in enumerate(io.BytesIO(self._text), start=1):
            self._add_line(path, number, line.decode().rstrip("\n"))
            self._line_offsets.append(self._line_offsets[-1] + len(line))
        if len(self.times) < 2:
            raise PriceFileError(f"{path} has fewer than two candles.")

    def _add_line(self, path: Path, number: int, line: str) -> None:
        candle = _parse_line(line)
        if candle is None or (self.times and candle.time <= self.times[-1]):
            problem = "is not unix,open,high,low,close,volume,trades" if candle is None else "is not in order of time"
            raise PriceFileError(f"{path}, line {number}: {line[:60]!r} {problem}.")
        self.times.append(candle.time)

    def read_candles(self, first: int, last: int) -> list[SimCandle]:
        """Return the candles from number `first` up to, and without, number `last`."""
        lines = self._text[self._line_offsets[first] : self._line_offsets[last]].decode().splitlines()
        return [candle for line in lines if (candle := _parse_line(line)) is not None]


def _read_file(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        raw.decode()
    except OSError as error:
        raise PriceFileError(f"The prices in {path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise PriceFileError(f"The prices in {path} cannot be read: it is no text file.") from error
    return raw


def _parse_line(line: str) -> SimCandle | None:
    fields = line.split(",")
    if len(fields) != 7:
        return None
    try:
        first, high, low, last, volume = (Decimal(field) for field in fields[1:6])
        candle = SimCandle(int(fields[0]), first, high, low, last, volume, int(fields[6]))
    except (ValueError, InvalidOperation):
        return None
    if not all(amount.is_finite() for amount in (first, high, low, last, volume)):
        return None
    is_consistent = low <= min(first, last) <= max(first, last) <= high
    return candle if is_consistent and low > 0 and volume >= 0 else None


class RecordedPrices:
    """The prices of one pair from one file. The market begins with the file and ends with it.

    Only the candles that were requested last, and some after them, are computed.
    """

    def __init__(self, pair: PairRules, path: Path) -> None:
        self._file = CandleFile(path)
        self._pair = pair
        times = self._file.times
        self.shortest_candle_seconds = min(later - earlier for earlier, later in itertools.pairwise(times))
        self.start_seconds = times[0]
        self.end_seconds = times[-1] + self.shortest_candle_seconds
        self.short_digest = self._file.digest[:8]
        self.source_id = f"{pair.symbol} as recorded in a file ({self.short_digest})"
        self._path = CandlePath(pair, [], self.shortest_candle_seconds)
        # The range that the path covers: from the first time, and before the last one.
        self._covered_range = math.inf, -math.inf

    def status(self, now: float) -> str:
        """Return online."""
        return "online"

    def price(self, pair: PairRules, now: float) -> Decimal:
        """Return the last price at `now`."""
        return self._path_for(now, now).price(now)

    def price_points(self, pair: PairRules, after: float, until: float) -> list[PricePoint]:
        """Return the points with after < time <= until, ending with one at `until`."""
        return self._path_for(after, until).price_points(after, until)

    def candles(self, pair: PairRules, interval: int, first: int, now: float) -> list[SimCandle]:
        """Return the candles from `first` on; the last one may be unfinished."""
        return self._path_for(first, now).candles(interval, first, now)

    def _path_for(self, first: float, last: float) -> CandlePath:
        """Return the path with the candles of a range, the one before it and the one after it."""
        if not (self._covered_range[0] <= first and last < self._covered_range[1]):
            times = self._file.times
            begin = max(0, bisect_right(times, first) - 1)
            end = min(len(times), bisect_right(times, last) + _READ_AHEAD_CANDLES)
            self._path = CandlePath(self._pair, self._file.read_candles(begin, end), self.shortest_candle_seconds)
            self._covered_range = (
                times[begin] if begin else -math.inf,
                times[end - 1] if end < len(times) else math.inf,
            )
        return self._path

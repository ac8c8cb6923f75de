"""The protocol of a price source, and the seeded synthetic market.

A price path is a line through points in time. Orders are matched against that line and candles are computed from it, so
a candle's low and a filled limit order never contradict each other.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from bot.simulator.instruments import PairRules

PricePoint = tuple[float, Decimal]

_BLOCK_POINTS = 512
_CACHED_BLOCKS_MAX = 500
_CACHED_CANDLES_MAX = 4000
_POINTS_PER_CANDLE_MAX = 60
_SHORTEST_WAVE_SECONDS = 16
_WAVE_COUNT = 22
_VOLATILITY = 9e-5
_BASE_PRICES = {"BTC": 90000.0, "ETH": 3000.0, "SOL": 150.0}


@dataclass(frozen=True, slots=True)
class SimCandle:
    """One OHLC candle; `time` is its start."""

    time: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    count: int


class PriceSource(Protocol):
    """A price path for each pair. All times are market time in Unix seconds."""

    @property
    def source_id(self) -> str:
        """A name for this price path; an account never changes its price source."""

    @property
    def shortest_candle_seconds(self) -> int:
        """The length of the shortest candles."""

    def price(self, pair: PairRules, now: float) -> Decimal:
        """Return the last price at `now`, on the pair's tick grid."""

    def price_points(self, pair: PairRules, after: float, until: float) -> list[PricePoint]:
        """Return the path's points with after < time <= until, ending with one at `until`."""

    def candles(self, pair: PairRules, interval: int, first: int, now: float) -> list[SimCandle]:
        """Return the candles of `interval` seconds that begin from `first` on; the last one is unfinished."""

    def status(self, now: float) -> str:
        """Return the system status that the prices allow: online, or maintenance when they are stale."""


def _hash_noise(text: str) -> float:
    """Return a number in [-1, 1) that depends on nothing but the text."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**63 - 1.0


class SyntheticPrices:
    """A market that is a pure function of seed, pair and time: a sum of smooth waves from 16 s to about a year.

    A restart continues the same path. `step_seconds` is the distance of the points. A candle of more than sixty points
    uses sixty of them: two years of daily candles must not take seconds.
    """

    def __init__(self, seed: int = 1, step_seconds: int = 60) -> None:
        self.seed = seed
        self.source_id = f"synthetic prices, seed {seed}"
        self.shortest_candle_seconds = 60
        self._step_seconds = max(1, int(step_seconds))
        self._blocks: dict[tuple[str, int, int], list[int]] = {}
        self._closed_candles: dict[tuple[str, int, int], SimCandle] = {}

    def status(self, now: float) -> str:
        """Return online: this market never closes."""
        return "online"

    def price(self, pair: PairRules, now: float) -> Decimal:
        """Return the last price at `now`."""
        return self._ticks_at(pair, now) * pair.tick_size

    def price_points(self, pair: PairRules, after: float, until: float) -> list[PricePoint]:
        """Return the points with after < time <= until, ending with one at `until`."""
        first, last = math.floor(after / self._step_seconds) + 1, math.ceil(until / self._step_seconds)
        between = zip(range(first, last), self._path_ticks(pair, self._step_seconds, first, last), strict=True)
        path = [(float(index * self._step_seconds), ticks * pair.tick_size) for index, ticks in between]
        return [*path, (until, self.price(pair, until))]

    def candles(self, pair: PairRules, interval: int, first: int, now: float) -> list[SimCandle]:
        """Return the candles from `first` on; the last one is unfinished."""
        start = -(-first // interval) * interval
        return [self._build_candle(pair, interval, begin, now) for begin in range(start, math.floor(now) + 1, interval)]

    def _build_candle(self, pair: PairRules, interval: int, begin: int, now: float) -> SimCandle:
        key = (pair.symbol, interval, begin)
        if key in self._closed_candles:
            return self._closed_candles[key]
        end = min(now, begin + interval)
        opened, closed = self._ticks_at(pair, begin), self._ticks_at(pair, end)
        step = self._step_seconds * max(1, interval // self._step_seconds // _POINTS_PER_CANDLE_MAX)
        inner_ticks = self._path_ticks(pair, step, begin // step + 1, math.ceil(end / step))
        tick = pair.tick_size
        elapsed_fraction = (end - begin) / interval
        noise = _hash_noise(f"{self.seed}:{pair.symbol}:volume:{interval}:{begin}")
        count = int((40 + 30 * noise) * interval / 60 * elapsed_fraction)
        volume = Decimal(count * 2500) * pair.order_minimum / 100
        high, low = max(opened, closed, *inner_ticks), min(opened, closed, *inner_ticks)
        candle = SimCandle(begin, opened * tick, high * tick, low * tick, closed * tick, volume, count)
        if now >= begin + interval:
            self._cache_candle(key, candle)
        return candle

    def _cache_candle(self, key: tuple[str, int, int], candle: SimCandle) -> None:
        if len(self._closed_candles) >= _CACHED_CANDLES_MAX:
            for old in list(self._closed_candles)[: _CACHED_CANDLES_MAX // 4]:
                del self._closed_candles[old]
        self._closed_candles[key] = candle

    def _ticks_at(self, pair: PairRules, now: float) -> int:
        index, rest = divmod(now, self._step_seconds)
        here, there = self._point_ticks(pair, int(index)), self._point_ticks(pair, int(index) + 1)
        return round(here + (there - here) * rest / self._step_seconds)

    def _point_ticks(self, pair: PairRules, index: int) -> int:
        """Return one point's price in ticks, without computing the whole block around it."""
        block = self._blocks.get((pair.symbol, self._step_seconds, index // _BLOCK_POINTS))
        return block[index % _BLOCK_POINTS] if block else self._compute_ticks(pair, self._step_seconds, index, 1)[0]

    def _path_ticks(self, pair: PairRules, step: int, first: int, last: int) -> list[int]:
        """Return the prices, in ticks, at first * step .. (last - 1) * step seconds."""
        ticks: list[int] = []
        for block in range(first // _BLOCK_POINTS, -(-last // _BLOCK_POINTS)):
            begin = block * _BLOCK_POINTS
            ticks += self._block(pair, step, block)[max(0, first - begin) : last - begin]
        return ticks

    def _block(self, pair: PairRules, step: int, block: int) -> list[int]:
        key = (pair.symbol, step, block)
        if key not in self._blocks:
            if len(self._blocks) > _CACHED_BLOCKS_MAX:
                self._blocks.clear()
            self._blocks[key] = self._compute_ticks(pair, step, block * _BLOCK_POINTS, _BLOCK_POINTS)
        return self._blocks[key]

    def _compute_ticks(self, pair: PairRules, step: int, first: int, count: int) -> list[int]:
        """Compute `count` points: the logarithm of price over base price is the sum of the waves."""
        log_ratios = [0.0] * count
        for wave in range(_WAVE_COUNT):
            period = _SHORTEST_WAVE_SECONDS << wave
            scale = _VOLATILITY * math.sqrt(period)
            for begin, end, since, left, right in self._cells(pair, step, wave, first, count):
                low, slope = scale * left, scale * (right - left)
                for index in range(begin, end):
                    x = (index * step + since) / period
                    log_ratios[index] += low + slope * x * x * (3.0 - 2.0 * x)
        base = _BASE_PRICES.get(pair.symbol.partition("/")[0], 100.0) / float(pair.tick_size)
        return [round(base * math.exp(height)) for height in log_ratios]

    def _cells(
        self, pair: PairRules, step: int, wave: int, first: int, count: int
    ) -> Iterator[tuple[int, int, int, float, float]]:
        """Divide points into a wave's cells: first and last index, seconds of index 0 from the cell's start, both
        ends."""
        begin, period = 0, _SHORTEST_WAVE_SECONDS << wave
        name = f"{self.seed}:{pair.symbol}:{wave}"
        last_cell = (0, 0.0)
        while begin < count:
            cell = (first + begin) * step // period
            end = min(count, -(-(cell + 1) * period // step) - first)
            left = last_cell[1] if last_cell[0] == cell else _hash_noise(f"{name}:{cell}")
            last_cell = (cell + 1, _hash_noise(f"{name}:{cell + 1}"))
            yield begin, end, first * step - cell * period, left, last_cell[1]
            begin = end

"""Where prices come from: the contract, and the seeded synthetic market.

A price path is a line through knots in time. Orders are matched against that line and candles are drawn from it, so
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

Knot = tuple[float, Decimal]

_BLOCK = 512
_BLOCKS_KEPT = 500
_CANDLES_KEPT = 4000
_KNOTS_SEEN = 60
_SHORTEST_WAVE_SECONDS = 16
_WAVES = 22
_VOLATILITY = 9e-5
_BASE_PRICES = {"BTC": 90000.0, "ETH": 3000.0, "SOL": 150.0}


@dataclass(frozen=True, slots=True)
class Candle:
    """One OHLC row; `time` is when it began."""

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
    def world(self) -> str:
        """A name for this path of prices; an account never changes worlds."""

    @property
    def finest_seconds(self) -> int:
        """The shortest candles there are."""

    def price(self, pair: PairRules, now: float) -> Decimal:
        """Return the last price at `now`, on the pair's tick grid."""

    def knots(self, pair: PairRules, after: float, until: float) -> list[Knot]:
        """Return the path's knots with after < time <= until, ending with one at `until`."""

    def candles(self, pair: PairRules, interval: int, first: int, now: float) -> list[Candle]:
        """Return the candles of `interval` seconds that begin from `first` on; the last one is still running."""

    def status(self, now: float) -> str:
        """Return the system status that the prices allow: online, or maintenance when they are stale."""


def _unit(text: str) -> float:
    """Return a number in [-1, 1) that depends on nothing but the text."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**63 - 1.0


class SyntheticPrices:
    """A market that is a pure function of seed, pair and time: a sum of smooth waves from 16 s to about a year.

    A restart continues the same path. `step_seconds` is the distance of knots. A candle of more than sixty knots
    looks at sixty of them: two years of daily candles must not take seconds.
    """

    def __init__(self, seed: int = 1, step_seconds: int = 60) -> None:
        self.seed = seed
        self.world = f"synthetic prices, seed {seed}"
        self.finest_seconds = 60
        self._step = max(1, int(step_seconds))
        self._blocks: dict[tuple[str, int, int], list[int]] = {}
        self._closed: dict[tuple[str, int, int], Candle] = {}

    def status(self, now: float) -> str:
        """Return online: this market never closes."""
        return "online"

    def price(self, pair: PairRules, now: float) -> Decimal:
        """Return the last price at `now`."""
        return self._ticks_at(pair, now) * pair.tick_size

    def knots(self, pair: PairRules, after: float, until: float) -> list[Knot]:
        """Return the knots with after < time <= until, ending with one at `until`."""
        first, last = math.floor(after / self._step) + 1, math.ceil(until / self._step)
        between = zip(range(first, last), self._ticks(pair, self._step, first, last), strict=True)
        path = [(float(index * self._step), ticks * pair.tick_size) for index, ticks in between]
        return [*path, (until, self.price(pair, until))]

    def candles(self, pair: PairRules, interval: int, first: int, now: float) -> list[Candle]:
        """Return the candles from `first` on; the last one is still running."""
        start = -(-first // interval) * interval
        return [self._candle(pair, interval, begin, now) for begin in range(start, math.floor(now) + 1, interval)]

    def _candle(self, pair: PairRules, interval: int, begin: int, now: float) -> Candle:
        key = (pair.symbol, interval, begin)
        if key in self._closed:
            return self._closed[key]
        end = min(now, begin + interval)
        opened, closed = self._ticks_at(pair, begin), self._ticks_at(pair, end)
        step = self._step * max(1, interval // self._step // _KNOTS_SEEN)
        inside = self._ticks(pair, step, begin // step + 1, math.ceil(end / step))
        tick = pair.tick_size
        share = (end - begin) / interval
        noise = _unit(f"{self.seed}:{pair.symbol}:volume:{interval}:{begin}")
        count = int((40 + 30 * noise) * interval / 60 * share)
        volume = Decimal(count * 2500) * pair.order_minimum / 100
        high, low = max(opened, closed, *inside), min(opened, closed, *inside)
        candle = Candle(begin, opened * tick, high * tick, low * tick, closed * tick, volume, count)
        if now >= begin + interval:
            self._keep(key, candle)
        return candle

    def _keep(self, key: tuple[str, int, int], candle: Candle) -> None:
        if len(self._closed) >= _CANDLES_KEPT:
            for old in list(self._closed)[: _CANDLES_KEPT // 4]:
                del self._closed[old]
        self._closed[key] = candle

    def _ticks_at(self, pair: PairRules, now: float) -> int:
        index, rest = divmod(now, self._step)
        here, there = self._knot(pair, int(index)), self._knot(pair, int(index) + 1)
        return round(here + (there - here) * rest / self._step)

    def _knot(self, pair: PairRules, index: int) -> int:
        """Return one knot's price in ticks, without drawing the whole block around it."""
        block = self._blocks.get((pair.symbol, self._step, index // _BLOCK))
        return block[index % _BLOCK] if block else self._drawn(pair, self._step, index, 1)[0]

    def _ticks(self, pair: PairRules, step: int, first: int, last: int) -> list[int]:
        """Return the prices, in ticks, at first * step .. (last - 1) * step seconds."""
        ticks: list[int] = []
        for block in range(first // _BLOCK, -(-last // _BLOCK)):
            begin = block * _BLOCK
            ticks += self._block(pair, step, block)[max(0, first - begin) : last - begin]
        return ticks

    def _block(self, pair: PairRules, step: int, block: int) -> list[int]:
        key = (pair.symbol, step, block)
        if key not in self._blocks:
            if len(self._blocks) > _BLOCKS_KEPT:
                self._blocks.clear()
            self._blocks[key] = self._drawn(pair, step, block * _BLOCK, _BLOCK)
        return self._blocks[key]

    def _drawn(self, pair: PairRules, step: int, first: int, count: int) -> list[int]:
        """Draw `count` knots: the logarithm of price over base price is the sum of the waves."""
        heights = [0.0] * count
        for wave in range(_WAVES):
            period = _SHORTEST_WAVE_SECONDS << wave
            scale = _VOLATILITY * math.sqrt(period)
            for begin, end, since, left, right in self._cells(pair, step, wave, first, count):
                low, slope = scale * left, scale * (right - left)
                for index in range(begin, end):
                    x = (index * step + since) / period
                    heights[index] += low + slope * x * x * (3.0 - 2.0 * x)
        base = _BASE_PRICES.get(pair.symbol.partition("/")[0], 100.0) / float(pair.tick_size)
        return [round(base * math.exp(height)) for height in heights]

    def _cells(
        self, pair: PairRules, step: int, wave: int, first: int, count: int
    ) -> Iterator[tuple[int, int, int, float, float]]:
        """Cut knots into a wave's cells: first and last index, seconds of index 0 from the cell's begin, both ends."""
        begin, period = 0, _SHORTEST_WAVE_SECONDS << wave
        name = f"{self.seed}:{pair.symbol}:{wave}"
        known = (0, 0.0)
        while begin < count:
            cell = (first + begin) * step // period
            end = min(count, -(-(cell + 1) * period // step) - first)
            left = known[1] if known[0] == cell else _unit(f"{name}:{cell}")
            known = (cell + 1, _unit(f"{name}:{cell + 1}"))
            yield begin, end, first * step - cell * period, left, known[1]
            begin = end

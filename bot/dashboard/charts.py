"""The charts of the page as SVG, rendered here so that the page needs no script: attributes and classes, no style.

A chart is 1200 units wide whatever its size on the screen, fine enough for whole numbers; page.css sets the width of
lines and the size of letters. All candles of a direction are one path, which costs the browser and the bot little.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any

from markupsafe import Markup, escape

from bot.dashboard.formatting import format_day_time, format_rounded

_WIDTH, _HEIGHT = 1200, 600
_TOP, _BOTTOM = 65, 535
_MARKER_WIDTH, _MARKER_HEIGHT = 18, 30


@dataclass(frozen=True, slots=True)
class _Scale:
    """The position of a value between the lowest and the highest; a value that never changes is in the middle."""

    low: Decimal
    high: Decimal
    factor: Decimal

    @classmethod
    def of_values(cls, values: Sequence[Decimal]) -> _Scale:
        low, high = min(values), max(values)
        factor = (_BOTTOM - _TOP) / (high - low) if high > low else Decimal(0)
        return cls(low, high, factor)

    def y(self, value: Decimal) -> int:
        if not self.factor:
            return (_TOP + _BOTTOM) // 2
        return int(_BOTTOM - (value - self.low) * self.factor)


def equity_chart(points: Sequence[tuple[float, str]], quote: str) -> Markup:
    """Return the curve of the account's value; `points`: Unix seconds and value, oldest first, two at least."""
    values = [Decimal(value) for _, value in points]
    scale = _Scale.of_values(values)
    first_seconds, last_seconds = points[0][0], points[-1][0]
    duration_seconds = (last_seconds - first_seconds) or 1.0
    line = " ".join(
        f"{int((time_seconds - first_seconds) / duration_seconds * _WIDTH)} {scale.y(value)}"
        for (time_seconds, _), value in zip(points, values, strict=True)
    )
    desc = (
        f"{format_day_time(first_seconds)} to {format_day_time(last_seconds)} UTC:"
        f" from {format_rounded(points[0][1])} to {format_rounded(points[-1][1])} {quote},"
        f" lowest {format_rounded(str(scale.low))}, highest {format_rounded(str(scale.high))}"
    )
    shapes = f'<path class="area" d="M0 {_BOTTOM}L{line} {_WIDTH} {_BOTTOM}z"/><path class="line" d="M{line}"/>'
    return _svg("equity", f"Equity in {quote}", desc, shapes + _axis_labels(scale, first_seconds, last_seconds))


def candle_chart(pair: Mapping[str, Any], name: str) -> Markup:
    """Return the candles of a pair, one at least, its last price, and the bot's fills at their times.

    Rising candles are hollow and falling ones are filled; a buy points up from below its price, a sale down from above.
    `name` must be unique among the charts of the page.
    """
    candle_rows = [(time_seconds, *map(Decimal, prices)) for time_seconds, *prices in pair["candles"]]
    starts = [row[0] for row in candle_rows]
    # The candle that has not closed yet has the last slot.
    ends = [*starts[1:], starts[-1] + min((b - a for a, b in pairwise(starts)), default=0)]
    fills = [
        (bisect_right(ends, fill["time_seconds"]), fill["side"], Decimal(fill["price"]))
        for fill in pair["fills"]
        if fill["time_seconds"] >= starts[0]
    ]
    price = None if pair["price"] is None else Decimal(pair["price"])
    scale_values = [value for row in candle_rows for value in row[2:4]] + [fill[2] for fill in fills]
    scale = _Scale.of_values(scale_values if price is None else [*scale_values, price])
    slot_width = _WIDTH / (len(candle_rows) + 1)
    price_line = "" if price is None else f'<path class="price" d="M0 {scale.y(price)}H{_WIDTH}"/>'
    shapes = _candle_paths(candle_rows, scale, slot_width) + price_line + _fill_markers(fills, scale, slot_width)
    counts = {side: sum(1 for fill in fills if fill[1] == side) for side in ("buy", "sell")}
    desc = (
        f"{len(candle_rows)} candles, {format_day_time(starts[0])} to {format_day_time(starts[-1])} UTC,"
        f" lowest {format_rounded(str(scale.low))}, highest {format_rounded(str(scale.high))};"
        f" bought {counts['buy']} times and sold {counts['sell']} times"
    )
    return _svg(name, f"Prices of {pair['symbol']}", desc, shapes + _axis_labels(scale, starts[0], starts[-1]))


def _candle_paths(candle_rows: Sequence[tuple[Any, ...]], scale: _Scale, slot_width: float) -> str:
    half_width = max(1, int(slot_width * 0.35))
    rising: list[str] = []
    falling: list[str] = []
    for index, (_, opened, high, low, close) in enumerate(candle_rows):
        x = int((index + 0.5) * slot_width)
        top, bottom = scale.y(max(opened, close)), scale.y(min(opened, close))
        wicks = f"M{x} {scale.y(high)}V{top}M{x} {bottom}V{scale.y(low)}"
        body = f"M{x - half_width} {top}h{2 * half_width}V{bottom}h-{2 * half_width}z"
        (rising if close >= opened else falling).append(wicks + body)
    return f'<path class="rising" d="{"".join(rising)}"/><path class="falling" d="{"".join(falling)}"/>'


def _fill_markers(fills: Sequence[tuple[int, str, Decimal]], scale: _Scale, slot_width: float) -> str:
    paths = []
    for side, height in (("buy", _MARKER_HEIGHT), ("sell", -_MARKER_HEIGHT)):
        markers = [
            f"M{int((index + 0.5) * slot_width)} {scale.y(price)}l-{_MARKER_WIDTH} {height}h{2 * _MARKER_WIDTH}z"
            for index, fill_side, price in fills
            if fill_side == side
        ]
        if markers:
            paths.append(f'<path class="mark {side}" d="{"".join(markers)}"/>')
    return "".join(paths)


def _axis_labels(scale: _Scale, first_seconds: float, last_seconds: float) -> str:
    period = f"{format_day_time(first_seconds)} to {format_day_time(last_seconds)}"
    return (
        f'<path class="rule" d="M0 {_BOTTOM}H{_WIDTH}M0 {_TOP}H{_WIDTH}"/>'
        f'<text x="0" y="{_TOP - 17}">{format_rounded(str(scale.high))}</text>'
        f'<text x="0" y="{_HEIGHT - 12}">{format_rounded(str(scale.low))}</text>'
        f'<text class="end" x="{_WIDTH}" y="{_HEIGHT - 12}">{period}</text>'
    )


def _svg(name: str, title: str, desc: str, shapes: str) -> Markup:
    # Everything but the two sentences is made of numbers and of fixed words.
    return Markup(  # nosec B704 # noqa: S704 - see above
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(desc)}</desc>{shapes}</svg>'
    )

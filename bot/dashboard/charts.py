"""The curves of the page as SVG, drawn here so that the page needs no script: attributes and classes, no style.

A drawing is 1200 units wide whatever its size on the screen, fine enough for whole numbers; page.css says how thick
lines are and how large its letters. All candles of a direction are one path: the browser, and the bot that makes the
text, have little to do.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any

from markupsafe import Markup, escape

from bot.dashboard.formatting import day_time, rounded

_WIDTH, _HEIGHT = 1200, 600
_TOP, _BOTTOM = 65, 535
_MARK_WIDTH, _MARK_HEIGHT = 18, 30


@dataclass(frozen=True, slots=True)
class _Scale:
    """Where a value stands between the lowest and the highest; one that never changes stands in the middle."""

    low: Decimal
    high: Decimal
    factor: Decimal

    @classmethod
    def over(cls, values: Sequence[Decimal]) -> _Scale:
        low, high = min(values), max(values)
        factor = (_BOTTOM - _TOP) / (high - low) if high > low else Decimal(0)
        return cls(low, high, factor)

    def y(self, value: Decimal) -> int:
        if not self.factor:
            return (_TOP + _BOTTOM) // 2
        return int(_BOTTOM - (value - self.low) * self.factor)


def equity_curve(points: Sequence[tuple[float, str]], quote: str) -> Markup:
    """Return the curve of the account's value; `points`: Unix seconds and value, oldest first, two at least."""
    values = [Decimal(value) for _, value in points]
    scale = _Scale.over(values)
    first, last = points[0][0], points[-1][0]
    seconds = (last - first) or 1.0
    line = " ".join(
        f"{int((when - first) / seconds * _WIDTH)} {scale.y(value)}"
        for (when, _), value in zip(points, values, strict=True)
    )
    desc = (
        f"{day_time(first)} to {day_time(last)} UTC: from {rounded(points[0][1])} to {rounded(points[-1][1])} {quote},"
        f" lowest {rounded(str(scale.low))}, highest {rounded(str(scale.high))}"
    )
    drawn = f'<path class="area" d="M0 {_BOTTOM}L{line} {_WIDTH} {_BOTTOM}z"/><path class="line" d="M{line}"/>'
    return _drawing("equity", f"Equity in {quote}", desc, drawn + _labels(scale, first, last))


def candles(pair: Mapping[str, Any], name: str) -> Markup:
    """Return the candles of a pair, one at least, its last price, and the bot's fills in their time.

    What rises is hollow and what falls is filled; a purchase points up from below its price, a sale down from above.
    `name`: what no other drawing of the page is called.
    """
    rows = [(when, *map(Decimal, four)) for when, *four in pair["candles"]]
    starts = [row[0] for row in rows]
    # The candle that has not closed yet has the last slot.
    ends = [*starts[1:], starts[-1] + min((b - a for a, b in pairwise(starts)), default=0)]
    fills = [
        (bisect_right(ends, fill["time_seconds"]), fill["side"], Decimal(fill["price"]))
        for fill in pair["fills"]
        if fill["time_seconds"] >= starts[0]
    ]
    price = None if pair["price"] is None else Decimal(pair["price"])
    extremes = [value for row in rows for value in row[2:4]] + [fill[2] for fill in fills]
    scale = _Scale.over(extremes if price is None else [*extremes, price])
    slot = _WIDTH / (len(rows) + 1)
    drawn = _bodies(rows, scale, slot) + _price_line(price, scale) + _marks(fills, scale, slot)
    counts = {side: sum(1 for fill in fills if fill[1] == side) for side in ("buy", "sell")}
    desc = (
        f"{len(rows)} candles, {day_time(starts[0])} to {day_time(starts[-1])} UTC, lowest {rounded(str(scale.low))},"
        f" highest {rounded(str(scale.high))}; bought {counts['buy']} times and sold {counts['sell']} times"
    )
    return _drawing(name, f"Prices of {pair['symbol']}", desc, drawn + _labels(scale, starts[0], starts[-1]))


def _bodies(rows: Sequence[tuple[Any, ...]], scale: _Scale, slot: float) -> str:
    half = max(1, int(slot * 0.35))
    rising: list[str] = []
    falling: list[str] = []
    for at, (_, opened, high, low, close) in enumerate(rows):
        x = int((at + 0.5) * slot)
        top, bottom = scale.y(max(opened, close)), scale.y(min(opened, close))
        wicks = f"M{x} {scale.y(high)}V{top}M{x} {bottom}V{scale.y(low)}"
        body = f"M{x - half} {top}h{2 * half}V{bottom}h-{2 * half}z"
        (rising if close >= opened else falling).append(wicks + body)
    return f'<path class="rising" d="{"".join(rising)}"/><path class="falling" d="{"".join(falling)}"/>'


def _price_line(price: Decimal | None, scale: _Scale) -> str:
    if price is None:
        return ""
    return f'<path class="price" d="M0 {scale.y(price)}H{_WIDTH}"/>'


def _marks(fills: Sequence[tuple[int, str, Decimal]], scale: _Scale, slot: float) -> str:
    paths = []
    for side, height in (("buy", _MARK_HEIGHT), ("sell", -_MARK_HEIGHT)):
        marks = [
            f"M{int((at + 0.5) * slot)} {scale.y(price)}l-{_MARK_WIDTH} {height}h{2 * _MARK_WIDTH}z"
            for at, of_side, price in fills
            if of_side == side
        ]
        if marks:
            paths.append(f'<path class="mark {side}" d="{"".join(marks)}"/>')
    return "".join(paths)


def _labels(scale: _Scale, first: float, last: float) -> str:
    return (
        f'<path class="rule" d="M0 {_BOTTOM}H{_WIDTH}M0 {_TOP}H{_WIDTH}"/>'
        f'<text x="0" y="{_TOP - 17}">{rounded(str(scale.high))}</text>'
        f'<text x="0" y="{_HEIGHT - 12}">{rounded(str(scale.low))}</text>'
        f'<text class="end" x="{_WIDTH}" y="{_HEIGHT - 12}">{day_time(first)} to {day_time(last)}</text>'
    )


def _drawing(name: str, title: str, desc: str, drawn: str) -> Markup:
    # Everything but the two sentences is made of numbers and of words that stand here.
    return Markup(  # nosec B704 # noqa: S704 - see above
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(desc)}</desc>{drawn}</svg>'
    )

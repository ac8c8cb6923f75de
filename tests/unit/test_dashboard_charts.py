"""The charts of the dashboard: every expected coordinate was computed by hand."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

import pytest

from bot.dashboard.charts import candle_chart, equity_chart
from tests.unit.dashboard_samples import pair_status

# A chart is 1200 wide; its lowest value is at y 535 and its highest at y 65, so 470 units of money are 470 high.
HOUR = 3600


def parse_svg(svg: str) -> ET.Element:
    """Return a chart that must be well-formed XML."""
    return ET.fromstring(svg)  # noqa: S314 - our own


def paths_by_class(svg: str) -> dict[str, str]:
    """Return the paths of a chart by their class."""
    return {path.attrib["class"]: path.attrib["d"] for path in parse_svg(svg).iter("path")}


def two_candles(**changes: Any) -> dict[str, Any]:
    """Return a pair with one rising and one falling candle, from 1970-01-01 on."""
    rows = [[0, "100", "470", "0", "200"], [HOUR, "300", "400", "50", "100"]]
    return {"symbol": "BTC/USD", "price": None, "candles": rows, "fills": []} | changes


def fill(time_seconds: int, side: str, price: str) -> dict[str, Any]:
    """Return a fill."""
    return {"time_seconds": time_seconds, "side": side, "price": price, "volume": "1"}


def test_candles_are_drawn_at_their_prices() -> None:
    """A candle is a wick from high to low, with a body from open to close; the next candle has the next slot."""
    paths = paths_by_class(candle_chart(two_candles(), "p"))
    assert paths["rising"] == "M200 65V335M200 435V535M60 335h280V435h-280z"
    assert paths["falling"] == "M600 135V235M600 435V485M460 235h280V435h-280z"


def test_fill_marker_points_at_its_price() -> None:
    """A buy marker points up and a sell marker down, with the tip at the price, in the candle of its time, also the
    open one."""
    fills = [fill(HOUR - 1, "buy", "235"), fill(HOUR, "sell", "470"), fill(2 * HOUR, "sell", "0")]
    paths = paths_by_class(candle_chart(two_candles(fills=fills), "p"))
    assert paths["mark buy"] == "M200 300l-18 30h36z"
    assert paths["mark sell"] == "M600 65l-18 -30h36zM1000 535l-18 -30h36z"


def test_fills_before_the_first_candle_are_not_drawn() -> None:
    """A fill before the first candle has no marker and does not change the scale."""
    before = two_candles(fills=[fill(-1, "buy", "99999")])
    assert candle_chart(before, "p") == candle_chart(two_candles(), "p")


def test_scale_includes_fills_and_last_price() -> None:
    """A fill above all candles and a last price below them are within the chart."""
    rows = [[0, "100", "200", "50", "100"]]
    pair = two_candles(candles=rows, price="0", fills=[fill(0, "sell", "470")])
    paths = paths_by_class(candle_chart(pair, "p"))
    assert paths["price"] == "M0 535H1200"
    assert paths["mark sell"].startswith("M900 65l")


@pytest.mark.parametrize("rows", [[[0, "7", "7", "7", "7"]], [[0, "7", "7", "7", "7"], [HOUR, "7", "7", "7", "7"]]])
def test_constant_prices_are_drawn_in_the_middle(rows: list[list[Any]]) -> None:
    """Constant prices are drawn in the middle."""
    assert " 300h" in paths_by_class(candle_chart(two_candles(candles=rows), "p"))["rising"]


def test_equity_curve_is_scaled_by_time() -> None:
    """A point of the curve is placed in proportion to its time and value."""
    svg = equity_chart([[100, "0"], [400, "470"], [1300, "235"]], "USD")  # type: ignore[list-item]  # as JSON has it
    assert paths_by_class(svg)["line"] == "M0 535 300 65 1200 300"
    assert paths_by_class(svg)["area"] == "M0 535L0 535 300 65 1200 300 1200 535z"


def test_equity_curve_of_one_timestamp_is_drawn() -> None:
    """Two points with the same time and value are drawn as a curve."""
    assert paths_by_class(equity_chart([(5.0, "1"), (5.0, "1")], "USD"))["line"] == "M0 300 0 300"


def test_chart_has_an_accessible_description() -> None:
    """A chart is an image with title and desc, which give times, extremes and the number of fills."""
    fills = [fill(0, "buy", "200"), fill(1, "buy", "200"), fill(HOUR, "sell", "300")]
    image = parse_svg(candle_chart(two_candles(fills=fills), "pair9"))
    assert image.attrib["role"] == "img"
    title, desc = (image.find(f"*[@id='{name}']") for name in image.attrib["aria-labelledby"].split())
    assert title is not None
    assert title.text == "Prices of BTC/USD"
    assert desc is not None
    assert desc.text == (
        "2 candles, 01 Jan 00:00 to 01 Jan 01:00 UTC, lowest 0.00, highest 470.00; bought 2 times and sold 1 times"
    )


def test_chart_has_few_elements() -> None:
    """A chart of 120 candles and five fills has at most twelve elements."""
    assert len(list(parse_svg(candle_chart(pair_status("BTC/USD", 1, "64000"), "p")).iter())) <= 12

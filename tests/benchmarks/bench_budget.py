"""Private reads per cycle and pair, and what they delay, by tier, pairs and timeframe; each run is an hour."""

from __future__ import annotations

import pytest

from tests.budget_market import run_hour

pytestmark = [pytest.mark.bench, pytest.mark.usefixtures("nonce_file")]


@pytest.mark.parametrize(
    ("tier", "pair_count", "timeframe", "lost_orders"),
    [
        ("starter", 1, "1m", (5,)),
        ("starter", 4, "1m", ()),
        ("starter", 4, "1m", (6,)),
        ("starter", 4, "1m", (7, 20)),
        ("starter", 10, "1m", (10,)),
        ("starter", 8, "5m", ()),
        ("pro", 8, "1m", (10,)),
    ],
)
def test_reads_of_an_hour(tier: str, pair_count: int, timeframe: str, lost_orders: tuple[int, ...]) -> None:
    """Print the reads of an hour."""
    hour = run_hour(tier, pair_count, timeframe=timeframe, lost_orders=lost_orders)
    print(f"\n{tier}, {timeframe}, lost {lost_orders}: {hour.describe()}")

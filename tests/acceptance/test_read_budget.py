"""What a tier's rate counter leaves to several pairs on one key: an hour at a time, by the exchange's own limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.local_kraken import local_kraken
from tests.acceptance.processes import run
from tests.budget_market import run_hour


@pytest.mark.usefixtures("nonce_file")
def test_four_pairs_on_the_lowest_tier_are_never_refused_for_a_stale_status() -> None:
    """In an hour at 1m, in which four pairs are bought and sold nine times, no order is refused for the age of the
    status, and each of the 36 exits leaves in its candle."""
    hour = run_hour("starter", 4)
    assert hour.stale_refusals == []
    assert len(hour.exit_delays_seconds) == 36
    assert max(hour.exit_delays_seconds) < 60


@pytest.mark.usefixtures("nonce_file")
def test_a_lost_order_blocks_its_pair_for_less_than_forty_seconds() -> None:
    """Two orders that get no answer, an entry and an exit beside three other pairs, are resolved within 40 s of
    Kraken's time after they were sent."""
    hour = run_hour("starter", 4, lost_orders=(7, 20))
    assert len(hour.resolved_after_seconds) == 2
    assert max(hour.resolved_after_seconds) <= 40


def test_check_and_start_say_what_the_tier_allows(state: Path) -> None:
    """Two pairs at 1m with a dead man's switch of 60 s are one more than starter has room for: `check` and `run` say
    so, and name the timeframe at which both fit. On pro neither says anything."""
    with local_kraken(state) as kraken:
        settings = kraken.settings(TIMEFRAME="1m", PAIRS="BTC/USD,ETH/USD", DEAD_MAN_SWITCH_SECONDS="60")
        starter = settings | {"KRAKEN_TIER": "starter"}
        warning = "room for 1 of 2 pairs: .* TIMEFRAME=5m"
        run("check", settings=starter).wait_for(f"^WARNING  tier: .*{warning}")
        run("--cycles", "1", settings=starter).wait_for(warning)
        assert "tier" not in run("check", settings=settings).text

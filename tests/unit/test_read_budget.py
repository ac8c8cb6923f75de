"""How many pairs a tier has room for, and what less urgent reads leave on the counter."""

from __future__ import annotations

from typing import cast

import pytest

from bot.base.clock import MarketClock, ReplayClock
from bot.kraken.rate_counters import INTERMEDIATE, PRO, STARTER, Tier
from bot.trading.broker import Broker
from bot.trading.read_budget import ReadBudget, ReadPurpose, max_pairs


@pytest.mark.parametrize(
    ("tier", "timeframe_seconds", "switch_seconds", "pairs"),
    [
        # 0.33 * 60 = 19.8 points a candle, of which 2 * (2 + 2) + 1 = 9 serve all pairs.
        (STARTER, 60, 0, 10),
        (INTERMEDIATE, 60, 0, 21),
        (PRO, 60, 0, 51),
        (STARTER, 300, 0, 90),
        # The switch takes 3 * (2 + 1) points a minute: 10.8 are left.
        (STARTER, 60, 60, 1),
        (STARTER, 60, 30, 0),
    ],
)
def test_pairs_that_a_tier_has_room_for(tier: Tier, timeframe_seconds: int, switch_seconds: int, pairs: int) -> None:
    """What decays in a candle, less what is read once for all pairs, is one balance for each pair."""
    assert max_pairs(tier, timeframe_seconds, switch_seconds) == pairs


class FullAbove:
    """A broker whose counter has room for so many points."""

    def __init__(self, room: float) -> None:
        self._room = room

    def has_room(self, points: float) -> bool:
        """Tell whether they fit."""
        return points <= self._room


def test_less_urgent_reads_leave_room_for_an_exit() -> None:
    """Orders (2 + 2) and balances (1) always fit after an entry's read; a follow-up leaves two points more. In a
    replay, which waits in no time, everything is allowed."""
    allowed = {
        room: [
            purpose.name
            for purpose in ReadPurpose
            if ReadBudget(cast("Broker", FullAbove(room)), MarketClock()).allows(purpose, 1)
        ]
        for room in (0, 1, 5, 6, 7, 8)
    }
    assert allowed == {
        0: [],
        1: ["END"],
        5: ["END"],
        6: ["ENTRY", "END"],
        7: ["ENTRY", "END"],
        8: ["ENTRY", "FOLLOW_UP", "END"],
    }
    assert ReadBudget(cast("Broker", FullAbove(0)), ReplayClock(0.0, 1e9)).allows(ReadPurpose.FOLLOW_UP, 2)

"""Which private reads may be sent now: Kraken counts them by key, and an exit must not wait behind a report.

The order of a cycle is the first half of the priorities: reconciliation of unknown orders, then exits and stops, then
entries, then the rest. This module is the second half: what is less urgent leaves room on the counter. Public requests
(status, candles, prices) are not counted by key, so they never wait here.
"""

from __future__ import annotations

from enum import Enum

from bot.base.clock import MarketClock
from bot.kraken.rate_counters import Tier, rest_points
from bot.trading.broker import Broker
from bot.trading.dead_man_switch import REARMS_PER_TIMEOUT

ORDER_READ_POINTS = rest_points("OpenOrders") + rest_points("ClosedOrders")
BALANCE_READ_POINTS = rest_points("BalanceEx")
FILL_READ_POINTS = rest_points("TradesHistory")

# Always left for what cannot wait: a step of reconciliation, an exit, or the end of the run reads the orders and the
# balances once.
RESERVE_POINTS = ORDER_READ_POINTS + BALANCE_READ_POINTS


# The reads of a candle in which every pair sells and buys: the orders after the stops are canceled and after the new
# ones are placed, the balances before; and the balances again before each entry.
_SHARED_CANDLE_POINTS = 2 * ORDER_READ_POINTS + BALANCE_READ_POINTS
_SWITCH_POINTS = rest_points("OpenOrders") + rest_points("CancelAllOrdersAfter")


def max_pairs(tier: Tier, timeframe_seconds: int, dead_man_switch_seconds: int) -> int:
    """Return how many pairs may all sell and buy in every candle without a wait for Kraken's REST counter."""
    points_per_second = tier.rest_decay_per_second
    if dead_man_switch_seconds:
        points_per_second -= _SWITCH_POINTS * REARMS_PER_TIMEOUT / dead_man_switch_seconds
    return max(0, int((points_per_second * timeframe_seconds - _SHARED_CANDLE_POINTS) / BALANCE_READ_POINTS))


class ReadPurpose(Enum):
    """What a private read is for, with the points that it leaves on the counter.

    Reconciliation, exits and stops have no entry: they wait for room, whatever it takes.
    """

    ENTRY = RESERVE_POINTS
    # Open orders that rest, fills for the books, balances for reports.
    FOLLOW_UP = RESERVE_POINTS + 2
    # Nothing comes after it.
    END = 0


class ReadBudget:
    """The room on the REST counter of the key. A replay waits in no time, so there everything is allowed."""

    def __init__(self, broker: Broker, clock: MarketClock) -> None:
        self._broker = broker
        self._clock = clock

    def allows(self, purpose: ReadPurpose, points: float) -> bool:
        """Tell whether reads of so many points may be sent now for this purpose."""
        return self._clock.is_replaying or self._broker.has_room(points + purpose.value)

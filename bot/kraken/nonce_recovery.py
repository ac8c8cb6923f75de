"""What to do when Kraken refuses a nonce: pure, counted in refusals, with the time passed in.

Out of sync (nothing was accepted since the start) the key's floor is above us: climb a little, twice, then
be silent. In sync another sender is on the key: never climb, because two instances that jump chase each
other for ever. Simulated for an hour with two senders on one key: a bot that jumps 60 s on every refusal,
3,378 refusals and a floor 5 h ahead; these rules, 29 refusals and a floor that stays on the clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

# What does no harm when it is done twice: reads, cancels and the dead man's switch. Anything else is sent once.
REPEATABLE = frozenset(
    {
        "Balance",
        "BalanceEx",
        "TradeBalance",
        "OpenOrders",
        "ClosedOrders",
        "QueryOrders",
        "TradesHistory",
        "QueryTrades",
        "OpenPositions",
        "Ledgers",
        "QueryLedgers",
        "TradeVolume",
        "OrderAmends",
        "GetApiKeyInfo",
        "GetWebSocketsToken",
        "CancelOrder",
        "CancelOrderBatch",
        "CancelAll",
        "CancelAllOrdersAfter",
    }
)

RETRY_SECONDS = (0.1, 2.0)
LONG_CLIMB_SECONDS = 600
WINDOW_SECONDS = 60.0
FOREIGN_SILENCE_SECONDS = 100.0
SILENCE_SECONDS_MAX = 900.0


class Climb(Enum):
    """How to raise the nonce before the next attempt."""

    NONE = "none"
    JUMP = "60 s ahead of the clock"
    LONG = "10 min ahead of the clock"


@dataclass(frozen=True, slots=True)
class Again:
    """Try again: wait, climb, draw a fresh nonce."""

    wait_seconds: float
    climb: Climb


@dataclass(frozen=True, slots=True)
class BeSilent:
    """Send nothing on this key for a while, then one probe."""

    seconds: float
    reason: str


OUT_OF_SYNC = "every nonce since the start was refused"
FOREIGN_SENDER = "another sender is using this key"
LOCKED_OUT = "Kraken has locked this key or address out"


class Recovery:
    """The refusals of one key. Not thread-safe: used inside the key's turn.

    How to climb is counted by this process alone: processes that start together on a burnt key each have to try.
    `in_sync` and `recent`, the moments of the last refusals, may also be told by others.
    """

    def __init__(self) -> None:
        self.in_sync = False
        self.refused_total = 0
        self.recent: list[float] = []
        self._in_a_row = 0

    def accepted(self) -> None:
        """Kraken has accepted a nonce."""
        self.in_sync = True
        self._in_a_row = 0

    def refused(self, now_seconds: float) -> Again | BeSilent:
        """Kraken has refused a nonce at this time (any clock that is not set back)."""
        self.refused_total += 1
        self._in_a_row += 1
        before = [time for time in self.recent if is_recent(time, now_seconds)]
        self.recent = [*before[-2:], now_seconds]
        if self.in_sync:
            return self._refused_in_sync()
        match self._in_a_row:
            case 1 | 2 as attempt:
                return Again(RETRY_SECONDS[attempt - 1], Climb.NONE)
            case 3:
                return Again(0.0, Climb.JUMP)
            case 4:
                return Again(0.0, Climb.LONG)
        self._in_a_row = 0
        return BeSilent(SILENCE_SECONDS_MAX, OUT_OF_SYNC)

    def _refused_in_sync(self) -> Again | BeSilent:
        if self._in_a_row >= 3 or len(self.recent) == 3:
            self._in_a_row = 0
            self.recent = []
            return BeSilent(FOREIGN_SILENCE_SECONDS, FOREIGN_SENDER)
        return Again(RETRY_SECONDS[self._in_a_row - 1], Climb.NONE)


def is_recent(when_seconds: float, now_seconds: float) -> bool:
    """Return whether something lies within the last minute; what lies ahead is from before the machine was started."""
    return 0 <= now_seconds - when_seconds <= WINDOW_SECONDS


def longer(seconds: float) -> float:
    """Return the next silence after a probe was refused: doubled, up to 15 minutes."""
    return min(seconds * 2, SILENCE_SECONDS_MAX)

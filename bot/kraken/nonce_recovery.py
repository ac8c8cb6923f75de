"""What to do when Kraken refuses a nonce: pure, counted in refusals, with the time passed in.

Out of sync (no nonce was accepted since the start) the key's nonce floor is above our nonces: repeat twice, make two
nonce jumps, then open the circuit breaker. In sync another sender is using the key: never jump, because two instances
that jump overtake each other for ever. Simulated for an hour with two senders on one key: a bot that jumps 60 s on
every refusal had 3,378 refusals and a floor 5 h ahead; these rules had 29 refusals and a floor that stayed on the
clock.

After the breaker was open for another sender, a refused probe is followed by one that is 10 minutes ahead of the clock,
and never of the last nonce: it tells a floor within that time from one in a finer unit, and two instances that do so
stay within 10 minutes of the clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

# Methods that are safe to repeat: reads, cancels and the dead man's switch. Any other is sent once.
RETRYABLE_METHODS = frozenset(
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

# What programs send (docs/nonces.md).
_UNITS_BY_DIGITS = {10: "seconds", 13: "milliseconds", 16: "microseconds", 18: "10 or 100 ns", 19: "nanoseconds"}

RETRY_DELAYS_SECONDS = (0.1, 2.0)
LARGE_JUMP_SECONDS = 600
REFUSAL_WINDOW_SECONDS = 60.0
EXTERNAL_SENDER_OPEN_SECONDS = 100.0
MAX_OPEN_SECONDS = 900.0


class NonceJump(Enum):
    """A nonce jump: how to raise the nonce before the next attempt."""

    NONE = "none"
    SMALL = "60 s ahead of the clock"
    LARGE = "10 min ahead of the clock"


@dataclass(frozen=True, slots=True)
class Retry:
    """Repeat the request: wait, make a nonce jump, take a fresh nonce."""

    wait_seconds: float
    jump: NonceJump


@dataclass(frozen=True, slots=True)
class OpenBreaker:
    """Send nothing on this key for a while, then one probe."""

    open_seconds: float
    reason: str


OUT_OF_SYNC = "every nonce since the start was refused"
EXTERNAL_SENDER = "another sender is using this key"
# By the name of our own unit. The floor rose in the middle of a run, so it is not our own nonces that are behind.
OUT_OF_REACH = {
    "us": "another program has sent this key a nonce far above ours, most often one in nanoseconds; make a new API key,"
    " or run `python main.py nonce adopt`",
    "ns": "another program has sent this key a nonce that no setting reaches; make a new API key",
}
LOCKED_OUT = "Kraken has locked this key or address out"


class NonceRecovery:
    """The refusals of one key. Not thread-safe: used while the request lock is held.

    Each process counts its nonce jumps for itself: processes that start together on a key with a higher nonce floor
    each have to try. `is_in_sync` and `recent_refusals`, the times of the last refusals, may come from other processes
    too.
    """

    def __init__(self) -> None:
        self.is_in_sync = False
        self.refused_total = 0
        self.recent_refusals: list[float] = []
        self._consecutive_refusals = 0

    def record_accepted(self) -> None:
        """Kraken has accepted a nonce."""
        self.is_in_sync = True
        self._consecutive_refusals = 0

    def handle_refusal(self, now_seconds: float) -> Retry | OpenBreaker:
        """Kraken has refused a nonce at this time (any clock that is not set back)."""
        self.refused_total += 1
        self._consecutive_refusals += 1
        earlier_refusals = [
            refusal_seconds for refusal_seconds in self.recent_refusals if is_recent(refusal_seconds, now_seconds)
        ]
        self.recent_refusals = [*earlier_refusals[-2:], now_seconds]
        if self.is_in_sync:
            return self._handle_refusal_in_sync()
        match self._consecutive_refusals:
            case 1 | 2 as attempt:
                return Retry(RETRY_DELAYS_SECONDS[attempt - 1], NonceJump.NONE)
            case 3:
                return Retry(0.0, NonceJump.SMALL)
            case 4:
                return Retry(0.0, NonceJump.LARGE)
        self._consecutive_refusals = 0
        return OpenBreaker(MAX_OPEN_SECONDS, OUT_OF_SYNC)

    def _handle_refusal_in_sync(self) -> Retry | OpenBreaker:
        if self._consecutive_refusals >= 3 or len(self.recent_refusals) == 3:
            self._consecutive_refusals = 0
            self.recent_refusals = []
            return OpenBreaker(EXTERNAL_SENDER_OPEN_SECONDS, EXTERNAL_SENDER)
        return Retry(RETRY_DELAYS_SECONDS[self._consecutive_refusals - 1], NonceJump.NONE)


def is_recent(event_seconds: float, now_seconds: float) -> bool:
    """Return whether something lies within the last minute; what lies ahead is from before the machine was started."""
    return 0 <= now_seconds - event_seconds <= REFUSAL_WINDOW_SECONDS


def unit_by_digits(nonce: int) -> str | None:
    """Return the unit that a nonce with this many digits is in today, or None where it is in none."""
    return _UNITS_BY_DIGITS.get(len(str(nonce)))


def next_open_seconds(open_seconds: float) -> float:
    """Return how long the breaker stays open after a refused probe: twice as long as before, up to 15 minutes."""
    return min(open_seconds * 2, MAX_OPEN_SECONDS)

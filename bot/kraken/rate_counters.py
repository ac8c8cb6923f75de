"""Kraken's decaying rate counters, kept on our side so that the bot waits instead of being refused.

Pure: the time is an argument, in Unix seconds of the market's clock. Not thread-safe: `rate_limiter.py` holds a lock
from `retry_after_seconds` to `spend`, and shares the counters between processes. What another program on the key, or on the
account from another machine, spends at Kraken is not seen here; `saturate` is for the refusal that then comes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

# Kraken lowers the REST counter "every couple of seconds", in steps (Kraken: REST rate limits page), so its counter
# may stand above a steadily decaying one by what decays in a step.
REST_STEP_SECONDS = 3.0

# Room that orders leave for cancels: two cancels of orders younger than five seconds.
CANCEL_RESERVE_POINTS = 16

# How far the clocks of two processes that count together may be apart. Each follows Kraken's time, whose seconds are
# whole (Kraken: Time page); the rest is room for a market that runs faster than the wall.
MAX_CLOCK_SKEW_SECONDS = 60.0

# After a wait of exactly the time asked, rounding must not ask for another: one too short for a clock to move by.
_ROUNDING_SECONDS = 1e-6


@dataclass(frozen=True, slots=True)
class Tier:
    """The limits of a verification level. No answer of Kraken tells which one an account has."""

    name: str
    rest_maximum: float
    rest_decay_per_second: float
    engine_threshold: float
    engine_decay_per_second: float


STARTER = Tier("starter", 15, 0.33, 60, 1.0)
INTERMEDIATE = Tier("intermediate", 20, 0.5, 125, 2.34)
PRO = Tier("pro", 20, 1.0, 180, 3.75)
UNLIMITED = Tier("unlimited", 1e12, 1e9, 1e12, 1e9)

TIERS = {tier.name: tier for tier in (STARTER, INTERMEDIATE, PRO, UNLIMITED)}

# Kraken's page gives 1 to some of these; its own SDK books 2, and the stricter number is the safe one.
_REST_POINTS = {
    "AddOrder": 0,
    "CancelOrder": 0,
    "OpenOrders": 2,
    "ClosedOrders": 2,
    "TradesHistory": 2,
    "QueryTrades": 2,
    "Ledgers": 2,
    "QueryLedgers": 2,
}


def rest_points(method: str) -> int:
    """Return what a private call adds to the REST counter (Kraken: REST rate limits page and SDK)."""
    return _REST_POINTS.get(method, 1)


class Action(Enum):
    """What the engine counter of a pair counts."""

    ADD = "add"
    CANCEL = "cancel"


# Points by the age of the order: (younger than so many seconds, points). (Kraken: trading rate limits page)
_AGE_POINTS: dict[Action, tuple[tuple[float, int], ...]] = {
    Action.ADD: (),
    Action.CANCEL: ((5, 8), (10, 6), (15, 5), (45, 4), (90, 2), (300, 1)),
}


def engine_points(action: Action, age_seconds: float = 0.0) -> int:
    """Return what an action adds to the engine counter of its pair.

    `age_seconds` is the time since the order was placed; an order of unknown age counts as new.
    """
    fixed = 0 if action is Action.CANCEL else 1
    by_age = next((points for younger, points in _AGE_POINTS[action] if age_seconds < younger), 0)
    return fixed + by_age


class CounterState(NamedTuple):
    """What a counter stood at, and when (Unix seconds). The greater one has more points."""

    points: float = 0.0
    at_seconds: float = 0.0

    @classmethod
    def parse(cls, value: object) -> CounterState:
        """Return the standing that a file holds as a list of two numbers; zero for anything else."""
        match value:
            case [int() | float() as points, int() | float() as at_seconds]:
                if math.isfinite(points) and math.isfinite(at_seconds):
                    return cls(points, at_seconds)
        return cls()


class _DecayingCounter:
    """Points that decay steadily down to zero."""

    def __init__(self, maximum: float, decay_per_second: float) -> None:
        # More than the maximum can be booked without being asked for; but nothing may be waited for without end.
        self._ceiling = 2 * maximum
        self._decay_per_second = decay_per_second
        self._state = CounterState()

    def state_at(self, now: float) -> CounterState:
        """Return the standing at `now`."""
        if self._state.at_seconds != now:
            self._state = self._decay_to(self._state, now)
        return self._state

    def _decay_to(self, state: CounterState, now: float) -> CounterState:
        points, at_seconds = state
        points = min(max(points, 0.0), self._ceiling)
        ahead_seconds = at_seconds - now
        if 0 < ahead_seconds <= MAX_CLOCK_SKEW_SECONDS:
            # Another process's clock is ahead of ours: what it has seen decay must not decay again.
            return CounterState(points, at_seconds)
        # Further ahead it was another clock, or this one before it was set back: it decays nothing, and goes on here.
        return CounterState(max(0.0, points - max(0.0, -ahead_seconds) * self._decay_per_second), now)

    def merge(self, other: CounterState, now: float) -> None:
        """Somebody else has counted, too: whoever has seen more is right."""
        self._state = max(self.state_at(now), self._decay_to(other, now))

    def add(self, points: float, now: float) -> None:
        points_before, at_seconds = self.state_at(now)
        self._state = CounterState(min(points_before + points, self._ceiling), at_seconds)

    def raise_to(self, points: float, now: float) -> None:
        points_before, at_seconds = self.state_at(now)
        self._state = CounterState(max(points_before, points), at_seconds)

    def seconds_until_room(self, points: float, limit: float, now: float) -> float:
        points_before, at_seconds = self.state_at(now)
        excess = points_before + points - limit
        wait_seconds = at_seconds - now + excess / self._decay_per_second
        return wait_seconds if excess > 0 and wait_seconds > _ROUNDING_SECONDS else 0.0


class RestCounter:
    """The REST counter of one API key."""

    def __init__(self, tier: Tier) -> None:
        self._maximum = tier.rest_maximum
        self._limit = tier.rest_maximum - tier.rest_decay_per_second * REST_STEP_SECONDS
        self._counter = _DecayingCounter(tier.rest_maximum, tier.rest_decay_per_second)

    def wait_seconds(self, method: str, now: float) -> float:
        """Return how long to wait before `method` may be sent. AddOrder and CancelOrder never wait here."""
        points = rest_points(method)
        return self._counter.seconds_until_room(points, self._limit, now) if points else 0.0

    def spend(self, method: str, now: float) -> None:
        """Book a call that is about to be sent."""
        self._counter.add(rest_points(method), now)

    def saturate(self, now: float) -> None:
        """Kraken said `EAPI:Rate limit exceeded`: its counter is at the maximum, whatever ours says."""
        self._counter.raise_to(self._maximum, now)

    def state_at(self, now: float) -> CounterState:
        """Return what the counter stands at."""
        return self._counter.state_at(now)

    def merge(self, other: CounterState, now: float) -> None:
        """Take over what somebody else on the same key has counted."""
        self._counter.merge(other, now)


class EngineCounter:
    """The matching engine's counters of one account, one for each pair (Kraken: trading rate limits page)."""

    def __init__(self, tier: Tier) -> None:
        self._threshold = tier.engine_threshold
        self._decay_per_second = tier.engine_decay_per_second
        self._counters: dict[str, _DecayingCounter] = {}

    def points(self, symbol: str, now: float) -> float:
        """Return what the counter of the pair stands at."""
        return self._counter(symbol).state_at(now).points

    def wait_seconds(self, symbol: str, action: Action, now: float, age_seconds: float = 0.0) -> float:
        """Return how long to wait before the action may be sent. Only cancels may use the reserve."""
        reserve = 0 if action is Action.CANCEL else CANCEL_RESERVE_POINTS
        points = engine_points(action, age_seconds)
        return self._counter(symbol).seconds_until_room(points, self._threshold - reserve, now)

    def spend(self, symbol: str, action: Action, now: float, age_seconds: float = 0.0) -> None:
        """Book an action that is about to be sent; Kraken books it even when the order is then refused."""
        self._counter(symbol).add(engine_points(action, age_seconds), now)

    def saturate(self, symbol: str, now: float) -> None:
        """Kraken said `EOrder:Rate limit exceeded`: the pair's counter is at its threshold."""
        self._counter(symbol).raise_to(self._threshold, now)

    def states_at(self, now: float) -> dict[str, CounterState]:
        """Return what the counters stand at that have any points left."""
        all_states = {symbol: counter.state_at(now) for symbol, counter in self._counters.items()}
        return {symbol: state for symbol, state in all_states.items() if state.points}

    def merge(self, others: Mapping[str, CounterState], now: float) -> None:
        """Take over what somebody else on the same account has counted."""
        for symbol, state in others.items():
            self._counter(symbol).merge(state, now)

    def _counter(self, symbol: str) -> _DecayingCounter:
        return self._counters.setdefault(symbol, _DecayingCounter(self._threshold, self._decay_per_second))

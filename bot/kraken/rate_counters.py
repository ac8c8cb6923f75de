"""Kraken's decaying rate counters, kept on our side so that the bot waits instead of being refused.

Pure: the time is an argument, in Unix seconds of the market's clock. Not thread-safe: `rate_limiter.py` holds a lock,
and shares the counters between processes. These counters do not include what another program on the key, or on the
account from another machine, spends at Kraken; `saturate` handles the refusal that follows.
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

# How far the clocks of two processes that share a counter may be apart. Each follows Kraken's time, whose seconds are
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
    """The actions that the matching engine's counter of a pair counts."""

    ADD = "add"
    CANCEL = "cancel"


# Points by the age of the order: (younger than so many seconds, points). (Kraken: trading rate limits page)
_AGE_POINTS: dict[Action, tuple[tuple[float, int], ...]] = {
    Action.ADD: (),
    Action.CANCEL: ((5, 8), (10, 6), (15, 5), (45, 4), (90, 2), (300, 1)),
}


def engine_points(action: Action, age_seconds: float = 0.0) -> int:
    """Return the points that an action adds to the matching engine's counter of its pair.

    `age_seconds` is the time since the order was placed; an order of unknown age counts as new.
    """
    fixed = 0 if action is Action.CANCEL else 1
    by_age = next((points for younger, points in _AGE_POINTS[action] if age_seconds < younger), 0)
    return fixed + by_age


class CounterState(NamedTuple):
    """The points of a counter at a time (Unix seconds). The greater state has more points."""

    points: float = 0.0
    at_seconds: float = 0.0

    @classmethod
    def parse(cls, value: object) -> CounterState:
        """Return the state that a file holds as a list of two numbers; zero for anything else."""
        match value:
            case [int() | float() as points, int() | float() as at_seconds]:
                if math.isfinite(points) and math.isfinite(at_seconds):
                    return cls(points, at_seconds)
        return cls()


class DecayingCounter:
    """Points that decay steadily down to zero."""

    def __init__(self, maximum: float, decay_per_second: float) -> None:
        # More than the maximum can be spent without being asked for; but no wait may last without end.
        self._ceiling = 2 * maximum
        self._decay_per_second = decay_per_second
        # As of the last call.
        self.state = CounterState()

    def state_at(self, now: float) -> CounterState:
        """Return the counter's current state."""
        if self.state.at_seconds != now:
            self.state = self._decay_to(self.state, now)
        return self.state

    def _decay_to(self, state: CounterState, now: float) -> CounterState:
        points, at_seconds = state
        points = min(max(points, 0.0), self._ceiling)
        ahead_seconds = at_seconds - now
        if 0 < ahead_seconds <= MAX_CLOCK_SKEW_SECONDS:
            # Another process's clock is ahead of ours: what has decayed by it must not decay again.
            return CounterState(points, at_seconds)
        # A state further ahead is of another clock, or of this one before it was set back: it goes on from here.
        return CounterState(max(0.0, points - max(0.0, -ahead_seconds) * self._decay_per_second), now)

    def merge(self, other: CounterState, now: float) -> None:
        """Adopt the state of another process, where it is higher."""
        if other != self.state:
            self.state = max(self.state_at(now), self._decay_to(other, now))

    def add(self, points: float, now: float) -> None:
        """Add points, whether there is room or not."""
        points_before, at_seconds = self.state_at(now)
        self.state = CounterState(min(points_before + points, self._ceiling), at_seconds)

    def raise_to(self, points: float, now: float) -> None:
        """Raise the counter to at least so many points."""
        points_before, at_seconds = self.state_at(now)
        self.state = CounterState(max(points_before, points), at_seconds)

    def seconds_until_room(self, points: float, limit: float, now: float) -> float:
        """Return how long to wait until so many points fit under the limit."""
        points_before, at_seconds = self.state_at(now)
        excess = points_before + points - limit
        wait_seconds = at_seconds - now + excess / self._decay_per_second
        return wait_seconds if excess > 0 and wait_seconds > _ROUNDING_SECONDS else 0.0

    def try_add(self, points: float, limit: float, now: float) -> float:
        """Add points and return 0.0, or return how long to wait and add nothing."""
        wait_seconds = self.seconds_until_room(points, limit, now)
        if not wait_seconds:
            # `seconds_until_room` has brought the state to `now`.
            points_before, at_seconds = self.state
            self.state = CounterState(min(points_before + points, self._ceiling), at_seconds)
        return wait_seconds


class RestCounter(DecayingCounter):
    """The REST counter of one API key."""

    def __init__(self, tier: Tier) -> None:
        super().__init__(tier.rest_maximum, tier.rest_decay_per_second)
        self._maximum = tier.rest_maximum
        self.limit = tier.rest_maximum - tier.rest_decay_per_second * REST_STEP_SECONDS

    def wait_seconds(self, method: str, now: float) -> float:
        """Return how long to wait before `method` may be sent. AddOrder and CancelOrder never wait here."""
        points = rest_points(method)
        return self.seconds_until_room(points, self.limit, now) if points else 0.0

    def spend(self, method: str, now: float) -> None:
        """Count a call that is about to be sent."""
        self.add(rest_points(method), now)

    def saturate(self, now: float) -> None:
        """Raise the counter to its maximum: Kraken said `EAPI:Rate limit exceeded`, whatever was counted here."""
        self.raise_to(self._maximum, now)


class EngineCounter:
    """The matching engine's counters of one account, one for each pair (Kraken: trading rate limits page)."""

    def __init__(self, tier: Tier) -> None:
        self._threshold = tier.engine_threshold
        self._decay_per_second = tier.engine_decay_per_second
        self._counters: dict[str, DecayingCounter] = {}

    def points(self, symbol: str, now: float) -> float:
        """Return the points on the counter of the pair."""
        return self._counter(symbol).state_at(now).points

    def wait_seconds(self, symbol: str, action: Action, now: float, age_seconds: float = 0.0) -> float:
        """Return how long to wait before the action may be sent. Only cancels may use the reserve."""
        points = engine_points(action, age_seconds)
        return self._counter(symbol).seconds_until_room(points, self._limit(action), now)

    def try_spend(self, symbol: str, action: Action, now: float, age_seconds: float = 0.0) -> float:
        """Count an action that is about to be sent and return 0.0, or return how long to wait and count nothing."""
        return self._counter(symbol).try_add(engine_points(action, age_seconds), self._limit(action), now)

    def spend(self, symbol: str, action: Action, now: float, age_seconds: float = 0.0) -> None:
        """Count an action that is about to be sent; Kraken counts it even when the order is then refused."""
        self._counter(symbol).add(engine_points(action, age_seconds), now)

    def saturate(self, symbol: str, now: float) -> None:
        """Raise the counter of the pair to its threshold: Kraken said `EOrder:Rate limit exceeded`."""
        self._counter(symbol).raise_to(self._threshold, now)

    def states_at(self, now: float) -> dict[str, CounterState]:
        """Return the states of the counters that have any points left."""
        states: dict[str, CounterState] = {}
        for symbol, counter in self._counters.items():
            if (state := counter.state_at(now)).points:
                states[symbol] = state
        return states

    def merge(self, others: Mapping[str, CounterState], now: float) -> None:
        """Adopt the states of another process on the same account, where they are higher."""
        for symbol, state in others.items():
            self._counter(symbol).merge(state, now)

    def _limit(self, action: Action) -> float:
        return self._threshold if action is Action.CANCEL else self._threshold - CANCEL_RESERVE_POINTS

    def _counter(self, symbol: str) -> DecayingCounter:
        if symbol not in self._counters:
            self._counters[symbol] = DecayingCounter(self._threshold, self._decay_per_second)
        return self._counters[symbol]

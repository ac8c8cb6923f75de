"""Kraken's rate counters: one for REST by key, one for the engine by pair, and the limit of open orders.

Numbers from Kraken's pages on REST limits and matching-engine limits. The counters decay continuously here; Kraken's
REST counter does so "every couple of seconds".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bot.simulator.errors import Refusal, SimulatorError


@dataclass(frozen=True, slots=True)
class SimTier:
    """The limits of one verification level. An infinite maximum, or None, is no limit."""

    max_rest_points: float
    rest_decay_per_second: float
    max_engine_points: float
    engine_decay_per_second: float
    max_open_orders: int | None


TIERS = {
    "starter": SimTier(15, 0.33, 60, 1.0, 60),
    "intermediate": SimTier(20, 0.5, 125, 2.34, 80),
    "pro": SimTier(20, 1.0, 180, 3.75, 225),
    "unlimited": SimTier(math.inf, 1.0, math.inf, 1.0, None),
}

REST_COSTS = {"TradesHistory": 2, "AddOrder": 0, "CancelOrder": 0}
CANCEL_PENALTIES = ((5, 8), (10, 6), (15, 5), (45, 4), (90, 2), (300, 1))


def find_tier(name: str) -> SimTier:
    """Return the tier. Raises SimulatorError for another name."""
    if name not in TIERS:
        raise SimulatorError(f"There is no tier {name}; there are {', '.join(TIERS)}.")
    return TIERS[name]


def cancel_penalty(age_seconds: float) -> int:
    """Return the points that canceling an order of that age adds to the pair's engine counter."""
    return next((points for limit, points in CANCEL_PENALTIES if age_seconds < limit), 0)


class DecayingCounter:
    """A counter that falls by `decay_per_second` of market time, never below zero."""

    def __init__(self, decay_per_second: float, max_points: float) -> None:
        self._decay_per_second = decay_per_second
        self._max_points = max_points
        self._points = 0.0
        self._updated_at = -math.inf

    def points(self, now: float) -> float:
        """Return the remaining points."""
        if now > self._updated_at:
            self._points = max(0.0, self._points - (now - self._updated_at) * self._decay_per_second)
            self._updated_at = now
        return self._points

    def add(self, points: int, now: float) -> None:
        """Add points."""
        self._points = self.points(now) + points

    def spend(self, points: int, now: float, error: str) -> None:
        """Add points. Raises Refusal with this error when the counter would be over its maximum."""
        if points and self.points(now) + points > self._max_points:
            raise Refusal(error)
        self.add(points, now)


class RateLimits:
    """All counters of the one account. Not thread-safe: the exchange's lock is around it."""

    def __init__(self, tier: SimTier) -> None:
        self.tier = tier
        self._rest_counters: dict[str, DecayingCounter] = {}
        self._engine_counters: dict[str, DecayingCounter] = {}

    def spend_rest(self, key: str, method: str, now: float) -> None:
        """Count one REST call of a key. Raises Refusal when its counter is over the maximum."""
        new_counter = DecayingCounter(self.tier.rest_decay_per_second, self.tier.max_rest_points)
        counter = self._rest_counters.setdefault(key, new_counter)
        counter.spend(REST_COSTS.get(method, 1), now, "EAPI:Rate limit exceeded")

    def spend_engine(self, pair_id: str, points: int, now: float) -> None:
        """Count one transaction on a pair. Raises Refusal when its counter is over the threshold."""
        self.engine_counter(pair_id).spend(points, now, "EOrder:Rate limit exceeded")

    def engine_counter(self, pair_id: str) -> DecayingCounter:
        """Return the engine counter of a pair."""
        new_counter = DecayingCounter(self.tier.engine_decay_per_second, self.tier.max_engine_points)
        return self._engine_counters.setdefault(pair_id, new_counter)

    def check_open_order_limit(self, open_on_pair: int) -> None:
        """Raise Refusal when the pair has as many open orders as the tier allows."""
        if self.tier.max_open_orders is not None and open_on_pair >= self.tier.max_open_orders:
            raise Refusal("EOrder:Orders limit exceeded")

"""Kraken's decaying rate counters, kept on our side so that the bot waits instead of being refused.

Pure: the time is an argument, in Unix seconds of the market's clock. Not thread-safe: hold one lock from
`wait_seconds` to `spend`. Another program on the same key or account spends from the same counters at Kraken
without being seen here; `saturate` is for the refusal that then comes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

# Kraken lowers the REST counter "every couple of seconds", in steps (Kraken: REST rate limits page), so its counter
# may stand above a steadily decaying one by what decays in a step.
REST_STEP_SECONDS = 3.0

# Room that orders leave for cancels: two cancels of orders younger than five seconds.
CANCEL_RESERVE_POINTS = 16

# Seconds and points are floats; after a wait of exactly the time asked, rounding must not ask for another.
_ROUNDING = 1e-6


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
    AMEND = "amend"
    EDIT = "edit"
    CANCEL = "cancel"


# Points by the age of the order: (younger than so many seconds, points). (Kraken: trading rate limits page)
_AGE_POINTS: dict[Action, tuple[tuple[float, int], ...]] = {
    Action.ADD: (),
    Action.AMEND: ((5, 3), (10, 2), (15, 1)),
    Action.EDIT: ((5, 6), (10, 5), (15, 4), (45, 2), (90, 1)),
    Action.CANCEL: ((5, 8), (10, 6), (15, 5), (45, 4), (90, 2), (300, 1)),
}


def engine_points(action: Action, age_seconds: float = 0.0) -> int:
    """Return what an action adds to the engine counter of its pair.

    `age_seconds` is the time since the order was placed or last amended; an order of unknown age counts as new.
    """
    fixed = 0 if action is Action.CANCEL else 1
    by_age = next((points for younger, points in _AGE_POINTS[action] if age_seconds < younger), 0)
    return fixed + by_age


class _DecayingCounter:
    """Points that decay steadily down to zero."""

    def __init__(self, decay_per_second: float) -> None:
        self._decay_per_second = decay_per_second
        self._points = 0.0
        self._seen_seconds: float | None = None

    def points(self, now: float) -> float:
        """Return the points at `now`. A clock that was set back decays nothing, and goes on from there."""
        if self._seen_seconds is not None:
            elapsed = max(0.0, now - self._seen_seconds)
            self._points = max(0.0, self._points - elapsed * self._decay_per_second)
        self._seen_seconds = now
        return self._points

    def add(self, points: float, now: float) -> None:
        self._points = self.points(now) + points

    def raise_to(self, points: float, now: float) -> None:
        self._points = max(self.points(now), points)

    def seconds_until_room(self, points: float, limit: float, now: float) -> float:
        over = self.points(now) + points - limit
        return over / self._decay_per_second if over > _ROUNDING else 0.0


class RestCounter:
    """The REST counter of one API key."""

    def __init__(self, tier: Tier) -> None:
        self._maximum = tier.rest_maximum
        self._limit = tier.rest_maximum - tier.rest_decay_per_second * REST_STEP_SECONDS
        self._counter = _DecayingCounter(tier.rest_decay_per_second)

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


class EngineCounter:
    """The matching engine's counters of one account, one for each pair (Kraken: trading rate limits page)."""

    def __init__(self, tier: Tier) -> None:
        self._threshold = tier.engine_threshold
        self._decay_per_second = tier.engine_decay_per_second
        self._counters: dict[str, _DecayingCounter] = {}

    def points(self, symbol: str, now: float) -> float:
        """Return what the counter of the pair stands at."""
        return self._counter(symbol).points(now)

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

    def _counter(self, symbol: str) -> _DecayingCounter:
        return self._counters.setdefault(symbol, _DecayingCounter(self._decay_per_second))

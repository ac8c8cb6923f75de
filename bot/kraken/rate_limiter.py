"""The rate counters of one key, shared by every thread and process of this machine.

Kraken counts the calls of a key wherever they come from. Counted by each process for itself, two of them would each
spend the whole allowance; counted in memory, a program that is started again and again would spend it at every start.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from bot.base.errors import RateLimitError
from bot.base.event_catalog import Event
from bot.base.events import emit
from bot.base.shared_json import Fields, SharedJson
from bot.kraken import error_table
from bot.kraken.rate_counters import Action, CounterState, EngineCounter, RestCounter, Tier, rest_points

MAX_PAUSE_SECONDS = 60.0


class RateLimiter:
    """Decides when a key may send a request.

    `path` is a file of the key, beside its nonce. Times are Kraken's, in Unix seconds. Thread-safe, and never an error:
    where the file cannot be used each process counts for itself. The matching engine's counters belong to an account
    and are shared here by key: two keys of one account do not see each other.
    """

    def __init__(self, path: str, tier: Tier) -> None:
        self._tier = tier
        self._shared = SharedJson(path)
        self._rest = RestCounter(tier)
        self._engine = EngineCounter(tier)
        self._pause = (0.0, "")

    def try_acquire_rest(self, method: str, now: float) -> float:
        """Count a private call and return 0.0, or return how many seconds to wait and count nothing."""
        points = rest_points(method)

        def acquire(fields: Fields) -> float:
            pause_seconds = self._remaining_pause_seconds(fields, now)
            if not points:
                return pause_seconds
            self._rest.merge(CounterState.parse(fields.get("rest")), now)
            if pause_seconds:
                wait_seconds = max(pause_seconds, self._rest.seconds_until_room(points, self._rest.limit, now))
            else:
                wait_seconds = self._rest.try_add(points, self._rest.limit, now)
            fields["rest"] = self._rest.state
            return wait_seconds

        return self._shared.update(acquire)

    def spend_rest(self, method: str, now: float) -> None:
        """Count a private call that is sent whether there is room or not."""
        self._update_rest(lambda: self._rest.spend(method, now), now)

    def saturate_rest(self, now: float) -> None:
        """Raise the REST counter to its maximum: Kraken said `EAPI:Rate limit exceeded`, whatever was counted here."""
        self._update_rest(lambda: self._rest.saturate(now), now)

    def record_rate_limit_error(self, error: RateLimitError, now: float) -> None:
        """Handle a call that Kraken refused for a limit: count the limit as reached, or pause all calls for a while."""
        entries = [error_table.find_rule(string) for string in error.error_strings]
        if any(entry is not None and entry.prefix == "EAPI:Rate limit exceeded" for entry in entries):
            self.saturate_rest(now)
        else:
            self.pause(now + error.wait_seconds, str(error))

    def try_acquire_engine(self, symbol: str, action: Action, now: float, age_seconds: float = 0.0) -> float:
        """Count an order or a cancel of a pair and return 0.0, or return how many seconds to wait and count nothing.

        `age_seconds` is the time since the order was placed.
        """

        def acquire(fields: Fields) -> float:
            self._engine.merge(_parse_counter_states(fields.get("engine")), now)
            if pause_seconds := self._remaining_pause_seconds(fields, now):
                wait_seconds = max(pause_seconds, self._engine.wait_seconds(symbol, action, now, age_seconds))
            else:
                wait_seconds = self._engine.try_spend(symbol, action, now, age_seconds)
            fields["engine"] = self._engine.states_at(now)
            return wait_seconds

        return self._shared.update(acquire)

    def spend_engine(self, symbol: str, action: Action, now: float, age_seconds: float = 0.0) -> None:
        """Count an order or a cancel that is sent whether there is room or not."""
        self._update_engine(lambda: self._engine.spend(symbol, action, now, age_seconds), now)

    def saturate_engine(self, symbol: str, now: float) -> None:
        """Raise the pair's counter to its threshold: Kraken said `EOrder:Rate limit exceeded`."""
        self._update_engine(lambda: self._engine.saturate(symbol, now), now)

    def pause(self, until_seconds: float, reason: str) -> None:
        """Pause all calls of the key until then, a minute at most, because Kraken asked for it."""

        def set_pause(fields: Fields) -> None:
            fields["pause"] = max(_parse_pause(fields.get("pause")), (until_seconds, reason))

        self._shared.update(set_pause)

    def rest_level(self, now: float) -> tuple[float, float]:
        """Return the points on the REST counter now, and Kraken's maximum. Counts nothing and waits for no lock."""
        return self._peek_rest(now).state_at(now).points, self._tier.rest_maximum

    def has_rest_room(self, points: float, now: float) -> bool:
        """Tell whether so many points fit on the REST counter now. Counts nothing and waits for no lock."""
        counter = self._peek_rest(now)
        return not counter.seconds_until_room(points, counter.limit, now)

    def _peek_rest(self, now: float) -> RestCounter:
        # A counter of its own: the counters that are written belong to the holder of the file's lock.
        counter = RestCounter(self._tier)
        counter.merge(CounterState.parse(self._shared.peek().get("rest")), now)
        return counter

    def engine_levels(self, now: float) -> dict[str, float]:
        """Return the points on the matching engine's counter of each pair that has any now, as `rest_level` does."""
        counter = EngineCounter(self._tier)
        counter.merge(_parse_counter_states(self._shared.peek().get("engine")), now)
        return {symbol: state.points for symbol, state in counter.states_at(now).items()}

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self._shared.close()

    def _update_rest(self, count: Callable[[], None], now: float) -> None:
        def update(fields: Fields) -> None:
            self._rest.merge(CounterState.parse(fields.get("rest")), now)
            count()
            fields["rest"] = self._rest.state_at(now)

        self._shared.update(update)

    def _update_engine(self, count: Callable[[], None], now: float) -> None:
        def update(fields: Fields) -> None:
            self._engine.merge(_parse_counter_states(fields.get("engine")), now)
            count()
            fields["engine"] = self._engine.states_at(now)

        self._shared.update(update)

    def _remaining_pause_seconds(self, fields: Fields, now: float) -> float:
        if "pause" not in fields and self._pause[0] <= now:
            return 0.0
        until_seconds, reason = max(self._pause, _parse_pause(fields.get("pause")))
        if until_seconds <= now:
            fields.pop("pause", None)
            return 0.0
        # A time further away comes from another clock, or from before this one was set back.
        until_seconds = min(until_seconds, now + MAX_PAUSE_SECONDS)
        if self._pause != (until_seconds, reason):
            emit(Event.RATE_LIMIT_REACHED, wait_seconds=until_seconds - now, reason=reason)
        self._pause = (until_seconds, reason)
        fields["pause"] = self._pause
        return until_seconds - now


def _parse_counter_states(value: object) -> dict[str, CounterState]:
    return {name: CounterState.parse(stored) for name, stored in value.items()} if isinstance(value, dict) else {}


def _parse_pause(value: object) -> tuple[float, str]:
    match value:
        case [int() | float() as until_seconds, str(reason)] if math.isfinite(until_seconds):
            return until_seconds, reason
    return 0.0, ""

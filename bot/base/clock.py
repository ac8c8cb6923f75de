"""The only module that reads the time and waits.

There are three clocks:

- nonces follow the wall clock (`nonce_clock`);
- deadlines follow Kraken's time, carried forward by a clock that cannot be set (`ServerTime`);
- candles, rate counters and waits follow the market's time (`MarketClock`), which a simulator may run faster than the
  wall clock.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime

DAY_US = 86_400_000_000
# A clock that is further ahead of what the boot clock has run needs a second clock that agrees with it.
STEP_US = 60_000_000

# CLOCK_MONOTONIC stops while a laptop sleeps; CLOCK_BOOTTIME does not. macOS lacks it.
_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def wall_us() -> int:
    """Return the wall clock in microseconds since the Unix epoch."""
    return time.time_ns() // 1000


def wall_seconds() -> float:
    """Return the wall clock in seconds since the Unix epoch."""
    return time.time()


def boottime_seconds() -> float:
    """Return seconds since boot. The clock is never set back, and it runs while the machine is suspended."""
    return time.clock_gettime(_BOOTTIME)


def sleep(seconds: float) -> None:
    """Wait in real time."""
    time.sleep(seconds)


def format_rfc3339(unix_seconds: float) -> str:
    """Format Unix seconds for Kraken's `deadline`: UTC with milliseconds."""
    return datetime.fromtimestamp(unix_seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def format_utc(unix_seconds: float) -> str:
    """Format Unix seconds for people and programs: UTC, to the second."""
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class NonceClock:
    """The wall clock, or Kraken's time once the two are more than ten seconds apart.

    Once the wall clock is noted, a step forward of more than a minute is not followed until it is noted again: a nonce
    that is too high cannot be taken back.
    """

    def __init__(self) -> None:
        # Both to the boot clock. None while nonces follow the machine's clock; None before the first `note_wall`.
        self.kraken_offset_us: int | None = None
        self._noted_offset_us: int | None = None

    def now_us(self) -> int:
        """Return the time that nonces start from, in microseconds."""
        if self.kraken_offset_us is not None:
            return _boot_us() + self.kraken_offset_us
        now, carried = wall_us(), self._carried_us()
        return now if carried is None or now - carried <= STEP_US else carried

    @property
    def has_stepped(self) -> bool:
        """Whether the wall clock is more than a minute ahead of what the boot clock has run since it was noted."""
        carried = self._carried_us()
        return carried is not None and wall_us() - carried > STEP_US

    @property
    def is_noted(self) -> bool:
        """Whether this process has noted the wall clock, which it does when it asks for Kraken's Time."""
        return self._noted_offset_us is not None

    def _carried_us(self) -> int | None:
        noted_offset_us = self._noted_offset_us
        return None if noted_offset_us is None else _boot_us() + noted_offset_us

    def note_wall(self) -> None:
        """Note the wall clock with the boot clock: from here on a step forward is not followed."""
        self._noted_offset_us = wall_us() - _boot_us()

    def follow_kraken(self, kraken_seconds: float) -> None:
        """Use Kraken's time from here on, carried forward by the boot clock."""
        self.kraken_offset_us = int(kraken_seconds * 1_000_000) - _boot_us()

    def follow_wall(self) -> None:
        """Use the machine's clock wherever it steps (the default)."""
        self.kraken_offset_us = self._noted_offset_us = None


def _boot_us() -> int:
    return int(boottime_seconds() * 1_000_000)


def judge_kraken_time(
    kraken_seconds: float,
    date_seconds: float | None,
    wall_seconds: float,
    expected_seconds: float,
    market_speed: float = 1.0,
) -> float | None:
    """Return the time to follow after an answer to Kraken's Time, or None where none of the clocks may be followed.

    Two of the three clocks (Time, the HTTP Date of its answer, the wall clock) that agree within ten seconds are
    followed. A Time that neither of the others confirms is followed unless it is more than a minute ahead of
    `expected_seconds`. `date_seconds` is None where the answer has no Date. Both limits are in real time: a market that
    runs `market_speed` times as fast goes that much further while an answer is on its way.
    """
    tolerance_seconds = ServerTime.CORRECTION_THRESHOLD_SECONDS * market_speed
    others = [seconds for seconds in (date_seconds, wall_seconds) if seconds is not None]
    if any(abs(kraken_seconds - seconds) <= tolerance_seconds for seconds in others):
        return kraken_seconds
    if date_seconds is not None and abs(date_seconds - wall_seconds) <= tolerance_seconds:
        return date_seconds
    is_plausible = (kraken_seconds - expected_seconds) * 1_000_000 <= STEP_US * market_speed
    return kraken_seconds if is_plausible else None


nonce_clock = NonceClock()


class MarketClock:
    """The market's time. By default the wall clock; a simulator may start at another time and run faster."""

    def __init__(self, start_seconds: float | None = None, speed: float = 1.0) -> None:
        self.speed = speed
        self._start_seconds = start_seconds
        self._boot_start = boottime_seconds()

    def now(self) -> float:
        """Return the market's time in Unix seconds."""
        if self._start_seconds is None:
            return wall_seconds()
        return self._start_seconds + self.elapsed()

    def elapsed(self) -> float:
        """Return market seconds since this clock was created. This time cannot be set."""
        return (boottime_seconds() - self._boot_start) * self.speed

    def wait_until(self, when_seconds: float, stop: threading.Event) -> bool:
        """Wait until the market's time is `when_seconds`. Return True if `stop` was set meanwhile."""
        remaining_seconds = (when_seconds - self.now()) / self.speed
        return stop.wait(max(0.0, remaining_seconds))

    @property
    def is_replaying(self) -> bool:
        """Whether waits are jumps in time."""
        return False

    @property
    def has_ended(self) -> bool:
        """Whether the market has ended."""
        return False

    @property
    def is_catching_up(self) -> bool:
        """Whether a replay is still catching up with the present; a replay that ends in the past never is."""
        return False

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        """Wait for `seconds` of market time. Return True if `stop` was set meanwhile."""
        return self.wait_until(self.now() + seconds, stop)


class ReplayClock(MarketClock):
    """A market clock that jumps instead of waiting, until it has caught up.

    With `end_seconds` None, it catches up with the wall clock and then follows it. Otherwise the market ends there.
    """

    def __init__(self, start_seconds: float, end_seconds: float | None = None) -> None:
        super().__init__()
        self._replay_start_seconds = start_seconds
        self._replay_seconds: float | None = start_seconds
        self._end_seconds = end_seconds

    @property
    def is_replaying(self) -> bool:
        """Whether waits are still jumps in time."""
        return self._replay_seconds is not None and not self.has_ended

    @property
    def has_ended(self) -> bool:
        """Whether a market with an end has reached it."""
        return self._end_seconds is not None and self.now() >= self._end_seconds

    @property
    def is_catching_up(self) -> bool:
        """Whether a replay is still catching up with the present; a replay that ends in the past never is."""
        return self._end_seconds is None and self.is_replaying

    def now(self) -> float:
        """Return the market's time in Unix seconds."""
        return wall_seconds() if self._replay_seconds is None else self._replay_seconds

    def elapsed(self) -> float:
        """Return market seconds since this clock was created."""
        return self.now() - self._replay_start_seconds

    def wait_until(self, when_seconds: float, stop: threading.Event) -> bool:
        """Jump to `when_seconds`, or really wait once the wall clock has been reached."""
        if self._replay_seconds is not None:
            limit_seconds = wall_seconds() if self._end_seconds is None else self._end_seconds
            self._replay_seconds = max(self._replay_seconds, min(when_seconds, limit_seconds))
            if when_seconds <= limit_seconds or self._end_seconds is not None:
                return stop.is_set()
            self._replay_seconds = None
        return super().wait_until(when_seconds, stop)


class ServerTime:
    """Kraken's time, carried forward by a clock that cannot be set."""

    # Kraken's Time has whole seconds (Kraken: Time page), so smaller differences mean nothing.
    TOLERANCE_SECONDS = 2.0
    CORRECTION_THRESHOLD_SECONDS = 10.0

    def __init__(self, market_clock: MarketClock) -> None:
        self._market_clock = market_clock
        self._kraken_offset_seconds: float | None = None
        self.synced_elapsed_seconds: float | None = None

    def now(self) -> float:
        """Return Kraken's time in Unix seconds; the market's own clock before the first `sync`."""
        if self._kraken_offset_seconds is None:
            return self._market_clock.now()
        return self._kraken_offset_seconds + self._market_clock.elapsed()

    def sync(self, kraken_seconds: float, round_trip_seconds: float = 0.0) -> float:
        """Synchronize with Kraken's time from an answer that took `round_trip_seconds`. Return the seconds by which the
        local clock is ahead of it (0.0 within tolerance)."""
        elapsed = self._market_clock.elapsed()
        ahead_seconds = self._market_clock.now() - kraken_seconds
        is_late = round_trip_seconds > self.TOLERANCE_SECONDS
        if is_late and ahead_seconds > 0:
            # The answer may be that old. Without the correction, every deadline would be in the past before its order
            # leaves.
            ahead_seconds = max(0.0, ahead_seconds - round_trip_seconds)
        if abs(ahead_seconds) < self.TOLERANCE_SECONDS:
            ahead_seconds = 0.0
        self._kraken_offset_seconds = self._market_clock.now() - ahead_seconds - elapsed
        self.synced_elapsed_seconds = None if is_late else elapsed
        return ahead_seconds

    def needs_sync(self, interval_seconds: float) -> bool:
        """Tell whether the last synchronization is older than `interval_seconds` of market time."""
        synced = self.synced_elapsed_seconds
        return synced is None or self._market_clock.elapsed() - synced >= interval_seconds

"""How long a service waits between its attempts."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from bot.app import supervisor
from bot.app.lifecycle import Lifecycle
from bot.app.supervisor import run_forever
from bot.base.clock import wall_seconds
from bot.base.errors import (
    BotError,
    CircuitOpenError,
    CredentialsError,
    LockoutError,
    PermissionDeniedError,
    ServiceError,
    SettingsError,
)


class RecordingStopEvent(threading.Event):
    """A stop event that is never set: it records each wait and returns at once."""

    def __init__(self) -> None:
        super().__init__()
        self.delays_seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        """Record the time-out."""
        assert timeout is not None
        self.delays_seconds.append(timeout)
        return False


def run_and_record_delays(*errors: BotError, run_seconds: tuple[float, ...] = ()) -> list[float]:
    """Return the delay after each of these errors; `run_seconds`: how long each failed attempt took."""
    times = iter(run_seconds or [0.0] * len(errors))
    now = 1000.0

    def attempts() -> Iterator[BotError | None]:
        nonlocal now
        for error in errors:
            now += next(times)
            yield error
        yield None

    remaining_errors = attempts()

    def work() -> int:
        if (error := next(remaining_errors)) is not None:
            raise error
        return 0

    lifecycle = Lifecycle()
    lifecycle.stop = stop_event = RecordingStopEvent()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervisor, "boottime_seconds", lambda: now)
        assert run_forever(work, lifecycle, transient_errors=(BotError,)) == 0
    return stop_event.delays_seconds


def test_the_retry_delay_doubles_up_to_15_minutes() -> None:
    """After a transient error a service waits 10 s, then twice as long each time, and never more than 15 min."""
    assert run_and_record_delays(*[ServiceError("GetApiKeyInfo", ["EService:Busy"])] * 9) == [
        10,
        20,
        40,
        80,
        160,
        320,
        640,
        900,
        900,
    ]


def test_a_stable_run_resets_the_retry_delay() -> None:
    """A run of more than ten minutes was no failed start, so the next delay is short again."""
    error = ServiceError("OpenOrders", ["EService:Busy"])
    assert run_and_record_delays(*[error] * 4, run_seconds=(1, 600, 601, 1)) == [10, 20, 10, 20]


@pytest.mark.parametrize("kind", [CredentialsError, PermissionDeniedError])
def test_a_refused_key_is_retried_at_most_once_a_minute(kind: type[CredentialsError | PermissionDeniedError]) -> None:
    """A key that Kraken refuses is not sent again for at least a minute."""
    assert run_and_record_delays(*[kind("GetApiKeyInfo", ["EAPI:Invalid key"])] * 4) == [60, 60, 60, 80]


def test_a_lockout_delays_the_retry_by_15_minutes() -> None:
    """After a lockout nothing is tried for 15 min."""
    assert run_and_record_delays(LockoutError("GetApiKeyInfo", ["EGeneral:Temporary lockout"])) == [900]


def test_an_open_circuit_breaker_delays_the_retry() -> None:
    """While the circuit breaker is open the next attempt is at its end; if that has passed, after the usual delay."""
    (seconds,) = run_and_record_delays(CircuitOpenError("open", wall_seconds() + 300))
    assert 290 < seconds <= 300
    assert run_and_record_delays(CircuitOpenError("open", wall_seconds() - 300)) == [10]


def test_a_settings_error_ends_the_service() -> None:
    """An invalid setting is not retried."""
    with pytest.raises(SettingsError):
        run_and_record_delays(SettingsError(["PAIRS is wrong."]))

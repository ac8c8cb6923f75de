"""How long a service waits between its attempts."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from bot.app import supervisor
from bot.app.lifecycle import Runner
from bot.app.supervisor import stay
from bot.base.clock import wall_seconds
from bot.base.errors import (
    BotError,
    CredentialsError,
    LockoutError,
    PermissionDeniedError,
    ServiceError,
    SettingsError,
    SilenceError,
)


class Pauses(threading.Event):
    """The stop of a run that nobody stops: it waits for nothing and notes for how long it was to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        """Note it."""
        assert timeout is not None
        self.seconds.append(timeout)
        return False


def pauses(*troubles: BotError, lasting: tuple[float, ...] = ()) -> list[float]:
    """Return how long a service waits after each of these; `lasting`: how long the attempts took that met them."""
    times = iter(lasting or [0.0] * len(troubles))
    now = 1000.0

    def attempts() -> Iterator[BotError | None]:
        nonlocal now
        for trouble in troubles:
            now += next(times)
            yield trouble
        yield None

    left = attempts()

    def work() -> int:
        if (trouble := next(left)) is not None:
            raise trouble
        return 0

    runner = Runner(print)
    runner.stop = waited = Pauses()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervisor, "boottime_seconds", lambda: now)
        assert stay(work, runner, print, passes=(BotError,)) == 0
    return waited.seconds


def test_the_pauses_double_up_to_a_quarter_of_an_hour() -> None:
    """After trouble that passes a service waits 10 s, then twice as long each time, and never more than 15 min."""
    assert pauses(*[ServiceError("GetApiKeyInfo", ["EService:Busy"])] * 9) == [10, 20, 40, 80, 160, 320, 640, 900, 900]


def test_what_had_lasted_begins_with_a_short_pause() -> None:
    """A run that lasted for more than ten minutes was no failed start: the next pause is a short one again."""
    trouble = ServiceError("OpenOrders", ["EService:Busy"])
    assert pauses(*[trouble] * 4, lasting=(1, 600, 601, 1)) == [10, 20, 10, 20]


@pytest.mark.parametrize("kind", [CredentialsError, PermissionDeniedError])
def test_a_refused_key_is_shown_once_a_minute_at_most(kind: type[CredentialsError | PermissionDeniedError]) -> None:
    """A key that Kraken refuses is not shown again for a minute at least."""
    assert pauses(*[kind("GetApiKeyInfo", ["EAPI:Invalid key"])] * 4) == [60, 60, 60, 80]


def test_a_lockout_is_waited_out() -> None:
    """After a lockout nothing is tried for 15 min."""
    assert pauses(LockoutError("GetApiKeyInfo", ["EGeneral:Temporary lockout"])) == [900]


def test_a_silence_is_waited_out() -> None:
    """While the key is silent the next attempt comes when its silence is over; where that is past, after the pause."""
    (seconds,) = pauses(SilenceError("silent", wall_seconds() + 300))
    assert 290 < seconds <= 300
    assert pauses(SilenceError("silent", wall_seconds() - 300)) == [10]


def test_what_only_a_person_can_mend_ends_the_service() -> None:
    """A wrong setting is not tried again."""
    with pytest.raises(SettingsError):
        pauses(SettingsError(["PAIRS is wrong."]))

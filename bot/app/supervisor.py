"""As a service the program does not end on what may pass: it stays up, silent, says why, and tries again."""

from __future__ import annotations

from collections.abc import Callable

from bot.app.instance_lock import STOP_IT
from bot.app.lifecycle import Runner, State
from bot.base.clock import boottime_seconds, wall_seconds
from bot.base.errors import (
    AnotherBotError,
    CredentialsError,
    JournalVersionError,
    LockoutError,
    PermissionDeniedError,
    SettingsError,
    SilenceError,
    StateLostError,
    StoppingError,
    SymbolError,
)
from bot.base.events import Event, tell

# The pauses between attempts double from the first to the last of these.
AGAIN_SECONDS_MIN = 10.0
AGAIN_SECONDS_MAX = 900.0
# A refused key that is shown again and again brings a lockout.
KEY_SECONDS = 60.0
# What lasted so long was no failed start.
LASTED_SECONDS = 600.0
# How soon another bot's end on the state folder is noticed.
STANDBY_SECONDS = 1.0

Say = Callable[[str], None]

# What only a person can mend, or a fresh start: the program ends, with its exit code.
_ENDS = (JournalVersionError, SettingsError, StateLostError, SymbolError)


def stay(work: Callable[[], int], runner: Runner, say: Say, passes: tuple[type[Exception], ...]) -> int:
    """Return what `work` returns, and do it again as long as it raises one of `passes`, but for what only a person
    or a fresh start can mend.

    Returns 0 where the program is stopped in between.
    """
    pauses = _Pauses()
    standing_by = False
    while not runner.stop.is_set():
        began_seconds = boottime_seconds()
        try:
            return work()
        except AnotherBotError as other:
            reason = f"{str(other).removesuffix(STOP_IT)}This one takes over when it ends."
            runner.become(State.STANDBY, reason)
            if not standing_by:
                say(f"standby  {reason}")
            standing_by = True
            runner.stop.wait(STANDBY_SECONDS)
            continue
        except StoppingError:
            return 0
        except _ENDS:
            raise
        except passes as trouble:
            seconds = pauses.after(trouble, boottime_seconds() - began_seconds)
            runner.become(State.WAITING, str(trouble))
            say(f"waiting  {trouble}")
            say(f"         It is tried again in {seconds:.0f} s.")
            tell(Event.TROUBLE, str(trouble))
        standing_by = False
        runner.stop.wait(seconds)
    say("Ended: stopped while not trading.")
    return 0


class _Pauses:
    """How long to wait before the next attempt."""

    def __init__(self) -> None:
        self._next_seconds = AGAIN_SECONDS_MIN

    def after(self, trouble: Exception, lasted_seconds: float) -> float:
        """Return the pause after an attempt that lasted so long and ended with this."""
        if lasted_seconds > LASTED_SECONDS:
            self._next_seconds = AGAIN_SECONDS_MIN
        seconds = max(self._next_seconds, _least_seconds(trouble))
        self._next_seconds = min(self._next_seconds * 2, AGAIN_SECONDS_MAX)
        return min(seconds, AGAIN_SECONDS_MAX)


def _least_seconds(trouble: Exception) -> float:
    if isinstance(trouble, SilenceError):
        # Nothing can be sent before that, and one probe after it tells.
        return trouble.until_seconds - wall_seconds()
    if isinstance(trouble, LockoutError):
        return AGAIN_SECONDS_MAX
    return KEY_SECONDS if isinstance(trouble, CredentialsError | PermissionDeniedError) else 0.0

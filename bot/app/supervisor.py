"""Runs the program as a service: it does not end on a transient error, but reports it, sends nothing, and tries
again."""

from __future__ import annotations

from collections.abc import Callable

from bot.app.instance_lock import STOP_ADVICE
from bot.app.lifecycle import Lifecycle, LifecycleState
from bot.base.clock import boottime_seconds, wall_seconds
from bot.base.errors import (
    BotAlreadyRunningError,
    CircuitOpenError,
    CredentialsError,
    JournalVersionError,
    LockoutError,
    PermissionDeniedError,
    SettingsError,
    StateLostError,
    StoppingError,
    SymbolError,
)
from bot.base.event_catalog import Event
from bot.base.events import emit

# The delays between attempts double from the first to the last of these.
MIN_RETRY_SECONDS = 10.0
MAX_RETRY_SECONDS = 900.0
# A refused key that is used again and again brings a lockout.
REFUSED_KEY_RETRY_SECONDS = 60.0
# A run that lasted so long was not a failed start.
STABLE_RUN_SECONDS = 600.0
# How soon the end of another bot on the state folder is noticed.
STANDBY_POLL_SECONDS = 1.0

# Why a run ends that is stopped before it trades.
STOPPED_REASON = "stopped while not trading"

# Problems that need a person or a fresh start: the program ends, with its exit code.
_ENDS_PROCESS = (JournalVersionError, SettingsError, StateLostError, SymbolError)


def run_forever(work: Callable[[], int], lifecycle: Lifecycle, transient_errors: tuple[type[Exception], ...]) -> int:
    """Return the result of `work`, and repeat it when it raises one of `transient_errors`, except for problems that
    need a person or a fresh start.

    Returns 0 where the program is stopped in between.
    """
    next_delay_seconds = MIN_RETRY_SECONDS
    is_standby = False
    while not lifecycle.stop.is_set():
        started_seconds = boottime_seconds()
        try:
            return work()
        except BotAlreadyRunningError as lock_error:
            reason = f"{str(lock_error).removesuffix(STOP_ADVICE)}This one takes over when it ends."
            if is_standby:
                lifecycle.set_state(LifecycleState.STANDBY, reason)
            else:
                lifecycle.enter_standby(reason)
            is_standby = True
            lifecycle.stop.wait(STANDBY_POLL_SECONDS)
            continue
        except StoppingError:
            return 0
        except _ENDS_PROCESS:
            raise
        except transient_errors as error:
            if boottime_seconds() - started_seconds > STABLE_RUN_SECONDS:
                next_delay_seconds = MIN_RETRY_SECONDS
            delay_seconds = min(max(next_delay_seconds, _min_delay_seconds(error)), MAX_RETRY_SECONDS)
            next_delay_seconds = min(next_delay_seconds * 2, MAX_RETRY_SECONDS)
            lifecycle.set_state(LifecycleState.WAITING, str(error))
            emit(Event.TRADING_INTERRUPTED, error=error)
            emit(Event.RETRY_SCHEDULED, retry_seconds=delay_seconds)
        is_standby = False
        lifecycle.stop.wait(delay_seconds)
    emit(Event.RUN_ENDED, reason=STOPPED_REASON)
    return 0


def _min_delay_seconds(error: Exception) -> float:
    if isinstance(error, CircuitOpenError):
        # Nothing can be sent before that, and one probe after it decides.
        return error.until_seconds - wall_seconds()
    if isinstance(error, LockoutError):
        return MAX_RETRY_SECONDS
    return REFUSED_KEY_RETRY_SECONDS if isinstance(error, CredentialsError | PermissionDeniedError) else 0.0

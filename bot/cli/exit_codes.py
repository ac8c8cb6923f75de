"""The exit codes: which errors end the program with which code."""

from __future__ import annotations

from bot.base.errors import (
    BotAlreadyRunningError,
    BotError,
    BotNotRunningError,
    CircuitOpenError,
    CredentialsError,
    InvalidNonceError,
    JournalError,
    JournalVersionError,
    KeyRuleError,
    LockoutError,
    NonceError,
    PermissionDeniedError,
    RequestLockTimeout,
    SettingsError,
    StateLostError,
    SymbolError,
)
from bot.base.event_catalog import Event
from bot.base.events import emit
from bot.base.logging_setup import print_line
from bot.simulator.errors import LivePricesError, SimulatorError

PROGRAM_FAULT = 1
JOURNAL_DIFFERS = 7

# The first that fits. docs/errors.md says what to do about each.
EXIT_CODES: tuple[tuple[int, tuple[type[Exception], ...]], ...] = (
    (5, (LivePricesError,)),
    (2, (SettingsError, SymbolError, SimulatorError, JournalError, JournalVersionError)),
    (3, (CredentialsError, PermissionDeniedError, KeyRuleError)),
    (5, (RequestLockTimeout,)),
    (4, (NonceError, InvalidNonceError, CircuitOpenError, LockoutError)),
    (6, (BotAlreadyRunningError, StateLostError)),
    (8, (BotNotRunningError,)),
    (5, (BotError,)),
)


def exit_code_for(error: Exception) -> int:
    """Return the exit code for an error."""
    return next((code for code, kinds in EXIT_CODES if isinstance(error, kinds)), PROGRAM_FAULT)


def print_failure(error: Exception) -> int:
    """Say what is wrong; return the exit code for it."""
    print_line(f"Stopped: {error}")
    return exit_code_for(error)


def log_failure(error: Exception) -> int:
    """Log the error that ended a run; return its exit code."""
    emit(Event.RUN_FAILED, error=error)
    return exit_code_for(error)

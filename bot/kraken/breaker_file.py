"""The open circuit breaker of a key, stored beside its nonce: it survives a restart and holds for every process."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from bot.base import clock
from bot.base.event_catalog import Event
from bot.base.events import emit
from bot.base.private_files import open_file


@dataclass(frozen=True, slots=True)
class BreakerState:
    """An open breaker: no private request until `until_seconds` (Unix time), `open_seconds` in all; then one probe."""

    until_seconds: float
    open_seconds: float
    reason: str

    @property
    def is_half_open(self) -> bool:
        """Whether a probe may be sent."""
        # A clock that was set back must not keep the breaker open for longer than `open_seconds`.
        remaining_seconds = self.until_seconds - clock.wall_seconds()
        # Written this way round, a damaged file that holds "not a number" is half open, too.
        return not 0 < remaining_seconds <= self.open_seconds + 1


class BreakerFile:
    """`kraken_nonce.<key>.silence`: present while the key's circuit breaker is open."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._unsaved_state: BreakerState | None = None
        self._ignored_state: BreakerState | None = None

    def read(self) -> BreakerState | None:
        """Return the state of the open breaker, or None. A damaged file counts as a half-open breaker."""
        if self._unsaved_state is None and not os.path.lexists(self.path):
            return None
        # A state that could not be written is newer than what the file holds.
        state = self._unsaved_state or self._read_file()
        return None if state == self._ignored_state else state

    def _read_file(self) -> BreakerState | None:
        try:
            descriptor = open_file(self.path, os.O_RDONLY)
        except OSError:
            return None
        try:
            fields = json.loads(os.read(descriptor, 4096))
            return BreakerState(float(fields["until_seconds"]), float(fields["seconds"]), str(fields["reason"]))
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return BreakerState(0.0, 900.0, "the circuit breaker file is damaged")
        finally:
            os.close(descriptor)

    def trip(self, open_seconds: float, reason: str) -> BreakerState:
        """Open the breaker. Where the file cannot be written, this process keeps the state in memory."""
        state = BreakerState(clock.wall_seconds() + open_seconds, open_seconds, reason)
        text = json.dumps({"until_seconds": state.until_seconds, "seconds": open_seconds, "reason": reason})
        temporary_path = f"{self.path}.{os.getpid()}"
        try:
            descriptor = open_file(temporary_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                os.write(descriptor, text.encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary_path, self.path)
            self._unsaved_state = None
        except OSError as error:
            self._unsaved_state = state
            # A restarted process, and the other processes, would send on a key that Kraken has locked out.
            emit(Event.CIRCUIT_BREAKER_NOT_SAVED, path=self.path, error=error.strerror)
        return state

    def reset(self) -> None:
        """Close the breaker: the probe was accepted. Where the file cannot be removed, this process ignores it."""
        self._unsaved_state = None
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            return
        except OSError as error:
            self._ignored_state = self._read_file()
            emit(Event.CIRCUIT_BREAKER_NOT_REMOVED, path=self.path, error=error.strerror)

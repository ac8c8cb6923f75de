"""A key's silence, kept beside its nonce: it outlives a restart and holds for every process of the machine."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass

from bot.base import clock
from bot.base.private_files import open_file

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Silence:
    """No private request until `until_seconds` (Unix time), then one probe; `seconds` is its whole length."""

    until_seconds: float
    seconds: float
    reason: str

    @property
    def over(self) -> bool:
        """Whether a probe may be sent."""
        # A clock that was set back must not prolong the silence by more than its length.
        remaining = self.until_seconds - clock.wall_seconds()
        # Said this way round, a damaged file that holds "not a number" is over, too.
        return not 0 < remaining <= self.seconds + 1


class SilenceFile:
    """`kraken_nonce.<key>.silence`: present while the key stands by."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._memory: Silence | None = None
        self._ended: Silence | None = None

    def read(self) -> Silence | None:
        """Return the silence of the key, or None. A damaged file counts as a full silence that is over."""
        # What could not be written down is newer than what the file holds.
        found = self._memory or self._read_file()
        return None if found == self._ended else found

    def _read_file(self) -> Silence | None:
        try:
            descriptor = open_file(self.path, os.O_RDONLY)
        except OSError:
            return None
        try:
            fields = json.loads(os.read(descriptor, 4096))
            return Silence(float(fields["until_seconds"]), float(fields["seconds"]), str(fields["reason"]))
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return Silence(0.0, 900.0, "the silence file is damaged")
        finally:
            os.close(descriptor)

    def begin(self, seconds: float, reason: str) -> Silence:
        """Stand by from now on. Where the file cannot be written, this process remembers."""
        silence = Silence(clock.wall_seconds() + seconds, seconds, reason)
        text = json.dumps({"until_seconds": silence.until_seconds, "seconds": seconds, "reason": reason})
        aside = f"{self.path}.{os.getpid()}"
        try:
            descriptor = open_file(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                os.write(descriptor, text.encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(aside, self.path)
            self._memory = None
        except OSError as error:
            self._memory = silence
            # A restart, and the other processes, would send what Kraken has locked out.
            log.error("The silence cannot be kept in %s (%s): this process alone is silent.", self.path, error.strerror)
        return silence

    def end(self) -> None:
        """The probe was accepted. Where the file cannot be removed, it is over for this process."""
        self._memory = None
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            return
        except OSError as error:
            self._ended = self._read_file()
            log.error("The silence is over, but %s cannot be removed (%s): remove it.", self.path, error.strerror)

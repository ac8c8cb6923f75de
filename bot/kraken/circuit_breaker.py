"""Refused nonces and lockouts of one key: how to go on, or when to be silent."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from bot.base import clock, metrics
from bot.base.errors import BotError, InvalidNonceError, LockoutError, RequestError, SilenceError
from bot.base.events import Event, tell
from bot.base.shared_json import Fields, SharedFields
from bot.kraken import nonce_recovery
from bot.kraken.breaker_file import Silence, SilenceFile

log = logging.getLogger(__name__)

# How often the other processes are told that nonces are accepted: often enough for recovery.WINDOW_SECONDS.
TELL_SECONDS = 20.0


class NonceRefusedError(InvalidNonceError):
    """A refused nonce, and how to go on."""

    def __init__(self, refused: InvalidNonceError, again: nonce_recovery.Again) -> None:
        super().__init__(refused.method, refused.strings)
        self.again = again


class KeyGuard:
    """What this machine knows of a key's standing. Used inside the key's turn."""

    def __init__(self, silence_path: str, refusals_path: str) -> None:
        self._silence = SilenceFile(silence_path)
        self._refusals = SharedFields(refusals_path)
        self._recovery = nonce_recovery.Recovery()
        self._told_seconds: float | None = None

    @property
    def refused_total(self) -> int:
        """How many nonces this process has seen refused since the start."""
        return self._recovery.refused_total

    @property
    def silence(self) -> Silence | None:
        """The key's silence, or None while requests go; one whose time is over waits for its probe."""
        return self._silence.read()

    def accepted(self, nonce: int) -> None:
        """Kraken has accepted a nonce; the other processes are told now and then."""
        self._recovery.accepted()
        now = clock.boottime_seconds()
        if self._told_seconds is None or now - self._told_seconds >= TELL_SECONDS:
            self._told_seconds = now
            # As text: a shared number is a float, and a nonce has up to 19 digits.
            self._refusals.change(lambda fields: fields.update(accepted=[now, str(nonce)]))

    def refused(self, error: InvalidNonceError, nonce: int, unit: str) -> InvalidNonceError:
        """Return the error to raise: a NonceRefusedError, or the last word before a silence.

        `nonce` is what was sent, `unit` its unit in words. What the other processes of this machine have met within
        the last minute counts as well: their refusals, and that a nonce below this one was accepted.
        """
        metrics.nonce_refused()
        step = self._refusals.change(partial(self._count, nonce))
        sent = f"nonce {nonce} ({unit})"
        log.warning("Kraken refused %s of %s (refusal %s).", sent, error.method, self.refused_total)
        tell(Event.REFUSED_NONCE, f"Kraken refused {sent} of {error.method} (refusal {self.refused_total}).")
        if isinstance(step, nonce_recovery.Again):
            return NonceRefusedError(error, step)
        advice = _advice(step, sent)
        is_foreign = step.reason == nonce_recovery.FOREIGN_SENDER
        if is_foreign:
            tell(Event.FOREIGN_SENDER, advice)
        self._be_silent(step.seconds, step.reason, "" if is_foreign else advice)
        return InvalidNonceError(error.method, error.strings, advice)

    def _be_silent(self, seconds: float, reason: str, advice: str = "") -> None:
        self._silence.begin(seconds, reason)
        tell(Event.BREAKER, advice or f"Nothing is sent on this key for {seconds:.0f} s: {reason}.")

    def _count(self, nonce: int, fields: Fields) -> nonce_recovery.Again | nonce_recovery.BeSilent:
        now = clock.boottime_seconds()
        match fields.get("accepted"):
            case [float(when), str(lower)] if nonce_recovery.is_recent(when, now) and _as_number(lower) < nonce:
                # Below it, or the nonce file may have been lost since, and that is no foreign sender's doing.
                self._recovery.in_sync = True
        match fields.get("refused"):
            case [*times]:
                self._recovery.recent = [time for time in times if isinstance(time, float)]
        step = self._recovery.refused(now)
        fields["refused"] = self._recovery.recent
        return step

    def locked_out(self) -> None:
        """Kraken answered with a lockout: be silent."""
        self._be_silent(nonce_recovery.SILENCE_SECONDS_MAX, nonce_recovery.LOCKED_OUT)

    def close(self) -> None:
        """Close the file of the refusals; the next use opens it again."""
        self._refusals.close()

    def check(self, probe: Callable[[], Any], last_nonce: Callable[[], int]) -> None:
        """Raise SilenceError while the key stands by; when its time is over, send the one probe.

        `probe` asks GetApiKeyInfo, `last_nonce` gives the last nonce drawn. Raises SilenceError as well where the
        probe is not answered: then nothing else was sent.
        """
        silence = self._silence.read()
        if silence is None:
            return
        if not silence.over:
            seconds = silence.until_seconds - clock.wall_seconds()
            raise SilenceError(
                f"nothing is sent on this key for another {seconds:.0f} s: {silence.reason}", silence.until_seconds
            )
        before = last_nonce()
        try:
            info = probe()
        except (InvalidNonceError, LockoutError) as error:
            raise self._prolonged(silence, error) from error
        except RequestError:
            # Kraken does not know the probe, but it speaks to this key again.
            info = None
        except BotError as error:
            raise SilenceError(
                f"the probe was not answered, and nothing else was sent: {error}", clock.wall_seconds()
            ) from error
        self._silence.end()
        reported = _nonce_in(info)
        if before < reported < last_nonce():
            text = f"Kraken reports nonce {reported}, above our {before}: another sender is on this key."
            log.warning(text)
            tell(Event.FOREIGN_SENDER, text)
        log.warning("The probe was accepted; the silence is over (%s).", silence.reason)

    def _prolonged(self, silence: Silence, error: InvalidNonceError | LockoutError) -> SilenceError:
        seconds = nonce_recovery.longer(silence.seconds)
        until = self._silence.begin(seconds, silence.reason).until_seconds
        return SilenceError(
            f"the probe was refused ({'; '.join(error.strings)}): nothing is sent for {seconds:.0f} s", until
        )


def _nonce_in(info: Any) -> int:
    return _as_number(str(info.get("nonce"))) if isinstance(info, dict) else 0


def _as_number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else 0


def _advice(step: nonce_recovery.BeSilent, sent: str) -> str:
    if step.reason == nonce_recovery.FOREIGN_SENDER:
        return (
            f"The last one sent was {sent}. Nonces of ours were accepted before, so another program is using this key "
            f"with higher ones: nothing is sent for {step.seconds:.0f} s. Give every program a key of its own"
        )
    return (
        f"The last one sent was {sent}, 10 minutes ahead of the clock, and the key has already seen a higher one: most "
        "often from a tool that sends nanoseconds (19 digits: kraken-cli, nautilus) or 18 digits (python-kraken-sdk, "
        f"Kraken.Net). Nothing is sent for {step.seconds:.0f} s. The way out is a new API key for this bot; or, where "
        "it was nanoseconds, NONCE_UNIT=ns"
    )

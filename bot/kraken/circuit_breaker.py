"""Refused nonces and lockouts of one key: how to go on, or when to be silent."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from bot.base import clock, metrics
from bot.base.errors import BotError, CircuitOpenError, InvalidNonceError, LockoutError, RequestError
from bot.base.events import Event, emit
from bot.base.shared_json import Fields, SharedJson
from bot.kraken import nonce_recovery
from bot.kraken.breaker_file import BreakerFile, BreakerState

log = logging.getLogger(__name__)

# How often the other processes are told that nonces are accepted: often enough for recovery.WINDOW_SECONDS.
PUBLISH_INTERVAL_SECONDS = 20.0


class NonceRefusedError(InvalidNonceError):
    """A refused nonce, and how to go on."""

    def __init__(self, error: InvalidNonceError, retry: nonce_recovery.Retry) -> None:
        super().__init__(error.method, error.error_strings)
        self.retry = retry


class CircuitBreaker:
    """What this machine knows of a key's standing. Used inside the key's turn."""

    def __init__(self, breaker_path: str, refusals_path: str) -> None:
        self._breaker_file = BreakerFile(breaker_path)
        self._shared_refusals = SharedJson(refusals_path)
        self._recovery = nonce_recovery.NonceRecovery()
        self._published_seconds: float | None = None

    @property
    def refused_total(self) -> int:
        """How many nonces this process has seen refused since the start."""
        return self._recovery.refused_total

    @property
    def state(self) -> BreakerState | None:
        """The key's silence, or None while requests go; one whose time is over waits for its probe."""
        return self._breaker_file.read()

    def record_accepted(self, nonce: int) -> None:
        """Kraken has accepted a nonce; the other processes are told now and then."""
        self._recovery.record_accepted()
        now = clock.boottime_seconds()
        if self._published_seconds is None or now - self._published_seconds >= PUBLISH_INTERVAL_SECONDS:
            self._published_seconds = now
            # As text: a shared number is a float, and a nonce has up to 19 digits.
            self._shared_refusals.update(lambda fields: fields.update(accepted=[now, str(nonce)]))

    def handle_refusal(self, error: InvalidNonceError, nonce: int, unit: str) -> InvalidNonceError:
        """Return the error to raise: a NonceRefusedError, or the last word before a silence.

        `nonce` is what was sent, `unit` its unit in words. What the other processes of this machine have met within
        the last minute counts as well: their refusals, and that a nonce below this one was accepted.
        """
        metrics.record_nonce_refused()
        decision = self._shared_refusals.update(partial(self._count_refusal, nonce))
        sent_nonce = f"nonce {nonce} ({unit})"
        log.warning("Kraken refused %s of %s (refusal %s).", sent_nonce, error.method, self.refused_total)
        emit(Event.REFUSED_NONCE, f"Kraken refused {sent_nonce} of {error.method} (refusal {self.refused_total}).")
        if isinstance(decision, nonce_recovery.Retry):
            return NonceRefusedError(error, decision)
        advice = _format_advice(decision, sent_nonce)
        is_external_sender = decision.reason == nonce_recovery.EXTERNAL_SENDER
        if is_external_sender:
            emit(Event.EXTERNAL_SENDER, advice)
        self._trip(decision.open_seconds, decision.reason, "" if is_external_sender else advice)
        return InvalidNonceError(error.method, error.error_strings, advice)

    def _trip(self, open_seconds: float, reason: str, advice: str = "") -> None:
        self._breaker_file.trip(open_seconds, reason)
        emit(Event.CIRCUIT_BREAKER, advice or f"Nothing is sent on this key for {open_seconds:.0f} s: {reason}.")

    def _count_refusal(self, nonce: int, fields: Fields) -> nonce_recovery.Retry | nonce_recovery.OpenBreaker:
        now = clock.boottime_seconds()
        match fields.get("accepted"):
            case [float(accepted_seconds), str(accepted_nonce)] if (
                nonce_recovery.is_recent(accepted_seconds, now) and _parse_nonce(accepted_nonce) < nonce
            ):
                # Below it, or the nonce file may have been lost since, and that is no foreign sender's doing.
                self._recovery.is_in_sync = True
        match fields.get("refused"):
            case [*refusal_times]:
                self._recovery.recent_refusals = [
                    refusal_time for refusal_time in refusal_times if isinstance(refusal_time, float)
                ]
        decision = self._recovery.handle_refusal(now)
        fields["refused"] = self._recovery.recent_refusals
        return decision

    def handle_lockout(self) -> None:
        """Kraken answered with a lockout: be silent."""
        self._trip(nonce_recovery.MAX_OPEN_SECONDS, nonce_recovery.LOCKED_OUT)

    def close(self) -> None:
        """Close the file of the refusals; the next use opens it again."""
        self._shared_refusals.close()

    def check(self, probe: Callable[[], Any], last_nonce: Callable[[], int]) -> None:
        """Raise SilenceError while the key stands by; when its time is over, send the one probe.

        `probe` asks GetApiKeyInfo, `last_nonce` gives the last nonce drawn. Raises SilenceError as well where the
        probe is not answered: then nothing else was sent.
        """
        state = self._breaker_file.read()
        if state is None:
            return
        if not state.is_half_open:
            remaining_seconds = state.until_seconds - clock.wall_seconds()
            raise CircuitOpenError(
                f"nothing is sent on this key for another {remaining_seconds:.0f} s: {state.reason}",
                state.until_seconds,
            )
        previous_nonce = last_nonce()
        try:
            info = probe()
        except (InvalidNonceError, LockoutError) as error:
            raise self._extend(state, error) from error
        except RequestError:
            # Kraken does not know the probe, but it speaks to this key again.
            info = None
        except BotError as error:
            raise CircuitOpenError(
                f"the probe was not answered, and nothing else was sent: {error}", clock.wall_seconds()
            ) from error
        self._breaker_file.reset()
        reported_nonce = _parse_reported_nonce(info)
        if previous_nonce < reported_nonce < last_nonce():
            text = f"Kraken reports nonce {reported_nonce}, above our {previous_nonce}: another sender is on this key."
            log.warning(text)
            emit(Event.EXTERNAL_SENDER, text)
        log.warning("The probe was accepted; the silence is over (%s).", state.reason)

    def _extend(self, state: BreakerState, error: InvalidNonceError | LockoutError) -> CircuitOpenError:
        open_seconds = nonce_recovery.next_open_seconds(state.open_seconds)
        until_seconds = self._breaker_file.trip(open_seconds, state.reason).until_seconds
        return CircuitOpenError(
            f"the probe was refused ({'; '.join(error.error_strings)}): nothing is sent for {open_seconds:.0f} s",
            until_seconds,
        )


def _parse_reported_nonce(info: Any) -> int:
    return _parse_nonce(str(info.get("nonce"))) if isinstance(info, dict) else 0


def _parse_nonce(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else 0


def _format_advice(decision: nonce_recovery.OpenBreaker, sent_nonce: str) -> str:
    if decision.reason == nonce_recovery.EXTERNAL_SENDER:
        return (
            f"The last one sent was {sent_nonce}. Nonces of ours were accepted before, so another program is using this key "
            f"with higher ones: nothing is sent for {decision.open_seconds:.0f} s. Give every program a key of its own"
        )
    return (
        f"The last one sent was {sent_nonce}, 10 minutes ahead of the clock, and the key has already seen a higher one: most "
        "often from a tool that sends nanoseconds (19 digits: kraken-cli, nautilus) or 18 digits (python-kraken-sdk, "
        f"Kraken.Net). Nothing is sent for {decision.open_seconds:.0f} s. The way out is a new API key for this bot; or, where "
        "it was nanoseconds, NONCE_UNIT=ns"
    )

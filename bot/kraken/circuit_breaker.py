"""Refused nonces and lockouts of one key: repeat the request, or send nothing for a while."""

from __future__ import annotations

from functools import partial
from typing import Any

from bot.base import clock, metrics
from bot.base.errors import CircuitOpenError, InvalidNonceError, LockoutError
from bot.base.event_catalog import Event
from bot.base.events import emit
from bot.base.shared_json import Fields, SharedJson
from bot.kraken import nonce_recovery
from bot.kraken.breaker_file import BreakerFile, BreakerState

# How often accepted nonces are recorded for the other processes: often enough for REFUSAL_WINDOW_SECONDS.
PUBLISH_INTERVAL_SECONDS = 20.0


class NonceRefusedError(InvalidNonceError):
    """A refused nonce. `retry` says how to repeat the request; None where it must not be repeated."""

    def __init__(self, error: InvalidNonceError, retry: nonce_recovery.Retry | None) -> None:
        super().__init__(error.method, error.error_strings)
        self.retry = retry


class CircuitBreaker:
    """Decides what follows refused nonces and lockouts of a key: repeat the request, or stop sending for a while.

    Used while the request lock is held. The state is in two files beside the nonce, so that it holds for every process
    of this machine and survives a restart.
    """

    def __init__(self, breaker_path: str, refusals_path: str) -> None:
        self._breaker_file = BreakerFile(breaker_path)
        self._shared_refusals = SharedJson(refusals_path)
        self._recovery = nonce_recovery.NonceRecovery()
        self._accepted_since_refusal = False
        self._published_seconds: float | None = None

    @property
    def refused_total(self) -> int:
        """How many nonces this process has seen refused since the start."""
        return self._recovery.refused_total

    @property
    def state(self) -> BreakerState | None:
        """The state while the breaker is open or half open (it waits for its probe); None while it is closed."""
        return self._breaker_file.read()

    def record_accepted(self, nonce: int) -> None:
        """Record that Kraken accepted a nonce, every 20 s also for the other processes."""
        self._accepted_since_refusal = True
        now = clock.boottime_seconds()
        if self._published_seconds is None or now - self._published_seconds >= PUBLISH_INTERVAL_SECONDS:
            self._published_seconds = now
            # As text: a shared number is a float, and a nonce has up to 19 digits.
            self._shared_refusals.update(lambda fields: fields.update(accepted=[now, str(nonce)]))

    def handle_refusal(
        self, error: InvalidNonceError, nonce: int, unit: str, *, is_repeatable: bool
    ) -> InvalidNonceError:
        """Return the error to raise: a NonceRefusedError, or an InvalidNonceError once the breaker has opened.

        `nonce` is the one that was refused, `unit` the name of its unit. The refusals that other processes of this
        machine met within the last minute count as well, and so does a lower nonce that Kraken accepted from them.
        """
        metrics.record_nonce_refused()
        if self._accepted_since_refusal:
            self._recovery.record_accepted()
            self._accepted_since_refusal = False
        decision = self._shared_refusals.update(partial(self._count_refusal, nonce))
        sent_nonce = f"nonce {nonce} ({unit})"
        emit(Event.NONCE_REFUSED, nonce=str(nonce), unit=unit, method=error.method, refused_nonces=self.refused_total)
        if isinstance(decision, nonce_recovery.Retry):
            return NonceRefusedError(error, decision if is_repeatable else None)
        advice = _format_advice(decision.reason, sent_nonce, unit)
        is_external_sender = decision.reason == nonce_recovery.EXTERNAL_SENDER
        if is_external_sender:
            emit(Event.EXTERNAL_SENDER_DETECTED, advice=advice)
        self._trip(decision.open_seconds, decision.reason, "" if is_external_sender else advice)
        duration = f"Nothing is sent on this key for {decision.open_seconds:.0f} s"
        return InvalidNonceError(error.method, error.error_strings, f"{advice}. {duration}")

    def _trip(self, open_seconds: float, reason: str, advice: str = "") -> float:
        """Open the breaker; return until when, in Unix seconds."""
        until_seconds = self._breaker_file.trip(open_seconds, reason).until_seconds
        emit(Event.CIRCUIT_BREAKER_OPENED, wait_seconds=open_seconds, reason=reason, advice=advice or None)
        return until_seconds

    def _count_refusal(self, nonce: int, fields: Fields) -> nonce_recovery.Retry | nonce_recovery.OpenBreaker:
        now = clock.boottime_seconds()
        match fields.get("accepted"):
            case [float(accepted_seconds), str(accepted_nonce)] if (
                nonce_recovery.is_recent(accepted_seconds, now) and _parse_nonce(accepted_nonce) < nonce
            ):
                # Only a lower one: a higher one means that the nonce file was lost, not that there is another sender.
                self._recovery.is_in_sync = True
        match fields.get("refused"):
            case [*refusal_times]:
                self._recovery.recent_refusals = [
                    refusal_time for refusal_time in refusal_times if isinstance(refusal_time, float)
                ]
        decision = self._recovery.handle_refusal(now)
        fields["refused"] = self._recovery.recent_refusals
        return decision

    def handle_floor_out_of_reach(self, nonce: int, unit: str) -> CircuitOpenError:
        """Open the breaker for its longest time: in the middle of a run Kraken has refused a nonce 10 minutes ahead of
        the clock as well. Return the error to raise."""
        reason = nonce_recovery.OUT_OF_REACH[unit]
        advice = _format_advice(reason, f"nonce {nonce} ({unit})", unit)
        until_seconds = self._trip(nonce_recovery.MAX_OPEN_SECONDS, reason, advice)
        duration = f"Nothing is sent on this key for {nonce_recovery.MAX_OPEN_SECONDS:.0f} s"
        return CircuitOpenError(f"{advice}. {duration}", until_seconds)

    def handle_lockout(self) -> None:
        """Open the breaker for its longest time: Kraken answered with a lockout."""
        self._trip(nonce_recovery.MAX_OPEN_SECONDS, nonce_recovery.LOCKED_OUT)

    def close(self) -> None:
        """Close the file of the refusals; the next use opens it again."""
        self._shared_refusals.close()

    def check(self) -> BreakerState | None:
        """Return None while the breaker is closed, its state when one probe is due. Raises CircuitOpenError while it is
        open."""
        state = self._breaker_file.read()
        if state is not None and not state.is_half_open:
            remaining_seconds = state.until_seconds - clock.wall_seconds()
            raise CircuitOpenError(
                f"nothing is sent on this key for another {remaining_seconds:.0f} s: {state.reason}",
                state.until_seconds,
            )
        return state

    def close_after_probe(
        self, state: BreakerState, key_info: Any, previous_nonce: int | None, probe_nonce: int
    ) -> None:
        """Close the breaker: Kraken answered the probe, whose nonce was `probe_nonce`.

        `key_info` is what GetApiKeyInfo returned, and `previous_nonce` the nonce that this process issued before it: a
        nonce between the two, reported by Kraken, is another sender's.
        """
        self._breaker_file.reset()
        reported_nonce = _parse_reported_nonce(key_info)
        if previous_nonce is not None and previous_nonce < reported_nonce < probe_nonce:
            emit(
                Event.EXTERNAL_NONCE_REPORTED,
                reported_nonce=str(reported_nonce),
                nonce=str(previous_nonce),
                reported_unit=nonce_recovery.unit_by_digits(reported_nonce),
            )
        emit(Event.CIRCUIT_BREAKER_CLOSED, reason=state.reason)

    def extend(self, state: BreakerState, error: InvalidNonceError | LockoutError) -> CircuitOpenError:
        """Keep the breaker open for longer after Kraken refused the probe; return the error to raise."""
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


def _format_advice(reason: str, sent_nonce: str, unit: str) -> str:
    if reason == nonce_recovery.EXTERNAL_SENDER:
        return (
            f"The last one sent was {sent_nonce}. Kraken accepted nonces of this program before, so another program is"
            " using this key with higher ones. Give every program a key of its own"
        )
    sent = (
        f"The last one sent was {sent_nonce}, 10 minutes ahead of the clock, and the key has already seen a higher one"
    )
    if unit == "ns":
        return f"{sent}: from a clock that was wrong. No setting reaches above it: make a new API key for this bot"
    return (
        f"{sent}: most often from a tool that sends nanoseconds (19 digits: kraken-cli, nautilus) or 18 digits"
        " (python-kraken-sdk, Kraken.Net). Make a new API key for this bot; or, where it was nanoseconds, set"
        " NONCE_UNIT=ns, which `python main.py nonce adopt` tries out"
    )

"""The next nonce of a key from a store that hosts share; the local nonce file is kept as a local replica.

A store that was wiped, evicted, failed over or restored may go back: every nonce request has a floor, the highest nonce
that this process has taken and that of the local file. Hosts need not agree about the time: nonces start from the
server's.
"""

from __future__ import annotations

import functools
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, Protocol, TypeVar

from bot.base import clock, fork_safety, metrics
from bot.base.errors import LeaseLostError, NonceAheadError, NonceError, RequestLockExpiredError, StoreUnavailableError
from bot.base.event_catalog import Event
from bot.base.events import emit
from bot.base.paths import key_file_path
from bot.nonce.file_store import MICROSECONDS, FileStore, NonceUnit, nonce_ceiling, open_file_store
from bot.nonce.open_store import open_nonce_store
from bot.nonce.store_protocol import GrantStatus, NonceGrant, NonceRequest, NonceStore

# A request that begins in time has left long before its lock expires: its connection takes 3 s at most. Its answer may
# come later.
LOCK_LIFETIME_SECONDS = 16.0
SEND_WINDOW_SECONDS = 3.0

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class LeaseGuard(Protocol):
    """Tells whether this process may send at all, by the lease of `fencing_token`."""

    fencing_token: int

    def check(self) -> None:
        """Raise LeaseLostError or StoreUnavailableError where it may not."""


class _HeldLock(threading.local):
    """The request lock of a thread: its nonce, until it is issued, and the time until which a request may begin."""

    nonce = 0
    send_until_seconds: float | None = None


class SharedStore:
    """The nonces, request lock and lease of one key, for every process of every host that names the same store.

    `owner` names this process to the others. `problem` is None, or one sentence on why the store cannot be used at the
    moment. With a leader election, every nonce is issued under its lease.
    """

    def __init__(self, backend: NonceStore, replica: FileStore) -> None:
        self.backend = backend
        self.problem: str | None = None
        self.lease_guard: LeaseGuard | None = None
        self._replica = replica
        self._highest_nonce = 0
        self.after_fork_in_child()
        fork_safety.register_after_fork(self)

    def after_fork_in_child(self) -> None:
        """Begin with another owner and new locks: a held lock belongs to the parent."""
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        # Re-entrant, so that a signal handler that takes a nonce gets an error instead of a deadlock.
        self._lock = threading.RLock()
        self._is_drawing = False
        self._held_lock = _HeldLock()

    @property
    def location(self) -> str:
        """The location of the store, without credentials."""
        return self.backend.location

    def next_nonce(self, at_least: int = 0) -> int:
        """Return max(the server's clock, last + 1, at_least), written in the store before it is returned.

        Raises StoreUnavailableError where the store does not answer, NonceAheadError where the nonce would be more than
        a day ahead of this machine's clock, RequestLockExpiredError or LeaseLostError where this thread's request lock,
        or the lease of this process, has expired.
        """
        self.check()
        lock_nonce, self._held_lock.nonce = self._held_lock.nonce, 0
        if lock_nonce and at_least <= lock_nonce:
            return lock_nonce
        return self._request_nonce(self.backend.next_nonce, at_least).nonce

    def acquire_lock(self, waited_seconds: float = 0.0) -> NonceGrant:
        """Acquire the request lock, whose nonce the next `next_nonce` of this thread returns; RESERVED or BUSY where
        another sender holds it.

        `waited_seconds` is how long the caller has been waiting. Raises the errors of `next_nonce`.
        """
        # A thread that asks holds no lock: a leftover of an interrupt must not end the new one.
        self._held_lock.nonce, self._held_lock.send_until_seconds = 0, None
        started_seconds = clock.boottime_seconds()

        # The name of this function is the label of the operation in the metrics.
        def acquire_lock(request: NonceRequest) -> NonceGrant:
            return self.backend.acquire_lock(request, self.owner, LOCK_LIFETIME_SECONDS, waited_seconds)

        grant = self._request_nonce(acquire_lock)
        if grant.nonce:
            self._held_lock.nonce, self._held_lock.send_until_seconds = (
                grant.nonce,
                started_seconds + SEND_WINDOW_SECONDS,
            )
        return grant

    def release_lock(self, nonce: int) -> None:
        """Release the lock that was acquired with this nonce. Where the store is unreachable, the lock expires by
        itself."""
        self._held_lock.nonce, self._held_lock.send_until_seconds = 0, None
        try:
            self.call(self.backend.release_lock, nonce)
        except StoreUnavailableError:
            return

    def check(self) -> None:
        """Raise RequestLockExpiredError, LeaseLostError or StoreUnavailableError where a request must not leave any
        more."""
        send_until_seconds = self._held_lock.send_until_seconds
        if send_until_seconds is not None and clock.boottime_seconds() > send_until_seconds:
            raise RequestLockExpiredError(
                "the request was delayed until its request lock was nearly over; nothing was sent"
            )
        if self.lease_guard is not None:
            self.lease_guard.check()

    def peek(self) -> int | None:
        """Return the last nonce in the store, or None where it has none. Raises StoreUnavailableError."""
        record = self.call(self.backend.read_record)
        return record.last_nonce if record else None

    def call(self, step: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        """Return the result of a store operation; log once when the store is unavailable, and once when it is back."""
        with self._track_availability(), metrics.time_store_operation(step.__name__):
            return step(*args, **kwargs)

    @contextmanager
    def _track_availability(self) -> Iterator[None]:
        try:
            yield
        except StoreUnavailableError as error:
            if self.problem is None:
                emit(Event.NONCE_STORE_UNAVAILABLE, location=self.location, error=error)
            self.problem = str(error)
            raise
        if self.problem is not None:
            emit(Event.NONCE_STORE_RECOVERED, location=self.location)
            self.problem = None

    def _request_nonce(self, step: Callable[[NonceRequest], NonceGrant], at_least: int = 0) -> NonceGrant:
        # One at a time; otherwise a later nonce might be processed first, as if the store had gone back.
        with self._lock:
            if self._is_drawing:
                raise NonceError("a nonce was requested while another one was being issued (from a signal handler?)")
            self._is_drawing = True
            try:
                self.check()
                request = self._build_request(at_least)
                with self._track_availability():
                    with metrics.time_store_operation(step.__name__):
                        grant = step(request)
                    self._check_bounds(grant, request)
                self._accept_grant(grant)
            finally:
                self._is_drawing = False
            return grant

    def _check_bounds(self, grant: NonceGrant, request: NonceRequest) -> None:
        is_within_bounds = (
            request.floor <= grant.nonce <= request.ceiling if grant.status is GrantStatus.GRANTED else not grant.nonce
        )
        if not is_within_bounds:
            # Too high a nonce would lock the bot out of the key for ever.
            raise StoreUnavailableError(
                f"the nonce store {self.location} returned a nonce that was not requested; it was not used"
            )

    def _build_request(self, at_least: int) -> NonceRequest:
        unit = self._replica.unit
        max_nonce = nonce_ceiling(unit)
        if at_least > max_nonce:
            raise NonceAheadError(f"a nonce of at least {at_least} was requested, more than a day ahead of the clock")
        floor = max(self._highest_nonce, self._replica.highest_nonce()) + 1
        fencing_token = self.lease_guard.fencing_token if self.lease_guard else 0
        return NonceRequest(max(floor, at_least), max_nonce, unit.units_per_microsecond, fencing_token)

    def _accept_grant(self, grant: NonceGrant) -> None:
        if grant.status is GrantStatus.STALE:
            raise LeaseLostError(lease_expired_message(self.location))
        if grant.status is GrantStatus.ABOVE_CEILING:
            raise nonce_ahead_error(self.location, grant.previous_nonce)
        if grant.status is not GrantStatus.GRANTED:
            return
        if grant.previous_nonce < self._highest_nonce:
            emit(
                Event.NONCE_STORE_WENT_BACK,
                location=self.location,
                nonce=str(grant.previous_nonce),
                floor=str(self._highest_nonce),
            )
        elif not self._highest_nonce and grant.previous_nonce < self._replica.highest_nonce():
            emit(
                Event.NONCE_STORE_BEHIND,
                location=self.location,
                nonce=str(grant.previous_nonce or "nothing"),
            )
        self._highest_nonce = grant.nonce
        self._replica.record_nonce(grant.nonce)


def lease_expired_message(location: str) -> str:
    """Return the message for a lease that was not renewed in time; whether another one was granted is unknown."""
    return f"this instance's lease at {location} is over, so another one may lead by now; nothing was sent"


def nonce_ahead_error(location: str, last_nonce: int) -> NonceAheadError:
    """Return the error for a store whose next nonce would be more than a day ahead of the clock."""
    return NonceAheadError(
        f"the nonce store {location} holds {last_nonce}, and the next nonce would be more than a day ahead of the "
        "clock. Check the clocks of this machine and of the store's; a key that is used with NONCE_UNIT=ns can be used "
        "with nothing else"
    )


def file_store_for_key(nonce_file: str | os.PathLike[str], api_key: str, unit: NonceUnit) -> FileStore:
    """Return the nonce file of a key: the common one, or its own in a finer unit than microseconds."""
    path = os.fspath(nonce_file) if unit is MICROSECONDS else key_file_path(nonce_file, api_key, "txt")
    return open_file_store(path, unit)


_stores: dict[tuple[str, str, str, NonceUnit], SharedStore] = {}


@functools.cache
def open_shared_store(url: str, api_key: str, nonce_file: str | os.PathLike[str], unit: NonceUnit) -> SharedStore:
    """Return this process's store for a key. Raises SettingsError for an invalid address."""
    file = file_store_for_key(nonce_file, api_key, unit)
    cache_key = (url, api_key, os.path.realpath(file.path), unit)
    if cache_key not in _stores:
        # `setdefault` is atomic for all threads; the cache is not.
        _stores.setdefault(cache_key, SharedStore(open_nonce_store(url, api_key), file))
    return _stores[cache_key]

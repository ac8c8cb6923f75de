"""One private request per API key at a time, across hosts: the shared store's request lock, inside the machine's own.

The store's lock has a lifetime; otherwise a host that died while holding it would block the key for ever. A holder that
is paused beyond the lifetime sends a lower nonce than its successor and is refused: the nonce is the fencing token.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

from bot.base import clock
from bot.base.errors import RequestLockTimeout
from bot.nonce.local_lock import LOCK_TIMEOUT_SECONDS, Priority, RequestLock
from bot.nonce.shared_store import SharedStore
from bot.nonce.store_protocol import GrantStatus

# Polling intervals: for the sender that holds the reservation, and for the others.
RESERVED_POLL_SECONDS = 0.002
BUSY_POLL_SECONDS = 0.02


class DistributedRequestLock:
    """The request lock of one sender on a key: ordered among the senders of its own machine first, then among the
    hosts."""

    def __init__(self, local: RequestLock, store: SharedStore) -> None:
        self._local = local
        self._store = store

    @contextmanager
    def hold(self, priority: Priority, timeout_seconds: float = LOCK_TIMEOUT_SECONDS) -> Iterator[float]:
        """Hold the request lock for the duration of a `with` block; its nonce is the first that this thread takes in
        it.

        Raises the errors of `RequestLock.hold`, and StoreUnavailableError or LeaseLostError; in each case nothing was
        sent.
        """
        started_seconds = clock.boottime_seconds()
        with self._local.hold(priority, timeout_seconds):
            nonce, owner = self._acquire(priority, started_seconds + timeout_seconds), self._store.owner
            try:
                yield clock.boottime_seconds() - started_seconds
            finally:
                # In a forked child the lock belongs to its parent, which may be sending under it.
                if owner == self._store.owner:
                    self._store.release_lock(nonce)

    def check(self) -> None:
        """Raise RequestLockExpiredError, LeaseLostError or StoreUnavailableError where the request must not leave any
        more."""
        self._store.check()

    def stop(self, lowest_allowed: Priority) -> None:
        """From now on refuse the lock to requests and waiters with a lower priority than `lowest_allowed`."""
        self._local.stop(lowest_allowed)

    def close(self) -> None:
        """Close the machine's lock files; all of this process shares the store."""
        self._local.close()

    def _acquire(self, priority: Priority, deadline: float) -> int:
        started_seconds = clock.boottime_seconds()
        while not (grant := self._store.acquire_lock(clock.boottime_seconds() - started_seconds)).nonce:
            if clock.boottime_seconds() >= deadline:
                raise RequestLockTimeout(
                    f"the request lock at {self._store.location} was not acquired in time: another host holds it; "
                    "nothing was sent"
                )
            self._local.check_stopping(priority)
            pause_seconds = RESERVED_POLL_SECONDS if grant.status is GrantStatus.RESERVED else BUSY_POLL_SECONDS
            clock.sleep(random.uniform(0.5, 1.5) * pause_seconds)
        return grant.nonce

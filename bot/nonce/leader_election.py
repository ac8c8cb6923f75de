"""Leader election: one leader per account, by a lease in the shared store; a standby sends no private request."""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import Enum

from bot.base import clock, fork_safety
from bot.base.errors import LeaseLostError, StoppingError, StoreUnavailableError
from bot.base.event_catalog import Event
from bot.base.events import emit
from bot.nonce.shared_store import SharedStore, lease_expired_message
from bot.nonce.store_protocol import Lease

# How soon a standby notices that the leader has released its lease.
STANDBY_POLL_SECONDS = 0.25
# Fractions of the lifetime: the interval of the renewals, and how long before the end of its lease the leader stops
# sending.
RENEW_FRACTION = 0.3
SAFETY_FRACTION = 0.1
JOIN_TIMEOUT_SECONDS = 1.0


class PreviousLeader(Enum):
    """How the previous leader ended: none in this store, released with every order reconciled, or any other way."""

    NONE = "none"
    CLEAN = "clean"
    UNCLEAN = "unclean"


class LeaderElection:
    """This process's part in the leader election of a key.

    From its creation on, the process takes nonces only under its lease. `fencing_token` is that of the lease, 0 before
    the first.
    """

    def __init__(self, store: SharedStore, lifetime_seconds: float) -> None:
        self._store = store
        self._lifetime_seconds = lifetime_seconds
        self._loss_reason = "this instance is a standby; nothing was sent"
        self._valid_until_seconds = 0.0
        self.fencing_token = 0
        # The owner and the fencing token of the lease at the last request.
        self._last_seen_leader = "", 0
        self._renewal_stopped = threading.Event()
        self._thread: threading.Thread | None = None
        store.lease_guard = self
        fork_safety.register_after_fork(self)

    def after_fork_in_child(self) -> None:
        """The parent leads, and renews the lease."""
        self._loss_reason = "the process that this one was forked from leads; nothing was sent"

    def wait_for_leadership(self, stop: threading.Event, on_standby: Callable[[str], None]) -> PreviousLeader:
        """Wait until this process leads; return how the previous leader ended.

        `on_standby` receives the reason when the wait begins, and when the reason changes.

        Raises StoppingError when `stop` is set first, and StoreUnavailableError where the store has never worked; a
        later outage is waited out.
        """
        last_reported = ""
        previous_leader = PreviousLeader.UNCLEAN
        while True:
            try:
                if not last_reported:
                    record = self._store.call(self._store.backend.read_record)
                    previous_leader = (
                        PreviousLeader.UNCLEAN if record and record.lease.fencing_token else PreviousLeader.NONE
                    )
                lease = self._try_acquire()
                if lease.owner == self._store.owner:
                    emit(
                        Event.LEADERSHIP_ACQUIRED,
                        owner=lease.owner,
                        fencing_token=lease.fencing_token,
                        location=self._store.location,
                    )
                    return PreviousLeader.CLEAN if lease.is_clean_handover else previous_leader
                previous_leader = PreviousLeader.UNCLEAN
                state, reason = lease.owner, f"{lease.owner} leads; nothing is sent until it ends"
            except StoreUnavailableError as error:
                if not last_reported and not self.fencing_token:
                    raise
                # One outage is logged once, even if its messages differ.
                state, reason = "away", str(error)
            if state != last_reported:
                on_standby(reason)
                last_reported = state
            if stop.wait(STANDBY_POLL_SECONDS):
                raise StoppingError("the program is stopping; nothing was sent")

    def check(self) -> None:
        """Raise LeaseLostError where this process does not lead, StoreUnavailableError where that cannot be known."""
        if self._loss_reason:
            raise LeaseLostError(self._loss_reason)
        if clock.boottime_seconds() >= self._valid_until_seconds:
            raise StoreUnavailableError(
                f"the lease could not be renewed at {self._store.location} in time, so another instance may lead by "
                "now; nothing was sent"
            )

    @property
    def is_leader(self) -> bool:
        """Whether this process leads, as far as it knows."""
        return not self._loss_reason and clock.boottime_seconds() < self._valid_until_seconds

    @property
    def leader(self) -> tuple[str, int]:
        """Return the leader and the fencing token of its lease, as last seen; nobody and 0 where that is unknown:
        before the first answer, and after this process's own leadership."""
        return (
            ("", 0) if self._last_seen_leader[0] == self._store.owner and not self.is_leader else self._last_seen_leader
        )

    def release(self, is_reconciled: bool) -> bool:
        """Let another instance lead at once; return whether the lease was released: a lost lease, or one in an
        unreachable store, ends by itself. `is_reconciled`: no own order has an unknown outcome, and no call is in
        flight."""
        self._renewal_stopped.set()
        if self._thread is not None:
            self._thread.join(JOIN_TIMEOUT_SECONDS)
            self._thread = None
        was_leading, self._loss_reason = not self._loss_reason, "this instance has released the lease; nothing was sent"
        if was_leading:
            try:
                self._store.call(self._store.backend.release_lease, self.fencing_token, is_reconciled)
            except StoreUnavailableError:
                return False
        return was_leading

    def _try_acquire(self) -> Lease:
        started_seconds = clock.boottime_seconds()
        lease = self._store.call(self._store.backend.acquire_lease, self._store.owner, self._lifetime_seconds)
        self._last_seen_leader = lease.owner, lease.fencing_token
        if lease.owner == self._store.owner:
            self.fencing_token = lease.fencing_token
            self._extend_validity(started_seconds)
            self._loss_reason = ""
            self._renewal_stopped = threading.Event()
            self._thread = threading.Thread(
                target=self._run_renewal, args=(self._renewal_stopped,), name="kraken-lease", daemon=True
            )
            self._thread.start()
        return lease

    def _extend_validity(self, requested_seconds: float) -> None:
        # Counted from before the request to the server, by a clock that runs while this machine sleeps.
        self._valid_until_seconds = requested_seconds + self._lifetime_seconds * (1 - SAFETY_FRACTION)

    def _run_renewal(self, stopped: threading.Event) -> None:
        try:
            self._renew_until(stopped)
        finally:
            # Whatever ends the renewals ends the leadership too, or the bot would never send again. A newer leadership
            # is not affected.
            if not stopped.is_set():
                self._loss_reason = lease_expired_message(self._store.location)
                emit(
                    Event.LEADERSHIP_LOST,
                    owner=self._store.owner,
                    fencing_token=self.fencing_token,
                    reason=self._loss_reason,
                )

    def _renew_until(self, stopped: threading.Event) -> None:
        wait_seconds = self._lifetime_seconds * RENEW_FRACTION
        while not stopped.wait(wait_seconds):
            started_seconds = clock.boottime_seconds()
            try:
                is_renewed = self._store.call(
                    self._store.backend.renew_lease, self.fencing_token, self._lifetime_seconds
                )
            except StoreUnavailableError:
                wait_seconds = self._lifetime_seconds * SAFETY_FRACTION
                continue
            if stopped.is_set():
                return
            if not is_renewed:
                return
            self._extend_validity(started_seconds)
            wait_seconds = self._lifetime_seconds * RENEW_FRACTION

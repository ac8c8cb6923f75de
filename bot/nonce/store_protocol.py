"""The operations of a shared store for one key: the contract of Redis and PostgreSQL, one atomic operation a call.

The record of a key holds its last nonce, the holder of the request lock, the reservation for the next holder, and the
leader (the lease). Every time is from the server's own clock, so hosts need not agree. Every operation may be repeated
where its answer was lost: a nonce issued twice is a gap, and the same owner acquires the same lock or lease again.

An expiry further away than its whole lifetime was written before the server's clock was set back. It counts as one
lifetime from the moment that this is noticed, which is recorded. The rules, in microseconds since the Unix epoch (`now`
is the server's):

- A nonce is max(now * units_per_microsecond, last + 1, floor). Above `ceiling` nothing is written: ABOVE_CEILING. With
  a `fencing_token`, only while the lease has this token and has not expired; otherwise nothing is written: STALE.
- The request lock is free when it has no holder, its lifetime is over, or its owner asks again. It is granted to the
  owner of the reservation while the reservation lasts. An owner that is refused gets the reservation, unless one that
  has waited longer has it, and the answer RESERVED; all others get BUSY. So every owner gets the lock, however busy the
  others are. An owner that acquires its own lock again gets it whoever has the reservation. A reservation lasts for
  RESERVATION_SECONDS; a request in its second half renews it, so that frequent requests write little.
- A lease is granted when its owner has released it or its lifetime is over. Each grant has a new fencing token,
  max(fencing_token + 1, now), so that a token that was lost with the store's data is never reused. A grant also frees
  the request lock of the previous owner, who is gone, and so does a release. `is_clean_handover` says whether that
  owner released its lease with every order reconciled. An expired lease is never revived, not even for its owner:
  another instance may have led in between, in writes that the store has lost since.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

RESERVATION_SECONDS = 1.0


class GrantStatus(Enum):
    """The result of a nonce request."""

    GRANTED = "drawn"
    BUSY = "busy"
    RESERVED = "next"
    STALE = "stale"
    ABOVE_CEILING = "ahead"


@dataclass(frozen=True, slots=True)
class NonceRequest:
    """The conditions of a nonce: at least `floor`, at most `ceiling`, in units of 1/`units_per_microsecond`
    microseconds.

    With a `fencing_token` the nonce is issued only under that lease; 0 is for senders without a lease.
    """

    floor: int
    ceiling: int
    units_per_microsecond: int = 1
    fencing_token: int = 0


@dataclass(frozen=True, slots=True)
class NonceGrant:
    """The answer to a request: `nonce` where it was granted, else 0; `previous_nonce` is the store's last nonce before,
    or 0."""

    status: GrantStatus
    nonce: int = 0
    previous_nonce: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease: `owner` is "" where nobody leads, `remaining_seconds` is 0.0 where the lease has expired.

    `is_clean_handover` belongs to the last grant: whether the previous owner released with every order reconciled.
    """

    owner: str = ""
    fencing_token: int = 0
    remaining_seconds: float = 0.0
    is_clean_handover: bool = False


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """The whole record of a key, for reports. `lock_owner` is "" where nobody holds the request lock."""

    last_nonce: int
    lease: Lease
    lock_owner: str


class NonceStore(Protocol):
    """The operations on the record of one key. Thread-safe. Each raises StoreUnavailableError where the store fails.

    `location` is that of the store, without user name and password.
    """

    location: str

    def next_nonce(self, request: NonceRequest) -> NonceGrant:
        """Issue a nonce: GRANTED, STALE or ABOVE_CEILING."""

    def acquire_lock(
        self, request: NonceRequest, owner: str, lifetime_seconds: float, waited_seconds: float = 0.0
    ) -> NonceGrant:
        """Acquire the request lock and issue its nonce in one operation, or neither: GRANTED, RESERVED, BUSY, STALE or
        ABOVE_CEILING.

        `waited_seconds` is how long the owner has been waiting, by its own clock.
        """

    def release_lock(self, nonce: int) -> None:
        """Release the lock that was acquired with this nonce; do nothing where another sender holds it by now."""

    def acquire_lease(self, owner: str, lifetime_seconds: float) -> Lease:
        """Acquire the lease if nobody leads; return the current lease, which belongs to another instance if its `owner`
        is another."""

    def renew_lease(self, fencing_token: int, lifetime_seconds: float) -> bool:
        """Extend the lease of this fencing token from now; return False where it has expired, or belongs to another
        instance."""

    def release_lease(self, fencing_token: int, is_reconciled: bool) -> None:
        """End the lease of this fencing token; `is_reconciled`: no order of its owner has an unknown outcome.

        For a lease that has expired already, `is_reconciled` is ignored.
        """

    def read_record(self) -> KeyRecord | None:
        """Return the key's record in the store, or None. Writes nothing."""

    def close(self) -> None:
        """Close the connections; the next use opens them again."""

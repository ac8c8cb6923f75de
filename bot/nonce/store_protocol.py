"""What a shared store can do for one key: the contract of Redis and PostgreSQL, one atomic step a call.

The row of a key holds its last nonce, who has the turn, who is next, and who leads (the lease). Every time is the
server's own clock, so that hosts need not agree. Every step may be repeated where its answer was lost: a nonce drawn
twice is a gap, and the same owner takes the same turn or lease again.

An expiry further away than its whole lifetime was written before the server's clock was set back: it counts as one
lifetime from the moment that this is noticed, which is written down. The rules, in numbers of microseconds since the
Unix epoch (`now` is the server's):

- A nonce is max(now * ticks, last + 1, floor). Above `ceiling` nothing is written: AHEAD. With a `generation`, only
  while the lease has this generation and has not expired, or nothing is written: STALE.
- A turn is free when nobody has it, its lifetime is over, or its owner asks again. It is given to the one who is next,
  while that reservation lives. Whoever asks in vain becomes next, if nobody is who has waited as long, and is told so:
  NEXT, where others are told BUSY. So everybody's turn comes, however busy the others are. An owner that takes its turn
  again does so whoever is next. A reservation lives for NEXT_SECONDS; asking in the second half of it begins it anew,
  so that asking often writes little.
- A lease is granted when its owner has signed off or its lifetime is over; each grant has a new generation,
  max(generation + 1, now), so that one that was lost with the store's data never comes again. A grant also takes away
  the turn of the former owner, who is gone, and so does a sign-off. `clean` says whether that owner signed off with
  nothing left unsettled. A lease that is over is never brought back, not even for its owner: another one may have led
  in between, in writes that the store has lost since.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

RESERVATION_SECONDS = 1.0


class GrantStatus(Enum):
    """What became of a wish for a nonce."""

    GRANTED = "drawn"
    BUSY = "busy"
    RESERVED = "next"
    STALE = "stale"
    ABOVE_CEILING = "ahead"


@dataclass(frozen=True, slots=True)
class NonceRequest:
    """What a nonce has to be: at least `floor`, at most `ceiling`, in units of 1/`ticks` microseconds.

    With a `generation` it is drawn only under that lease; 0 is for senders that do not trade by a lease.
    """

    floor: int
    ceiling: int
    units_per_microsecond: int = 1
    fencing_token: int = 0


@dataclass(frozen=True, slots=True)
class NonceGrant:
    """The answer to a wish: `nonce` where it was drawn, else 0; `last` is what the store held before, 0 if nothing."""

    status: GrantStatus
    nonce: int = 0
    previous_nonce: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """Who leads: `owner` is "" where nobody does, `remaining_seconds` is 0.0 where the lease is over.

    `clean` is of the last grant: whether the owner before had signed off with all orders settled.
    """

    owner: str = ""
    fencing_token: int = 0
    remaining_seconds: float = 0.0
    is_clean_handover: bool = False


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """All that the store has of a key, for people to look at. `lock_owner` is "" where nobody has the turn."""

    last_nonce: int
    lease: Lease
    lock_owner: str


class NonceStore(Protocol):
    """The steps on the row of one key. Thread-safe. Each raises StoreUnavailableError where the store does not do it.

    `place` says where the store is, without user name and password.
    """

    location: str

    def next_nonce(self, request: NonceRequest) -> NonceGrant:
        """Draw a nonce: DRAWN, STALE or AHEAD."""

    def acquire_lock(
        self, request: NonceRequest, owner: str, lifetime_seconds: float, waited_seconds: float = 0.0
    ) -> NonceGrant:
        """Take the turn and draw its nonce in one step, or neither: DRAWN, NEXT, BUSY, STALE or AHEAD.

        `waited_seconds` is for how long the owner has been asking, by its own clock.
        """

    def release_lock(self, nonce: int) -> None:
        """Give back the turn that was taken with this nonce; where it is another's by now, nothing happens."""

    def acquire_lease(self, owner: str, lifetime_seconds: float) -> Lease:
        """Lead if nobody does; return the lease as it is then, which is another's where `owner` is."""

    def renew_lease(self, fencing_token: int, lifetime_seconds: float) -> bool:
        """Let the lease of this generation live on from now; return False where it is over, or another's."""

    def release_lease(self, fencing_token: int, is_reconciled: bool) -> None:
        """End the lease of this generation at once; `settled`: no order of its owner has an unknown fate.

        Of a lease that is over already it is not believed.
        """

    def read_record(self) -> KeyRecord | None:
        """Return what the store has of the key, or None. Writes nothing."""

    def close(self) -> None:
        """Close the connections; the next use opens them again."""

"""What the model of the hand-over knows at one moment, by which rules it goes on, and what must never be.

The moves are in lease_protocol.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

NAMES = ("A", "B", "an instance that is gone")
GONE, NOBODY = 2, -1
NEW, OTHER = 3, 4  # generations, see `_counted_anew` in lease_protocol.py


@dataclass(frozen=True)
class Seconds:
    """How long things take: 8, 5 and 10 in the program, here as small as they can be.

    What counts: a margin is as long as Kraken's rows may not show an order (its queue and its lag) and does not cover a
    deadline, and a lease can be renewed before it is over.
    """

    deadline: int = 2
    margin: int = 1
    lifetime: int = 2


@dataclass(frozen=True)
class Rules:
    """The rules of store and instances. The defaults are the design; each switch leaves one out."""

    # A draw, in the store
    nonce_checks_token: bool = True
    nonce_checks_expiry: bool = True
    # The lease, in the store
    expiry_is_final: bool = True  # a lease that has ended is renewed for nobody, its owner gets a new generation
    tokens_never_repeat: bool = True
    grant_releases_lock: bool = True
    release_frees_lock: bool = True
    # The leader
    checks_local_clock: bool = True  # it falls silent before its lease is over
    lifetime_from_request: bool = True  # its lifetime counts from when it asked
    clean_only_if_reconciled: bool = True
    new_owner_name: bool = True  # for every process
    deadline_from_nonce: bool = True  # or from when the order leaves
    # The successor
    reconciles: bool = True
    fencing_read: bool = True
    waits_for_deadline: bool = True
    margin: bool = True
    same_id: bool = True  # for the same signal


class Loss(StrEnum):
    """What the store loses, once: the server that takes over has missed some writes, or it has nothing."""

    NOTHING = "nothing"
    LATEST = "the latest writes"
    ALL = "everything"


@dataclass(frozen=True)
class Environment:
    """What is around. The defaults are Kraken and a store that keeps what it was told; each switch breaks one thing.

    `nonces_too`: with the latest writes, nonces are lost that ran ahead of the clock, and those drawn later are lower.
    """

    enforces_deadline: bool = True
    enforces_nonce: bool = True
    loss: Loss = Loss.NOTHING
    nonces_too: bool = False
    clocks_stand_still: bool = False  # of a machine that sleeps, as CLOCK_MONOTONIC does


class Phase(StrEnum):
    """Where an instance is."""

    STANDBY = "stands by"
    FENCING_READ = "leads, no fence yet"
    QUERY = "leads, looking up"
    LEADING = "leads and has found no order"
    NONCE_DRAWN = "has drawn an order's nonce"
    SENT = "has sent the order, no answer yet"
    PLACED = "leads and knows the order"


class Instance(NamedTuple):
    """A process. `left` is of its lease, by its own clock."""

    phase: Phase = Phase.STANDBY
    fencing_token: int = 0
    left: int = 0
    wait: int = 0  # before it makes its look-up
    has_late_answer: bool = False  # an answer to its renewal is still on its way


class Order(NamedTuple):
    """An order with its nonce: on its way, or not sent yet. `left` is until its deadline, -1 when over."""

    owner: int
    left: int
    is_sent: bool = False
    is_beyond: bool = False  # above the nonces that the store draws since it lost some


class StoreRecord(NamedTuple):
    """The row of the store. `left` is of the lease, by the server's clock."""

    owner: int = NOBODY
    fencing_token: int = 0
    left: int = 0
    is_reconciled: bool = False  # as the last owner signed off
    is_clean_handover: bool = False  # as the owner before signed off
    lock_owner: int = NOBODY


class PendingRelease(NamedTuple):
    """A sign-off on its way to the store."""

    fencing_token: int
    is_reconciled: bool


class State(NamedTuple):
    """Everything at one moment."""

    instances: tuple[Instance, Instance]
    record: StoreRecord
    orders: tuple[Order, ...] = ()
    accepted: int = 0  # orders that Kraken has ever taken
    accepted_of: int = NOBODY
    hidden: int = 0  # for so long at most Kraken's rows do not show it
    absent_to: int = NOBODY  # who was the last to settle that there is no order
    is_unknown: bool = False  # an order was taken after that, and whoever settled does not know of it
    pending_release: PendingRelease | None = None
    replica: StoreRecord | None = None  # what the store would have after a fail-over
    lost: bool = False


Transition = tuple[str, State]


class Violation(StrEnum):
    """What must never be."""

    DOUBLED = "two orders of one signal were accepted"
    LOST = "an order was accepted that the one who settled does not know of"
    BLOCKED = "the leader waits for the turn of one that no longer leads"


def violations(state: State) -> frozenset[Violation]:
    """Return what is wrong with a state."""
    record = state.record
    found = {
        Violation.DOUBLED: state.accepted > 1,
        Violation.LOST: state.is_unknown,
        Violation.BLOCKED: record.left > 0
        and NOBODY not in (record.owner, record.lock_owner)
        and record.owner != record.lock_owner,
    }
    return frozenset(kind for kind, is_violated in found.items() if is_violated)


def drop_unsent_orders(state: State, i: int) -> tuple[Order, ...]:
    """Return the orders without one that an instance has not sent yet, and never will."""
    return tuple(order for order in state.orders if order.owner != i or order.is_sent)


def age_record(record: StoreRecord) -> StoreRecord:
    """Return a row a second later."""
    return record._replace(left=max(0, record.left - 1))


def set_instance(state: State, i: int, me: Instance) -> State:
    """Return the state with another instance in this place."""
    a, b = state.instances
    return state._replace(instances=(me, b) if i == 0 else (a, me))


def change(state: State, i: int, **fields: object) -> State:
    """Return the state with some fields of an instance changed."""
    return set_instance(state, i, state.instances[i]._replace(**fields))  # type: ignore[arg-type]

"""The states of the takeover model, its rules, and its violations.

The transitions are in lease_protocol.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

NAMES = ("A", "B", "a restarted instance")
GONE, NOBODY = 2, -1
NEW, OTHER = 3, 4  # fencing tokens, see `_renumber_tokens` in lease_protocol.py


@dataclass(frozen=True)
class Seconds:
    """Durations: 8, 5 and 10 in the program, here as small as they can be.

    Their order counts: a margin is as long as Kraken may not list an order (its queue and its lag) and shorter than a
    deadline, and a lease can be renewed before it expires.
    """

    deadline: int = 2
    margin: int = 1
    lifetime: int = 2


@dataclass(frozen=True)
class Rules:
    """The rules of the store and of the instances. The defaults are the design; each switch leaves one out."""

    # A nonce request, in the store
    nonce_checks_token: bool = True
    nonce_checks_expiry: bool = True
    # The lease, in the store
    expiry_is_final: bool = True  # an expired lease is renewed for nobody; its owner gets a new token
    tokens_never_repeat: bool = True
    grant_releases_lock: bool = True
    release_frees_lock: bool = True
    # The leader
    checks_local_clock: bool = True  # it stops sending before its lease expires
    lifetime_from_request: bool = True  # the lifetime counts from the request, not from the answer
    clean_only_if_reconciled: bool = True
    new_owner_name: bool = True  # each process has its own owner name
    deadline_from_nonce: bool = True  # instead of from when the order is sent
    # The successor
    reconciles: bool = True
    fencing_read: bool = True
    waits_for_deadline: bool = True
    margin: bool = True
    same_id: bool = True  # one client order id per signal


class Loss(StrEnum):
    """What the store loses, once: the server that takes over misses some writes, or has no data."""

    NOTHING = "nothing"
    LATEST = "the latest writes"
    ALL = "everything"


@dataclass(frozen=True)
class Environment:
    """The environment. The defaults are Kraken and a store as documented; each switch breaks one thing.

    `nonces_too`: among the lost writes are nonces ahead of the clock, so later nonces are lower than those.
    """

    enforces_deadline: bool = True
    enforces_nonce: bool = True
    loss: Loss = Loss.NOTHING
    nonces_too: bool = False
    clocks_stand_still: bool = False  # while their machine sleeps, as CLOCK_MONOTONIC does


class Phase(StrEnum):
    """The phase of an instance."""

    STANDBY = "standby"
    FENCING_READ = "leads, no fencing read yet"
    QUERY = "leads, querying"
    LEADING = "leads and has found no order"
    NONCE_ISSUED = "has an order's nonce"
    SENT = "has sent the order, no answer yet"
    PLACED = "leads and knows the order"


class Instance(NamedTuple):
    """A process. `left` is the rest of its lease by its own clock."""

    phase: Phase = Phase.STANDBY
    fencing_token: int = 0
    left: int = 0
    wait: int = 0  # before it makes its query
    has_late_answer: bool = False  # the answer to its renewal is still in transit


class Order(NamedTuple):
    """An order with its nonce: in transit, or not sent yet. `left` is the time to its deadline, -1 when over."""

    owner: int
    left: int
    is_sent: bool = False
    is_beyond: bool = False  # above the nonces that the store issues after it lost some


class StoreRecord(NamedTuple):
    """The store's record. `left` is the rest of the lease by the server's clock."""

    owner: int = NOBODY
    fencing_token: int = 0
    left: int = 0
    is_reconciled: bool = False  # as the last owner's release said
    is_clean_handover: bool = False  # as the previous owner's release said
    lock_owner: int = NOBODY


class PendingRelease(NamedTuple):
    """A release of the lease in transit to the store."""

    fencing_token: int
    is_reconciled: bool


class State(NamedTuple):
    """The whole state of the model."""

    instances: tuple[Instance, Instance]
    record: StoreRecord
    orders: tuple[Order, ...] = ()
    accepted: int = 0  # orders that Kraken has accepted in total
    accepted_owner: int = NOBODY
    hidden: int = 0  # the longest time for which Kraken may not list it yet
    absent_for: int = NOBODY  # the last instance that found no order
    is_unknown: bool = False  # an order was accepted after that, and the instance that found none does not know of it
    pending_release: PendingRelease | None = None
    replica: StoreRecord | None = None  # what the store has after a failover
    lost: bool = False


Transition = tuple[str, State]


class Violation(StrEnum):
    """What must never happen."""

    DOUBLED = "two orders of one signal were accepted"
    LOST = "an order was accepted after an instance had found none"
    BLOCKED = "the leader waits for the lock of a previous leader"


def violations(state: State) -> frozenset[Violation]:
    """Return the violations of a state."""
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
    """Return the orders without the one that an instance has not sent yet, and never will."""
    return tuple(order for order in state.orders if order.owner != i or order.is_sent)


def age_record(record: StoreRecord) -> StoreRecord:
    """Return a record a second later."""
    return record._replace(left=max(0, record.left - 1))


def set_instance(state: State, i: int, me: Instance) -> State:
    """Return the state with an instance replaced."""
    a, b = state.instances
    return state._replace(instances=(me, b) if i == 0 else (a, me))


def change(state: State, i: int, **fields: object) -> State:
    """Return the state with some fields of an instance changed."""
    return set_instance(state, i, state.instances[i]._replace(**fields))  # type: ignore[arg-type]

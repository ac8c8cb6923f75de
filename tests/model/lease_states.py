"""What the model of the hand-over knows at one moment, by which rules it goes on, and what must never be.

The moves are in lease_protocol.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

NAMES = ("A", "B", "an instance that is gone")
GONE, NOBODY = 2, -1
NEW, PAST = 3, 4  # generations, see `_counted_anew` in lease_protocol.py


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
    draw_checks_generation: bool = True
    draw_checks_expiry: bool = True
    # The lease, in the store
    over_is_over: bool = True  # a lease that has ended is renewed for nobody, its owner gets a new generation
    generations_never_repeat: bool = True
    grant_ends_turn: bool = True
    sign_off_ends_turn: bool = True
    # The leader
    own_clock: bool = True  # it falls silent before its lease is over
    from_question: bool = True  # its lifetime counts from when it asked
    clean_only_if_settled: bool = True
    new_name: bool = True  # for every process
    deadline_from_draw: bool = True  # or from when the order leaves
    # The successor
    settles: bool = True
    fence: bool = True
    waits_for_deadline: bool = True
    margin: bool = True
    same_id: bool = True  # for the same signal


class Loss(StrEnum):
    """What the store loses, once: the server that takes over has missed some writes, or it has nothing."""

    NOTHING = "nothing"
    LATEST = "the latest writes"
    ALL = "everything"


@dataclass(frozen=True)
class World:
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
    FENCE = "leads, no fence yet"
    LOOK_UP = "leads, looking up"
    LEADS = "leads and has found no order"
    DRAWN = "has drawn an order's nonce"
    SENT = "has sent the order, no answer yet"
    PLACED = "leads and knows the order"


class Instance(NamedTuple):
    """A process. `left` is of its lease, by its own clock."""

    phase: Phase = Phase.STANDBY
    generation: int = 0
    left: int = 0
    wait: int = 0  # before it makes its look-up
    asked_late: bool = False  # an answer to its renewal is still on its way


class Order(NamedTuple):
    """An order with its nonce: on its way, or not sent yet. `left` is until its deadline, -1 when over."""

    of: int
    left: int
    is_sent: bool = False
    is_beyond: bool = False  # above the nonces that the store draws since it lost some


class Row(NamedTuple):
    """The row of the store. `left` is of the lease, by the server's clock."""

    owner: int = NOBODY
    generation: int = 0
    left: int = 0
    settled: bool = False  # as the last owner signed off
    clean: bool = False  # as the owner before signed off
    turn: int = NOBODY


class LastWord(NamedTuple):
    """A sign-off on its way to the store."""

    generation: int
    settled: bool


class State(NamedTuple):
    """Everything at one moment."""

    instances: tuple[Instance, Instance]
    row: Row
    orders: tuple[Order, ...] = ()
    accepted: int = 0  # orders that Kraken has ever taken
    accepted_of: int = NOBODY
    hidden: int = 0  # for so long at most Kraken's rows do not show it
    absent_to: int = NOBODY  # who was the last to settle that there is no order
    is_unknown: bool = False  # an order was taken after that, and whoever settled does not know of it
    last_word: LastWord | None = None
    replica: Row | None = None  # what the store would have after a fail-over
    lost: bool = False


Move = tuple[str, State]


class Bad(StrEnum):
    """What must never be."""

    DOUBLED = "two orders of one signal were accepted"
    LOST = "an order was accepted that the one who settled does not know of"
    BLOCKED = "the leader waits for the turn of one that no longer leads"


def badness(state: State) -> frozenset[Bad]:
    """Return what is wrong with a state."""
    row = state.row
    wrong = {
        Bad.DOUBLED: state.accepted > 1,
        Bad.LOST: state.is_unknown,
        Bad.BLOCKED: row.left > 0 and NOBODY not in (row.owner, row.turn) and row.owner != row.turn,
    }
    return frozenset(kind for kind, so in wrong.items() if so)


def left_behind(state: State, i: int) -> tuple[Order, ...]:
    """Return the orders without one that an instance has not sent yet, and never will."""
    return tuple(order for order in state.orders if order.of != i or order.is_sent)


def older(row: Row) -> Row:
    """Return a row a second later."""
    return row._replace(left=max(0, row.left - 1))


def set_instance(state: State, i: int, me: Instance) -> State:
    """Return the state with another instance in this place."""
    a, b = state.instances
    return state._replace(instances=(me, b) if i == 0 else (a, me))


def change(state: State, i: int, **fields: object) -> State:
    """Return the state with some fields of an instance changed."""
    return set_instance(state, i, state.instances[i]._replace(**fields))  # type: ignore[arg-type]

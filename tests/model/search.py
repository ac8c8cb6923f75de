"""Searches of everything that a protocol can do: for a shortest way to a bad state, and for the longest wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

SECOND = "a second passes"
NEVER = 10**9

S = TypeVar("S")


class Machine(Protocol[S]):
    """A protocol as a state machine, whose states can be compared and kept."""

    def start(self) -> S:
        """Return the state to begin with."""

    def moves(self, state: S) -> Iterable[tuple[str, S]]:
        """Yield what can happen next, each with its name."""

    def badness(self, state: S) -> frozenset[str]:
        """Return what is wrong with a state."""

    def good_moves(self, state: S) -> Iterable[tuple[str, S]]:
        """Yield what can happen while everybody lives and answers."""

    def is_done(self, state: S) -> bool:
        """Whether there is nothing more to wait for."""


@dataclass(frozen=True)
class Result(Generic[S]):
    """What a search found: what is bad about a state and the steps that lead to it, both empty where there is none.

    `reached` has each state that was visited, with the one before it.
    """

    bad: frozenset[str]
    trace: list[str]
    reached: dict[S, tuple[S, str] | None]

    def __str__(self) -> str:
        """Return the bad trace, one step a line."""
        title = ", ".join(sorted(self.bad)) or f"nothing bad among {len(self.reached)} states"
        return "\n".join([title, *(f"{number:3}. {step}" for number, step in enumerate(self.trace, 1))])


def search(machine: Machine[S], kinds: frozenset[str] | None = None) -> Result[S]:
    """Visit every state that can be reached, breadth first, until one is bad, or bad in one of these ways."""
    start = machine.start()
    reached: dict[S, tuple[S, str] | None] = {start: None}
    todo = deque([start])
    while todo:
        state = todo.popleft()
        for label, after in machine.moves(state):
            if after in reached:
                continue
            reached[after] = (state, label)
            bad = machine.badness(after)
            if kinds is not None:
                bad &= kinds
            if bad:
                return Result(bad, list(_steps_to(after, reached))[::-1], reached)
            todo.append(after)
    return Result(frozenset(), [], reached)


def _steps_to(state: S, reached: dict[S, tuple[S, str] | None]) -> Iterator[str]:
    while (step := reached[state]) is not None:
        state, label = step
        yield label


def longest_wait(states: Iterable[S], machine: Machine[S]) -> int:
    """Return within how many seconds a machine is done, from whichever state, once everybody lives and answers.

    Everybody does what is due at once; whatever else can happen may do so when it likes.
    """
    known: dict[S, int] = {}
    return max(_wait(state, machine, known) for state in states)


def _wait(state: S, machine: Machine[S], known: dict[S, int]) -> int:
    if machine.is_done(state):
        return 0
    if state not in known:
        known[state] = NEVER  # until it is known: a way that leads back to itself never ends
        waits = [_wait(after, machine, known) + (label == SECOND) for label, after in machine.good_moves(state)]
        known[state] = max(waits, default=NEVER)
    return known[state]

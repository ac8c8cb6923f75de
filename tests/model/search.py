"""Exhaustive search of a protocol: the shortest trace to a violation, and the longest wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

SECOND = "a second passes"
NEVER = 10**9

S = TypeVar("S")


class Machine(Protocol[S]):
    """A protocol as a state machine whose states are hashable."""

    def initial_state(self) -> S:
        """Return the initial state."""

    def transitions(self, state: S) -> Iterable[tuple[str, S]]:
        """Yield each possible next state with a label."""

    def violations(self, state: S) -> frozenset[str]:
        """Return the violations of a state."""

    def fair_transitions(self, state: S) -> Iterable[tuple[str, S]]:
        """Yield what can happen while every process lives and every call is answered."""

    def is_done(self, state: S) -> bool:
        """Return whether there is nothing more to wait for."""


@dataclass(frozen=True)
class Result(Generic[S]):
    """The result of a search: the violations of a state and the steps to it, both empty where there is none.

    `visited` maps each visited state to the state before it and the step's label.
    """

    violations: frozenset[str]
    trace: list[str]
    visited: dict[S, tuple[S, str] | None]

    def __str__(self) -> str:
        """Return the trace, one step per line."""
        title = ", ".join(sorted(self.violations)) or f"nothing bad among {len(self.visited)} states"
        return "\n".join([title, *(f"{number:3}. {step}" for number, step in enumerate(self.trace, 1))])


def search(machine: Machine[S], kinds: frozenset[str] | None = None) -> Result[S]:
    """Visit every reachable state, breadth first, until one has a violation, or one of these kinds."""
    start = machine.initial_state()
    visited: dict[S, tuple[S, str] | None] = {start: None}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        for label, next_state in machine.transitions(state):
            if next_state in visited:
                continue
            visited[next_state] = (state, label)
            violations = machine.violations(next_state)
            if kinds is not None:
                violations &= kinds
            if violations:
                return Result(violations, list(_steps_to(next_state, visited))[::-1], visited)
            queue.append(next_state)
    return Result(frozenset(), [], visited)


def _steps_to(state: S, visited: dict[S, tuple[S, str] | None]) -> Iterator[str]:
    while (step := visited[state]) is not None:
        state, label = step
        yield label


def longest_wait(states: Iterable[S], machine: Machine[S]) -> int:
    """Return the longest time in seconds until a machine is done, from any state, while every call is answered.

    Every process does at once what is due; anything else that can happen may happen at any time.
    """
    waits_by_state: dict[S, int] = {}
    return max(_wait(state, machine, waits_by_state) for state in states)


def _wait(state: S, machine: Machine[S], waits_by_state: dict[S, int]) -> int:
    if machine.is_done(state):
        return 0
    if state not in waits_by_state:
        waits_by_state[state] = NEVER  # until it is known: a cycle without progress never ends
        waits = [
            _wait(next_state, machine, waits_by_state) + (label == SECOND)
            for label, next_state in machine.fair_transitions(state)
        ]
        waits_by_state[state] = max(waits, default=NEVER)
    return waits_by_state[state]

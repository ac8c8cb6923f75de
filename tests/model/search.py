"""Searches of everything that the protocol can do: for a shortest way to a bad state, and for the longest wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from tests.model.protocol import (
    SECOND,
    Bad,
    Model,
    Move,
    Phase,
    State,
    badness,
    client_moves,
    exchange_moves,
    moves,
    time_passes,
)

Reached = dict[State, tuple[State, str] | None]

SETTLED = (Phase.IDLE, Phase.PLACED)
NEVER = 10**9


@dataclass(frozen=True)
class Result:
    """What a search found: what is bad about a state and the steps that lead to it, both empty where there is none.

    `reached` has each state that was visited, with the one before it.
    """

    bad: frozenset[Bad]
    trace: list[str]
    reached: Reached

    def __str__(self) -> str:
        """Return the bad trace, one step a line."""
        title = ", ".join(sorted(self.bad)) or f"nothing bad among {len(self.reached)} states"
        return "\n".join([title, *(f"{number:3}. {step}" for number, step in enumerate(self.trace, 1))])


def search(model: Model, kinds: frozenset[Bad] = frozenset(Bad)) -> Result:
    """Visit every state that can be reached, breadth first, until one is bad in one of these ways."""
    start = State()
    reached: Reached = {start: None}
    todo = deque([start])
    while todo:
        state = todo.popleft()
        for label, after in moves(state, model):
            if after in reached:
                continue
            reached[after] = (state, label)
            if bad := badness(after) & kinds:
                return Result(bad, list(_steps_to(after, reached))[::-1], reached)
            todo.append(after)
    return Result(frozenset(), [], reached)


def _steps_to(state: State, reached: Reached) -> Iterator[str]:
    while (step := reached[state]) is not None:
        state, label = step
        yield label


def longest_wait(states: Reached, model: Model) -> int:
    """Return within how many seconds an order is settled, from whichever state, once Kraken answers again.

    The client does what is due at once; whatever can still arrive, run and close may do so when it likes.
    """
    known: dict[State, int] = {}
    return max(_wait(state, model, known) for state in states)


def _wait(state: State, model: Model, known: dict[State, int]) -> int:
    if state.phase in SETTLED:
        return 0
    if state not in known:
        known[state] = NEVER  # until it is known: a way that leads back to itself never settles
        waits = [_wait(after, model, known) + (label == SECOND) for label, after in _good_moves(state, model)]
        known[state] = max(waits, default=NEVER)
    return known[state]


def _good_moves(state: State, model: Model) -> list[Move]:
    """Return what can happen while Kraken answers and the client lives."""
    due = list(client_moves(state, model))
    return [*due, *exchange_moves(state, model), *([] if due else time_passes(state))]

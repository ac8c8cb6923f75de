"""A pair, its exchange and a bot that follows bot/trading/exit_policy.py, as states to search exhaustively.

Quantities are whole numbers of coins, of which two are the least that can be sold. The account has many more coins
of somebody else's, so the exchange refuses nothing: only the machine keeps the bot from selling them. Between any two
moves of the bot its orders may fill by one coin or wholly, rows may come late, cancels and orders may be delayed or
lost unanswered, and the bot may crash, which forgets all but the orders it journalled. The two lists of orders are
read one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache

from bot.trading.exit_policy import (
    Cancel,
    Done,
    Leave,
    PairFacts,
    PlaceStop,
    Protect,
    Role,
    Sell,
    Step,
    Wait,
    Wanted,
    WorkingOrder,
    next_step,
)

MINIMUM = 2
SOMEBODY_ELSES = 100
LEAVE = Leave(Decimal(99))
PROTECT = Protect(Decimal(90))
PROTECT_CLOSER = Protect(Decimal(95))


@dataclass(frozen=True, slots=True, order=True)
class Row:
    """An order at the exchange whose final row the bot has not seen; `seen` is what it knows of `filled`.

    A row that is not `shown` is in no list: accepted, or closed, a moment ago.
    """

    number: int
    role: str
    price: int
    volume: int
    filled: int = 0
    seen: int = 0
    is_open: bool = True
    shown: bool = False

    @property
    def sign(self) -> int:
        return 1 if self.role == Role.ENTRY.value else -1


@dataclass(frozen=True, slots=True)
class State:
    """`settled` is what the orders with a known end add up to. `listed` is what OpenOrders has answered, None before.

    `step` is what the bot has decided to do and has not done. `unknown` is an order that was sent and not answered, and
    `flies` whether it can still arrive. `flying_cancels` may still arrive, each once, or never.
    """

    settled: int
    rows: tuple[Row, ...]
    listed: frozenset[int] | None = None
    step: Step | None = None
    unknown: Row | None = None
    flies: bool = False
    flying_cancels: frozenset[int] = frozenset()

    @property
    def held(self) -> int:
        return self.settled + sum(row.sign * row.filled for row in self.rows)

    @property
    def committed(self) -> int:
        """What own orders may still sell, those that have not arrived yet too."""
        late = self.unknown.volume if self.unknown and self.flies and self.unknown.sign < 0 else 0
        return late + sum(row.volume - row.filled for row in self.rows if row.sign < 0 and row.is_open)


@dataclass(frozen=True, slots=True)
class Bot:
    """How the bot decides: what it wants by turns, how much one stop may hold, and what it leaves out of the facts."""

    wishes: tuple[Wanted, ...]
    largest: int
    blind: Callable[[PairFacts], PairFacts] = lambda facts: facts


def moves(state: State, bot: Bot) -> Iterator[tuple[str, State]]:
    """Return everything that can happen next, with its name."""
    for row in state.rows:
        for filled in _fills(row):
            yield f"{row.role} {row.number} fills {filled}", _with_row(state, _filled(row, filled))
        if not row.shown:
            yield f"{row.role} {row.number} is shown", _with_row(state, replace(row, shown=True))
    for number in state.flying_cancels:
        yield f"the cancel of {number} arrives", _cancelled(state, number)
        yield f"the cancel of {number} is lost", replace(state, flying_cancels=state.flying_cancels - {number})
    yield from _unknown_moves(state)
    if state.step is not None or state.listed is not None:
        yield "crash", replace(state, step=None, listed=None)
    if state.step is not None:
        yield from _acts(state, state.step)
    elif state.listed is None:
        yield "OpenOrders", _read_open(state)
    else:
        for wanted in bot.wishes:
            step = decide(read_closed(state), wanted, bot)
            yield f"ClosedOrders; {wanted}: {step}", replace(read_closed(state), listed=None, step=_worth(step))


def decide(state: State, wanted: Wanted, bot: Bot) -> Step:
    """Return the machine's step for what the bot has read."""
    known = state.settled + sum(row.sign * row.seen for row in state.rows)
    listed = state.listed or frozenset()
    orders = tuple((row.number, row.role, row.volume - row.seen, row.price, row.number in listed) for row in state.rows)
    return _decide(known, orders, state.unknown is not None, wanted, bot)


@cache
def _decide(
    known: int, orders: tuple[tuple[int, str, int, int, bool], ...], unknown: bool, wanted: Wanted, bot: Bot
) -> Step:
    working = tuple(
        WorkingOrder(str(number), Role(role), Decimal(left), Decimal(price), is_open)
        for number, role, left, price, is_open in orders
    )
    facts = PairFacts(
        held=Decimal(known),
        free=Decimal(SOMEBODY_ELSES),
        minimum=Decimal(MINIMUM),
        largest=Decimal(bot.largest),
        lot=Decimal(1),
        working=working,
        unknown=unknown,
    )
    return next_step(bot.blind(facts), wanted)


def _worth(step: Step) -> Step | None:
    return None if isinstance(step, Done | Wait) else step


def _read_open(state: State) -> State:
    rows = tuple(replace(row, seen=row.filled) if row.is_open and row.shown else row for row in state.rows)
    return replace(state, rows=rows, listed=frozenset(row.number for row in rows if row.is_open and row.shown))


def read_closed(state: State) -> State:
    """Let the bot see the final rows that are shown: these orders are over."""
    over = [row for row in state.rows if not row.is_open and row.shown]
    return replace(
        state,
        settled=state.settled + sum(row.sign * row.filled for row in over),
        rows=tuple(row for row in state.rows if row not in over),
        flying_cancels=state.flying_cancels - {row.number for row in over},
    )


def _fills(row: Row) -> set[int]:
    left = row.volume - row.filled
    return {1, left} if row.is_open and left else set()


def _filled(row: Row, quantity: int) -> Row:
    filled = row.filled + quantity
    # An order that closes is in neither list for a while.
    return (
        replace(row, filled=filled) if filled < row.volume else replace(row, filled=filled, is_open=False, shown=False)
    )


def _with_row(state: State, row: Row) -> State:
    others = [other for other in state.rows if other.number != row.number]
    return replace(state, rows=tuple(sorted([*others, row])))


def _cancelled(state: State, number: int) -> State:
    state = replace(state, flying_cancels=state.flying_cancels - {number})
    row = next((row for row in state.rows if row.number == number and row.is_open), None)
    return _with_row(state, replace(row, is_open=False, shown=False)) if row else state


def _unknown_moves(state: State) -> Iterator[tuple[str, State]]:
    if state.unknown is None:
        return
    if not state.flies:
        yield "the unknown order is settled", replace(state, unknown=None)
        return
    yield "the unknown order is lost", replace(state, flies=False)
    for arrived in arrivals(state.unknown):
        yield "the unknown order arrives", _with_row(replace(state, flies=False), arrived)


def arrivals(row: Row) -> list[Row]:
    """Return what an order may be when it has arrived: a stop rests, and what an exit has not filled is gone."""
    if row.role == Role.STOP.value:
        return [row]
    return [replace(row, filled=filled, is_open=False) for filled in {0, 1, row.volume}]


def _acts(state: State, step: Step) -> Iterator[tuple[str, State]]:
    done = replace(state, step=None)
    if isinstance(step, Cancel):
        numbers = frozenset(map(int, step.txids))
        after = done
        for number in numbers:
            after = _cancelled(after, number)
        yield "the cancels are done", after
        yield "the cancels are not answered", replace(done, flying_cancels=state.flying_cancels | numbers)
        return
    row = ordered(state, step)
    yield "the order is refused", done
    yield "the order is not answered", replace(done, unknown=row, flies=True)
    for arrived in arrivals(row):
        yield "the order is accepted", _with_row(done, arrived)


def ordered(state: State, step: Step) -> Row:
    """Return the order that a step places, under a number that no order of before has."""
    number = next(number for number in range(99) if number not in {row.number for row in state.rows})
    match step:
        case Sell(quantity):
            return Row(number, Role.EXIT.value, 0, int(quantity))
        case PlaceStop(quantity, price):
            return Row(number, Role.STOP.value, int(price), int(quantity))
        case _:
            raise AssertionError(f"{step} is no order")


def starts() -> list[State]:
    """Return where a search begins: so many coins held, and no entry, or one that has just been accepted."""
    entry = Row(0, Role.ENTRY.value, 100, 2)
    return [State(held, rows) for held in range(4) for rows in ((), (entry,))]


def search(bot: Bot) -> dict[State, tuple[State, str] | None]:
    """Return every state that can come about, with the state and the move before it; end at the first bad one."""
    came_from: dict[State, tuple[State, str] | None] = dict.fromkeys(starts())
    edge = list(came_from)
    while edge:
        beyond = []
        for state in edge:
            for name, after in moves(state, bot):
                if after not in came_from:
                    came_from[after] = (state, name)
                    beyond.append(after)
                    if is_bad(after):
                        return came_from
        edge = beyond
    return came_from


def is_bad(state: State) -> bool:
    """Whether the bot's orders may sell more than it holds, which is also a stop without coins under it."""
    return state.committed > state.held


def trace(came_from: dict[State, tuple[State, str] | None], state: State) -> str:
    """Return how a state came about, one line a move."""
    lines = [str(state)]
    while (before := came_from[state]) is not None:
        state, name = before
        lines.append(name)
    return "\n".join(reversed([*lines, str(state)]))


def calm(state: State) -> State:
    """Return the state after everything under way has ended and all rows can be seen, and a crash."""
    rows = tuple(replace(row, shown=True) for row in state.rows)
    return State(state.settled, rows)


def steps_until_done(state: State, wanted: Wanted, bot: Bot, exit_fills: int) -> tuple[State, list[Step]]:
    """Let the bot work undisturbed, its exits filling so many coins each; return the end and the steps, at most 20."""
    steps: list[Step] = []
    while len(steps) < 20:
        state = read_closed(_read_open(state))
        step = decide(state, wanted, bot)
        steps.append(step)
        state = replace(state, listed=None)
        if isinstance(step, Done):
            break
        if isinstance(step, Cancel):
            for txid in step.txids:
                state = _cancelled(state, int(txid))
        elif not isinstance(step, Wait):
            row = ordered(state, step)
            filled = min(exit_fills, row.volume) if row.role == Role.EXIT.value else 0
            state = _with_row(state, replace(row, filled=filled, is_open=row.role == Role.STOP.value))
        state = calm(state)
    return state, steps

"""The order protocol of docs/orders.md as a state machine, small enough to be searched whole (see search.py).

One client wants one order once. The network loses, delays, duplicates and reorders; the exchange checks nonce and
deadline, queues, and shows orders late; another sender uses the key; the client dies anywhere. `State` is all of that
at one moment, `Model.moves` is everything that can happen next, `badness` tells what must never be.

What keeps it small, and why nothing is missed:
- Time is seconds left, never a date, so the states are finite however long it all takes.
- Every order leaves in two copies, and nothing obliges a copy to arrive: that is loss, delay, duplication, reordering.
- An answer is read at once or never. Late makes no difference: what is final stays true, the rest is unknown.
- A look-up is one move. A slow one is one that was asked later, and nothing obliges the client to be quick; one whose
  answer is lost has moved the nonces, as a foreign one does; one that is made early and finds the order is right.
- An answer that is not final is to these rules no answer; the two that other clients believe in have names.
- What closes a resting order (a fill, a cancel, its expiry) makes no difference: it leaves OpenOrders at that moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from tests.model.search import SECOND

UNKNOWN_ATTEMPT = -1  # the attempt, on a new disk


@dataclass(frozen=True)
class Seconds:
    """How long things take: in truth, not to scale. Lag and queues are at most so long.

    The rules stand on margin >= queue + lag and gap >= lag.
    """

    deadline: int = 8
    margin: int = 5
    gap: int = 3
    lag: int = 3
    queue: int = 2
    clock_off: int = 3
    long_queue: int = 8


class Interpretation(StrEnum):
    """What a client takes an answer for."""

    UNKNOWN = "unknown"
    PLACED = "placed"
    NOT_PLACED = "not placed"
    RETRY = "a reason to send again with a fresh nonce"


class Disk(StrEnum):
    """What a restart knows."""

    KEPT = "the journal"
    REPLACED = "that there may have been orders"
    FORGOTTEN = "nothing, and it does not care"


class OrderList(StrEnum):
    """Where Kraken keeps an order."""

    NONE = "none"
    OPEN = "OpenOrders"
    CLOSED = "ClosedOrders"


@dataclass(frozen=True)
class Rules:
    """The client's rules. The defaults are the design; each switch makes one wrong client."""

    invalid_nonce: Interpretation = Interpretation.UNKNOWN
    gateway_refusal: Interpretation = Interpretation.UNKNOWN
    fencing_read: bool = True
    waits_for_deadline: bool = True
    margin: bool = True
    gap: bool = True
    queries: tuple[OrderList, ...] = (OrderList.OPEN, OrderList.CLOSED)
    disk: Disk = Disk.KEPT
    waits_on_new_disk: bool = True  # on a new disk: wait until the deadline of an order that left at the last moment
    queries_any_attempt: bool = True  # on a new disk: look for every attempt of the signal, not for the next one only


@dataclass(frozen=True)
class Exchange:
    """The exchange. The defaults are Kraken; each switch makes a broken one, `nonce_window` a key set up wrongly."""

    enforces_deadline: bool = True
    deadline_at_gateway_only: bool = False
    clock_behind: bool = False
    long_queue: bool = False
    nonce_window: bool = False


@dataclass(frozen=True)
class Model:
    """What is searched."""

    rules: Rules = Rules()
    exchange: Exchange = Exchange()
    seconds: Seconds = Seconds()
    sends_max: int = 2
    copies: int = 2  # of every order, on the wire

    @property
    def exchange_lateness(self) -> int:
        """By how much the exchange believes in a deadline for too long."""
        return self.seconds.clock_off if self.exchange.clock_behind else 0

    def initial_state(self) -> State:
        """Return the state to begin with: nothing was ever sent."""
        return State()

    def transitions(self, state: State) -> Iterator[Transition]:
        """Yield what can happen next, each with its name."""
        yield from client_transitions(state, self)
        yield from exchange_transitions(state, self)
        yield from time_passes(state)
        yield from accidents(state, self)

    def violations(self, state: State) -> frozenset[Violation]:
        """Return what is wrong with a state."""
        return violations(state)

    def fair_transitions(self, state: State) -> Iterator[Transition]:
        """Yield what can happen while Kraken answers and the client lives."""
        due_transitions = list(client_transitions(state, self))
        yield from due_transitions
        yield from exchange_transitions(state, self)
        if not due_transitions:
            yield from time_passes(state)

    def is_done(self, state: State) -> bool:
        """Whether no order is unknown."""
        return state.phase in (Phase.IDLE, Phase.PLACED)


class Send(NamedTuple):
    """One AddOrder and what became of it. `left` is seconds to its deadline by the exchange's clock, -1 when over."""

    attempt: int  # with the signal, this is its cl_ord_id
    left: int
    copies: int = 0  # on the wire
    queue: tuple[int, ...] = ()  # in the engine's queue; each for so long at most
    row: OrderList = OrderList.NONE
    hidden: int = 0  # for so long at most Kraken's rows do not show it
    absent: bool = False  # the client has settled it as not placed


class Phase(StrEnum):
    """Where the client is."""

    IDLE = "nothing open"
    INTENDED = "written down, not sent"
    SENT = "sent, no answer yet"
    FENCING_READ = "unknown, no fence yet"
    QUERY = "unknown, looking up"
    PLACED = "placed"


class State(NamedTuple):
    """Everything at one moment. The nonces of the first `floor` sends are no longer accepted."""

    phase: Phase = Phase.IDLE
    wait: int = 0  # before the client makes its next look-up
    asked: int = 0  # look-ups of this pair that were answered "absent"
    attempt: int = 0  # of the next order
    floor: int = 0
    accepted: int = 0  # orders that the engine has ever taken
    sends: tuple[Send, ...] = ()


Transition = tuple[str, State]


class Violation(StrEnum):
    """What must never be."""

    DOUBLED = "two orders of one signal were accepted"
    LOST = "settled as not placed, and it exists"
    IMAGINED = "settled as placed, and it never will be"


def violations(state: State) -> frozenset[Violation]:
    """Return what is wrong with a state."""
    is_pending = any(send.queue or (send.copies and k >= state.floor) for k, send in enumerate(state.sends))
    found = {
        Violation.DOUBLED: state.accepted > 1,
        Violation.LOST: any(send.absent and send.row is not OrderList.NONE for send in state.sends),
        Violation.IMAGINED: state.phase is Phase.PLACED and not state.accepted and not is_pending,
    }
    return frozenset(kind for kind, is_violated in found.items() if is_violated)


# The client


def client_transitions(state: State, model: Model) -> Iterator[Transition]:
    """Yield the client's own next steps."""
    if state.phase is Phase.IDLE and len(state.sends) < model.sends_max:
        yield f"client: writes attempt {state.attempt} down", _intend(state, model)
    elif state.phase is Phase.INTENDED:
        yield "client: sends it", _sent(state, model)
    elif state.phase is Phase.SENT:
        yield "client: gives up waiting; unknown", _unknown(state, model)
    elif state.phase is Phase.FENCING_READ:
        fenced = state._replace(floor=len(state.sends))
        yield "client: a read is accepted, the fence", _ready(fenced, model)
    elif state.phase is Phase.QUERY and state.wait == 0:
        yield from _query(state, model)


def _intend(state: State, model: Model) -> State:
    send = Send(state.attempt, model.seconds.deadline + model.exchange_lateness)
    return state._replace(phase=Phase.INTENDED, sends=(*state.sends, send))


def _sent(state: State, model: Model) -> State:
    last = len(state.sends) - 1
    return _change(state, last, copies=model.copies)._replace(phase=Phase.SENT)


def _unknown(state: State, model: Model) -> State:
    state = state._replace(phase=Phase.FENCING_READ, wait=0, asked=0)
    return state if model.rules.fencing_read else _ready(state, model)


def _ready(state: State, model: Model) -> State:
    """Wait until the first look-up may be made."""
    rules, seconds = model.rules, model.seconds
    if state.attempt == UNKNOWN_ATTEMPT:
        remaining_seconds = seconds.deadline if rules.waits_on_new_disk else 0
    else:
        remaining_seconds = max(0, state.sends[-1].left - model.exchange_lateness) if rules.waits_for_deadline else 0
    return state._replace(phase=Phase.QUERY, wait=remaining_seconds + (seconds.margin if rules.margin else 0), asked=0)


def _query(state: State, model: Model) -> Iterator[Transition]:
    if not model.rules.queries:
        yield "client: settles by time alone; not placed", _absent(state, model)
        return
    order_list = model.rules.queries[state.asked]
    matching_sends = [
        send for k, send in enumerate(state.sends) if _is_queried(state, k, model) and send.row is order_list
    ]
    if matching_sends:
        yield f"client: finds it in {order_list}; placed", state._replace(phase=Phase.PLACED, asked=0)
    if all(send.hidden for send in matching_sends):
        is_last = state.asked + 1 == len(model.rules.queries)
        next_state = state._replace(asked=state.asked + 1, wait=model.seconds.gap if model.rules.gap else 0)
        yield f"client: {order_list} do not show it", _absent(state, model) if is_last else next_state


def _is_queried(state: State, k: int, model: Model) -> bool:
    if state.attempt == UNKNOWN_ATTEMPT:
        return model.rules.queries_any_attempt or state.sends[k].attempt == 0
    return state.sends[k].attempt == state.sends[-1].attempt


def _absent(state: State, model: Model) -> State:
    """Settle as not placed: on a new disk whatever there was, otherwise the last one."""
    new_disk = state.attempt == UNKNOWN_ATTEMPT
    attempt = 0 if new_disk else state.sends[-1].attempt + 1
    for k in range(len(state.sends)):
        if new_disk or _is_queried(state, k, model):
            state = _change(state, k, absent=True)
    return state._replace(phase=Phase.IDLE, wait=0, asked=0, attempt=attempt)


def _answered(state: State, k: int, model: Model, interpretation: Interpretation) -> State:
    """Read an answer to send number `k`, if the client still waits for it."""
    if state.phase is not Phase.SENT or k + 1 != len(state.sends):
        return state
    if interpretation is Interpretation.PLACED:
        return state._replace(phase=Phase.PLACED)
    if interpretation is Interpretation.NOT_PLACED:
        return _absent(state, model)
    if interpretation is Interpretation.RETRY and len(state.sends) < model.sends_max:
        return _sent(_intend(state, model), model)
    return _unknown(state, model)


# The exchange


def exchange_transitions(state: State, model: Model) -> Iterator[Transition]:
    """Yield what can arrive, run and fill; each answer comes back or is lost."""
    for k, send in enumerate(state.sends):
        for label, next_state, interpretation in (*_arrivals(state, k, model), *_executions(state, k, model)):
            yield f"exchange: {label}; no answer", next_state
            if (state_after_response := _answered(next_state, k, model, interpretation)) != next_state:
                yield f"exchange: {label}; the client takes it for {interpretation}", state_after_response
        if send.row is OrderList.OPEN:
            yield f"exchange: order {k} closes", _change(state, k, row=OrderList.CLOSED, hidden=model.seconds.lag)


def _arrivals(state: State, k: int, model: Model) -> Iterator[tuple[str, State, Interpretation]]:
    send, exchange = state.sends[k], model.exchange
    if not send.copies:
        return
    arrived = _change(state, k, copies=send.copies - 1)
    yield f"a copy of order {k} meets a limit", arrived, model.rules.gateway_refusal
    if k < state.floor and not exchange.nonce_window:
        yield f"a copy of order {k} has an invalid nonce", arrived, model.rules.invalid_nonce
        return
    arrived = arrived._replace(floor=max(state.floor, k + 1))
    if exchange.deadline_at_gateway_only and exchange.enforces_deadline and send.left < 0:
        yield f"a copy of order {k} is past its deadline", arrived, Interpretation.UNKNOWN
        return
    queue = model.seconds.long_queue if exchange.long_queue else model.seconds.queue
    queued = _change(arrived, k, queue=(*send.queue, queue))
    yield f"a copy of order {k} arrives and is queued", queued, Interpretation.UNKNOWN


def _executions(state: State, k: int, model: Model) -> Iterator[tuple[str, State, Interpretation]]:
    send, exchange = state.sends[k], model.exchange
    if not send.queue:
        return
    taken = _change(state, k, queue=send.queue[1:])
    if exchange.enforces_deadline and not exchange.deadline_at_gateway_only and send.left < 0:
        yield f"order {k} is past its deadline", taken, Interpretation.UNKNOWN
    elif any(other.row is OrderList.OPEN and other.attempt == send.attempt for other in state.sends):
        yield f"order {k} has the id of an open one", taken, Interpretation.UNKNOWN
    else:
        yield f"order {k} is refused for good", taken, Interpretation.NOT_PLACED
        for row, label in ((OrderList.OPEN, "rests"), (OrderList.CLOSED, "fills at once")):
            placed = _change(taken, k, row=row, hidden=model.seconds.lag)
            yield (
                f"order {k} is accepted and {label}",
                placed._replace(accepted=state.accepted + 1),
                Interpretation.PLACED,
            )


# Time and accidents


def time_passes(state: State) -> Iterator[Transition]:
    """Yield the next second, unless the engine's queue is due."""
    if any(0 in send.queue for send in state.sends):
        return
    sends = tuple(
        send._replace(
            left=max(-1, send.left - 1),
            queue=tuple(seconds - 1 for seconds in send.queue),
            hidden=max(0, send.hidden - 1),
        )
        for send in state.sends
    )
    yield SECOND, state._replace(wait=max(0, state.wait - 1), sends=sends)


def accidents(state: State, model: Model) -> Iterator[Transition]:
    """Yield a foreign sender's higher nonce, a look-up that fails, and the death and restart of the client."""
    if state.floor < len(state.sends):
        yield "a foreign nonce is accepted", state._replace(floor=len(state.sends))
    if state.phase is Phase.QUERY and state.asked and state.wait == 0:
        yield "the second look-up is not answered; the pair starts again", state._replace(asked=0)
    if model.rules.disk is Disk.FORGOTTEN:
        yield "client: dies and forgets", state._replace(phase=Phase.IDLE, wait=0, asked=0, attempt=0)
    elif model.rules.disk is Disk.REPLACED:
        yield "client: dies; a new disk", _unknown(state._replace(attempt=UNKNOWN_ATTEMPT), model)
    elif state.sends:
        # Also what was settled already: the row of an outcome need not have reached the disk.
        yield "client: dies and reads its journal", _unknown(state, model)


def _change(state: State, k: int, **fields: object) -> State:
    send = state.sends[k]._replace(**fields)  # type: ignore[arg-type]
    return state._replace(sends=(*state.sends[:k], send, *state.sends[k + 1 :]))

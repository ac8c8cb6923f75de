"""The order protocol of docs/orders.md as a state machine, small enough for an exhaustive search (see search.py).

One client wants one order once. The network loses, delays, duplicates and reorders; the exchange checks nonce and
deadline, queues, and lists orders late; another sender uses the key; the key may lose sight of the orders between any
two reads and get it back; the client may die at any point. `State` is all of that at one moment, `Model.transitions`
yields everything that can happen next, `violations` returns what must never happen.

Simplifications, and why they miss nothing:
- Time is seconds left, never a date, so the states are finite however long it all takes.
- Every order is sent in two copies, and no copy has to arrive: that is loss, delay, duplication and reordering.
- An answer is read at once or never. Late makes no difference: a final one stays true, any other leaves the order
  unknown.
- A query is one transition. A slow one is one that was sent later, and nothing forces the client to be quick; one whose
  answer is lost has raised the nonce floor, as an external sender does; one that is early and finds the order is right.
- To these rules an answer that is not final is no answer; the two that other clients believe in have names.
- The reason why a resting order closes (a fill, a cancel, its expiry) makes no difference: it leaves OpenOrders then.
- A key without sight gets empty lists. Where GetApiKeyInfo is not to be had, only ClosedOrders can be empty, and the
  evidence is an order that the answer has to show.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from tests.model.search import SECOND

UNKNOWN_ATTEMPT = -1  # the attempt after the journal was lost


@dataclass(frozen=True)
class Seconds:
    """Durations, not to scale. `lag` and `queue` are upper bounds.

    The rules rely on margin >= queue + lag and gap >= lag.
    """

    deadline: int = 8
    margin: int = 5
    gap: int = 3
    lag: int = 3
    queue: int = 2
    clock_off: int = 3
    long_queue: int = 8


class Interpretation(StrEnum):
    """How a client interprets an answer."""

    UNKNOWN = "unknown"
    PLACED = "placed"
    NOT_PLACED = "not placed"
    REFUSED = "refused for good"
    RETRY = "a reason to send again with a fresh nonce"


class Disk(StrEnum):
    """What a restarted client knows."""

    KEPT = "the journal"
    REPLACED = "that there may have been orders"
    OTHER_HOST = "some of the attempts: another host takes over with a journal of its own"
    FORGOTTEN = "nothing, and it does not care"


class Sight(StrEnum):
    """When the client asks for evidence that the key sees its orders."""

    AFTER = "after the last query: what the key sees now, and that it was not changed since the order was sent"
    AFTER_WITHOUT_CHANGES = "after the last query: what the key sees now"
    BEFORE = "before the first query"
    NEVER = "never"


class OrderList(StrEnum):
    """The list in which Kraken has an order."""

    NONE = "none"
    OPEN = "OpenOrders"
    CLOSED = "ClosedOrders"


@dataclass(frozen=True)
class Rules:
    """The client's rules. The defaults are the design; each switch makes one faulty client."""

    invalid_nonce: Interpretation = Interpretation.UNKNOWN
    gateway_refusal: Interpretation = Interpretation.UNKNOWN
    fencing_read: bool = True
    waits_for_deadline: bool = True
    margin: bool = True
    gap: bool = True
    queries: tuple[OrderList, ...] = (OrderList.OPEN, OrderList.CLOSED)
    disk: Disk = Disk.KEPT
    waits_on_new_disk: bool = True  # on a new disk: wait until the deadline of an order sent at the last moment
    queries_any_attempt: bool = True  # on a new disk: query every attempt of the signal, not only the next one
    sight: Sight = Sight.AFTER
    attempts_after_refusal: int = 1  # how often a signal is sent again after the engine has refused it


@dataclass(frozen=True)
class Exchange:
    """The exchange. The defaults are Kraken; each switch makes a faulty one, `nonce_window` a faulty key."""

    enforces_deadline: bool = True
    deadline_at_gateway_only: bool = False
    clock_behind: bool = False
    long_queue: bool = False
    nonce_window: bool = False
    blindness: bool = False
    tells_key_info: bool = True


@dataclass(frozen=True)
class Model:
    """The model that is searched."""

    rules: Rules = Rules()
    exchange: Exchange = Exchange()
    seconds: Seconds = Seconds()
    sends_max: int = 2
    copies: int = 2  # of every order, in transit

    @property
    def exchange_lateness(self) -> int:
        """Return for how long the exchange accepts an order after its deadline."""
        return self.seconds.clock_off if self.exchange.clock_behind else 0

    def initial_state(self) -> State:
        """Return the initial state: nothing was ever sent."""
        return State()

    def transitions(self, state: State) -> Iterator[Transition]:
        """Yield each possible next state with a label."""
        yield from client_transitions(state, self)
        yield from exchange_transitions(state, self)
        yield from time_passes(state)
        yield from accidents(state, self)

    def violations(self, state: State) -> frozenset[Violation]:
        """Return the violations of a state."""
        return violations(state)

    def fair_transitions(self, state: State) -> Iterator[Transition]:
        """Yield what can happen while Kraken answers and the client lives."""
        due_transitions = list(client_transitions(state, self))
        yield from due_transitions
        yield from exchange_transitions(state, self)
        if not due_transitions:
            yield from time_passes(state)

    def is_done(self, state: State) -> bool:
        """Return whether no order is unknown."""
        return state.phase in (Phase.IDLE, Phase.PLACED)


class Send(NamedTuple):
    """One AddOrder and its outcome. `left` is the time to its deadline by the exchange's clock, -1 when over."""

    attempt: int  # together with the signal, this is its cl_ord_id
    left: int
    copies: int = 0  # in transit
    queue: tuple[int, ...] = ()  # in the engine's queue; the longest time that each may stay
    listed_in: OrderList = OrderList.NONE
    hidden: int = 0  # the longest time for which Kraken may not list it yet
    absent: bool = False  # the client has resolved it as not placed
    refused: bool = False  # the client has read that the engine refused it


class Phase(StrEnum):
    """The phase of the client."""

    IDLE = "nothing open"
    INTENDED = "written down, not sent"
    SENT = "sent, no answer yet"
    FENCING_READ = "unknown, no fencing read yet"
    QUERY = "unknown, querying"
    SIGHT = "unknown, found in no list; what does the key see?"
    PLACED = "placed"


class State(NamedTuple):
    """The whole state of the model. Kraken no longer accepts the nonces of the first `floor` sends."""

    phase: Phase = Phase.IDLE
    wait: int = 0  # before the client makes its next query
    absent_answers: int = 0  # queries of this pair that found nothing
    attempt: int = 0  # of the next order
    floor: int = 0
    accepted: int = 0  # orders that the engine has accepted in total
    sends: tuple[Send, ...] = ()
    is_blind: bool = False
    key_changed: bool = False  # since the order was sent


Transition = tuple[str, State]


class Violation(StrEnum):
    """What must never happen."""

    DOUBLED = "two orders of one signal were accepted"
    LOST = "resolved as not placed, and it exists"
    IMAGINED = "resolved as placed, and it never will be"
    REPEATED = "sent again after a second refusal"


def violations(state: State) -> frozenset[Violation]:
    """Return the violations of a state."""
    is_pending = any(send.queue or (send.copies and k >= state.floor) for k, send in enumerate(state.sends))
    found = {
        Violation.DOUBLED: state.accepted > 1,
        Violation.LOST: any(send.absent and send.listed_in is not OrderList.NONE for send in state.sends),
        Violation.IMAGINED: state.phase is Phase.PLACED and not state.accepted and not is_pending,
        Violation.REPEATED: len(state.sends) > 2 and all(send.refused for send in state.sends[:2]),
    }
    return frozenset(kind for kind, is_violated in found.items() if is_violated)


# The client


def client_transitions(state: State, model: Model) -> Iterator[Transition]:
    """Yield the client's own next steps."""
    if state.phase is Phase.IDLE and len(state.sends) < model.sends_max:
        refusals = sum(send.refused for send in state.sends)
        # Another host's journal may know that some of the attempts were not placed.
        attempts = range(len(state.sends) + 1) if model.rules.disk is Disk.OTHER_HOST else (state.attempt,)
        if refusals <= model.rules.attempts_after_refusal:
            for attempt in attempts:
                yield f"client: writes attempt {attempt} down", _record_intent(state._replace(attempt=attempt), model)
    elif state.phase is Phase.INTENDED:
        yield "client: sends it", _send(state, model)
    elif state.phase is Phase.SENT:
        yield "client: gives up waiting; unknown", _leave_unknown(state, model)
    elif state.phase is Phase.FENCING_READ:
        fenced = state._replace(floor=len(state.sends))
        yield "client: the fencing read is accepted", _start_queries(fenced, model)
    elif state.phase is Phase.QUERY and state.wait == 0:
        yield from _query(state, model)
    elif state.phase is Phase.SIGHT:
        yield from _check_sight(state, model)


def _record_intent(state: State, model: Model) -> State:
    send = Send(state.attempt, model.seconds.deadline + model.exchange_lateness)
    return state._replace(phase=Phase.INTENDED, sends=(*state.sends, send))


def _send(state: State, model: Model) -> State:
    last = len(state.sends) - 1
    return _change_send(state, last, copies=model.copies)._replace(phase=Phase.SENT, key_changed=False)


def _leave_unknown(state: State, model: Model) -> State:
    state = state._replace(phase=Phase.FENCING_READ, wait=0, absent_answers=0)
    return state if model.rules.fencing_read else _start_queries(state, model)


def _start_queries(state: State, model: Model) -> State:
    """Wait until the first query may be made."""
    rules, seconds = model.rules, model.seconds
    if state.attempt == UNKNOWN_ATTEMPT:
        remaining_seconds = seconds.deadline if rules.waits_on_new_disk else 0
    else:
        remaining_seconds = max(0, state.sends[-1].left - model.exchange_lateness) if rules.waits_for_deadline else 0
    return state._replace(
        phase=Phase.QUERY, wait=remaining_seconds + (seconds.margin if rules.margin else 0), absent_answers=0
    )


def _query(state: State, model: Model) -> Iterator[Transition]:
    if not model.rules.queries:
        yield "client: resolves by time alone; not placed", _resolve_absent(state, model)
        return
    order_list = model.rules.queries[state.absent_answers]
    if model.rules.sight is Sight.BEFORE and not state.absent_answers and state.is_blind:
        return
    is_answer_empty = state.is_blind and (model.exchange.tells_key_info or order_list is OrderList.CLOSED)
    matching_sends = [
        send
        for k, send in enumerate(state.sends)
        if _is_queried(state, k, model) and send.listed_in is order_list and not is_answer_empty
    ]
    if matching_sends:
        yield f"client: finds it in {order_list}; placed", state._replace(phase=Phase.PLACED, absent_answers=0)
    if all(send.hidden for send in matching_sends):
        is_last = state.absent_answers + 1 == len(model.rules.queries)
        next_state = state._replace(
            absent_answers=state.absent_answers + 1, wait=model.seconds.gap if model.rules.gap else 0
        )
        if is_last and model.rules.sight in (Sight.AFTER, Sight.AFTER_WITHOUT_CHANGES):
            yield from _require_evidence(next_state, model, has_witness=not is_answer_empty)
        else:
            yield f"client: {order_list} do not show it", _resolve_absent(state, model) if is_last else next_state


def _require_evidence(state: State, model: Model, *, has_witness: bool) -> Iterator[Transition]:
    """Go on from queries that found nothing: ask what the key sees, or believe an answer with a known order in it."""
    if model.exchange.tells_key_info:
        yield "client: no list shows it", state._replace(phase=Phase.SIGHT)
        return
    yield "client: no list shows it, nor any other order", _restart_proof(state, model)
    if has_witness:
        yield "client: no list shows it, and one shows another order", _resolve_absent(state, model)


def _check_sight(state: State, model: Model) -> Iterator[Transition]:
    if not state.is_blind and not (state.key_changed and model.rules.sight is Sight.AFTER):
        yield "client: the key sees its orders", _resolve_absent(state, model)
        return
    yield "client: the key may not see its orders; still unknown", _restart_proof(state, model)
    if any(_is_queried(state, k, model) and send.listed_in is not OrderList.NONE for k, send in enumerate(state.sends)):
        yield "a person finds it; placed", state._replace(phase=Phase.PLACED, absent_answers=0)
    else:
        yield "a person does not find it; not placed", _resolve_absent(state, model)


def _restart_proof(state: State, model: Model) -> State:
    """Query again. On a new disk everything begins again: which orders are missing is counted from now on."""
    if state.attempt == UNKNOWN_ATTEMPT:
        return _leave_unknown(state._replace(key_changed=False), model)
    return state._replace(phase=Phase.QUERY, wait=0, absent_answers=0)


def _is_queried(state: State, k: int, model: Model) -> bool:
    if state.attempt == UNKNOWN_ATTEMPT:
        return model.rules.queries_any_attempt or state.sends[k].attempt == 0
    return state.sends[k].attempt == state.sends[-1].attempt


def _resolve_absent(state: State, model: Model) -> State:
    """Resolve as not placed: on a new disk every attempt, otherwise the last one."""
    new_disk = state.attempt == UNKNOWN_ATTEMPT
    attempt = 0 if new_disk else state.sends[-1].attempt + 1
    for k in range(len(state.sends)):
        if new_disk or _is_queried(state, k, model):
            state = _change_send(state, k, absent=True)
    return state._replace(phase=Phase.IDLE, wait=0, absent_answers=0, attempt=attempt)


def _read_answer(state: State, k: int, model: Model, interpretation: Interpretation) -> State:
    """Read an answer to send number `k`, if the client still waits for it."""
    if state.phase is not Phase.SENT or k + 1 != len(state.sends):
        return state
    if interpretation is Interpretation.PLACED:
        return state._replace(phase=Phase.PLACED)
    if interpretation is Interpretation.NOT_PLACED:
        return _resolve_absent(state, model)
    if interpretation is Interpretation.REFUSED:
        return _resolve_absent(_change_send(state, k, refused=True), model)
    if interpretation is Interpretation.RETRY and len(state.sends) < model.sends_max:
        return _send(_record_intent(state, model), model)
    return _leave_unknown(state, model)


# The exchange


def exchange_transitions(state: State, model: Model) -> Iterator[Transition]:
    """Yield what can arrive, execute and fill; each answer arrives or is lost."""
    for k, send in enumerate(state.sends):
        for label, next_state, interpretation in (*_arrivals(state, k, model), *_executions(state, k, model)):
            yield f"exchange: {label}; no answer", next_state
            if (state_after_response := _read_answer(next_state, k, model, interpretation)) != next_state:
                yield f"exchange: {label}; the client takes it for {interpretation}", state_after_response
        if send.listed_in is OrderList.OPEN:
            yield (
                f"exchange: order {k} closes",
                _change_send(state, k, listed_in=OrderList.CLOSED, hidden=model.seconds.lag),
            )


def _arrivals(state: State, k: int, model: Model) -> Iterator[tuple[str, State, Interpretation]]:
    send, exchange = state.sends[k], model.exchange
    if not send.copies:
        return
    arrived = _change_send(state, k, copies=send.copies - 1)
    yield f"a copy of order {k} meets a limit", arrived, model.rules.gateway_refusal
    if k < state.floor and not exchange.nonce_window:
        yield f"a copy of order {k} has an invalid nonce", arrived, model.rules.invalid_nonce
        return
    arrived = arrived._replace(floor=max(state.floor, k + 1))
    if exchange.deadline_at_gateway_only and exchange.enforces_deadline and send.left < 0:
        yield f"a copy of order {k} is past its deadline", arrived, Interpretation.UNKNOWN
        return
    queue = model.seconds.long_queue if exchange.long_queue else model.seconds.queue
    queued = _change_send(arrived, k, queue=(*send.queue, queue))
    yield f"a copy of order {k} arrives and is queued", queued, Interpretation.UNKNOWN


def _executions(state: State, k: int, model: Model) -> Iterator[tuple[str, State, Interpretation]]:
    send, exchange = state.sends[k], model.exchange
    if not send.queue:
        return
    taken = _change_send(state, k, queue=send.queue[1:])
    if exchange.enforces_deadline and not exchange.deadline_at_gateway_only and send.left < 0:
        yield f"order {k} is past its deadline", taken, Interpretation.UNKNOWN
    elif any(other.listed_in is OrderList.OPEN and other.attempt == send.attempt for other in state.sends):
        yield f"order {k} has the id of an open one", taken, Interpretation.UNKNOWN
    else:
        yield f"order {k} is refused for good", taken, Interpretation.REFUSED
        for listed_in, label in ((OrderList.OPEN, "rests"), (OrderList.CLOSED, "fills at once")):
            placed = _change_send(taken, k, listed_in=listed_in, hidden=model.seconds.lag)
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
    """Yield an external nonce, a failed query, a change of the key, and the death and restart of the client."""
    if state.floor < len(state.sends):
        yield "an external nonce is accepted", state._replace(floor=len(state.sends))
    if state.phase is Phase.QUERY and state.absent_answers and state.wait == 0:
        yield "the second query is not answered; the pair starts again", state._replace(absent_answers=0)
    if model.exchange.blindness:
        label = "gets sight of its orders again" if state.is_blind else "loses sight of its orders"
        yield f"the key {label}", state._replace(is_blind=not state.is_blind, key_changed=True)
    if model.rules.disk is Disk.FORGOTTEN:
        yield "client: dies and forgets", state._replace(phase=Phase.IDLE, wait=0, absent_answers=0, attempt=0)
    elif model.rules.disk is Disk.REPLACED:
        yield "client: dies; a new disk", _start_on_new_disk(state, model)
    elif model.rules.disk is Disk.OTHER_HOST:
        yield "client: dies; another host takes over", _start_on_new_disk(state, model)
    elif state.sends:
        # This includes resolved orders: the outcome need not have reached the disk.
        yield "client: dies and reads its journal", _leave_unknown(state, model)


def _start_on_new_disk(state: State, model: Model) -> State:
    for k in range(len(state.sends)):
        state = _change_send(state, k, refused=False)
    return _leave_unknown(state._replace(attempt=UNKNOWN_ATTEMPT, key_changed=False), model)


def _change_send(state: State, k: int, **fields: object) -> State:
    send = state.sends[k]._replace(**fields)  # type: ignore[arg-type]
    return state._replace(sends=(*state.sends[:k], send, *state.sends[k + 1 :]))

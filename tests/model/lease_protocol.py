"""The hand-over between two instances as a state machine, small enough to be searched whole (see search.py).

Two instances of the bot share an account and a store (the contract of bot/nonce/store_protocol.py, one atomic step a
move), and one signal is to be traded once. An instance dies anywhere and comes back, stands still anywhere, gets
answers late or never; orders and sign-offs stay on their way for any time. In some worlds the store loses writes,
Kraken checks less than it says, or a clock stands still with its machine.
`Model.moves` is everything that can happen next.

What keeps it small, and why nothing is missed:
- Time is seconds left, never a date, and the seconds are few: see `Seconds`. There is no bound on leases or orders.
- Nothing obliges an instance to move before time does: that is a pause, a partition from the store, a slow host.
- A process that starts anew is a standby of another name; what was the old one's is from then on nobody's here.
- The check and the leaving of the bytes are one move. A pause between the two is a longer way to Kraken.
- Nonces are drawn in the order of `orders`; one that is accepted removes all before it, which are refused from then on.
- The look-ups are one move: OpenOrders, the gap and ClosedOrders are the order model's (protocol.py).
- All orders are of one signal. Its identifier keeps no second one out, because Kraken looks at open orders only, and
  the first may have filled; it is what a successor finds the order by.
- A turn is held from an order's draw until its answer; a leader that has to wait for one that is gone is bad in itself.
- Where the store loses writes it does so once: it is wiped, or its replica stands still from some write on and takes
  over later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.model.lease_states import (
    GONE,
    NAMES,
    NEW,
    NOBODY,
    OTHER,
    Environment,
    Instance,
    Loss,
    Order,
    PendingRelease,
    Phase,
    Rules,
    Seconds,
    State,
    StoreRecord,
    Transition,
    Violation,
    age_record,
    change,
    drop_unsent_orders,
    set_instance,
    violations,
)
from tests.model.search import SECOND

LEADING = (Phase.LEADING, Phase.NONCE_DRAWN, Phase.SENT, Phase.PLACED)


@dataclass(frozen=True)
class Model:
    """What is searched. `is_shortened`: whose lease is over stands by at once, and not only at any time."""

    rules: Rules = field(default_factory=Rules)
    environment: Environment = field(default_factory=Environment)
    seconds: Seconds = field(default_factory=Seconds)
    is_reduced: bool = True

    def initial_state(self) -> State:
        """Return the state to begin with: A leads, has settled, and B stands by."""
        leader = Instance(Phase.LEADING, fencing_token=1, left=self.seconds.lifetime)
        return State(
            (leader, Instance()), StoreRecord(owner=0, fencing_token=1, left=self.seconds.lifetime), absent_to=0
        )

    def transitions(self, state: State) -> Iterator[Transition]:
        """Yield what can happen next, each with its name."""
        may_miss = self.environment.loss is Loss.LATEST and not state.lost and state.replica is None
        for label, next_state in _writes(state, self):
            yield label, _reduce(next_state, state, self)
            if may_miss and next_state.record != state.record:
                yield f"{label}; the replica misses it", _reduce(next_state._replace(replica=state.record), state, self)
        for label, next_state in (
            *exchange_transitions(state, self),
            *time_passes(state, self),
            *accidents(state, self),
        ):
            yield label, _reduce(next_state, state, self)

    def violations(self, state: State) -> frozenset[Violation]:
        """Return what is wrong with a state."""
        return violations(state)

    def fair_transitions(self, state: State) -> Iterator[Transition]:
        """Yield what can happen while both live and all answer: each does at once what is due."""
        due_transitions = [move for i in (0, 1) for move in _next_step(state, i, self)]
        time = [] if due_transitions else [(SECOND, _second(state, self))]
        for label, next_state in (
            *due_transitions,
            *_release_arrives(state, self),
            *exchange_transitions(state, self),
            *time,
        ):
            yield label, _reduce(next_state, state, self)

    def is_done(self, state: State) -> bool:
        """Whether an instance leads and has settled what was before."""
        record = state.record
        return record.left > 0 and any(
            record.owner == i and record.fencing_token == instance.fencing_token and instance.phase in LEADING
            for i, instance in enumerate(state.instances)
        )


def _writes(state: State, model: Model) -> Iterator[Transition]:
    for i in (0, 1):
        yield from lease_transitions(state, i, model)
        yield from leader_transitions(state, i, model)
    yield from _release_arrives(state, model)


def _next_step(state: State, i: int, model: Model) -> Iterator[Transition]:
    """Yield the first thing that an instance can do which changes anything: each comes first as it is answered."""
    due = (
        move for move in (*lease_transitions(state, i, model), *leader_transitions(state, i, model)) if move[1] != state
    )
    yield from list(due)[:1]


def _reduce(next_state: State, previous_state: State, model: Model) -> State:
    """Leave out differences that make no difference any more, where the rules are such that they make none."""
    rules = model.rules
    if not rules.tokens_never_repeat:
        return next_state
    if next_state.record.fencing_token != previous_state.record.fencing_token or (next_state.replica is None) != (
        previous_state.replica is None
    ):
        next_state = _renumber_tokens(next_state)
    if not model.is_reduced or not rules.nonce_checks_token:
        return next_state
    may_go_on = not (rules.nonce_checks_expiry and rules.expiry_is_final)
    for i, me in enumerate(next_state.instances):
        if me.fencing_token and _is_lease_lost(next_state, me, model, may_go_on):
            next_state = set_instance(next_state, i, Instance())._replace(orders=drop_unsent_orders(next_state, i))
    if may_go_on or not rules.grant_releases_lock:
        return next_state
    record, replica = (
        _without_expired_owner(next_state.record, next_state),
        next_state.replica and _without_expired_owner(next_state.replica, next_state),
    )
    if record is not next_state.record or replica is not next_state.replica:
        next_state = next_state._replace(record=record, replica=replica)
    return next_state


def _is_lease_lost(state: State, instance: Instance, model: Model, may_go_on: bool) -> bool:
    """Whether a leader's lease can never come back, so that it can only find that out: then it does so at once."""
    if instance.phase is Phase.NONCE_DRAWN and (instance.left or not model.rules.checks_local_clock):
        return False  # it has an order in hand
    rows = (state.record, state.replica)
    return not any(
        record and record.fencing_token == instance.fencing_token and (record.left or may_go_on) for record in rows
    )


def _without_expired_owner(record: StoreRecord, state: State) -> StoreRecord:
    """Return the row without what nobody asks for any more once its lease has run out, a sign-off apart."""
    pending_release = state.pending_release
    if (
        record.left
        or record.owner == NOBODY
        or (pending_release and pending_release.fencing_token == record.fencing_token)
    ):
        return record
    return StoreRecord(fencing_token=record.fencing_token)


def _renumber_tokens(state: State) -> State:
    """Name generations by whose they are, so that any number of them makes no more states.

    1 is the row's, 2 the replica's, PAST any other: one that never comes again.
    """
    record, replica, pending_release = state.record, state.replica, state.pending_release
    names = {0: 0, record.fencing_token: min(record.fencing_token, 1)}
    if replica:
        replica = replica._replace(fencing_token=names.setdefault(replica.fencing_token, 2))
    a, b = (instance._replace(fencing_token=names.get(instance.fencing_token, OTHER)) for instance in state.instances)
    return state._replace(
        instances=(a, b),
        record=record._replace(fencing_token=names[record.fencing_token]),
        replica=replica,
        pending_release=pending_release._replace(fencing_token=names[pending_release.fencing_token])
        if pending_release and pending_release.fencing_token in names
        else None,
    )


# The store


def lease_transitions(state: State, i: int, model: Model) -> Iterator[Transition]:
    """Yield what an instance can do about the lease."""
    return (_acquire if state.instances[i].phase is Phase.STANDBY else _renew)(state, i, model)


def _release_arrives(state: State, model: Model) -> Iterator[Transition]:
    """Yield the arrival of a sign-off; it stays on its way, as if it were sent again."""
    pending_release, record = state.pending_release, state.record
    if pending_release and record.owner != NOBODY and record.fencing_token == pending_release.fencing_token:
        turn = NOBODY if model.rules.release_frees_lock else record.lock_owner
        ended = StoreRecord(
            fencing_token=record.fencing_token, is_reconciled=pending_release.is_reconciled, lock_owner=turn
        )
        yield "store: the sign-off arrives", state._replace(record=ended)


def _acquire(state: State, i: int, model: Model) -> Iterator[Transition]:
    record, rules, lifetime = state.record, model.rules, model.seconds.lifetime
    if record.owner == i and (record.left or not rules.expiry_is_final):
        name, granted = "acquires its lease again", state._replace(record=record._replace(left=lifetime))
    elif not record.left:
        name, granted = "is granted the lease", _grant(state, i, model)
    else:
        return
    record = granted.record
    sent = max((order.left for order in state.orders if order.owner == i), default=0)
    wait = max(sent, 0 if record.is_clean_handover or not rules.waits_for_deadline else model.seconds.deadline)
    phase, wait = (Phase.FENCING_READ, wait) if rules.reconciles else (Phase.LEADING, 0)
    leads = change(granted, i, phase=phase, fencing_token=record.fencing_token, left=lifetime, wait=wait)
    yield f"{NAMES[i]}: {name}{', clean' if record.is_clean_handover else ''}", leads
    yield f"{NAMES[i]}: {name}; no answer", granted


def _grant(state: State, i: int, model: Model) -> State:
    record, rules = state.record, model.rules
    generation = NEW if rules.tokens_never_repeat else record.fencing_token + 1
    turn = NOBODY if rules.grant_releases_lock and record.owner != NOBODY else record.lock_owner
    return state._replace(
        record=StoreRecord(
            i, generation, model.seconds.lifetime, is_clean_handover=record.is_reconciled, lock_owner=turn
        )
    )


def _renew(state: State, i: int, model: Model) -> Iterator[Transition]:
    record, instance, lifetime = state.record, state.instances[i], model.seconds.lifetime
    if instance.has_late_answer:
        yield f"{NAMES[i]}: reads the late answer", change(state, i, left=lifetime, has_late_answer=False)
    if (
        record.fencing_token == instance.fencing_token
        and record.owner != NOBODY
        and (record.left or not model.rules.expiry_is_final)
    ):
        renewed = state._replace(record=record._replace(left=lifetime))
        yield f"{NAMES[i]}: renews", change(renewed, i, left=lifetime)
        yield (
            f"{NAMES[i]}: renews; no answer",
            change(renewed, i, has_late_answer=not model.rules.lifetime_from_request),
        )
    else:
        yield from _step_down(state, i, "is not renewed")


def _may_get_nonce(state: State, i: int, model: Model) -> bool:
    """Whether the store draws a nonce for an instance under its lease."""
    record, rules = state.record, model.rules
    is_same = record.fencing_token == state.instances[i].fencing_token or not rules.nonce_checks_token
    return is_same and bool(record.left or not rules.nonce_checks_expiry)


# The instances


def leader_transitions(state: State, i: int, model: Model) -> Iterator[Transition]:
    """Yield what an instance that leads, or thinks so, can do next."""
    instance, name = state.instances[i], NAMES[i]
    if instance.phase is Phase.STANDBY:
        return
    if not instance.left:
        yield from _step_down(state, i, "has not been renewed in time")
    if instance.phase is Phase.NONCE_DRAWN:
        yield from _send(state, i, model)
    elif instance.phase is Phase.SENT:
        wait = max([0, *(order.left for order in state.orders if order.owner == i)])
        yield (
            f"{name}: waits no longer; unknown",
            change(_release_lock(state, i), i, phase=Phase.FENCING_READ, wait=wait),
        )
    elif instance.phase is not Phase.PLACED and (instance.left or not model.rules.checks_local_clock):
        may_draw = _may_get_nonce(state, i, model)
        yield from _use_nonce(state, i, model) if may_draw else _step_down(state, i, "draws a stale nonce")


def _use_nonce(state: State, i: int, model: Model) -> Iterator[Transition]:
    """Draw a nonce and use it; that of an order is used in a move of its own."""
    instance, environment = state.instances[i], model.environment
    if instance.phase is Phase.FENCING_READ:
        passed = tuple(order for order in state.orders if _is_after(order, state, environment))
        margin = model.seconds.margin if model.rules.margin else 0
        fenced = change(state, i, phase=Phase.QUERY, wait=instance.wait + margin)
        accepted = fenced._replace(orders=passed) if model.rules.fencing_read else fenced
        yield f"{NAMES[i]}: a read is accepted, the fence", accepted
    elif instance.phase is Phase.QUERY and not instance.wait:
        yield from _query(state, i, model)
    elif instance.phase is Phase.LEADING:
        below = tuple(order for order in state.orders if not (state.lost and order.is_beyond))
        order = Order(i, model.seconds.deadline, is_beyond=environment.nonces_too and state.replica is not None)
        orders = (*below, order, *state.orders[len(below) :])
        drawn = change(state, i, phase=Phase.NONCE_DRAWN)._replace(
            record=state.record._replace(lock_owner=i), orders=orders
        )
        yield f"{NAMES[i]}: draws the order's nonce", drawn


def _query(state: State, i: int, model: Model) -> Iterator[Transition]:
    is_there = state.accepted and state.accepted_of in (NOBODY, i)
    if is_there:
        yield f"{NAMES[i]}: finds the order", change(state, i, phase=Phase.PLACED)
    if not is_there or state.hidden:
        # Whatever it has sent itself is settled too.
        orders = tuple(order._replace(owner=GONE) if order.owner == i else order for order in state.orders)
        settled = change(state, i, phase=Phase.LEADING)._replace(orders=orders, absent_to=i)
        yield f"{NAMES[i]}: finds no order", settled._replace(is_unknown=state.accepted > 0)


def _send(state: State, i: int, model: Model) -> Iterator[Transition]:
    instance, deadline = state.instances[i], model.seconds.deadline
    if instance.left or not model.rules.checks_local_clock:
        orders = tuple(
            order._replace(is_sent=True, left=order.left if model.rules.deadline_from_nonce else deadline)
            if order.owner == i and not order.is_sent
            else order
            for order in state.orders
        )
        yield f"{NAMES[i]}: checks; the order leaves", change(state, i, phase=Phase.SENT)._replace(orders=orders)
    unsent = _release_lock(state._replace(orders=drop_unsent_orders(state, i)), i)
    yield f"{NAMES[i]}: does not send the order", change(unsent, i, phase=Phase.LEADING)


def _step_down(state: State, i: int, why: str) -> Iterator[Transition]:
    generation = state.instances[i].fencing_token
    quiet = set_instance(state, i, Instance())._replace(orders=drop_unsent_orders(state, i))
    yield f"{NAMES[i]}: {why}; stands by", quiet
    if quiet.pending_release is None:
        yield (
            f"{NAMES[i]}: {why}; signs off, unsettled",
            quiet._replace(pending_release=PendingRelease(generation, False)),
        )


def _release_lock(state: State, i: int) -> State:
    return state._replace(record=state.record._replace(lock_owner=NOBODY)) if state.record.lock_owner == i else state


# Kraken


def exchange_transitions(state: State, model: Model) -> Iterator[Transition]:
    """Yield the orders that can be taken; the answer comes back or is lost."""
    for k, order in enumerate(state.orders):
        if not order.is_sent:
            continue
        rest = state.orders[k + 1 :]
        taken = state._replace(
            orders=rest if model.environment.enforces_nonce else state.orders[:k] + rest,
            accepted=state.accepted + 1,
            accepted_of=NOBODY if model.rules.same_id else order.owner,
            hidden=model.seconds.margin,
            is_unknown=order.owner != state.absent_to,
        )
        yield f"Kraken: takes the order of {NAMES[order.owner]}; no answer", taken
        if order.owner != GONE and state.instances[order.owner].phase is Phase.SENT:
            read = change(_release_lock(taken, order.owner), order.owner, phase=Phase.PLACED)
            yield f"Kraken: takes the order of {NAMES[order.owner]}, which reads it", read


def _is_after(order: Order, state: State, environment: Environment) -> bool:
    """Whether Kraken takes an order although a nonce that is drawn now came first."""
    return not environment.enforces_nonce or (state.lost and order.is_beyond)


# Time and accidents


def time_passes(state: State, model: Model) -> Iterator[Transition]:
    """Yield the next second, for all or all but one."""
    after = _second(state, model)
    yield SECOND, after
    if model.environment.clocks_stand_still:
        for i in (0, 1):
            asleep = set_instance(after, i, state.instances[i])
            yield f"{SECOND}; the clock of {NAMES[i]} stands still", asleep


def _second(state: State, model: Model) -> State:
    orders = tuple(order._replace(left=max(-1, order.left - 1)) for order in state.orders)
    if model.environment.enforces_deadline:
        orders = tuple(order for order in orders if order.left >= 0 or not order.is_sent)
    a, b = (
        instance._replace(left=max(0, instance.left - 1), wait=max(0, instance.wait - 1))
        for instance in state.instances
    )
    return state._replace(
        instances=(a, b),
        record=age_record(state.record),
        replica=state.replica and age_record(state.replica),
        orders=orders,
        hidden=max(0, state.hidden - 1),
    )


def accidents(state: State, model: Model) -> Iterator[Transition]:
    """Yield deaths, with and without a last word, and what a store can lose."""
    for i in (0, 1):
        instance = state.instances[i]
        dead = _dead(state, i, model)
        if dead != state:
            yield f"{NAMES[i]}: dies and restarts", dead
        if instance.phase is not Phase.STANDBY and state.pending_release is None:
            settled = instance.phase in (Phase.LEADING, Phase.PLACED) or not model.rules.clean_only_if_reconciled
            name = f"{NAMES[i]}: signs off, {'settled' if settled else 'unsettled'}; ends and restarts"
            yield name, dead._replace(pending_release=PendingRelease(instance.fencing_token, settled))
    if state.replica:
        yield "store: fails over", state._replace(record=state.replica, replica=None, lost=True)
    if model.environment.loss is Loss.ALL and not state.lost:
        yield "store: is wiped", state._replace(record=StoreRecord(), lost=True)


def _dead(state: State, i: int, model: Model) -> State:
    """Start a process anew: a standby that has another name, so that what was the old one's is nobody's here."""
    orders = drop_unsent_orders(state, i)
    state = set_instance(state, i, Instance())._replace(orders=orders)
    if not model.rules.new_owner_name:
        return state
    return state._replace(
        orders=tuple(order._replace(owner=_retire_owner(order.owner, i)) for order in orders),
        accepted_of=_retire_owner(state.accepted_of, i),
        absent_to=_retire_owner(state.absent_to, i),
        record=_retire_record_owner(state.record, i),
        replica=state.replica and _retire_record_owner(state.replica, i),
    )


def _retire_owner(name: int, i: int) -> int:
    return GONE if name == i else name


def _retire_record_owner(record: StoreRecord, i: int) -> StoreRecord:
    return record._replace(owner=_retire_owner(record.owner, i), lock_owner=_retire_owner(record.lock_owner, i))

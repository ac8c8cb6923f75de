"""The takeover between two instances as a state machine, small enough for an exhaustive search (see search.py).

Two instances of the bot share an account and a store (the contract of bot/nonce/store_protocol.py, one atomic step per
transition), and one signal is to be traded once. An instance may die and restart at any point, pause at any point, and
get answers late or never; orders and lease releases stay in transit for any time. In some environments the store loses
writes, Kraken enforces less than it says, or a machine's clock stands still. `Model.transitions` yields everything that
can happen next.

Simplifications, and why they miss nothing:
- Time is seconds left, never a date, and the seconds are few: see `Seconds`. Leases and orders are unbounded.
- Nothing forces an instance to act before time passes: that is a pause, a partition from the store, a slow host.
- A restarted process is a standby with another owner name; whatever belonged to the old one belongs to nobody here.
- The check and the sending of the bytes are one transition. A pause between the two is a longer way to Kraken.
- Nonces are issued in the order of `orders`; an accepted one removes all before it, which are refused from then on.
- The query is one transition: OpenOrders, the gap and ClosedOrders belong to the order model (protocol.py).
- All orders are of one signal. Its client order id does not keep a second order out, because Kraken compares it with
  open orders only, and the first may have filled; a successor finds the order by it.
- The request lock is held from an order's nonce until its answer; a leader that has to wait for the lock of an instance
  that is gone is a violation in itself.
- A store loses writes once: it is wiped, or its replica misses every write from some point on and takes over later.
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

LEADING = (Phase.LEADING, Phase.NONCE_ISSUED, Phase.SENT, Phase.PLACED)


@dataclass(frozen=True)
class Model:
    """The model that is searched. `is_reduced`: an instance whose lease is lost steps down at once, not only at some
    time."""

    rules: Rules = field(default_factory=Rules)
    environment: Environment = field(default_factory=Environment)
    seconds: Seconds = field(default_factory=Seconds)
    is_reduced: bool = True

    def initial_state(self) -> State:
        """Return the initial state: A leads and has reconciled, and B is on standby."""
        leader = Instance(Phase.LEADING, fencing_token=1, left=self.seconds.lifetime)
        return State(
            (leader, Instance()), StoreRecord(owner=0, fencing_token=1, left=self.seconds.lifetime), absent_for=0
        )

    def transitions(self, state: State) -> Iterator[Transition]:
        """Yield each possible next state with a label."""
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
        """Return the violations of a state."""
        return violations(state)

    def fair_transitions(self, state: State) -> Iterator[Transition]:
        """Yield what can happen while both instances live and every call is answered: each does at once what is due."""
        due_transitions = [move for i in (0, 1) for move in _next_step(state, i, self)]
        time = [] if due_transitions else [(SECOND, _advance_second(state, self))]
        for label, next_state in (
            *due_transitions,
            *_release_arrives(state, self),
            *exchange_transitions(state, self),
            *time,
        ):
            yield label, _reduce(next_state, state, self)

    def is_done(self, state: State) -> bool:
        """Return whether an instance leads and has reconciled what was before."""
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
    """Yield the first possible step of an instance that changes anything, because every call is answered."""
    due = (
        move for move in (*lease_transitions(state, i, model), *leader_transitions(state, i, model)) if move[1] != state
    )
    yield from list(due)[:1]


def _reduce(next_state: State, previous_state: State, model: Model) -> State:
    """Remove differences between states that cannot matter under these rules."""
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
    """Return whether a leader's lease can never come back, so that its only next step is to find that out."""
    if instance.phase is Phase.NONCE_ISSUED and (instance.left or not model.rules.checks_local_clock):
        return False  # it may still send an order
    records = (state.record, state.replica)
    return not any(
        record and record.fencing_token == instance.fencing_token and (record.left or may_go_on) for record in records
    )


def _without_expired_owner(record: StoreRecord, state: State) -> StoreRecord:
    """Return the record without the expired lease's owner, unless its release is still in transit."""
    pending_release = state.pending_release
    if (
        record.left
        or record.owner == NOBODY
        or (pending_release and pending_release.fencing_token == record.fencing_token)
    ):
        return record
    return StoreRecord(fencing_token=record.fencing_token)


def _renumber_tokens(state: State) -> State:
    """Renumber fencing tokens by their holder, so that any number of leases needs no further states.

    1 is the record's token, 2 the replica's, OTHER is any other one, which never becomes valid again.
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
    """Yield the steps of an instance that concern the lease."""
    return (_acquire if state.instances[i].phase is Phase.STANDBY else _renew)(state, i, model)


def _release_arrives(state: State, model: Model) -> Iterator[Transition]:
    """Yield the arrival of a release; it stays in transit, as if it were sent again."""
    pending_release, record = state.pending_release, state.record
    if pending_release and record.owner != NOBODY and record.fencing_token == pending_release.fencing_token:
        lock_owner = NOBODY if model.rules.release_frees_lock else record.lock_owner
        ended = StoreRecord(
            fencing_token=record.fencing_token, is_reconciled=pending_release.is_reconciled, lock_owner=lock_owner
        )
        yield "store: the release arrives", state._replace(record=ended)


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
    fencing_token = NEW if rules.tokens_never_repeat else record.fencing_token + 1
    lock_owner = NOBODY if rules.grant_releases_lock and record.owner != NOBODY else record.lock_owner
    return state._replace(
        record=StoreRecord(
            i, fencing_token, model.seconds.lifetime, is_clean_handover=record.is_reconciled, lock_owner=lock_owner
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
    """Return whether the store issues a nonce to an instance under its lease."""
    record, rules = state.record, model.rules
    is_same = record.fencing_token == state.instances[i].fencing_token or not rules.nonce_checks_token
    return is_same and bool(record.left or not rules.nonce_checks_expiry)


# The instances


def leader_transitions(state: State, i: int, model: Model) -> Iterator[Transition]:
    """Yield the next steps of an instance that leads, or believes that it does."""
    instance, name = state.instances[i], NAMES[i]
    if instance.phase is Phase.STANDBY:
        return
    if not instance.left:
        yield from _step_down(state, i, "has not been renewed in time")
    if instance.phase is Phase.NONCE_ISSUED:
        yield from _send(state, i, model)
    elif instance.phase is Phase.SENT:
        wait = max([0, *(order.left for order in state.orders if order.owner == i)])
        yield (
            f"{name}: waits no longer; unknown",
            change(_release_lock(state, i), i, phase=Phase.FENCING_READ, wait=wait),
        )
    elif instance.phase is not Phase.PLACED and (instance.left or not model.rules.checks_local_clock):
        may_get_nonce = _may_get_nonce(state, i, model)
        yield from _use_nonce(state, i, model) if may_get_nonce else _step_down(state, i, "is refused as stale")


def _use_nonce(state: State, i: int, model: Model) -> Iterator[Transition]:
    """Request a nonce and use it; an order's nonce is used in a transition of its own."""
    instance, environment = state.instances[i], model.environment
    if instance.phase is Phase.FENCING_READ:
        passed = tuple(order for order in state.orders if _is_after(order, state, environment))
        margin = model.seconds.margin if model.rules.margin else 0
        fenced = change(state, i, phase=Phase.QUERY, wait=instance.wait + margin)
        accepted = fenced._replace(orders=passed) if model.rules.fencing_read else fenced
        yield f"{NAMES[i]}: the fencing read is accepted", accepted
    elif instance.phase is Phase.QUERY and not instance.wait:
        yield from _query(state, i, model)
    elif instance.phase is Phase.LEADING:
        below = tuple(order for order in state.orders if not (state.lost and order.is_beyond))
        order = Order(i, model.seconds.deadline, is_beyond=environment.nonces_too and state.replica is not None)
        orders = (*below, order, *state.orders[len(below) :])
        with_nonce = change(state, i, phase=Phase.NONCE_ISSUED)._replace(
            record=state.record._replace(lock_owner=i), orders=orders
        )
        yield f"{NAMES[i]}: gets the order's nonce", with_nonce


def _query(state: State, i: int, model: Model) -> Iterator[Transition]:
    is_there = state.accepted and state.accepted_owner in (NOBODY, i)
    if is_there:
        yield f"{NAMES[i]}: finds the order", change(state, i, phase=Phase.PLACED)
    if not is_there or state.hidden:
        # The instance's own orders are resolved too.
        orders = tuple(order._replace(owner=GONE) if order.owner == i else order for order in state.orders)
        resolved = change(state, i, phase=Phase.LEADING)._replace(orders=orders, absent_for=i)
        yield f"{NAMES[i]}: finds no order", resolved._replace(is_unknown=state.accepted > 0)


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
    fencing_token = state.instances[i].fencing_token
    stepped_down = set_instance(state, i, Instance())._replace(orders=drop_unsent_orders(state, i))
    yield f"{NAMES[i]}: {why}; is on standby", stepped_down
    if stepped_down.pending_release is None:
        yield (
            f"{NAMES[i]}: {why}; releases as not reconciled",
            stepped_down._replace(pending_release=PendingRelease(fencing_token, False)),
        )


def _release_lock(state: State, i: int) -> State:
    return state._replace(record=state.record._replace(lock_owner=NOBODY)) if state.record.lock_owner == i else state


# Kraken


def exchange_transitions(state: State, model: Model) -> Iterator[Transition]:
    """Yield the orders that Kraken can accept; its answer arrives or is lost."""
    for k, order in enumerate(state.orders):
        if not order.is_sent:
            continue
        rest = state.orders[k + 1 :]
        taken = state._replace(
            orders=rest if model.environment.enforces_nonce else state.orders[:k] + rest,
            accepted=state.accepted + 1,
            accepted_owner=NOBODY if model.rules.same_id else order.owner,
            hidden=model.seconds.margin,
            is_unknown=order.owner != state.absent_for,
        )
        yield f"Kraken: takes the order of {NAMES[order.owner]}; no answer", taken
        if order.owner != GONE and state.instances[order.owner].phase is Phase.SENT:
            read = change(_release_lock(taken, order.owner), order.owner, phase=Phase.PLACED)
            yield f"Kraken: takes the order of {NAMES[order.owner]}, which reads it", read


def _is_after(order: Order, state: State, environment: Environment) -> bool:
    """Return whether Kraken accepts an order although a nonce that is issued now arrived first."""
    return not environment.enforces_nonce or (state.lost and order.is_beyond)


# Time and accidents


def time_passes(state: State, model: Model) -> Iterator[Transition]:
    """Yield the next second, for all clocks or for all but one."""
    after = _advance_second(state, model)
    yield SECOND, after
    if model.environment.clocks_stand_still:
        for i in (0, 1):
            asleep = set_instance(after, i, state.instances[i])
            yield f"{SECOND}; the clock of {NAMES[i]} stands still", asleep


def _advance_second(state: State, model: Model) -> State:
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
    """Yield deaths, with and without a release of the lease, and what a store can lose."""
    for i in (0, 1):
        instance = state.instances[i]
        restarted = _restart(state, i, model)
        if restarted != state:
            yield f"{NAMES[i]}: dies and restarts", restarted
        if instance.phase is not Phase.STANDBY and state.pending_release is None:
            is_reconciled = instance.phase in (Phase.LEADING, Phase.PLACED) or not model.rules.clean_only_if_reconciled
            label = f"{NAMES[i]}: releases as {'reconciled' if is_reconciled else 'not reconciled'}; restarts"
            yield label, restarted._replace(pending_release=PendingRelease(instance.fencing_token, is_reconciled))
    if state.replica:
        yield "store: fails over", state._replace(record=state.replica, replica=None, lost=True)
    if model.environment.loss is Loss.ALL and not state.lost:
        yield "store: is wiped", state._replace(record=StoreRecord(), lost=True)


def _restart(state: State, i: int, model: Model) -> State:
    """Restart a process: a standby with another owner name, so nothing of the old one belongs to it."""
    orders = drop_unsent_orders(state, i)
    state = set_instance(state, i, Instance())._replace(orders=orders)
    if not model.rules.new_owner_name:
        return state
    return state._replace(
        orders=tuple(order._replace(owner=_retire_owner(order.owner, i)) for order in orders),
        accepted_owner=_retire_owner(state.accepted_owner, i),
        absent_for=_retire_owner(state.absent_for, i),
        record=_retire_record_owner(state.record, i),
        replica=state.replica and _retire_record_owner(state.replica, i),
    )


def _retire_owner(name: int, i: int) -> int:
    return GONE if name == i else name


def _retire_record_owner(record: StoreRecord, i: int) -> StoreRecord:
    return record._replace(owner=_retire_owner(record.owner, i), lock_owner=_retire_owner(record.lock_owner, i))

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
    PAST,
    Bad,
    Instance,
    LastWord,
    Loss,
    Move,
    Order,
    Phase,
    Row,
    Rules,
    Seconds,
    State,
    World,
    badness,
    change,
    left_behind,
    older,
    set_instance,
)
from tests.model.search import SECOND

LEADING = (Phase.LEADS, Phase.DRAWN, Phase.SENT, Phase.PLACED)


@dataclass(frozen=True)
class Model:
    """What is searched. `is_shortened`: whose lease is over stands by at once, and not only at any time."""

    rules: Rules = field(default_factory=Rules)
    world: World = field(default_factory=World)
    seconds: Seconds = field(default_factory=Seconds)
    is_shortened: bool = True

    def start(self) -> State:
        """Return the state to begin with: A leads, has settled, and B stands by."""
        leader = Instance(Phase.LEADS, generation=1, left=self.seconds.lifetime)
        return State((leader, Instance()), Row(owner=0, generation=1, left=self.seconds.lifetime), absent_to=0)

    def moves(self, state: State) -> Iterator[Move]:
        """Yield what can happen next, each with its name."""
        may_miss = self.world.loss is Loss.LATEST and not state.lost and state.replica is None
        for label, after in _writes(state, self):
            yield label, _shortened(after, state, self)
            if may_miss and after.row != state.row:
                yield f"{label}; the replica misses it", _shortened(after._replace(replica=state.row), state, self)
        for label, after in (*exchange_moves(state, self), *time_passes(state, self), *accidents(state, self)):
            yield label, _shortened(after, state, self)

    def badness(self, state: State) -> frozenset[Bad]:
        """Return what is wrong with a state."""
        return badness(state)

    def good_moves(self, state: State) -> Iterator[Move]:
        """Yield what can happen while both live and all answer: each does at once what is due."""
        due = [move for i in (0, 1) for move in _next_step(state, i, self)]
        time = [] if due else [(SECOND, _second(state, self))]
        for label, after in (*due, *_sign_off_arrives(state, self), *exchange_moves(state, self), *time):
            yield label, _shortened(after, state, self)

    def is_done(self, state: State) -> bool:
        """Whether an instance leads and has settled what was before."""
        row = state.row
        return row.left > 0 and any(
            row.owner == i and row.generation == me.generation and me.phase in LEADING
            for i, me in enumerate(state.instances)
        )


def _writes(state: State, model: Model) -> Iterator[Move]:
    for i in (0, 1):
        yield from lease_moves(state, i, model)
        yield from steps(state, i, model)
    yield from _sign_off_arrives(state, model)


def _next_step(state: State, i: int, model: Model) -> Iterator[Move]:
    """Yield the first thing that an instance can do which changes anything: each comes first as it is answered."""
    due = (move for move in (*lease_moves(state, i, model), *steps(state, i, model)) if move[1] != state)
    yield from list(due)[:1]


def _shortened(after: State, before: State, model: Model) -> State:
    """Leave out differences that make no difference any more, where the rules are such that they make none."""
    rules = model.rules
    if not rules.generations_never_repeat:
        return after
    if after.row.generation != before.row.generation or (after.replica is None) != (before.replica is None):
        after = _counted_anew(after)
    if not model.is_shortened or not rules.draw_checks_generation:
        return after
    may_go_on = not (rules.draw_checks_expiry and rules.over_is_over)
    for i, me in enumerate(after.instances):
        if me.generation and _is_over(after, me, model, may_go_on):
            after = set_instance(after, i, Instance())._replace(orders=left_behind(after, i))
    if may_go_on or not rules.grant_ends_turn:
        return after
    row, replica = _worn(after.row, after), after.replica and _worn(after.replica, after)
    if row is not after.row or replica is not after.replica:
        after = after._replace(row=row, replica=replica)
    return after


def _is_over(state: State, me: Instance, model: Model, may_go_on: bool) -> bool:
    """Whether a leader's lease can never come back, so that it can only find that out: then it does so at once."""
    if me.phase is Phase.DRAWN and (me.left or not model.rules.own_clock):
        return False  # it has an order in hand
    rows = (state.row, state.replica)
    return not any(row and row.generation == me.generation and (row.left or may_go_on) for row in rows)


def _worn(row: Row, state: State) -> Row:
    """Return the row without what nobody asks for any more once its lease has run out, a sign-off apart."""
    word = state.last_word
    if row.left or row.owner == NOBODY or (word and word.generation == row.generation):
        return row
    return Row(generation=row.generation)


def _counted_anew(state: State) -> State:
    """Name generations by whose they are, so that any number of them makes no more states.

    1 is the row's, 2 the replica's, PAST any other: one that never comes again.
    """
    row, replica, word = state.row, state.replica, state.last_word
    names = {0: 0, row.generation: min(row.generation, 1)}
    if replica:
        replica = replica._replace(generation=names.setdefault(replica.generation, 2))
    a, b = (me._replace(generation=names.get(me.generation, PAST)) for me in state.instances)
    return state._replace(
        instances=(a, b),
        row=row._replace(generation=names[row.generation]),
        replica=replica,
        last_word=word._replace(generation=names[word.generation]) if word and word.generation in names else None,
    )


# The store


def lease_moves(state: State, i: int, model: Model) -> Iterator[Move]:
    """Yield what an instance can do about the lease."""
    return (_acquire if state.instances[i].phase is Phase.STANDBY else _renew)(state, i, model)


def _sign_off_arrives(state: State, model: Model) -> Iterator[Move]:
    """Yield the arrival of a sign-off; it stays on its way, as if it were sent again."""
    word, row = state.last_word, state.row
    if word and row.owner != NOBODY and row.generation == word.generation:
        turn = NOBODY if model.rules.sign_off_ends_turn else row.turn
        ended = Row(generation=row.generation, settled=word.settled, turn=turn)
        yield "store: the sign-off arrives", state._replace(row=ended)


def _acquire(state: State, i: int, model: Model) -> Iterator[Move]:
    row, rules, lifetime = state.row, model.rules, model.seconds.lifetime
    if row.owner == i and (row.left or not rules.over_is_over):
        name, granted = "acquires its lease again", state._replace(row=row._replace(left=lifetime))
    elif not row.left:
        name, granted = "is granted the lease", _grant(state, i, model)
    else:
        return
    row = granted.row
    sent = max((order.left for order in state.orders if order.of == i), default=0)
    wait = max(sent, 0 if row.clean or not rules.waits_for_deadline else model.seconds.deadline)
    phase, wait = (Phase.FENCE, wait) if rules.settles else (Phase.LEADS, 0)
    leads = change(granted, i, phase=phase, generation=row.generation, left=lifetime, wait=wait)
    yield f"{NAMES[i]}: {name}{', clean' if row.clean else ''}", leads
    yield f"{NAMES[i]}: {name}; no answer", granted


def _grant(state: State, i: int, model: Model) -> State:
    row, rules = state.row, model.rules
    generation = NEW if rules.generations_never_repeat else row.generation + 1
    turn = NOBODY if rules.grant_ends_turn and row.owner != NOBODY else row.turn
    return state._replace(row=Row(i, generation, model.seconds.lifetime, clean=row.settled, turn=turn))


def _renew(state: State, i: int, model: Model) -> Iterator[Move]:
    row, me, lifetime = state.row, state.instances[i], model.seconds.lifetime
    if me.asked_late:
        yield f"{NAMES[i]}: reads the late answer", change(state, i, left=lifetime, asked_late=False)
    if row.generation == me.generation and row.owner != NOBODY and (row.left or not model.rules.over_is_over):
        renewed = state._replace(row=row._replace(left=lifetime))
        yield f"{NAMES[i]}: renews", change(renewed, i, left=lifetime)
        yield f"{NAMES[i]}: renews; no answer", change(renewed, i, asked_late=not model.rules.from_question)
    else:
        yield from _stand_by(state, i, "is not renewed")


def _may_draw(state: State, i: int, model: Model) -> bool:
    """Whether the store draws a nonce for an instance under its lease."""
    row, rules = state.row, model.rules
    is_same = row.generation == state.instances[i].generation or not rules.draw_checks_generation
    return is_same and bool(row.left or not rules.draw_checks_expiry)


# The instances


def steps(state: State, i: int, model: Model) -> Iterator[Move]:
    """Yield what an instance that leads, or thinks so, can do next."""
    me, name = state.instances[i], NAMES[i]
    if me.phase is Phase.STANDBY:
        return
    if not me.left:
        yield from _stand_by(state, i, "has not been renewed in time")
    if me.phase is Phase.DRAWN:
        yield from _send(state, i, model)
    elif me.phase is Phase.SENT:
        wait = max([0, *(order.left for order in state.orders if order.of == i)])
        yield f"{name}: waits no longer; unknown", change(_give_back(state, i), i, phase=Phase.FENCE, wait=wait)
    elif me.phase is not Phase.PLACED and (me.left or not model.rules.own_clock):
        may_draw = _may_draw(state, i, model)
        yield from _draw(state, i, model) if may_draw else _stand_by(state, i, "draws a stale nonce")


def _draw(state: State, i: int, model: Model) -> Iterator[Move]:
    """Draw a nonce and use it; that of an order is used in a move of its own."""
    me, world = state.instances[i], model.world
    if me.phase is Phase.FENCE:
        passed = tuple(order for order in state.orders if _is_after(order, state, world))
        margin = model.seconds.margin if model.rules.margin else 0
        fenced = change(state, i, phase=Phase.LOOK_UP, wait=me.wait + margin)
        accepted = fenced._replace(orders=passed) if model.rules.fence else fenced
        yield f"{NAMES[i]}: a read is accepted, the fence", accepted
    elif me.phase is Phase.LOOK_UP and not me.wait:
        yield from _look_up(state, i, model)
    elif me.phase is Phase.LEADS:
        below = tuple(order for order in state.orders if not (state.lost and order.is_beyond))
        order = Order(i, model.seconds.deadline, is_beyond=world.nonces_too and state.replica is not None)
        orders = (*below, order, *state.orders[len(below) :])
        drawn = change(state, i, phase=Phase.DRAWN)._replace(row=state.row._replace(turn=i), orders=orders)
        yield f"{NAMES[i]}: draws the order's nonce", drawn


def _look_up(state: State, i: int, model: Model) -> Iterator[Move]:
    is_there = state.accepted and state.accepted_of in (NOBODY, i)
    if is_there:
        yield f"{NAMES[i]}: finds the order", change(state, i, phase=Phase.PLACED)
    if not is_there or state.hidden:
        # Whatever it has sent itself is settled too.
        orders = tuple(order._replace(of=GONE) if order.of == i else order for order in state.orders)
        settled = change(state, i, phase=Phase.LEADS)._replace(orders=orders, absent_to=i)
        yield f"{NAMES[i]}: finds no order", settled._replace(is_unknown=state.accepted > 0)


def _send(state: State, i: int, model: Model) -> Iterator[Move]:
    me, deadline = state.instances[i], model.seconds.deadline
    if me.left or not model.rules.own_clock:
        orders = tuple(
            order._replace(is_sent=True, left=order.left if model.rules.deadline_from_draw else deadline)
            if order.of == i and not order.is_sent
            else order
            for order in state.orders
        )
        yield f"{NAMES[i]}: checks; the order leaves", change(state, i, phase=Phase.SENT)._replace(orders=orders)
    unsent = _give_back(state._replace(orders=left_behind(state, i)), i)
    yield f"{NAMES[i]}: does not send the order", change(unsent, i, phase=Phase.LEADS)


def _stand_by(state: State, i: int, why: str) -> Iterator[Move]:
    generation = state.instances[i].generation
    quiet = set_instance(state, i, Instance())._replace(orders=left_behind(state, i))
    yield f"{NAMES[i]}: {why}; stands by", quiet
    if quiet.last_word is None:
        yield f"{NAMES[i]}: {why}; signs off, unsettled", quiet._replace(last_word=LastWord(generation, False))


def _give_back(state: State, i: int) -> State:
    return state._replace(row=state.row._replace(turn=NOBODY)) if state.row.turn == i else state


# Kraken


def exchange_moves(state: State, model: Model) -> Iterator[Move]:
    """Yield the orders that can be taken; the answer comes back or is lost."""
    for k, order in enumerate(state.orders):
        if not order.is_sent:
            continue
        rest = state.orders[k + 1 :]
        taken = state._replace(
            orders=rest if model.world.enforces_nonce else state.orders[:k] + rest,
            accepted=state.accepted + 1,
            accepted_of=NOBODY if model.rules.same_id else order.of,
            hidden=model.seconds.margin,
            is_unknown=order.of != state.absent_to,
        )
        yield f"Kraken: takes the order of {NAMES[order.of]}; no answer", taken
        if order.of != GONE and state.instances[order.of].phase is Phase.SENT:
            read = change(_give_back(taken, order.of), order.of, phase=Phase.PLACED)
            yield f"Kraken: takes the order of {NAMES[order.of]}, which reads it", read


def _is_after(order: Order, state: State, world: World) -> bool:
    """Whether Kraken takes an order although a nonce that is drawn now came first."""
    return not world.enforces_nonce or (state.lost and order.is_beyond)


# Time and accidents


def time_passes(state: State, model: Model) -> Iterator[Move]:
    """Yield the next second, for all or all but one."""
    after = _second(state, model)
    yield SECOND, after
    if model.world.clocks_stand_still:
        for i in (0, 1):
            asleep = set_instance(after, i, state.instances[i])
            yield f"{SECOND}; the clock of {NAMES[i]} stands still", asleep


def _second(state: State, model: Model) -> State:
    orders = tuple(order._replace(left=max(-1, order.left - 1)) for order in state.orders)
    if model.world.enforces_deadline:
        orders = tuple(order for order in orders if order.left >= 0 or not order.is_sent)
    a, b = (me._replace(left=max(0, me.left - 1), wait=max(0, me.wait - 1)) for me in state.instances)
    return state._replace(
        instances=(a, b),
        row=older(state.row),
        replica=state.replica and older(state.replica),
        orders=orders,
        hidden=max(0, state.hidden - 1),
    )


def accidents(state: State, model: Model) -> Iterator[Move]:
    """Yield deaths, with and without a last word, and what a store can lose."""
    for i in (0, 1):
        me = state.instances[i]
        dead = _dead(state, i, model)
        if dead != state:
            yield f"{NAMES[i]}: dies and restarts", dead
        if me.phase is not Phase.STANDBY and state.last_word is None:
            settled = me.phase in (Phase.LEADS, Phase.PLACED) or not model.rules.clean_only_if_settled
            name = f"{NAMES[i]}: signs off, {'settled' if settled else 'unsettled'}; ends and restarts"
            yield name, dead._replace(last_word=LastWord(me.generation, settled))
    if state.replica:
        yield "store: fails over", state._replace(row=state.replica, replica=None, lost=True)
    if model.world.loss is Loss.ALL and not state.lost:
        yield "store: is wiped", state._replace(row=Row(), lost=True)


def _dead(state: State, i: int, model: Model) -> State:
    """Start a process anew: a standby that has another name, so that what was the old one's is nobody's here."""
    orders = left_behind(state, i)
    state = set_instance(state, i, Instance())._replace(orders=orders)
    if not model.rules.new_name:
        return state
    return state._replace(
        orders=tuple(order._replace(of=_renamed(order.of, i)) for order in orders),
        accepted_of=_renamed(state.accepted_of, i),
        absent_to=_renamed(state.absent_to, i),
        row=_renamed_row(state.row, i),
        replica=state.replica and _renamed_row(state.replica, i),
    )


def _renamed(name: int, i: int) -> int:
    return GONE if name == i else name


def _renamed_row(row: Row, i: int) -> Row:
    return row._replace(owner=_renamed(row.owner, i), turn=_renamed(row.turn, i))

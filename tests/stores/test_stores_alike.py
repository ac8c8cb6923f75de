"""Redis and PostgreSQL do as the plain Python does, step by step, while the server's clock is moved at random."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest

from bot.base.clock import DAY_US
from bot.nonce.store_protocol import Drawn, Engine, Lease, Outcome, Row
from tests.stores.key_rows import HIGHEST, drawn, lead, wish
from tests.stores.memory_store import MemoryEngine
from tests.stores.moved_clocks import SECOND_US, MovedClock

SEED = 20261123
STEPS = 40
# Redis' clock cannot be stopped. All moves and lifetimes are multiples of 10 s, so what takes less than the second that
# whoever is next stays so is the same as on a clock that stands still.
EPISODE_US_MAX = 800_000


class Reference(MemoryEngine):
    """The plain Python, which like the others writes nothing when it is looked at."""

    def look(self) -> Row | None:
        """Look, and leave everything as it was."""
        kept = replace(self._turn), replace(self._next), replace(self._lease)
        row = super().look()
        self._turn, self._next, self._lease = kept
        return row


@dataclass
class Side:
    """One engine, and the generations that it has granted: they are compared by their order."""

    engine: Engine
    generations: list[int] = field(default_factory=list)

    def lease(self, lease: Lease) -> tuple[str, int, int, bool]:
        """Return what must be equal on both sides."""
        if lease.generation not in self.generations:
            self.generations.append(lease.generation)
        rank = self.generations.index(lease.generation)
        return lease.owner, rank, round(lease.remaining_seconds / 10), lease.clean

    def row(self, row: Row | None) -> object:
        """Return what must be equal on both sides."""
        return row and (row.nonce, self.lease(row.lease), row.turn_owner)

    def generation(self, back: int) -> int:
        """Return the newest generation (0), one before it, or one that never was; they rise on either side."""
        return sorted(self.generations)[-1 - back] if back < len(self.generations) else 5


class Player:
    """Plays the same random steps on both sides and compares the answers."""

    def __init__(self, moved: MovedClock, seed: int) -> None:
        self._random = random.Random(seed)
        self._now_us = moved.now_us()
        self._moved = moved
        self._sides = [Side(Reference(lambda: self._now_us)), Side(moved.engine)]
        self._nonces = [1]
        # So far ahead that the clock has no say in it, as one that cannot be stopped would say something else.
        self._start = self._now_us + 10 * DAY_US
        # Whether what is refused as AHEAD notices that the clock was set back is left open, so it is one or the other.
        self._set_back = bool(seed % 2)
        self.story: list[str] = []

    def play(self) -> bool:
        """Return whether both sides gave the same answers."""
        floor = wish(floor=self._start)
        if not self._same("draw the first", *(side.engine.draw(floor) for side in self._sides)):
            return False
        kinds = [self._draw, self._take, self._take, self._give_back, self._acquire]
        kinds += [self._renew, self._sign_off, self._look, self._move]
        return all(self._random.choice(kinds)() for _ in range(STEPS))

    def _same(self, step: str, one: object, other: object) -> bool:
        self.story.append(f"{step}: {one}" if one == other else f"{step}: {one} but {other}")
        return one == other

    def _wishes(self) -> list[tuple[Side, int, int, int]]:
        floor = self._random.choice([0, self._start + self._random.randrange(300)])
        near = self._start + self._random.randrange(300)
        ceiling = HIGHEST if self._set_back else self._random.choice([HIGHEST, HIGHEST, HIGHEST, near])
        back = self._random.choice([-1, 0, 0, 1, 9])
        return [(side, floor, ceiling, 0 if back < 0 else side.generation(back)) for side in self._sides]

    def _lifetime(self) -> float:
        return self._random.choice([10.0, 20.0, 60.0])

    def _remember(self, answers: list[Drawn]) -> list[Drawn]:
        if answers[0].nonce:
            self._nonces.append(answers[0].nonce)
        return answers

    def _draw(self) -> bool:
        wishes = self._wishes()
        answers = [side.engine.draw(wish(floor, ceiling, 1, one)) for side, floor, ceiling, one in wishes]
        return self._same("draw", *self._remember(answers))

    def _take(self) -> bool:
        # Who has waited longest is left open where the clock was set back since; so then there is one taker.
        owner = "a" if self._set_back else self._random.choice("abc")
        lifetime, waited = self._lifetime(), self._random.choice([0.0, 10.0])
        wishes = self._wishes()
        answers = [
            side.engine.take(wish(floor, ceiling, 1, one), owner, lifetime, waited)
            for side, floor, ceiling, one in wishes
        ]
        return self._same(f"{owner} takes for {lifetime} s after {waited} s", *self._remember(answers))

    def _give_back(self) -> bool:
        nonce = self._random.choice(self._nonces[-3:])
        for side in self._sides:
            side.engine.give_back(nonce)
        self.story.append(f"give back {nonce}")
        return self._look()

    def _acquire(self) -> bool:
        owner, lifetime = self._random.choice("abc"), self._lifetime()
        leases = [side.lease(side.engine.acquire(owner, lifetime)) for side in self._sides]
        return self._same(f"{owner} acquires for {lifetime} s", *leases)

    def _renew(self) -> bool:
        back, lifetime = self._random.choice([0, 0, 1]), self._lifetime()
        renewed = [side.engine.renew(side.generation(back), lifetime) for side in self._sides]
        return self._same(f"renew for {lifetime} s", *renewed)

    def _sign_off(self) -> bool:
        back, settled = self._random.choice([0, 0, 1]), self._random.random() < 0.5
        for side in self._sides:
            side.engine.sign_off(side.generation(back), settled)
        self.story.append(f"sign off {back} back, settled {settled}")
        return self._look()

    def _look(self) -> bool:
        return self._same("look", *(side.row(side.engine.look()) for side in self._sides))

    def _move(self) -> bool:
        back = [-60, -30, -10] if self._set_back else []
        step_us = self._random.choice([*back, 10, 20, 40]) * SECOND_US
        self._now_us += step_us
        self._moved.move(step_us)
        self.story.append(f"the server's clock moves by {step_us // SECOND_US} s")
        return True


def test_alike(moved_clock: MovedClock, full_size: bool) -> None:
    """Random steps of three owners have the same outcomes, while the server's clock is moved to and fro."""
    episodes = 1000 if full_size else 12
    for seed in range(SEED, SEED + episodes):
        for _ in range(10):
            moved_clock.lose()
            began_us = moved_clock.real_us()
            player = Player(moved_clock, seed)
            alike = player.play()
            if alike or moved_clock.real_us() - began_us < EPISODE_US_MAX:
                break
        assert alike, "\n".join([f"seed {seed}", *player.story])


def test_a_clock_set_back(moved_clock: MovedClock) -> None:
    """Where the server's clock is set back by an hour, nonces go on above the last, and a turn and a lease are over
    within one lifetime from when that is noticed."""
    engine = moved_clock.engine
    generation = lead(engine, "a", 20.0).generation
    nonce = drawn(engine.take(wish(), "script", 20.0))
    moved_clock.move(-3600 * SECOND_US)
    assert drawn(engine.draw(wish(generation=generation))) == nonce + 1
    assert engine.acquire("b", 20.0).remaining_seconds <= 20.0
    assert engine.take(wish(), "b", 20.0).outcome is Outcome.NEXT
    moved_clock.move(20 * SECOND_US)
    assert engine.draw(wish(generation=generation)).outcome is Outcome.STALE
    assert lead(engine, "b", 20.0).generation == generation + 1
    assert drawn(engine.take(wish(), "b", 20.0)) == nonce + 2


@pytest.mark.parametrize("step", ["draw", "take", "acquire", "take in vain"])
def test_a_clock_set_back_is_noticed(moved_clock: MovedClock, step: str) -> None:
    """Whatever step notices first that the server's clock was set back, the lease is over one lifetime later."""
    engine = moved_clock.engine
    generation = lead(engine, "a", 20.0).generation
    drawn(engine.take(wish(), "script" if step == "take in vain" else "a", 3600.0))
    moved_clock.move(-3600 * SECOND_US)
    if step == "draw":
        drawn(engine.draw(wish(generation=generation)))
    elif step == "acquire":
        assert engine.acquire("b", 20.0).owner == "a"
    else:
        engine.take(wish(generation=generation), "a", 3600.0)
    moved_clock.move(20 * SECOND_US)
    assert engine.draw(wish(generation=generation)).outcome is Outcome.STALE


def test_being_next_ends_though_the_clock_was_set_back(moved_clock: MovedClock) -> None:
    """Who is next when the server's clock is set back is next for no longer than a second after that is noticed."""
    engine = moved_clock.engine
    drawn(engine.take(wish(), "a", 20.0))
    # So that the turn's own end is within its lifetime all the same.
    moved_clock.move(6 * SECOND_US)
    assert engine.take(wish(), "b", 20.0, 10.0).outcome is Outcome.NEXT
    moved_clock.move(-5 * SECOND_US)
    assert engine.take(wish(), "c", 20.0).outcome is Outcome.BUSY
    moved_clock.move(11 * SECOND_US // 10)
    assert engine.take(wish(), "c", 20.0).outcome is Outcome.NEXT


def test_a_look_does_not_notice(moved_clock: MovedClock) -> None:
    """Looking writes nothing: a lease whose server's clock was set back counts one lifetime at every look."""
    engine = moved_clock.engine
    lead(engine, "a", 20.0)
    moved_clock.move(-3600 * SECOND_US)
    for _ in range(2):
        row = engine.look()
        assert row is not None
        assert row.lease.remaining_seconds == pytest.approx(20.0, abs=1.0)
        moved_clock.move(60 * SECOND_US)


def test_a_clock_set_forward(moved_clock: MovedClock) -> None:
    """Where the server's clock is set forward by an hour, turn and lease are over at once, and what is drawn is new."""
    engine = moved_clock.engine
    former = lead(engine, "a", 20.0)
    nonce = drawn(engine.take(wish(), "script", 20.0))
    moved_clock.move(3600 * SECOND_US)
    assert engine.draw(wish(generation=former.generation)).outcome is Outcome.STALE
    assert lead(engine, "b", 20.0).generation >= former.generation + 3600 * SECOND_US
    assert drawn(engine.take(wish(), "b", 20.0)) >= nonce + 3600 * SECOND_US


def test_who_is_next_stays_next_while_it_asks(moved_clock: MovedClock) -> None:
    """Being next ends a second after it was begun, but not for one that asks again in the second half of it."""
    engine = moved_clock.engine
    drawn(engine.take(wish(), "a", 20.0))
    assert engine.take(wish(), "b", 20.0).outcome is Outcome.NEXT
    for _ in range(3):
        moved_clock.move(6 * SECOND_US // 10)
        assert engine.take(wish(), "c", 20.0).outcome is Outcome.BUSY
        assert engine.take(wish(), "b", 20.0).outcome is Outcome.NEXT
    moved_clock.move(11 * SECOND_US // 10)
    assert engine.take(wish(), "c", 20.0).outcome is Outcome.NEXT

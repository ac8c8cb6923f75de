"""Killed between every two steps of an order's life, and then at random, the bot doubles no order and loses none."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bot.kraken import order_requests
from bot.simulator.options import SimulatorOptions
from bot.simulator.server import Simulator
from tests.acceptance.journal_comparison import check_books
from tests.acceptance.order_kill_child import BOT_ID, CANDLE_SECONDS, START, STRATEGY, Plan, SharedClock, Signal
from tests.acceptance.order_kill_steps import PAST_STEPS, STEPS
from tests.child_process import Child
from tests.simulator_parts import DrawnPrices

SEED = 20_261_123
ATTEMPTS = 10
BALANCES = {"ZUSD": "1000000", "XXBT": "10", "XETH": "10"}
# Each fills some of what rests; the others expire or are cancelled.
FIRST_DIP_SECONDS, DIP_EVERY_SECONDS = 400, 420

# How many signals have their orders before the life that is killed; the next one in it rests, is to be cancelled,
# sells, or buys. The life after it has all signals again.
BEFORE = (1, 2, 3, 4)
IN_ALL = 7
CASES = [(step, fault) for step, faults in STEPS.items() for fault in faults]

# At random: the chance for every private request, or fill; and what happens to one order, or one cancel, of a life.
RATES = {
    "answer_502": 0.02,
    "reset": 0.02,
    "half_body": 0.01,
    "no_answer": 0.02,
    "delayed": 0.03,
    "duplicated_first": 0.1,
    "duplicated_second": 0.02,
    "unavailable_executed": 0.01,
    "partial_fill": 0.3,
}
ORDER_FAULTS = (
    *("answer_502", "reset", "half_body", "html", "no_answer", "delayed", "queued", "slow", "deadline_elapsed"),
    *("refuse_502", "unavailable", "unavailable_executed", "gateway_limit", "gateway_limit_executed", "foreign_nonce"),
)
CANCEL_FAULTS = ("cancel_race", "no_answer", "delayed", "refuse_502", "unavailable_executed")


class World:
    """A Kraken that outlives every life of the bot, and the disk that the bot lives on."""

    def __init__(self, simulator: Simulator, clock: SharedClock, folder: Path, lives: Child) -> None:
        self.simulator = simulator
        self.clock = clock
        self._folder = folder
        self._lives = lives
        self._disks = 0
        self.new_disk()

    def new_disk(self) -> None:
        """Let the next life start with an empty state folder."""
        self._disks += 1
        self.state = self._folder / f"disk{self._disks}"
        self.state.mkdir()

    def live(
        self, last: int, *, first: int = 0, step: str = "", times: int = 1, kill_after_seconds: float = 0.0
    ) -> str:
        """Let the bot live once, for the signals from `first` up to but not `last`; return how it ended."""
        plan = Plan(
            self.simulator.url,
            self.simulator.key,
            self.simulator.secret,
            str(self.state),
            str(self._folder / "clock"),
            first,
            last,
            step,
            times,
            kill_after_seconds,
        )
        self._lives.tell(plan.line())
        return self._lives.line()

    def check(self, signals: int) -> None:
        """Fail unless each signal has one order, under a name of its own, and the journal equals the exchange."""
        check_books(self.simulator, self.state)
        there = self.simulator.orders_by_client_id()
        placed = [[name for name in names_of(Signal(number)) if name in there] for number in range(signals)]
        assert [len(names) for names in placed] == [1] * signals
        assert {name for names in placed for name in names} == there.keys()


def names_of(signal: Signal) -> list[str]:
    """Return the `cl_ord_id` of each attempt at a signal, computed here and not where it was sent."""
    wanted = signal.wanted()
    return [
        order_requests.client_order_id(
            BOT_ID, wanted.symbol, STRATEGY, wanted.candle_seconds, kind=wanted.kind, attempt=attempt
        )
        for attempt in range(ATTEMPTS)
    ]


@pytest.fixture(scope="module")
def lives() -> Iterator[Child]:
    """Start the process that the lives are forked from."""
    with Child("tests.acceptance.order_kill_child", limit_seconds=3000) as child:
        yield child


@contextmanager
def open_world(folder: Path, lives: Child, candles: int = 60) -> Iterator[World]:
    """Open a local Kraken whose look-ups lag by 3 s, on a clock that only moves when somebody waits."""
    folder.mkdir(exist_ok=True)
    clock = SharedClock.begin(folder / "clock", START)
    points = [(0.0, "50000")]
    for dip in range(FIRST_DIP_SECONDS, candles * CANDLE_SECONDS, DIP_EVERY_SECONDS):
        points += [(dip - 1.0, "50000"), (dip, "39000"), (dip + 1.0, "50000")]
    options = SimulatorOptions(
        balances=BALANCES,
        seed=SEED,
        slow_seconds=0.5,
        delay_seconds=6.0,
        queue_seconds=7.9,
        open_lag_seconds=3.0,
        closed_lag_seconds=3.0,
    )
    with Simulator(options, clock, DrawnPrices(*points)) as simulator:
        yield World(simulator, clock, folder, lives)


@pytest.mark.parametrize("disk", ["same disk", "empty disk"])
@pytest.mark.parametrize(("step", "fault"), CASES, ids=lambda value: value or "no fault")
def test_killed_at_a_step_the_next_life_ends_with_one_order_a_signal(
    tmp_path: Path, lives: Child, full_size: bool, step: str, fault: str, disk: str
) -> None:
    """After a kill at this step each signal has exactly one order in the end, and journal and exchange agree."""
    drawn = random.Random(f"{SEED} {step} {fault} {disk}").choice(BEFORE)
    for before in BEFORE if full_size else (drawn,):
        with open_world(tmp_path / str(before), lives) as world:
            assert world.live(before) == "done"
            if fault:
                world.simulator.faults.fire_next(fault, "CancelOrder" if step.startswith("cancel") else "AddOrder")
            assert world.live(IN_ALL, step=step) == "killed", f"signals before: {before}"
            if disk == "empty disk":
                world.new_disk()
            assert world.live(IN_ALL) == "done", f"signals before: {before}"
            world.check(IN_ALL)


@pytest.mark.parametrize("disk", ["same disk", "empty disk"])
@pytest.mark.parametrize(("step", "fault"), PAST_STEPS.items())
def test_killed_while_it_awaits_the_past_the_next_life_ends_with_one_order_a_signal(
    tmp_path: Path, lives: Child, step: str, fault: str, disk: str
) -> None:
    """Killed with an order under way, and again on an empty disk: each signal has exactly one order in the end."""
    with open_world(tmp_path, lives) as world:
        assert world.live(BEFORE[0]) == "done"
        world.simulator.faults.fire_next(fault, "AddOrder")
        assert world.live(IN_ALL, step="unknown written") == "killed"
        world.new_disk()
        assert world.live(IN_ALL, step=step) == "killed"
        if disk == "empty disk":
            world.new_disk()
        assert world.live(IN_ALL) == "done"
        world.check(IN_ALL)


@pytest.mark.parametrize(("step", "orders_there"), [("written down", 0), ("half sent", 0), ("answered", 1)])
def test_a_kill_comes_before_or_after_the_exchange_has_the_order(
    tmp_path: Path, lives: Child, step: str, orders_there: int
) -> None:
    """Killed before the last byte of the order has left, the exchange has none; after the answer has come, it has."""
    with open_world(tmp_path, lives) as world:
        assert world.live(1, step=step) == "killed"
        # A life without signals, which only settles: whatever had left has arrived by then.
        assert world.live(0) == "done"
        assert len(world.simulator.orders_by_client_id()) == orders_there


def test_killed_at_random_it_doubles_nothing_and_loses_nothing(tmp_path: Path, lives: Child, full_size: bool) -> None:
    """Killed at random steps and moments, under faults, each fifth time losing its disk: one order a signal."""
    chance, kills_wanted = random.Random(SEED), 200 if full_size else 10
    with open_world(tmp_path, lives, candles=10 * kills_wanted) as world:
        kills, last = 0, 0
        while kills < kills_wanted:
            last += 2
            plan_faults(world, chance)
            ended = world.live(last, first=max(0, last - 8), **a_death(chance))
            assert ended in ("killed", "done"), f"seed {SEED}, signals {last}"
            if ended == "killed":
                kills += 1
                if kills % 5 == 0:
                    world.new_disk()
            world.clock.wait(chance.uniform(0.0, 20.0), threading.Event())
        for name in RATES:
            world.simulator.faults.set_rate(name, 0.0)
        assert world.live(last) == "done", f"seed {SEED}"
        print(f"seed {SEED}, {last} signals, {kills} kills, {dict(world.simulator.faults.fired)}")
        world.check(last)


def plan_faults(world: World, chance: random.Random) -> None:
    """Let things go wrong in the next life."""
    for name, rate in RATES.items():
        world.simulator.faults.set_rate(name, rate)
    if chance.random() < 0.7:
        world.simulator.faults.fire_next(chance.choice(ORDER_FAULTS), "AddOrder")
    if chance.random() < 0.3:
        world.simulator.faults.fire_next(chance.choice(CANCEL_FAULTS), "CancelOrder")


def a_death(chance: random.Random) -> dict[str, Any]:
    """Return how a life is to end: at a step, at its first, second or third time, or at a moment of real time."""
    if chance.random() < 0.5:
        return {"step": chance.choice([*STEPS, *PAST_STEPS]), "times": chance.choice([1, 1, 2, 3])}
    return {"kill_after_seconds": chance.uniform(0.01, 0.3)}

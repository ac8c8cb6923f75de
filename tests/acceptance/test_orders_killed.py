"""Killed at every step of placing an order, and then at random, the bot duplicates no order and loses none."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bot.kraken import new_order
from bot.simulator.options import SimulatorOptions
from bot.simulator.server import Simulator
from tests.acceptance.journal_comparison import check_journal_against_exchange
from tests.acceptance.order_kill_child import BOT_ID, CANDLE_SECONDS, START, STRATEGY, RunPlan, SharedClock, Signal
from tests.acceptance.order_kill_steps import HISTORY_STEPS, STEPS
from tests.child_process import Child
from tests.simulator_parts import ScriptedPrices

SEED = 20_261_123
ATTEMPTS = 10
BALANCES = {"ZUSD": "1000000", "XXBT": "10", "XETH": "10"}
# Each dip fills some resting orders; the others expire or are canceled.
FIRST_DIP_SECONDS, DIP_INTERVAL_SECONDS = 400, 420

# How many signals have their orders before the run that is killed; its next one rests, is to be canceled, sells, or
# buys. The run after it has all signals again.
SIGNALS_BEFORE_KILL = (1, 2, 3, 4)
TOTAL_SIGNALS = 7
CASES = [(step, fault) for step, faults in STEPS.items() for fault in faults]

# For random kills: the fault rates of every private request or fill, and the faults of one order or cancel of a run.
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


class KillScenario:
    """A Kraken that outlives every run of the bot, and the disk of the bot."""

    def __init__(self, simulator: Simulator, clock: SharedClock, folder: Path, run_host: Child) -> None:
        self.simulator = simulator
        self.clock = clock
        self._folder = folder
        self._run_host = run_host
        self._disk_count = 0
        self.new_disk()

    def new_disk(self) -> None:
        """Let the next run start with an empty state folder."""
        self._disk_count += 1
        self.state = self._folder / f"disk{self._disk_count}"
        self.state.mkdir()

    def run_bot(
        self, last: int, *, first: int = 0, step: str = "", kill_at_visit: int = 1, kill_after_seconds: float = 0.0
    ) -> str:
        """Run the bot once for the signals from `first` up to but not `last`; return how it ended."""
        plan = RunPlan(
            self.simulator.url,
            self.simulator.key,
            self.simulator.secret,
            str(self.state),
            str(self._folder / "clock"),
            first,
            last,
            step,
            kill_at_visit,
            kill_after_seconds,
        )
        self._run_host.write_line(plan.to_json())
        return self._run_host.read_line()

    def check(self, signals: int) -> None:
        """Fail unless each signal has one order, with an id of its own, and the journal equals the exchange."""
        check_journal_against_exchange(self.simulator, self.state)
        exchange_orders = self.simulator.orders_by_client_id()
        placed = [
            [cl_ord_id for cl_ord_id in client_order_ids_of(Signal(number)) if cl_ord_id in exchange_orders]
            for number in range(signals)
        ]
        assert [len(ids) for ids in placed] == [1] * signals
        assert {cl_ord_id for ids in placed for cl_ord_id in ids} == exchange_orders.keys()


def client_order_ids_of(signal: Signal) -> list[str]:
    """Return the client order id of each attempt at a signal, computed independently of the bot."""
    order_request = signal.order_request()
    return [
        new_order.client_order_id(
            BOT_ID,
            order_request.symbol,
            STRATEGY,
            order_request.candle_seconds,
            kind=order_request.kind,
            attempt=attempt,
        )
        for attempt in range(ATTEMPTS)
    ]


@pytest.fixture(scope="module")
def run_host() -> Iterator[Child]:
    """Start the process from which the runs are forked."""
    with Child("tests.acceptance.order_kill_child", limit_seconds=3000) as child:
        yield child


@contextmanager
def open_scenario(folder: Path, run_host: Child, candles: int = 60) -> Iterator[KillScenario]:
    """Open a local Kraken with a query lag of up to 3 s, on a clock that moves only when a process waits."""
    folder.mkdir(exist_ok=True)
    clock = SharedClock.create(folder / "clock", START)
    points = [(0.0, "50000")]
    for dip in range(FIRST_DIP_SECONDS, candles * CANDLE_SECONDS, DIP_INTERVAL_SECONDS):
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
    with Simulator(options, clock, ScriptedPrices(*points)) as simulator:
        yield KillScenario(simulator, clock, folder, run_host)


@pytest.mark.parametrize("disk", ["same disk", "empty disk"])
@pytest.mark.parametrize(("step", "fault"), CASES, ids=lambda value: value or "no fault")
def test_kill_at_any_step_leaves_one_order_per_signal_after_restart(
    tmp_path: Path, run_host: Child, full_size: bool, step: str, fault: str, disk: str
) -> None:
    """After a kill at this step each signal has exactly one order, and journal and exchange agree."""
    chosen = random.Random(f"{SEED} {step} {fault} {disk}").choice(SIGNALS_BEFORE_KILL)
    for signals_before in SIGNALS_BEFORE_KILL if full_size else (chosen,):
        with open_scenario(tmp_path / str(signals_before), run_host) as scenario:
            assert scenario.run_bot(signals_before) == "done"
            if fault:
                scenario.simulator.faults.fire_next(fault, "CancelOrder" if step.startswith("cancel") else "AddOrder")
            assert scenario.run_bot(TOTAL_SIGNALS, step=step) == "killed", f"signals before: {signals_before}"
            if disk == "empty disk":
                scenario.new_disk()
            assert scenario.run_bot(TOTAL_SIGNALS) == "done", f"signals before: {signals_before}"
            scenario.check(TOTAL_SIGNALS)


@pytest.mark.parametrize("disk", ["same disk", "empty disk"])
@pytest.mark.parametrize(("step", "fault"), HISTORY_STEPS.items())
def test_kill_during_startup_reconciliation_leaves_one_order_per_signal(
    tmp_path: Path, run_host: Child, step: str, fault: str, disk: str
) -> None:
    """Killed with an order in flight, and again on an empty disk, the bot leaves exactly one order per signal."""
    with open_scenario(tmp_path, run_host) as scenario:
        assert scenario.run_bot(SIGNALS_BEFORE_KILL[0]) == "done"
        scenario.simulator.faults.fire_next(fault, "AddOrder")
        assert scenario.run_bot(TOTAL_SIGNALS, step="unknown recorded") == "killed"
        scenario.new_disk()
        assert scenario.run_bot(TOTAL_SIGNALS, step=step) == "killed"
        if disk == "empty disk":
            scenario.new_disk()
        assert scenario.run_bot(TOTAL_SIGNALS) == "done"
        scenario.check(TOTAL_SIGNALS)


@pytest.mark.parametrize(
    ("step", "expected_orders"), [("marked as sent", 0), ("half sent", 0), ("response received", 1)]
)
def test_kill_before_last_byte_places_no_order_and_after_answer_places_one(
    tmp_path: Path, run_host: Child, step: str, expected_orders: int
) -> None:
    """After a kill before the order's last byte the exchange has no order; after one with the response received it
    has."""
    with open_scenario(tmp_path, run_host) as scenario:
        assert scenario.run_bot(1, step=step) == "killed"
        # A run without signals only reconciles; every sent order has arrived by its end.
        assert scenario.run_bot(0) == "done"
        assert len(scenario.simulator.orders_by_client_id()) == expected_orders


def test_random_kills_neither_duplicate_nor_lose_orders(tmp_path: Path, run_host: Child, full_size: bool) -> None:
    """Killed at random steps and times under faults, with an empty disk after each fifth kill, the bot leaves one order
    per signal."""
    rng, kills_wanted = random.Random(SEED), 200 if full_size else 10
    with open_scenario(tmp_path, run_host, candles=10 * kills_wanted) as scenario:
        kills, last = 0, 0
        while kills < kills_wanted:
            last += 2
            plan_faults(scenario, rng)
            outcome = scenario.run_bot(last, first=max(0, last - 8), **random_kill(rng))
            assert outcome in ("killed", "done"), f"seed {SEED}, signals {last}"
            if outcome == "killed":
                kills += 1
                if kills % 5 == 0:
                    scenario.new_disk()
            scenario.clock.wait(rng.uniform(0.0, 20.0), threading.Event())
        for name in RATES:
            scenario.simulator.faults.set_rate(name, 0.0)
        assert scenario.run_bot(last) == "done", f"seed {SEED}"
        print(f"seed {SEED}, {last} signals, {kills} kills, {dict(scenario.simulator.faults.fired_counts)}")
        scenario.check(last)


def plan_faults(scenario: KillScenario, rng: random.Random) -> None:
    """Set the faults of the next run."""
    for name, rate in RATES.items():
        scenario.simulator.faults.set_rate(name, rate)
    if rng.random() < 0.7:
        scenario.simulator.faults.fire_next(rng.choice(ORDER_FAULTS), "AddOrder")
    if rng.random() < 0.3:
        scenario.simulator.faults.fire_next(rng.choice(CANCEL_FAULTS), "CancelOrder")


def random_kill(rng: random.Random) -> dict[str, Any]:
    """Return how a run ends: at the first, second or third visit of a step, or after some real time."""
    if rng.random() < 0.5:
        return {"step": rng.choice([*STEPS, *HISTORY_STEPS]), "kill_at_visit": rng.choice([1, 1, 2, 3])}
    return {"kill_after_seconds": rng.uniform(0.01, 0.3)}

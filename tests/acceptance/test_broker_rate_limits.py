"""One key, many processes: they share its rate counters, its pauses, and the probe after a silence."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from bot import broker_manager
from bot.base.clock import MarketClock, boottime_seconds, wall_seconds, wall_us
from bot.base.errors import OrderRefusedError, RateLimitError
from bot.base.paths import key_file
from bot.kraken.rate_counters import STARTER
from bot.simulator.options import SimulatorOptions
from tests.acceptance.broker_tools import ORDER, Desk, child, in_threads, open_desk, wait_for
from tests.child_process import Child

pytestmark = pytest.mark.usefixtures("nonce_file")

SPEED = 20.0
PROCESSES, READS = 4, 8
RATE_LIMIT = "EAPI:Rate limit exceeded"


def read_in_processes(desk: Desk, folder: Path, budgets: list[str]) -> list[str]:
    """Let a process for each of the budgets read as fast as it may; return what they said."""
    start, boot = desk.clock.now(), boottime_seconds()
    pair = (desk.simulator.key, desk.simulator.secret)
    with ExitStack() as stack:
        children = [
            stack.enter_context(
                Child(
                    "tests.acceptance.rate_limit_child",
                    *(desk.simulator.url, *pair, start, boot, SPEED, READS, budget),
                    environment={"STATE_DIR": str(folder)},
                )
            )
            for budget in budgets
        ]
        for process in children:
            process.expect("ready")
        for process in children:
            process.tell("go")
        return [line for process in children for line in process.rest()]


def test_processes_on_one_key_never_meet_its_rate_limit(tmp_path: Path) -> None:
    """Four processes that read as fast as they may, twice the allowance at once, are never refused by Kraken."""
    with open_desk(SimulatorOptions(tier="starter"), MarketClock(wall_seconds(), SPEED)) as desk:
        assert read_in_processes(desk, tmp_path, ["shared"] * PROCESSES) == ["ok"] * PROCESSES * READS
        assert [row.error for row in desk.rows()] == [""] * PROCESSES * READS


def test_processes_that_count_for_themselves_meet_it(tmp_path: Path) -> None:
    """The same four processes, each with a budget of its own, are refused by Kraken."""
    with open_desk(SimulatorOptions(tier="starter"), MarketClock(wall_seconds(), SPEED)) as desk:
        budgets = [str(tmp_path / f"own.{number}") for number in range(PROCESSES)]
        assert "RateLimitError" in read_in_processes(desk, tmp_path, budgets)
        assert RATE_LIMIT in [row.error for row in desk.rows()]


def test_calls_that_waited_for_their_turn_do_not_arrive_all_at_once() -> None:
    """After an answer that took 10 s of the market's time, the threads that wait behind it are never refused."""
    options = SimulatorOptions(tier="starter", slow_seconds=10.0 / SPEED)
    with open_desk(options, MarketClock(wall_seconds(), SPEED), tier=STARTER) as desk:
        desk.simulator.faults.fire_next("slow", "BalanceEx")
        assert in_threads(20, lambda: desk.broker.private_call("BalanceEx")) == []
        assert [row.error for row in desk.rows()] == [""] * 20


@pytest.mark.parametrize("method", ["BalanceEx", "CancelAll", "AddOrder"])
def test_what_is_throttled_pauses_every_sender(method: str) -> None:
    """After `EService:Throttled` nothing is sent by any broker of the key before the moment that Kraken named."""
    with open_desk() as desk:
        other = desk.open_broker()
        until = int(desk.clock.now()) + 40
        desk.simulator.faults.raise_next("BalanceEx", f"EService: Throttled: {until}")
        with pytest.raises(RateLimitError):
            desk.broker.private_call("BalanceEx")
        assert desk.clock.now() < until - 30
        other.private_call(method, ORDER if method == "AddOrder" else None)
        assert desk.clock.now() >= until
        assert desk.methods() == ["BalanceEx", method]
        other.close()


@pytest.mark.parametrize(("string", "waits"), [(RATE_LIMIT, (6.0, 6.1)), ("EGeneral:Too many requests", (5.0, 5.1))])
def test_a_limit_that_one_has_met_is_known_to_all(string: str, waits: tuple[float, float]) -> None:
    """After a refusal for a limit the next read of another broker of the key waits as long as that limit takes."""
    with open_desk(tier=STARTER) as desk:
        other = desk.open_broker(tier=STARTER)
        desk.simulator.faults.raise_next("BalanceEx", string)
        with pytest.raises(RateLimitError):
            desk.broker.private_call("BalanceEx")
        before = desk.clock.now()
        other.private_call("BalanceEx")
        assert waits[0] <= desk.clock.now() - before <= waits[1]
        other.close()


def test_a_restart_does_not_bring_a_new_allowance() -> None:
    """A broker that is opened after another one has spent the allowance waits for the same decay."""
    with open_desk(tier=STARTER) as desk:
        start = desk.clock.now()
        for _ in range(20):
            broker = desk.open_broker(tier=STARTER)
            broker.private_call("BalanceEx")
            broker.close()
        assert desk.clock.now() - start == pytest.approx((20 - 14) / 0.33, abs=1.0)


def test_a_cancel_while_the_program_stops_waits_for_no_pause() -> None:
    """While the program stops a cancel goes at once, in a pause and with a full counter too."""
    with open_desk(tier=STARTER) as desk:
        txid = desk.broker.private_call("AddOrder", ORDER)["txid"][0]
        desk.broker._budget.saturate_rest(desk.broker.now())
        desk.broker._budget.pause(desk.broker.now() + 30.0, "throttled")
        desk.broker.stop()
        before = desk.clock.now()
        desk.broker.private_call("CancelOrder", {"txid": txid})
        desk.broker.private_call("CancelAll")
        assert desk.clock.now() == before
        assert desk.methods()[1:] == ["CancelOrder", "CancelAll"]


# Silence: refusals count together, and one process at a time probes


def begin_silence_that_is_over(desk: Desk) -> None:
    """Leave the key in a silence whose time has come."""
    text = json.dumps({"until_seconds": wall_seconds() - 1, "seconds": 100.0, "reason": "another sender"})
    Path(key_file(broker_manager.NONCE_FILE, desk.simulator.key, "silence")).write_text(text)


def said_by_children(desk: Desk, folder: Path, words: list[object], count: int) -> list[list[str]]:
    """Let so many processes call at once; return what each said."""
    with ExitStack() as stack:
        children = [stack.enter_context(child(folder, desk, *words)) for _ in range(count)]
        return [process.rest()[1:] for process in children]


def test_refusals_of_all_processes_count_together(tmp_path: Path) -> None:
    """With a foreign sender on the key, four processes meet three refusals together, never climb, and are silent."""
    with open_desk() as desk:
        desk.broker.private_call("BalanceEx")
        desk.simulator.faults.fire_next("foreign_nonce", "BalanceEx", times=100)
        said = said_by_children(desk, tmp_path, ["reads", 5, 1], 4)
        assert {word for words in said for word in words} == {"InvalidNonceError", "SilenceError"}
        assert desk.refused() == 3
        assert max(int(row.nonce) for row in desk.rows()) <= wall_us()


def test_one_process_probes_for_all(tmp_path: Path) -> None:
    """When a silence is over, four processes that call at once send one probe, and then all their calls."""
    with open_desk(SimulatorOptions(latency_seconds=(0.005, 0.02))) as desk:
        begin_silence_that_is_over(desk)
        assert said_by_children(desk, tmp_path, ["reads", 3, 2], 4) == [["ok"] * 6] * 4
        assert desk.methods() == ["GetApiKeyInfo"] + ["BalanceEx"] * 24


def test_a_refused_probe_is_the_only_one(tmp_path: Path) -> None:
    """When the probe is refused nothing else is sent, by any of four processes that call at once."""
    with open_desk(SimulatorOptions(latency_seconds=(0.005, 0.02))) as desk:
        begin_silence_that_is_over(desk)
        desk.simulator.faults.fire_next("spurious_nonce", "GetApiKeyInfo")
        assert said_by_children(desk, tmp_path, ["reads", 3, 2], 4) == [["SilenceError"] * 6] * 4
        assert desk.methods() == ["GetApiKeyInfo"]


def test_a_killed_prober_leaves_the_probe_to_the_next(tmp_path: Path) -> None:
    """When the process that probes is killed, the next one probes, and nothing else goes before it is answered."""
    with open_desk(SimulatorOptions(slow_seconds=30.0)) as desk:
        begin_silence_that_is_over(desk)
        desk.simulator.faults.fire_next("slow", "GetApiKeyInfo")
        with child(tmp_path, desk, "one") as prober:
            wait_for(lambda: desk.methods() == ["GetApiKeyInfo"])
            prober.kill()
        assert said_by_children(desk, tmp_path, ["one"], 1) == [["ok"]]
        assert desk.methods() == ["GetApiKeyInfo", "GetApiKeyInfo", "BalanceEx"]


# The matching engine's counters


def test_after_an_engine_limit_the_pair_waits_and_the_others_do_not() -> None:
    """After `EOrder:Rate limit exceeded` the next order of the pair waits 17 s at one point a second, ETH/USD none."""
    with open_desk(tier=STARTER) as desk:
        desk.simulator.faults.raise_next("AddOrder", "EOrder:Rate limit exceeded")
        with pytest.raises(OrderRefusedError):
            desk.broker.private_call("AddOrder", ORDER)
        begin = desk.clock.now()
        desk.broker.private_call("AddOrder", ORDER | {"pair": "ETHUSD", "volume": "0.01", "price": "1000"})
        assert desk.clock.now() == begin
        desk.broker.private_call("AddOrder", ORDER)
        assert desk.clock.now() - begin == pytest.approx(17.0)


def test_cancels_of_new_orders_wait_for_the_engine() -> None:
    """Twelve orders that are placed and cancelled at once are never refused: the cancels wait for the engine."""
    with open_desk(SimulatorOptions(tier="starter"), tier=STARTER) as desk:
        txids = [desk.broker.private_call("AddOrder", ORDER)["txid"][0] for _ in range(12)]
        begin = desk.clock.now()
        assert all(desk.broker.cancel_order(txid, "BTC/USD") for txid in txids)
        assert desk.clock.now() > begin

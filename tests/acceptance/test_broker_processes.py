"""A key's turn between processes: a holder that is killed, stopped or slow, and SIGTERM while waiting."""

from __future__ import annotations

import fcntl
import logging
import signal
from pathlib import Path

import pytest

from bot import broker_manager
from bot.base.errors import NoAnswerError, TurnTimeout
from bot.base.paths import key_file
from bot.kraken import transport
from bot.nonce.local_lock import Urgency
from bot.simulator.options import SimulatorOptions
from tests.acceptance.broker_tools import ORDER, Desk, child, in_threads, open_desk, wait_for
from tests.child_process import Child

pytestmark = pytest.mark.usefixtures("nonce_file")

SLOW = SimulatorOptions(slow_seconds=30)


def let_it_take_the_turn(desk: Desk, process: Child) -> None:
    """Return when the child's read has arrived, and Kraken is not answering it."""
    process.expect("ready")
    wait_for(lambda: "BalanceEx" in desk.methods())


def somebody_waits(desk: Desk) -> bool:
    """Tell whether another process waits for the key's turn: it then stands at the gate."""
    with open(key_file(broker_manager.NONCE_FILE, desk.simulator.key, "gate"), "a") as gate:
        try:
            fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_killed_holder_leaves_the_turn_at_once(tmp_path: Path) -> None:
    """When the process with the turn is killed, the one that waits gets it, and its nonce is accepted."""
    with open_desk(SLOW) as desk:
        desk.simulator.faults.fire_next("slow", "BalanceEx")
        with child(tmp_path, desk, "one") as holder:
            let_it_take_the_turn(desk, holder)
            with child(tmp_path, desk, "one") as waiter:
                waiter.expect("ready")
                wait_for(lambda: somebody_waits(desk))
                holder.kill()
                assert waiter.rest() == ["ok"]
        assert (len(desk.rows()), desk.refused()) == (2, 0)


def test_a_stopped_holder_bounds_what_others_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While the holder is stopped, reads and orders get TurnTimeout, nothing is unknown, and a cancel goes alone."""
    caplog.set_level(logging.WARNING)
    with open_desk(SLOW) as desk:
        broker = desk.broker
        txid = broker.private_call("AddOrder", ORDER)["txid"][0]
        monkeypatch.setattr(broker_manager, "WAIT_SECONDS_MAX", 0.2)
        desk.simulator.faults.fire_next("slow", "BalanceEx")
        with child(tmp_path, desk, "one") as holder:
            let_it_take_the_turn(desk, holder)
            holder.signal(signal.SIGSTOP)
            with pytest.raises(TurnTimeout):
                broker.private_call("BalanceEx")
            with pytest.raises(TurnTimeout):
                broker.private_call("AddOrder", ORDER)
            assert broker.unknown_orders() == []
            of_the_holder = broker.api.response
            assert broker.cancel_order(txid, "BTC/USD")
            # A thread of ours that has the turn reads its answer there.
            assert broker.api.response is of_the_holder
            assert "goes without the key's turn" in caplog.text
            assert desk.methods()[-2:] == ["BalanceEx", "CancelOrder"]
            holder.signal(signal.SIGCONT)


def test_a_stopped_holder_goes_on_after_the_stop(tmp_path: Path) -> None:
    """A holder that is stopped and continued gets its answer, and both processes call on without a refusal."""
    with open_desk(SimulatorOptions(latency_seconds=(0.0, 0.002))) as desk:
        with child(tmp_path, desk, "reads", 40, 2) as holder:
            holder.expect("ready")
            wait_for(lambda: len(desk.rows()) > 5)
            holder.signal(signal.SIGSTOP)
            holder.signal(signal.SIGCONT)
            for _ in range(20):
                desk.broker.private_call("BalanceEx")
            assert holder.rest() == ["ok"] * 80
        assert (len(desk.rows()), desk.refused()) == (100, 0)


def test_a_holder_that_is_slower_than_its_time_out_gives_the_turn_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that Kraken answers too late ends with NoAnswerError, and those behind it are answered and not refused."""
    monkeypatch.setattr(transport, "READ_SECONDS_MAX", 0.3)
    with open_desk(SimulatorOptions(slow_seconds=1.0)) as desk:
        desk.simulator.faults.fire_next("slow", "BalanceEx")
        raised = in_threads(4, lambda: [desk.broker.private_call("BalanceEx") for _ in range(3)])
        assert [type(error) for error in raised] == [NoAnswerError]
        assert (len(desk.rows()), desk.refused()) == (10, 0)


def test_a_late_answer_is_not_taken_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a read that was answered too late, the next call of another method gets its own answer."""
    monkeypatch.setattr(transport, "READ_SECONDS_MAX", 0.2)
    with open_desk(SimulatorOptions(slow_seconds=0.4)) as desk:
        desk.simulator.faults.fire_next("slow", "BalanceEx")
        with pytest.raises(NoAnswerError):
            desk.broker.private_call("BalanceEx")
        assert "nonce" in desk.broker.private_call("GetApiKeyInfo")


def test_sigterm_ends_a_process_that_waits_for_its_turn(tmp_path: Path) -> None:
    """A process that waits for a turn and gets SIGTERM ends with StoppingError, and has sent nothing."""
    with open_desk() as desk, desk.broker._turns.turn(Urgency.READ), child(tmp_path, desk, "patient") as waiter:
        waiter.expect("ready")
        wait_for(lambda: somebody_waits(desk))
        waiter.signal(signal.SIGTERM)
        assert waiter.rest() == ["StoppingError"]
        assert desk.methods() == []


def test_an_order_killed_on_the_way_is_found_by_the_next_process(tmp_path: Path) -> None:
    """When a process is killed before the answer to its order, a new one sees the order as its own, placed once."""
    with open_desk(SLOW) as desk:
        desk.simulator.faults.fire_next("slow", "AddOrder")
        with child(tmp_path, desk, "order") as process:
            wait_for(lambda: "AddOrder" in desk.methods())
            process.kill()
        restarted = desk.open_broker()
        assert [restarted.owns(order) for order in restarted.get_open_orders()] == [True]
        restarted.close()
        assert desk.refused() == 0

"""The request lock between processes: a holder that is killed, stopped or slow, and SIGTERM while waiting."""

from __future__ import annotations

import fcntl
import logging
import signal
from pathlib import Path

import pytest

from bot import broker_manager
from bot.base.errors import NoAnswerError, RequestLockTimeout
from bot.base.paths import key_file_path
from bot.kraken import http_connection
from bot.nonce.local_lock import Priority
from bot.simulator.options import SimulatorOptions
from tests.acceptance.broker_tools import (
    ORDER,
    BrokerSetup,
    open_broker_setup,
    run_in_threads,
    start_broker_child,
    wait_for,
)
from tests.child_process import Child

pytestmark = pytest.mark.usefixtures("nonce_file")

SLOW = SimulatorOptions(slow_seconds=30)


def wait_until_it_holds_the_lock(setup: BrokerSetup, process: Child) -> None:
    """Wait until the child's read has arrived at Kraken, which does not answer it."""
    process.expect_line("ready")
    wait_for(lambda: "BalanceEx" in setup.request_methods())


def has_waiting_process(setup: BrokerSetup) -> bool:
    """Return whether another process waits for the request lock: it then holds the queue lock."""
    with open(key_file_path(broker_manager.NONCE_FILE, setup.simulator.key, "gate"), "a") as queue_lock:
        try:
            fcntl.flock(queue_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_killed_lock_holder_releases_at_once(tmp_path: Path) -> None:
    """When the process that holds the lock is killed, the waiting one gets it, and its nonce is accepted."""
    with open_broker_setup(SLOW) as setup:
        setup.simulator.faults.fire_next("slow", "BalanceEx")
        with start_broker_child(tmp_path, setup, "one") as holder:
            wait_until_it_holds_the_lock(setup, holder)
            with start_broker_child(tmp_path, setup, "one") as waiter:
                waiter.expect_line("ready")
                wait_for(lambda: has_waiting_process(setup))
                holder.kill()
                assert waiter.read_to_end() == ["ok"]
        assert (len(setup.requests()), setup.refused_nonce_count()) == (2, 0)


def test_suspended_lock_holder_bounds_other_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While the holder is stopped, reads and orders get RequestLockTimeout, nothing is unknown, and a cancel is sent
    without the lock."""
    caplog.set_level(logging.WARNING)
    with open_broker_setup(SLOW) as setup:
        broker = setup.broker
        txid = broker.private_call("AddOrder", ORDER)["txid"][0]
        monkeypatch.setattr(broker_manager, "LOCK_TIMEOUT_SECONDS", 0.2)
        setup.simulator.faults.fire_next("slow", "BalanceEx")
        with start_broker_child(tmp_path, setup, "one") as holder:
            wait_until_it_holds_the_lock(setup, holder)
            holder.signal(signal.SIGSTOP)
            with pytest.raises(RequestLockTimeout):
                broker.private_call("BalanceEx")
            with pytest.raises(RequestLockTimeout):
                broker.private_call("AddOrder", ORDER)
            assert broker.unknown_orders() == []
            previous_response = broker.api.response
            assert broker.cancel_order(txid, "BTC/USD")
            # A thread that holds the lock reads its response from this attribute.
            assert broker.api.response is previous_response
            assert "goes without the key's request lock" in caplog.text
            assert setup.request_methods()[-2:] == ["BalanceEx", "CancelOrder"]
            holder.signal(signal.SIGCONT)


def test_suspended_lock_holder_resumes_after_continue(tmp_path: Path) -> None:
    """A holder that is stopped and continued gets its response, and both processes continue without a refusal."""
    with open_broker_setup(SimulatorOptions(latency_seconds=(0.0, 0.002))) as setup:
        with start_broker_child(tmp_path, setup, "reads", 40, 2) as holder:
            holder.expect_line("ready")
            wait_for(lambda: len(setup.requests()) > 5)
            holder.signal(signal.SIGSTOP)
            holder.signal(signal.SIGCONT)
            for _ in range(20):
                setup.broker.private_call("BalanceEx")
            assert holder.read_to_end() == ["ok"] * 80
        assert (len(setup.requests()), setup.refused_nonce_count()) == (100, 0)


def test_lock_holder_that_times_out_releases_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that Kraken answers too late ends with NoAnswerError, and the waiting calls are answered, none refused."""
    monkeypatch.setattr(http_connection, "READ_TIMEOUT_SECONDS", 0.3)
    with open_broker_setup(SimulatorOptions(slow_seconds=1.0)) as setup:
        setup.simulator.faults.fire_next("slow", "BalanceEx")
        raised = run_in_threads(4, lambda: [setup.broker.private_call("BalanceEx") for _ in range(3)])
        assert [type(error) for error in raised] == [NoAnswerError]
        assert (len(setup.requests()), setup.refused_nonce_count()) == (10, 0)


def test_late_response_is_not_matched_to_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a read that was answered too late, the next call of another method gets its own response."""
    monkeypatch.setattr(http_connection, "READ_TIMEOUT_SECONDS", 0.2)
    with open_broker_setup(SimulatorOptions(slow_seconds=0.4)) as setup:
        setup.simulator.faults.fire_next("slow", "BalanceEx")
        with pytest.raises(NoAnswerError):
            setup.broker.private_call("BalanceEx")
        assert "nonce" in setup.broker.private_call("GetApiKeyInfo")


def test_sigterm_ends_a_process_waiting_for_the_lock(tmp_path: Path) -> None:
    """A process that gets SIGTERM while it waits for the lock ends with StoppingError, and has sent nothing."""
    with (
        open_broker_setup() as setup,
        setup.broker._request_lock.hold(Priority.READ),
        start_broker_child(tmp_path, setup, "patient") as waiter,
    ):
        waiter.expect_line("ready")
        wait_for(lambda: has_waiting_process(setup))
        waiter.signal(signal.SIGTERM)
        assert waiter.read_to_end() == ["StoppingError"]
        assert setup.request_methods() == []


def test_order_in_flight_at_a_kill_is_found_by_the_next_process(tmp_path: Path) -> None:
    """When a process is killed before the response to its order, the next one sees that order as its own, placed
    once."""
    with open_broker_setup(SLOW) as setup:
        setup.simulator.faults.fire_next("slow", "AddOrder")
        with start_broker_child(tmp_path, setup, "order") as process:
            wait_for(lambda: "AddOrder" in setup.request_methods())
            process.kill()
        restarted = setup.open_broker()
        assert [restarted.is_own_order(order) for order in restarted.get_open_orders()] == [True]
        restarted.close()
        assert setup.refused_nonce_count() == 0

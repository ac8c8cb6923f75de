"""The counters and timings of a broker, compared with those of the exchange and the store."""

from __future__ import annotations

import fcntl
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis

from bot import broker_manager
from bot.app.lifecycle import LifecycleState
from bot.base import metrics
from bot.base.clock import boottime_seconds
from bot.base.errors import KrakenError, NoAnswerError, OrderOutcomeUnknownError, OrderRefusedError, OrderRuleError
from bot.base.paths import key_file_path
from bot.broker_manager import kraken_request_lock
from bot.dashboard import prometheus
from bot.kraken.rate_counters import STARTER
from bot.nonce.leader_election import LeaderElection
from bot.simulator.options import SimulatorOptions
from tests.acceptance.broker_tools import (
    ORDER,
    advance_time,
    count_waiting_calls,
    open_broker_setup,
    run_in_threads,
    wait_for,
)
from tests.metric_text import metric_values
from tests.servers import RedisServer

pytestmark = pytest.mark.usefixtures("nonce_file")

LATENCY_SECONDS = 0.02


@pytest.fixture(autouse=True)
def fresh_metrics() -> None:
    """Start with new counters."""
    metrics.process_metrics.reset()


def call_counts() -> dict[tuple[str, ...], float]:
    """Return the number of calls by method and outcome."""
    return metric_values("request_duration_seconds", "_count")


def test_nonce_and_call_metrics_match_the_exchange() -> None:
    """The counts of nonces, refusals, lock waits, and private calls by method and outcome equal the exchange's."""
    with open_broker_setup() as setup:
        broker = setup.broker
        assert run_in_threads(4, lambda: [broker.private_call("BalanceEx") for _ in range(5)]) == []
        setup.simulator.faults.fire_next("foreign_nonce", "OpenOrders")
        broker.get_open_orders()
        broker.private_call("TradeBalance")
        with pytest.raises(OrderRefusedError):
            broker.private_call("AddOrder", ORDER | {"volume": "999"})
        requests, refused = setup.requests(), setup.refused_nonce_count()
    expected = Counter((request.method, "error" if request.error else "ok") for request in requests)
    assert (len(requests), expected["AddOrder", "error"], expected["OpenOrders", "error"]) == (24, 1, 1)
    expected["other", "ok"] = expected.pop(("TradeBalance", "ok"))
    assert {labels: count for labels, count in call_counts().items() if labels in expected} == expected
    lock_waits = metric_values("request_lock_wait_seconds", "_count")[()]
    assert metric_values("nonces_issued", "_total")[()] == lock_waits == len(requests)
    assert metric_values("nonces_refused", "_total")[()] == metrics.refused_total() == refused == 1
    assert metrics.issued_total() == len(requests)


def test_unanswered_call_is_neither_ok_nor_error() -> None:
    """Each private or public call is counted by outcome, and takes at least the latency of the exchange."""
    with open_broker_setup(SimulatorOptions(latency_seconds=(LATENCY_SECONDS, LATENCY_SECONDS))) as setup:
        setup.simulator.faults.fire_next("answer_502", "BalanceEx")
        with pytest.raises(NoAnswerError):
            setup.broker.private_call("BalanceEx")
        setup.broker.public_call("Time")
        with pytest.raises(KrakenError):
            setup.broker.public_call("Nonsense")
    assert call_counts() == {("BalanceEx", "no_response"): 1, ("Time", "ok"): 1, ("other", "error"): 1}
    assert {seconds >= LATENCY_SECONDS for seconds in metric_values("request_duration_seconds", "_sum").values()} == {
        True
    }


def test_wait_for_the_request_lock_is_timed() -> None:
    """A call that waits for the request lock is timed with at least the time for which it was seen waiting."""
    with open_broker_setup() as setup, ThreadPoolExecutor() as pool:
        with kraken_request_lock(api_key=setup.simulator.key):
            call = pool.submit(setup.broker.private_call, "BalanceEx")
            wait_for(lambda: count_waiting_calls(setup.broker))
            seen_seconds = boottime_seconds()
            wait_for(lambda: boottime_seconds() > seen_seconds + LATENCY_SECONDS)
        call.result()
    assert metric_values("request_lock_wait_seconds", "_count")[()] == 1
    assert (
        LATENCY_SECONDS
        < metric_values("request_lock_wait_seconds", "_sum")[()]
        == metrics.mean_request_lock_wait_seconds()
    )


def test_orders_are_counted_by_outcome() -> None:
    """Each order is counted once, by its outcome, and an unknown one once more when it is reconciled."""
    ids = [f"bot01{number:013}" for number in range(6)]
    with open_broker_setup(max_order_value=Decimal(100)) as setup:
        broker, faults = setup.broker, setup.simulator.faults

        def send(number: int, **changes: Any) -> None:
            broker.private_call("AddOrder", ORDER | {"cl_ord_id": ids[number]} | changes)

        send(0)
        send(0)
        with pytest.raises(OrderRefusedError):
            send(1, type="sell", volume="0.001")
        with pytest.raises(OrderRuleError):
            send(2, volume="1")
        for number, fault in ((3, "answer_502"), (4, "refuse_502")):
            faults.fire_next(fault, "AddOrder")
            with pytest.raises(OrderOutcomeUnknownError):
                send(number)
            while broker.unknown_orders():
                broker.reconcile_unknown_orders()
                advance_time(setup.clock, 1)
        placed = setup.placed_order_count()
    orders, reconciled = metric_values("orders", "_total"), metric_values("orders_reconciled", "_total")
    assert orders == {("accepted",): 1, ("refused",): 1, ("unknown",): 2, ("not_sent",): 1}
    assert reconciled == {("placed",): 1, ("not_placed",): 1}
    assert orders["accepted",] + reconciled["placed",] == placed


def test_store_step_metrics_match_the_steps_made(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a shared store each operation is counted under its name, and their sum is the store's own count."""
    monkeypatch.setattr(broker_manager, "NONCE_STORE", redis_server.url)
    with open_broker_setup() as setup:
        store = setup.broker.shared_store
        assert store is not None
        leadership = LeaderElection(store, 300.0)
        leadership.wait_for_leadership(threading.Event(), print)
        for _ in range(5):
            setup.broker.private_call("BalanceEx")
        setup.broker._immediate_nonce_jump()
        leadership.release(is_reconciled=True)
    operations = {
        operation: count for (operation,), count in metric_values("nonce_store_duration_seconds", "_count").items()
    }
    assert operations == {
        "acquire_lease": 1,
        "acquire_lock": 5,
        "release_lock": 5,
        "next_nonce": 1,
        "read_record": 2,
        "release_lease": 1,
    }
    with redis.Redis.from_url(redis_server.url) as client:
        command_stats: Any = client.info("commandstats")
    evalsha, eval_stats = command_stats["cmdstat_evalsha"], command_stats["cmdstat_eval"]
    assert sum(operations.values()) == evalsha["calls"] - evalsha["failed_calls"] + eval_stats["calls"]
    assert metrics.issued_total() == 6


def test_nonce_file_write_is_timed_per_nonce() -> None:
    """Without a shared store each nonce is one timed operation of the file."""
    with open_broker_setup() as setup:
        for _ in range(3):
            setup.broker.private_call("BalanceEx")
    assert metric_values("nonce_store_duration_seconds", "_count") == {("next_nonce",): 3}


def test_broker_status_shows_last_nonce_and_rate_counters() -> None:
    """A broker reports its last nonce, and Kraken's rate counters: 1 for a read, 2 for a history, 1 for an order."""
    with open_broker_setup(SimulatorOptions(tier="starter"), tier=STARTER) as setup:
        broker = setup.broker
        assert (broker.last_nonce, broker.rest_level, broker.breaker_state) == (None, (0, 15), None)
        broker.private_call("BalanceEx")
        broker.private_call("TradesHistory")
        broker.private_call("AddOrder", ORDER)
        assert (broker.last_nonce, broker.rest_level) == (int(setup.requests()[-1].nonce), (3, 15))
        assert broker.engine_levels == {"BTC/USD": 1}
        advance_time(setup.clock, 1)
        assert round(broker.rest_level[0], 2) == 2.67
        assert broker.engine_levels == {}
        setup.simulator.faults.fire_next("gateway_lockout", "BalanceEx")
        with pytest.raises(KrakenError):
            broker.private_call("BalanceEx")
        assert broker.breaker_state is not None


def test_reading_broker_status_has_no_side_effects(caplog: pytest.LogCaptureFixture) -> None:
    """While others hold the request lock and the rate counters, the status is read without waiting for either, and
    nothing is sent."""
    with open_broker_setup(tier=STARTER) as setup:
        broker = setup.broker
        broker.private_call("TradesHistory")
        rate_counter_file = Path(key_file_path(broker_manager.NONCE_FILE, setup.simulator.key, "budget"))
        sent, recorded = setup.request_methods(), rate_counter_file.read_bytes()
        with kraken_request_lock(api_key=setup.simulator.key), open(rate_counter_file) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            advance_time(setup.clock, 1)
            assert (round(broker.rest_level[0], 2), broker.engine_levels) == (1.67, {})
            assert (broker.breaker_state, broker.last_nonce) == (None, int(setup.requests()[-1].nonce))
        assert (setup.request_methods(), rate_counter_file.read_bytes()) == (sent, recorded)
    # A failed wait for the lock would log a warning.
    assert caplog.records == []


def test_state_metrics_match_the_lifecycle_states() -> None:
    """The metrics list exactly the states of the lifecycle."""
    assert tuple(LifecycleState) == prometheus.STATES

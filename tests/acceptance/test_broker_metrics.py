"""What a broker counts and times, against what the exchange and the store have counted themselves."""

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
from bot.app.lifecycle import State
from bot.base import metrics
from bot.base.clock import boottime_seconds
from bot.base.errors import KrakenError, NoAnswerError, OrderRefusedError, OrderRuleError, OrderUnknownError
from bot.base.paths import key_file
from bot.broker_manager import kraken_turn
from bot.kraken.rate_counters import STARTER
from bot.nonce.leader_election import Leadership
from bot.simulator.options import SimulatorOptions
from tests.acceptance.broker_tools import ORDER, in_threads, open_desk, pass_time, wait_for, waiting_calls
from tests.metric_text import values
from tests.servers import RedisServer

pytestmark = pytest.mark.usefixtures("nonce_file")

LATENCY_SECONDS = 0.02


@pytest.fixture(autouse=True)
def from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count from zero, and leave the counters of this test process alone."""
    monkeypatch.setattr(metrics, "_meters", metrics._Meters())


def calls() -> dict[tuple[str, ...], float]:
    """Return how many calls there were, by method and outcome."""
    return values("call_seconds", "_count")


def test_nonces_and_calls_are_those_that_arrived() -> None:
    """Nonces issued and refused, turns, and private calls by method and outcome are as many as the exchange saw."""
    with open_desk() as desk:
        broker = desk.broker
        assert in_threads(4, lambda: [broker.private_call("BalanceEx") for _ in range(5)]) == []
        desk.simulator.faults.fire_next("foreign_nonce", "OpenOrders")
        broker.get_open_orders()
        broker.private_call("TradeBalance")
        with pytest.raises(OrderRefusedError):
            broker.private_call("AddOrder", ORDER | {"volume": "999"})
        rows, refused = desk.rows(), desk.refused()
    seen = Counter((row.method, "error" if row.error else "ok") for row in rows)
    assert (len(rows), seen["AddOrder", "error"], seen["OpenOrders", "error"]) == (24, 1, 1)
    seen["other", "ok"] = seen.pop(("TradeBalance", "ok"))
    assert {name: count for name, count in calls().items() if name in seen} == seen
    assert values("nonces_issued", "_total")[()] == values("turn_wait_seconds", "_count")[()] == len(rows)
    assert values("nonces_refused", "_total")[()] == metrics.refused() == refused == 1
    assert metrics.issued() == len(rows)


def test_a_call_without_an_answer_is_neither_ok_nor_an_error() -> None:
    """Private or public, a call has its outcome, and at least the time that the exchange took."""
    with open_desk(SimulatorOptions(latency_seconds=(LATENCY_SECONDS, LATENCY_SECONDS))) as desk:
        desk.simulator.faults.fire_next("answer_502", "BalanceEx")
        with pytest.raises(NoAnswerError):
            desk.broker.private_call("BalanceEx")
        desk.broker.public_call("Time")
        with pytest.raises(KrakenError):
            desk.broker.public_call("Nonsense")
    assert calls() == {("BalanceEx", "no_answer"): 1, ("Time", "ok"): 1, ("other", "error"): 1}
    assert {seconds >= LATENCY_SECONDS for seconds in values("call_seconds", "_sum").values()} == {True}


def test_a_wait_for_the_turn_is_timed() -> None:
    """A call that waits for another sender's turn is counted with at least the time that it was seen waiting."""
    with open_desk() as desk, ThreadPoolExecutor() as pool:
        with kraken_turn(api_key=desk.simulator.key):
            call = pool.submit(desk.broker.private_call, "BalanceEx")
            wait_for(lambda: waiting_calls(desk.broker))
            seen = boottime_seconds()
            wait_for(lambda: boottime_seconds() > seen + LATENCY_SECONDS)
        call.result()
    assert values("turn_wait_seconds", "_count")[()] == 1
    assert LATENCY_SECONDS < values("turn_wait_seconds", "_sum")[()] == metrics.turn_wait_mean_seconds()


def test_orders_by_outcome() -> None:
    """Each order is counted once, by its outcome, and an unknown one once more when its fate is known."""
    ids = [f"bot01{number:013}" for number in range(6)]
    with open_desk(max_order_value=Decimal(100)) as desk:
        broker, faults = desk.broker, desk.simulator.faults

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
            with pytest.raises(OrderUnknownError):
                send(number)
            while broker.unknown_orders():
                broker.settle_unknown()
                pass_time(desk.clock, 1)
        placed = desk.orders_placed()
    orders, settled = values("orders", "_total"), values("orders_settled", "_total")
    assert orders == {("accepted",): 1, ("refused",): 1, ("unknown",): 2, ("not_sent",): 1}
    assert settled == {("placed",): 1, ("not_placed",): 1}
    assert orders["accepted",] + settled["placed",] == placed


def test_steps_of_a_store_are_those_that_it_made(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a shared store each of its steps is counted under its name; all together are what it says it has done."""
    monkeypatch.setattr(broker_manager, "NONCE_STORE", redis_server.url)
    with open_desk() as desk:
        store = desk.broker.shared_store
        assert store is not None
        leadership = Leadership(store, 300.0)
        leadership.wait(threading.Event(), print)
        for _ in range(5):
            desk.broker.private_call("BalanceEx")
        desk.broker._immediate_nonce_jump()
        leadership.sign_off(settled=True)
    steps = {step: count for (step,), count in values("store_seconds", "_count").items()}
    assert steps == {"acquire": 1, "take": 5, "give_back": 5, "draw": 1, "look": 2, "sign_off": 1}
    with redis.Redis.from_url(redis_server.url) as client:
        done: Any = client.info("commandstats")
    evalsha, evaluated = done["cmdstat_evalsha"], done["cmdstat_eval"]
    assert sum(steps.values()) == evalsha["calls"] - evalsha["failed_calls"] + evaluated["calls"]
    assert metrics.issued() == 6


def test_the_file_is_timed_at_every_nonce() -> None:
    """Without a store each nonce is one draw in the file."""
    with open_desk() as desk:
        for _ in range(3):
            desk.broker.private_call("BalanceEx")
    assert values("store_seconds", "_count") == {("draw",): 3}


def test_the_standing_is_what_was_drawn_and_spent() -> None:
    """A broker tells its last nonce, and Kraken's points for what it has sent: 1, 2 for a history, 1 for an order."""
    with open_desk(SimulatorOptions(tier="starter"), tier=STARTER) as desk:
        broker = desk.broker
        assert (broker.last_nonce, broker.rest_level, broker.silence) == (None, (0, 15), None)
        broker.private_call("BalanceEx")
        broker.private_call("TradesHistory")
        broker.private_call("AddOrder", ORDER)
        assert (broker.last_nonce, broker.rest_level) == (int(desk.rows()[-1].nonce), (3, 15))
        assert broker.engine_levels == {"BTC/USD": 1}
        pass_time(desk.clock, 1)
        assert round(broker.rest_level[0], 2) == 2.67
        assert broker.engine_levels == {}
        desk.simulator.faults.fire_next("gateway_lockout", "BalanceEx")
        with pytest.raises(KrakenError):
            broker.private_call("BalanceEx")
        assert broker.silence is not None


def test_looking_sends_and_books_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """While others hold turn and counters, the standing is told without waiting for either; nothing is sent."""
    with open_desk(tier=STARTER) as desk:
        broker = desk.broker
        broker.private_call("TradesHistory")
        budget = Path(key_file(broker_manager.NONCE_FILE, desk.simulator.key, "budget"))
        sent, booked = desk.methods(), budget.read_bytes()
        with kraken_turn(api_key=desk.simulator.key), open(budget) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            pass_time(desk.clock, 1)
            assert (round(broker.rest_level[0], 2), broker.engine_levels) == (1.67, {})
            assert (broker.silence, broker.last_nonce) == (None, int(desk.rows()[-1].nonce))
        assert (desk.methods(), budget.read_bytes()) == (sent, booked)
    # Whoever waits for the lock in vain says so.
    assert caplog.records == []


def test_the_states_are_those_of_a_run() -> None:
    """The metrics know the states that a run can be in, and no other."""
    assert tuple(State) == metrics.STATES

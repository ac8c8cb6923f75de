"""Private calls of one broker: order of nonces, priority, rate limits, stopping, forking."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from pathlib import Path

import krakenex
import pytest

from bot import broker_manager
from bot.base.clock import MarketClock, wall_seconds
from bot.base.errors import RateLimitError, SettingsError, StoppingError
from bot.kraken.rate_counters import STARTER
from bot.nonce.local_lock import Priority
from bot.simulator.options import SimulatorOptions
from tests.acceptance.broker_tools import (
    ORDER,
    auto_advance_clock,
    count_waiting_calls,
    open_broker_setup,
    run_in_threads,
    start_broker_child,
    wait_for,
)

pytestmark = pytest.mark.usefixtures("nonce_file")

JITTER = SimulatorOptions(latency_seconds=(0.0, 0.005), seed=7)


def test_eight_threads_on_one_broker_get_no_nonce_refusal() -> None:
    """Of 8 x 100 private calls with 0 to 5 ms of network jitter none is refused and all are answered."""
    with open_broker_setup(JITTER) as setup:
        raised = run_in_threads(8, lambda: [setup.broker.private_call("BalanceEx") for _ in range(100)])
        assert (raised, len(setup.requests()), setup.refused_nonce_count()) == ([], 800, 0)


def test_bare_krakenex_in_eight_threads_is_refused() -> None:
    """The same jitter refuses krakenex objects in 8 threads, so the test above can fail."""
    with open_broker_setup(JITTER) as setup:

        def work() -> None:
            api = krakenex.API(*key)
            api.uri = setup.simulator.url
            for _ in range(10):
                api.query_private("Balance")
            api.close()

        key = setup.simulator.add_key()
        assert run_in_threads(8, work) == []
        assert setup.refused_nonce_count(key[0]) > 0


def test_four_processes_on_one_key_are_never_refused(tmp_path: Path, full_size: bool) -> None:
    """Of the private calls of 4 processes with 8 threads each none is refused and all are answered."""
    count = 100 if full_size else 25
    with open_broker_setup(JITTER) as setup:
        arguments = ("reads", str(count), "8")
        with ExitStack() as stack:
            processes = [stack.enter_context(start_broker_child(tmp_path, setup, *arguments)) for _ in range(4)]
            outcomes = [line for process in processes for line in process.read_to_end()[1:]]
        assert outcomes == ["ok"] * (4 * 8 * count)
        assert setup.refused_nonce_count() == 0


def test_cancel_overtakes_queued_reads() -> None:
    """A cancel that is queued behind five waiting reads arrives at Kraken first."""
    with open_broker_setup() as setup:
        txid = setup.broker.private_call("AddOrder", ORDER)["txid"][0]
        before = len(setup.requests())
        calls = [threading.Thread(target=setup.broker.private_call, args=("BalanceEx",)) for _ in range(5)]
        calls.append(threading.Thread(target=setup.broker.cancel_order, args=(txid,)))
        with setup.broker._request_lock.hold(Priority.READ):
            for number, call in enumerate(calls, 1):
                call.start()
                wait_for(lambda number=number: count_waiting_calls(setup.broker) == number)  # type: ignore[misc]
        for call in calls:
            call.join()
        assert setup.request_methods()[before:] == ["CancelOrder"] + ["BalanceEx"] * 5


def test_forty_quick_reads_respect_the_starter_tier() -> None:
    """With the starter tier on both sides forty reads in a row are all answered, because the broker waits."""
    with open_broker_setup(SimulatorOptions(tier="starter"), tier=STARTER) as setup:
        for _ in range(40):
            setup.broker.private_call("BalanceEx")
        assert [request.error for request in setup.requests()] == [""] * 40


def test_without_the_counter_forty_quick_reads_are_refused() -> None:
    """The starter tier of the simulator refuses forty reads of a broker that does not wait."""
    with open_broker_setup(SimulatorOptions(tier="starter")) as setup:
        raised = run_in_threads(1, lambda: [setup.broker.private_call("BalanceEx") for _ in range(40)])
        assert [type(error) for error in raised] == [RateLimitError]


def test_orders_reserve_rate_counter_room_for_cancels() -> None:
    """When orders begin to wait for the matching engine counter, two new ones can still be canceled without a wait."""
    with open_broker_setup(SimulatorOptions(tier="starter"), tier=STARTER) as setup:
        txids, start = [], setup.clock.now()
        while setup.clock.now() == start:
            txids += setup.broker.private_call("AddOrder", ORDER)["txid"]
        before = setup.clock.now()
        assert [setup.broker.cancel_order(txid, "BTC/USD") for txid in txids[-2:]] == [True, True]
        assert setup.clock.now() == before
        assert {request.error for request in setup.requests()} == {""}


def test_orders_beyond_the_reserve_wait_for_decay() -> None:
    """Of 59 orders on the starter tier none is refused, because the later ones wait."""
    with open_broker_setup(SimulatorOptions(tier="starter"), tier=STARTER) as setup:
        before = setup.clock.now()
        for _ in range(59):
            setup.broker.private_call("AddOrder", ORDER)
        assert {request.error for request in setup.requests()} == {""}
        assert setup.clock.now() > before


def test_stop_ends_waiting_reads_and_orders_but_not_cancels() -> None:
    """After stop() waiting reads and orders end with StoppingError, and a waiting cancel is still sent."""
    with open_broker_setup() as setup:
        broker = setup.broker
        txid = broker.private_call("AddOrder", ORDER)["txid"][0]
        raised: list[BaseException] = []
        canceled: list[bool] = []

        def call(method: str, params: dict[str, str]) -> None:
            try:
                broker.private_call(method, params)
            except StoppingError as error:
                raised.append(error)

        threads = [
            threading.Thread(target=call, args=("BalanceEx", {})),
            threading.Thread(target=call, args=("AddOrder", ORDER)),
            threading.Thread(target=lambda: canceled.append(broker.cancel_order(txid, "BTC/USD"))),
        ]
        with broker._request_lock.hold(Priority.READ):
            for number, thread in enumerate(threads, 1):
                thread.start()
                wait_for(lambda number=number: count_waiting_calls(broker) == number)  # type: ignore[misc]
            broker.stop()
            wait_for(lambda: len(raised) == 2)
        for thread in threads:
            thread.join()
        assert canceled == [True]
        assert broker.unknown_orders() == []


def test_a_read_with_a_nonce_is_not_sent_after_a_cancel_at_the_stop() -> None:
    """A read whose nonce came late is not sent once the broker stops, because a cancel may have gone first; no nonce is
    refused."""
    with open_broker_setup() as setup:
        broker = setup.broker
        txid = broker.private_call("AddOrder", ORDER)["txid"][0]
        next_nonce, is_taken, may_continue = broker.api._nonce, threading.Event(), threading.Event()
        raised: list[BaseException] = []

        def take_late() -> int | str:
            nonce = next_nonce()
            is_taken.set()
            may_continue.wait()
            return nonce

        def read() -> None:
            try:
                broker.private_call("OpenOrders")
            except StoppingError as error:
                raised.append(error)

        broker.api._nonce = take_late
        reading = threading.Thread(target=read)
        reading.start()
        is_taken.wait()
        broker.stop()
        assert broker.cancel_order(txid, "BTC/USD")
        may_continue.set()
        reading.join()
        assert len(raised) == 1
        assert setup.request_methods() == ["AddOrder", "CancelOrder"]
        assert setup.refused_nonce_count() == 0


def test_stop_ends_a_read_that_waits_for_its_rate_counter() -> None:
    """A read that waits for the rate counter ends with StoppingError when the broker stops."""
    with open_broker_setup(clock=MarketClock(wall_seconds()), tier=STARTER) as setup:
        broker = setup.broker
        raised: list[BaseException] = []

        def work() -> None:
            try:
                for _ in range(40):
                    broker.private_call("BalanceEx")
            except StoppingError as error:
                raised.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        wait_for(lambda: len(setup.requests()) >= 14)
        broker.stop()
        thread.join()
        assert len(raised) == 1


def test_cancel_after_stop_skips_the_matching_engine_counter() -> None:
    """While the program stops a cancel is sent at once even if the pair's matching engine counter is full."""
    with open_broker_setup(tier=STARTER) as setup:
        broker = setup.broker
        txids = [broker.private_call("AddOrder", ORDER)["txid"][0] for _ in range(8)]
        broker.stop()
        before = setup.clock.now()
        assert all(broker.cancel_order(txid, "BTC/USD") for txid in txids)
        # Eight cancels of new orders are 64 points at one a second; the threshold is 60.
        assert setup.clock.now() == before


def test_calls_do_not_modify_caller_parameters() -> None:
    """private_call does not change the dictionary that it is given, for reads and for orders."""
    with open_broker_setup() as setup:
        query, order = {"trades": True}, dict(ORDER)
        setup.broker.private_call("OpenOrders", query)
        setup.broker.private_call("AddOrder", order)
        assert (query, order) == ({"trades": True}, ORDER)


def test_a_call_works_without_connect() -> None:
    """private_call of a new broker works without connect()."""
    with open_broker_setup() as setup:
        assert "ZUSD" in setup.broker.private_call("Balance")


def test_invalid_credentials_and_url_are_reported_together() -> None:
    """An empty key, a secret that is not Base64 and an http URL of another host are reported in one error."""
    with pytest.raises(SettingsError) as caught:
        broker_manager.KrakenBroker("", "not base64!", api_url="http://kraken.example")
    assert len(caught.value.problems) == 3


def _in_child(action: object) -> int:
    """Fork; run `action` in the child; return the child's exit code."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()  # type: ignore[operator]
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_child_and_parent_can_both_continue_calling() -> None:
    """After a fork child and parent continue with one broker, over separate connections, and no nonce is refused."""
    with open_broker_setup() as setup:
        broker = setup.broker
        broker.private_call("BalanceEx")
        connection = broker.api._private._socket

        def work() -> None:
            for _ in range(20):
                broker.private_call("BalanceEx")

        def work_of_child() -> None:
            # Two processes on one connection might work over plain HTTP, but not over TLS.
            assert broker.api._private._socket is not connection
            work()

        parent = threading.Thread(target=work)
        codes: list[int] = []
        forker = threading.Thread(target=lambda: codes.append(_in_child(work_of_child)))
        parent.start()
        forker.start()
        parent.join()
        forker.join()
        assert (codes, len(setup.requests()), setup.refused_nonce_count()) == ([0], 41, 0)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_child_forked_during_an_order_can_place_orders() -> None:
    """A child that is forked while another thread places an order can place an order."""
    with open_broker_setup() as setup:
        broker = setup.broker
        broker.private_call("AddOrder", ORDER)
        with broker._request_lock.hold(Priority.READ):
            placing = threading.Thread(target=broker.private_call, args=("AddOrder", ORDER))
            placing.start()
            wait_for(lambda: count_waiting_calls(broker))
            pid = os.fork()
            if pid == 0:
                ordering = threading.Thread(
                    target=broker.private_call,
                    args=("AddOrder", ORDER | {"pair": "ETHUSD", "volume": "0.1"}),
                    daemon=True,
                )
                ordering.start()
                ordering.join(10)
                os._exit(1 if ordering.is_alive() else 0)
        placing.join()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert setup.placed_order_count() == 3


def test_auto_advance_clock_moves_only_by_waits() -> None:
    """The market clock of these tests moves only by waits, so the tests do not depend on the machine's speed."""
    clock = auto_advance_clock()
    before = clock.now()
    clock.wait(13, threading.Event())
    assert clock.now() == before + 13


def test_an_order_is_read_by_its_id() -> None:
    """query_order returns an open and a canceled order, and None for an id that Kraken does not know."""
    with open_broker_setup() as setup:
        txid = setup.broker.private_call("AddOrder", ORDER)["txid"][0]
        assert setup.broker.query_order(txid) == setup.broker.get_open_orders()[0]
        setup.broker.cancel_order(txid)
        assert setup.broker.query_order(txid) == setup.broker.get_closed_orders()[0]
        assert setup.broker.query_order("OQ7TEX-3F5KA-9ZPLMN") is None

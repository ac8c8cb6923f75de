"""Delayed, duplicated and queued requests; refusals at the gateway; deadlines."""

from __future__ import annotations

from contextlib import suppress

import pytest
import requests

from bot.base.clock import MarketClock, format_rfc3339
from bot.simulator.errors import SimulatorError
from bot.simulator.faults import FaultInjector
from bot.simulator.options import SimulatorOptions
from bot.simulator.server import Simulator
from tests.simulator_parts import RESTING_ORDER, START, TAKER_ORDER, open_harness

# Delays and duplicates


def test_a_delayed_request_executes_after_its_delay() -> None:
    """The sender gets no answer; the request has no effect before its delay is over, and is executed then."""
    with open_harness(delay_seconds=2) as harness:
        assert harness.call_with_fault("delayed", "AddOrder", **RESTING_ORDER) is None
        harness.advance_time(1.9)
        assert harness.order_times() == []
        harness.advance_time(100)
        assert harness.order_times() == [2]


def test_delayed_requests_arrive_in_due_order() -> None:
    """Of 20 requests with random delays, later ones arrive later, and only increasing nonces are accepted."""
    with open_harness(delay_seconds=2, fault_rates={"delayed": 1.0}) as harness:
        for _ in range(20):
            with suppress(requests.ConnectionError):
                harness.call("Balance")
        harness.advance_time(2)
        harness.simulator.api.advance_to_now()
        rows = list(harness.simulator.request_log)
    accepted = [int(row.nonce) for row in rows if row.is_nonce_accepted]
    assert len(rows) == 20
    assert [row.time for row in rows] == sorted(row.time for row in rows)
    assert accepted == sorted(accepted)
    assert len(accepted) < 20


@pytest.mark.parametrize("query", ["state", "orders_by_client_id"])
def test_state_queries_process_due_requests_first(query: str) -> None:
    """The state and the orders by client id include a delayed order as soon as it is due."""
    with open_harness(delay_seconds=2) as harness:
        harness.call_with_fault("delayed", "AddOrder", cl_ord_id="mine", **RESTING_ORDER)
        harness.advance_time(2)
        result = harness.simulator.api.state() if query == "state" else harness.simulator.orders_by_client_id()
        assert len(harness.simulator.exchange.account.orders) == 1
        assert result.get("orders", 0) == 1 if query == "state" else list(result) == ["mine"]


def test_an_overtaken_delayed_request_is_refused_for_its_nonce() -> None:
    """If a later request is accepted first, the delayed copy is refused, and there is no order."""
    with open_harness(delay_seconds=2) as harness:
        harness.call_with_fault("delayed", "AddOrder", **RESTING_ORDER)
        harness.call("OpenOrders")
        harness.advance_time(2)
        assert harness.order_times() == []
        assert [(row.method, row.error) for row in harness.simulator.request_log] == [
            ("OpenOrders", ""),
            ("AddOrder", "EAPI:Invalid nonce"),
        ]


def test_a_nonce_window_accepts_an_overtaken_request() -> None:
    """With a nonce window above zero the same copy is executed."""
    with open_harness(delay_seconds=2, nonce_window=10) as harness:
        harness.call_with_fault("delayed", "AddOrder", **RESTING_ORDER)
        harness.call("OpenOrders")
        harness.advance_time(2)
        assert harness.order_times() == [2]


@pytest.mark.parametrize("fault", ["duplicated_first", "duplicated_second"])
def test_a_duplicate_is_refused_for_its_nonce_and_one_response_is_sent(fault: str) -> None:
    """There is one order; the sender gets the txid, or the refusal of the copy, as the fault says."""
    with open_harness(delay_seconds=2) as harness:
        answer = harness.call_with_fault(fault, "AddOrder", **RESTING_ORDER)
        harness.advance_time(2)
        assert harness.order_times() == [0]
        assert [row.error for row in harness.simulator.request_log] == ["", "EAPI:Invalid nonce"]
        txids = list(harness.simulator.exchange.account.orders)
        first = fault == "duplicated_first"
        assert (answer["txid"] if first else answer) == (txids if first else ["EAPI:Invalid nonce"])


def test_allowing_nonce_repeats_duplicates_an_order() -> None:
    """An order that fills at once is accepted twice under one client id, and the exchange reports that id."""
    with open_harness(nonce_window=10, allow_nonce_repeats=True) as harness:
        answer = harness.call_with_fault("duplicated_second", "AddOrder", cl_ord_id="mine", **TAKER_ORDER)
        for names in ({"cl_ord_id": "other"}, {}, {}):
            harness.call("AddOrder", **names, **TAKER_ORDER)
        txids = harness.simulator.orders_by_client_id()
        assert {name: len(found) for name, found in txids.items()} == {"mine": 2, "other": 1}
        assert answer["txid"] == txids["mine"][1:]
        assert harness.simulator.api.state()["doubled"] == ["mine"]


def test_a_duplicate_arrives_after_its_delay_in_market_time() -> None:
    """On a market clock that is 20 times faster the copy arrives 2 market seconds after the request."""
    with open_harness(MarketClock(START, 20), delay_seconds=2) as harness:
        assert harness.call_with_fault("duplicated_second", "Balance") == ["EAPI:Invalid nonce"]
        first, second = (row.time for row in harness.simulator.request_log)
        assert second - first >= 2


def test_a_random_delay_is_between_zero_and_the_maximum() -> None:
    """A hundred delays of one seed are between 0 and 2 s and differ, and the same seed repeats them."""

    def random_delays(seed: int) -> list[float]:
        faults = FaultInjector({"delayed": 1}, seed)
        found = [faults.next_fault("Balance", is_private=True) for _ in range(100)]
        return [faults.copy_delay(fault, 2) for fault in found if fault]

    delays = random_delays(5)
    assert 0 <= min(delays) < 0.1
    assert 1.9 < max(delays) <= 2
    assert delays == random_delays(5)
    assert delays != random_delays(6)


# Refused and executed, in all combinations


@pytest.mark.parametrize(
    ("fault", "string"),
    [
        ("gateway_limit", "EAPI:Rate limit exceeded"),
        ("gateway_lockout", "EGeneral:Temporary lockout"),
        ("gateway_throttled", f"EService: Throttled: {int(START) + 3}"),
    ],
)
def test_a_gateway_error_does_not_consume_the_nonce(fault: str, string: str) -> None:
    """The answer is the gateway's, the nonce floor does not move, and there is no order."""
    with open_harness() as harness:
        assert harness.call_with_fault(fault, "AddOrder", **RESTING_ORDER) == [string]
        assert (harness.nonce_floor(), harness.order_times()) == (0, [])


@pytest.mark.parametrize(
    ("fault", "string"),
    [
        ("unavailable", "EService:Unavailable"),
        ("busy", "EService:Busy"),
        ("timeout", "EService:Timeout"),
        ("internal_error", "EGeneral:Internal error"),
        ("deadline_elapsed", "EService:Deadline elapsed"),
    ],
)
def test_a_service_error_consumes_the_nonce_and_executes_nothing(fault: str, string: str) -> None:
    """The answer is the service's, the nonce floor moves, and there is no order."""
    with open_harness() as harness:
        assert harness.call_with_fault(fault, "AddOrder", **RESTING_ORDER) == [string]
        assert (harness.nonce_floor(), harness.order_times()) == (1, [])


@pytest.mark.parametrize(
    ("fault", "string"),
    [
        ("gateway_limit_executed", "EAPI:Rate limit exceeded"),
        ("unavailable_executed", "EService:Unavailable"),
        ("busy_executed", "EService:Busy"),
        ("timeout_executed", "EService:Timeout"),
        ("internal_error_executed", "EGeneral:Internal error"),
    ],
)
def test_a_request_can_be_executed_and_answered_with_an_error(fault: str, string: str) -> None:
    """The answer is the same whether the engine accepted or refused the order, and an accepted order exists."""
    with open_harness() as harness:
        answers = [
            harness.call_with_fault(fault, "AddOrder", **RESTING_ORDER),
            harness.call_with_fault(fault, "AddOrder", **RESTING_ORDER | {"volume": "100"}),
        ]
        assert answers == [[string], [string]]
        assert (harness.nonce_floor(), harness.order_times()) == (2, [0])


def test_a_forwarding_gateway_hides_the_nonce_error() -> None:
    """A stale nonce behind a gateway that answers with its rate limit is answered with the rate limit."""
    with open_harness() as harness:
        harness.call("Balance")
        harness.client.nonce = 0
        assert harness.call_with_fault("gateway_limit_executed", "Balance") == ["EAPI:Rate limit exceeded"]
        assert [(row.is_nonce_accepted, row.error) for row in harness.simulator.request_log][1:] == [
            (False, "EAPI:Invalid nonce")
        ]


def test_method_specific_faults_do_not_affect_other_methods() -> None:
    """At a probability of one, faults of AddOrder or CancelOrder do not affect Balance, nor can they be set for it."""
    names = ("deadline_elapsed", "queued", "cancel_race")
    with open_harness(fault_rates=dict.fromkeys(names, 1.0)) as harness:
        assert harness.call("Balance") == {"ZUSD": "10000.0000"}
        for name in names:
            with pytest.raises(SimulatorError, match=f"{name} concerns (Add|Cancel)Order only"):
                harness.simulator.faults.fire_next(name, "Balance")


# Queue and deadline


def test_a_queued_order_executes_after_its_queue_time() -> None:
    """The sender gets no answer, the nonce is accepted at once, and the order exists only after the queue time."""
    with open_harness(queue_seconds=5) as harness:
        assert harness.call_with_fault("queued", "AddOrder", **RESTING_ORDER) is None
        assert harness.nonce_floor() == 1
        harness.advance_time(4.9)
        assert harness.order_times() == []
        harness.advance_time(10)
        assert harness.order_times() == [5]


def test_an_order_past_its_deadline_is_not_queued() -> None:
    """An order past its deadline is refused at the gateway and does not reach the engine."""
    with open_harness() as harness:
        harness.call_with_fault("queued", "AddOrder", deadline=format_rfc3339(START - 1), **RESTING_ORDER)
        harness.advance_time(100)
        assert harness.order_times() == []
        assert [row.error for row in harness.simulator.request_log] == ["EService:Deadline elapsed"]


@pytest.mark.parametrize(("checked_at", "orders"), [("engine", []), ("gateway", [9])])
def test_a_deadline_that_passes_in_the_queue_is_enforced_at_the_engine_only(
    checked_at: str, orders: list[float]
) -> None:
    """With a queue of 9 s and a deadline of 8 s, there is no order if the engine checks it, and one if only the gateway
    does."""
    with open_harness(queue_seconds=9, deadline_checked_at=checked_at) as harness:
        harness.call_with_fault("queued", "AddOrder", deadline=format_rfc3339(START + 8), **RESTING_ORDER)
        harness.advance_time(9)
        assert harness.order_times() == orders


def test_deadline_checked_at_accepts_engine_or_gateway_only() -> None:
    """Any other value than engine or gateway is refused."""
    with pytest.raises(SimulatorError, match="not at home"):
        Simulator(SimulatorOptions(deadline_checked_at="home"))


@pytest.mark.parametrize(("enforced", "orders"), [(True, []), (False, [2])])
def test_a_broken_exchange_accepts_orders_after_their_deadline(enforced: bool, orders: list[float]) -> None:
    """A request that is delayed past its order's deadline is executed only if deadlines are not enforced."""
    with open_harness(enforce_deadline=enforced, delay_seconds=2) as harness:
        harness.call_with_fault("delayed", "AddOrder", deadline=format_rfc3339(START + 1), **RESTING_ORDER)
        harness.advance_time(2)
        assert harness.order_times() == orders


@pytest.mark.parametrize(("offset", "ahead", "string"), [(3, 2, "Deadline elapsed"), (-3, -2, ""), (0, 1, "")])
def test_the_exchange_clock_can_be_offset(offset: int, ahead: int, string: str) -> None:
    """Time and the deadline check are offset from the market clock; the times of orders are not."""
    with open_harness(clock_offset_seconds=offset) as harness:
        assert harness.client.public("Time")["result"]["unixtime"] == START + offset
        answer = harness.call("AddOrder", deadline=format_rfc3339(START + ahead), **RESTING_ORDER)
        assert answer == [f"EService:{string}"] if string else harness.order_times() == [0]

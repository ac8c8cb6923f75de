"""Requests that come late, twice or to a queue; refusals at the gateway; deadlines."""

from __future__ import annotations

from contextlib import suppress

import pytest
import requests

from bot.base.clock import MarketClock, rfc3339
from bot.simulator.errors import SimulatorError
from bot.simulator.faults import Faults
from bot.simulator.options import SimulatorOptions
from bot.simulator.server import Simulator
from tests.simulator_parts import LIMIT, START, TAKING, open_desk

# Late and twice


def test_a_delayed_request_arrives_at_its_time() -> None:
    """Its sender has no answer, nothing is there a moment before the delay is over, and then it is executed."""
    with open_desk(delay_seconds=2) as desk:
        assert desk.fail("delayed", "AddOrder", **LIMIT) is None
        desk.pass_time(1.9)
        assert desk.orders() == []
        desk.pass_time(100)
        assert desk.orders() == [2]


def test_copies_arrive_in_the_order_of_their_times() -> None:
    """Of 20 requests delayed by chance, those that come later arrive later, and only rising nonces are accepted."""
    with open_desk(delay_seconds=2, fault_rates={"delayed": 1.0}) as desk:
        for _ in range(20):
            with suppress(requests.ConnectionError):
                desk.call("Balance")
        desk.pass_time(2)
        desk.simulator.api.catch_up()
        rows = list(desk.simulator.log)
    accepted = [int(row.nonce) for row in rows if row.accepted]
    assert len(rows) == 20
    assert [row.time for row in rows] == sorted(row.time for row in rows)
    assert accepted == sorted(accepted)
    assert len(accepted) < 20


@pytest.mark.parametrize("look", ["state", "orders_by_client_id"])
def test_whoever_looks_inside_sees_what_was_due(look: str) -> None:
    """The state and the orders by client id each have a delayed order as soon as its time has come."""
    with open_desk(delay_seconds=2) as desk:
        desk.fail("delayed", "AddOrder", cl_ord_id="mine", **LIMIT)
        desk.pass_time(2)
        seen = desk.simulator.api.state() if look == "state" else desk.simulator.orders_by_client_id()
        assert len(desk.simulator.exchange.account.orders) == 1
        assert seen.get("orders", 0) == 1 if look == "state" else list(seen) == ["mine"]


def test_a_delayed_request_that_was_overtaken_is_refused_for_its_nonce() -> None:
    """With one later request accepted before it, the copy is refused, and there is no order."""
    with open_desk(delay_seconds=2) as desk:
        desk.fail("delayed", "AddOrder", **LIMIT)
        desk.call("OpenOrders")
        desk.pass_time(2)
        assert desk.orders() == []
        assert [(row.method, row.error) for row in desk.simulator.log] == [
            ("OpenOrders", ""),
            ("AddOrder", "EAPI:Invalid nonce"),
        ]


def test_a_nonce_window_lets_an_overtaken_request_in() -> None:
    """With a window above zero the same copy is executed."""
    with open_desk(delay_seconds=2, nonce_window=10) as desk:
        desk.fail("delayed", "AddOrder", **LIMIT)
        desk.call("OpenOrders")
        desk.pass_time(2)
        assert desk.orders() == [2]


@pytest.mark.parametrize("fault", ["duplicated_first", "duplicated_second"])
def test_a_duplicate_is_refused_for_its_nonce_and_one_answer_is_given(fault: str) -> None:
    """There is one order; its sender sees the txid, or the refusal of the copy, as the fault says."""
    with open_desk(delay_seconds=2) as desk:
        answer = desk.fail(fault, "AddOrder", **LIMIT)
        desk.pass_time(2)
        assert desk.orders() == [0]
        assert [row.error for row in desk.simulator.log] == ["", "EAPI:Invalid nonce"]
        txids = list(desk.simulator.exchange.account.orders)
        first = fault == "duplicated_first"
        assert (answer["txid"] if first else answer) == (txids if first else ["EAPI:Invalid nonce"])


def test_a_window_that_allows_repeats_doubles_a_duplicated_order() -> None:
    """An order that fills at once is accepted twice under one client id, and the exchange says which id it was."""
    with open_desk(nonce_window=10, nonce_window_repeats=True) as desk:
        answer = desk.fail("duplicated_second", "AddOrder", cl_ord_id="mine", **TAKING)
        for names in ({"cl_ord_id": "other"}, {}, {}):
            desk.call("AddOrder", **names, **TAKING)
        txids = desk.simulator.orders_by_client_id()
        assert {name: len(found) for name, found in txids.items()} == {"mine": 2, "other": 1}
        assert answer["txid"] == txids["mine"][1:]
        assert desk.simulator.api.state()["doubled"] == ["mine"]


def test_a_second_copy_comes_after_its_delay_in_market_time() -> None:
    """On a market clock that is 20 times faster the exchange sees the copy 2 market seconds after the request."""
    with open_desk(MarketClock(START, 20), delay_seconds=2) as desk:
        assert desk.fail("duplicated_second", "Balance") == ["EAPI:Invalid nonce"]
        first, second = (row.time for row in desk.simulator.log)
        assert second - first >= 2


def test_a_delay_by_chance_is_anything_up_to_the_most() -> None:
    """A hundred delays of one seed lie from 0 to 2 s and differ, and the seed gives them again."""

    def drawn(seed: int) -> list[float]:
        faults = Faults({"delayed": 1}, seed)
        found = [faults.draw("Balance", private=True) for _ in range(100)]
        return [faults.delay(fault, 2) for fault in found if fault]

    delays = drawn(5)
    assert 0 <= min(delays) < 0.1
    assert 1.9 < max(delays) <= 2
    assert delays == drawn(5)
    assert delays != drawn(6)


# Refused and executed, in all combinations


@pytest.mark.parametrize(
    ("fault", "string"),
    [
        ("gateway_limit", "EAPI:Rate limit exceeded"),
        ("gateway_lockout", "EGeneral:Temporary lockout"),
        ("gateway_throttled", f"EService: Throttled: {int(START) + 3}"),
    ],
)
def test_a_gateway_refuses_before_it_looks_at_the_nonce(fault: str, string: str) -> None:
    """The answer is the gateway's, the floor is not moved, and there is no order."""
    with open_desk() as desk:
        assert desk.fail(fault, "AddOrder", **LIMIT) == [string]
        assert (desk.floor(), desk.orders()) == (0, [])


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
def test_a_service_refuses_after_the_nonce_and_executes_nothing(fault: str, string: str) -> None:
    """The answer is the service's, the floor is moved, and there is no order."""
    with open_desk() as desk:
        assert desk.fail(fault, "AddOrder", **LIMIT) == [string]
        assert (desk.floor(), desk.orders()) == (1, [])


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
def test_a_refusal_may_come_although_the_request_was_executed(fault: str, string: str) -> None:
    """The answer is the same whether the engine took the order or refused it, and one that it took is there."""
    with open_desk() as desk:
        answers = [desk.fail(fault, "AddOrder", **LIMIT), desk.fail(fault, "AddOrder", **LIMIT | {"volume": "100"})]
        assert answers == [[string], [string]]
        assert (desk.floor(), desk.orders()) == (2, [0])


def test_a_gateway_that_forwards_says_nothing_of_the_nonce_either() -> None:
    """A stale nonce behind a gateway that answers with its limit is answered with the limit."""
    with open_desk() as desk:
        desk.call("Balance")
        desk.client.nonce = 0
        assert desk.fail("gateway_limit_executed", "Balance") == ["EAPI:Rate limit exceeded"]
        assert [(row.accepted, row.error) for row in desk.simulator.log][1:] == [(False, "EAPI:Invalid nonce")]


def test_faults_of_the_engine_leave_other_methods_alone() -> None:
    """At a rate of one, faults of AddOrder or CancelOrder do not meet Balance, nor can they be aimed at it."""
    names = ("deadline_elapsed", "queued", "cancel_race")
    with open_desk(fault_rates=dict.fromkeys(names, 1.0)) as desk:
        assert desk.call("Balance") == {"ZUSD": "10000.0000"}
        for name in names:
            with pytest.raises(SimulatorError, match=f"{name} concerns (Add|Cancel)Order only"):
                desk.simulator.faults.fire_next(name, "Balance")


# Queue and deadline


def test_a_queued_order_is_executed_when_the_engine_comes_to_it() -> None:
    """Its sender has no answer, its nonce is accepted at once, and the order is there after the queue, not before."""
    with open_desk(queue_seconds=5) as desk:
        assert desk.fail("queued", "AddOrder", **LIMIT) is None
        assert desk.floor() == 1
        desk.pass_time(4.9)
        assert desk.orders() == []
        desk.pass_time(10)
        assert desk.orders() == [5]


def test_a_gateway_refuses_what_it_would_not_queue() -> None:
    """An order past its deadline is refused at the gateway, and never comes to the engine."""
    with open_desk() as desk:
        desk.fail("queued", "AddOrder", deadline=rfc3339(START - 1), **LIMIT)
        desk.pass_time(100)
        assert desk.orders() == []
        assert [row.error for row in desk.simulator.log] == ["EService:Deadline elapsed"]


@pytest.mark.parametrize(("deadline_at", "orders"), [("engine", []), ("gateway", [9])])
def test_a_deadline_that_passes_in_the_queue_counts_where_it_is_checked(deadline_at: str, orders: list[float]) -> None:
    """A queue of 9 s and a deadline of 8 s: no order where the engine looks at it, one where only the gateway does."""
    with open_desk(queue_seconds=9, deadline_at=deadline_at) as desk:
        desk.fail("queued", "AddOrder", deadline=rfc3339(START + 8), **LIMIT)
        desk.pass_time(9)
        assert desk.orders() == orders


def test_a_deadline_is_kept_in_one_place_or_the_other() -> None:
    """Another place than engine or gateway is refused."""
    with pytest.raises(SimulatorError, match="not at home"):
        Simulator(SimulatorOptions(deadline_at="home"))


@pytest.mark.parametrize(("enforced", "orders"), [(True, []), (False, [2])])
def test_a_broken_exchange_accepts_orders_after_their_deadline(enforced: bool, orders: list[float]) -> None:
    """A request that is delayed past its order's deadline is executed only where deadlines are not enforced."""
    with open_desk(enforce_deadline=enforced, delay_seconds=2) as desk:
        desk.fail("delayed", "AddOrder", deadline=rfc3339(START + 1), **LIMIT)
        desk.pass_time(2)
        assert desk.orders() == orders


@pytest.mark.parametrize(("offset", "ahead", "string"), [(3, 2, "Deadline elapsed"), (-3, -2, ""), (0, 1, "")])
def test_the_clock_of_the_exchange_can_be_wrong(offset: int, ahead: int, string: str) -> None:
    """Time and the check of deadlines are so many seconds away from the market; the times of orders are not."""
    with open_desk(clock_offset_seconds=offset) as desk:
        assert desk.client.public("Time")["result"]["unixtime"] == START + offset
        answer = desk.call("AddOrder", deadline=rfc3339(START + ahead), **LIMIT)
        assert answer == [f"EService:{string}"] if string else desk.orders() == [0]

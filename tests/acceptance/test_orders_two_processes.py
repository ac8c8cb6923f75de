"""Two processes on one journal: what one of them finds out of the other's order while that one is still at it."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import pytest

from bot.base.errors import NotSentError, OrderRefusedError, OrderUnknownError
from bot.broker_manager import KrakenBroker
from bot.kraken import transport
from bot.orders.order_state import OrderState
from bot.orders.reconciliation import DEADLINE_SECONDS, GAP_SECONDS, MARGIN_SECONDS
from bot.simulator.options import SimulatorOptions
from tests.acceptance.broker_tools import ORDER, Desk, open_desk, pass_time

pytestmark = pytest.mark.usefixtures("nonce_file")

RICH = SimulatorOptions(balances={"ZUSD": "1000000", "XXBT": "100"})
SIGNAL = ORDER | {"cl_ord_id": "abcde1234567890123"}


@pytest.fixture
def desk() -> Iterator[Desk]:
    """A local Kraken, and a broker that knows its past."""
    with open_desk(RICH) as opened:
        settle_all(opened, opened.broker)
        yield opened


@pytest.fixture
def other(desk: Desk) -> Iterator[KrakenBroker]:
    """Another process's broker, which has begun before."""
    broker = desk.open_broker()
    settle_all(desk, broker)
    yield broker
    broker.close()


def settle_all(desk: Desk, broker: KrakenBroker) -> None:
    """Look up whatever is unknown to a broker, and wait as long as it takes."""
    while broker.unknown_orders() or not broker.knows_the_past():
        broker.settle_unknown()
        pass_time(desk.clock, 1)


def look_before_the_outcome_is_written(
    desk: Desk, other: KrakenBroker, monkeypatch: pytest.MonkeyPatch, late_seconds: float
) -> None:
    """Let the other process look orders up so long after the answer, before it is written down."""
    write = desk.broker.journal.set_state

    def late(cl_ord_id: str, state: OrderState, *rest: object) -> None:
        pass_time(desk.clock, late_seconds)
        other.unknown_orders()
        other.settle_unknown()
        write(cl_ord_id, state, *rest)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(desk.broker.journal, "set_state", late)


def test_an_order_whose_end_another_process_wrote_first(
    desk: Desk, other: KrakenBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An accepted order that another process has found filled is told as placed, and stays filled."""
    look_before_the_outcome_is_written(desk, other, monkeypatch, DEADLINE_SECONDS + 1)
    placed = desk.broker.place_market_order("BTC/USD", "buy", Decimal("0.01"), "base")
    (kept,) = desk.broker.journal.intents()
    assert (kept.state, kept.txid, desk.broker.unknown_orders()) == (OrderState.FILLED, placed.txid, [])


def test_an_unanswered_order_that_another_process_found_first(
    desk: Desk, other: KrakenBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An order without an answer that another process has found is unknown to its sender until it finds it as well."""
    look_before_the_outcome_is_written(desk, other, monkeypatch, DEADLINE_SECONDS + 1)
    desk.simulator.faults.fire_next("answer_502", "AddOrder")
    with pytest.raises(OrderUnknownError):
        desk.broker.private_call("AddOrder", SIGNAL)
    (fate,) = desk.broker.settle_unknown()
    assert fate.order is not None
    assert [kept.state for kept in desk.broker.journal.intents()] == [OrderState.OPEN]


def test_an_order_that_was_refused_while_another_process_looked_for_it(
    desk: Desk, other: KrakenBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that proves the absence of what was refused meanwhile goes on, and the order stays refused."""
    look_before_the_outcome_is_written(desk, other, monkeypatch, DEADLINE_SECONDS + 1)
    with pytest.raises(OrderRefusedError):
        desk.broker.private_call("AddOrder", SIGNAL | {"volume": "100000", "price": "50000"})
    settle_all(desk, other)
    assert [kept.state for kept in desk.broker.journal.intents()] == [OrderState.REFUSED]


def test_a_proof_says_nothing_of_what_left_after_it_began(
    desk: Desk, other: KrakenBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another process has proved of an order that never left is not said of the same order, sent since."""
    look_before_the_outcome_is_written(desk, other, monkeypatch, DEADLINE_SECONDS + 1)
    ask = transport.ask

    def not_sent(query: object, method: str, params: dict[str, str]) -> object:
        if method != "AddOrder":
            return ask(query, method, params)  # type: ignore[arg-type]  # as it came
        desk.broker.api._nonce()
        raise NotSentError("no connection")

    with monkeypatch.context() as patch:
        patch.setattr(transport, "ask", not_sent)
        with pytest.raises(NotSentError):
            desk.broker.private_call("AddOrder", SIGNAL)
    monkeypatch.undo()
    pass_time(desk.clock, MARGIN_SECONDS)
    other.settle_unknown()
    desk.simulator.faults.fire_next("refuse_502", "AddOrder")
    with pytest.raises(OrderUnknownError):
        desk.broker.private_call("AddOrder", SIGNAL)
    pass_time(desk.clock, GAP_SECONDS)
    assert [fate.order for fate in other.settle_unknown()] == [None]
    assert [kept.state for kept in desk.broker.journal.intents()] == [OrderState.UNKNOWN]

"""Two processes on one journal: what one of them finds out of the other's order while that one is still at it."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import pytest

from bot.base.errors import NotSentError, OrderOutcomeUnknownError, OrderRefusedError
from bot.broker_manager import KrakenBroker
from bot.kraken import transport
from bot.kraken.order_requests import ORDER_DEADLINE_SECONDS
from bot.orders.order_state import OrderState
from bot.orders.reconciliation import DEADLINE_MARGIN_SECONDS, QUERY_GAP_SECONDS
from bot.simulator.options import SimulatorOptions
from tests.acceptance.broker_tools import ORDER, BrokerSetup, advance_time, open_broker_setup

pytestmark = pytest.mark.usefixtures("nonce_file")

RICH_OPTIONS = SimulatorOptions(balances={"ZUSD": "1000000", "XXBT": "100"})
SIGNAL = ORDER | {"cl_ord_id": "abcde1234567890123"}


@pytest.fixture
def setup() -> Iterator[BrokerSetup]:
    """A local Kraken, and a broker that knows its past."""
    with open_broker_setup(RICH_OPTIONS) as opened:
        reconcile_all(opened, opened.broker)
        yield opened


@pytest.fixture
def other_broker(setup: BrokerSetup) -> Iterator[KrakenBroker]:
    """Another process's broker, which has begun before."""
    broker = setup.open_broker()
    reconcile_all(setup, broker)
    yield broker
    broker.close()


def reconcile_all(setup: BrokerSetup, broker: KrakenBroker) -> None:
    """Look up whatever is unknown to a broker, and wait as long as it takes."""
    while broker.unknown_orders() or not broker.history_is_complete():
        broker.reconcile_unknown_orders()
        advance_time(setup.clock, 1)


def query_before_outcome_is_recorded(
    setup: BrokerSetup, other_broker: KrakenBroker, monkeypatch: pytest.MonkeyPatch, delay_seconds: float
) -> None:
    """Let the other process look orders up so long after the answer, before it is written down."""
    set_state = setup.broker.journal.set_state

    def delayed_set_state(cl_ord_id: str, state: OrderState, *rest: object) -> None:
        advance_time(setup.clock, delay_seconds)
        other_broker.unknown_orders()
        other_broker.reconcile_unknown_orders()
        set_state(cl_ord_id, state, *rest)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(setup.broker.journal, "set_state", delayed_set_state)


def test_order_closed_by_another_process_first_stays_filled(
    setup: BrokerSetup, other_broker: KrakenBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An accepted order that another process has found filled is told as placed, and stays filled."""
    query_before_outcome_is_recorded(setup, other_broker, monkeypatch, ORDER_DEADLINE_SECONDS + 1)
    placed = setup.broker.place_market_order("BTC/USD", "buy", Decimal("0.01"), "base")
    (stored,) = setup.broker.journal.intents()
    assert (stored.state, stored.txid, setup.broker.unknown_orders()) == (OrderState.FILLED, placed.txid, [])


def test_order_found_by_another_process_first_is_resolved_by_its_sender(
    setup: BrokerSetup, other_broker: KrakenBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An order without an answer that another process has found is unknown to its sender until it finds it as well."""
    query_before_outcome_is_recorded(setup, other_broker, monkeypatch, ORDER_DEADLINE_SECONDS + 1)
    setup.simulator.faults.fire_next("answer_502", "AddOrder")
    with pytest.raises(OrderOutcomeUnknownError):
        setup.broker.private_call("AddOrder", SIGNAL)
    (resolution,) = setup.broker.reconcile_unknown_orders()
    assert resolution.order is not None
    assert [kept.state for kept in setup.broker.journal.intents()] == [OrderState.OPEN]


def test_order_refused_during_another_process_query_stays_refused(
    setup: BrokerSetup, other_broker: KrakenBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that proves the absence of what was refused meanwhile goes on, and the order stays refused."""
    query_before_outcome_is_recorded(setup, other_broker, monkeypatch, ORDER_DEADLINE_SECONDS + 1)
    with pytest.raises(OrderRefusedError):
        setup.broker.private_call("AddOrder", SIGNAL | {"volume": "100000", "price": "50000"})
    reconcile_all(setup, other_broker)
    assert [kept.state for kept in setup.broker.journal.intents()] == [OrderState.REFUSED]


def test_absence_proof_ignores_orders_sent_after_it_began(
    setup: BrokerSetup, other_broker: KrakenBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another process has proved of an order that never left is not said of the same order, sent since."""
    query_before_outcome_is_recorded(setup, other_broker, monkeypatch, ORDER_DEADLINE_SECONDS + 1)
    send_request = transport.request

    def not_sent(query: object, method: str, params: dict[str, str]) -> object:
        if method != "AddOrder":
            return send_request(query, method, params)  # type: ignore[arg-type]  # as it came
        setup.broker.api._nonce()
        raise NotSentError("no connection")

    with monkeypatch.context() as patch:
        patch.setattr(transport, "ask", not_sent)
        with pytest.raises(NotSentError):
            setup.broker.private_call("AddOrder", SIGNAL)
    monkeypatch.undo()
    advance_time(setup.clock, DEADLINE_MARGIN_SECONDS)
    other_broker.reconcile_unknown_orders()
    setup.simulator.faults.fire_next("refuse_502", "AddOrder")
    with pytest.raises(OrderOutcomeUnknownError):
        setup.broker.private_call("AddOrder", SIGNAL)
    advance_time(setup.clock, QUERY_GAP_SECONDS)
    assert [fate.order for fate in other_broker.reconcile_unknown_orders()] == [None]
    assert [kept.state for kept in setup.broker.journal.intents()] == [OrderState.UNKNOWN]

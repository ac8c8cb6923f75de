"""Two processes on one journal: one reconciles the other's order while that process is still placing it."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import pytest

from bot.base.errors import NotSentError, OrderOutcomeUnknownError, OrderRefusedError
from bot.broker_manager import KrakenBroker
from bot.kraken.new_order import ORDER_DEADLINE_SECONDS
from bot.kraken.transport import KrakenAPI
from bot.orders.order_state import OrderState
from bot.orders.reconciliation import DEADLINE_MARGIN_SECONDS, QUERY_GAP_SECONDS
from bot.simulator.options import SimulatorOptions
from tests.acceptance.broker_tools import ORDER, BrokerSetup, advance_time, open_broker_setup

pytestmark = pytest.mark.usefixtures("nonce_file")

RICH_OPTIONS = SimulatorOptions(balances={"ZUSD": "1000000", "XXBT": "100"})
SIGNAL = ORDER | {"cl_ord_id": "abcde1234567890123"}


@pytest.fixture
def setup() -> Iterator[BrokerSetup]:
    """Open a local Kraken, and a broker after its start-up reconciliation."""
    with open_broker_setup(RICH_OPTIONS) as opened:
        reconcile_all(opened, opened.broker)
        yield opened


@pytest.fixture
def other_broker(setup: BrokerSetup) -> Iterator[KrakenBroker]:
    """Open the broker of another process, after its start-up reconciliation."""
    broker = setup.open_broker()
    reconcile_all(setup, broker)
    yield broker
    broker.close()


def reconcile_all(setup: BrokerSetup, broker: KrakenBroker) -> None:
    """Reconcile a broker's unknown orders and history, and wait as long as it takes."""
    while broker.unknown_orders() or not broker.history_is_complete():
        broker.reconcile_unknown_orders()
        advance_time(setup.clock, 1)


def query_before_outcome_is_recorded(
    setup: BrokerSetup, other_broker: KrakenBroker, monkeypatch: pytest.MonkeyPatch, delay_seconds: float
) -> None:
    """Let the other process query orders `delay_seconds` after the response, before the outcome is recorded."""
    set_state = setup.broker.journal.set_state

    def delayed_set_state(cl_ord_id: str, state: OrderState, *details: object) -> None:
        advance_time(setup.clock, delay_seconds)
        other_broker.unknown_orders()
        other_broker.reconcile_unknown_orders()
        set_state(cl_ord_id, state, *details)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(setup.broker.journal, "set_state", delayed_set_state)


def test_order_closed_by_another_process_first_stays_filled(
    setup: BrokerSetup, other_broker: KrakenBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An accepted order that another process has found filled is returned as placed, and stays filled."""
    query_before_outcome_is_recorded(setup, other_broker, monkeypatch, ORDER_DEADLINE_SECONDS + 1)
    placed = setup.broker.place_market_order("BTC/USD", "buy", Decimal("0.01"), "base")
    (intent,) = setup.broker.journal.intents()
    assert (intent.state, intent.txid, setup.broker.unknown_orders()) == (OrderState.FILLED, placed.txid, [])


def test_order_found_by_another_process_first_is_resolved_by_its_sender(
    setup: BrokerSetup, other_broker: KrakenBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unanswered order that another process has found is unknown to its sender until the sender finds it too."""
    query_before_outcome_is_recorded(setup, other_broker, monkeypatch, ORDER_DEADLINE_SECONDS + 1)
    setup.simulator.faults.fire_next("answer_502", "AddOrder")
    with pytest.raises(OrderOutcomeUnknownError):
        setup.broker.private_call("AddOrder", SIGNAL)
    (resolution,) = setup.broker.reconcile_unknown_orders()
    assert resolution.order is not None
    assert [intent.state for intent in setup.broker.journal.intents()] == [OrderState.OPEN]


def test_order_refused_during_another_process_query_stays_refused(
    setup: BrokerSetup, other_broker: KrakenBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a process proves the absence of an order that was refused meanwhile, the order stays refused."""
    query_before_outcome_is_recorded(setup, other_broker, monkeypatch, ORDER_DEADLINE_SECONDS + 1)
    with pytest.raises(OrderRefusedError):
        setup.broker.private_call("AddOrder", SIGNAL | {"volume": "100000", "price": "50000"})
    reconcile_all(setup, other_broker)
    assert [intent.state for intent in setup.broker.journal.intents()] == [OrderState.REFUSED]


def test_absence_proof_ignores_orders_sent_after_it_began(
    setup: BrokerSetup, other_broker: KrakenBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proof of absence for an order that was never sent does not apply to the same order when it is sent later."""
    query_before_outcome_is_recorded(setup, other_broker, monkeypatch, ORDER_DEADLINE_SECONDS + 1)
    send_private = KrakenAPI.send_private

    def fail_to_send(api: KrakenAPI, method: str, params: dict[str, str], nonce: str) -> object:
        if method != "AddOrder":
            return send_private(api, method, params, nonce)
        raise NotSentError("no connection")

    with monkeypatch.context() as patch:
        patch.setattr(KrakenAPI, "send_private", fail_to_send)
        with pytest.raises(NotSentError):
            setup.broker.private_call("AddOrder", SIGNAL)
    monkeypatch.undo()
    advance_time(setup.clock, DEADLINE_MARGIN_SECONDS)
    other_broker.reconcile_unknown_orders()
    setup.simulator.faults.fire_next("refuse_502", "AddOrder")
    with pytest.raises(OrderOutcomeUnknownError):
        setup.broker.private_call("AddOrder", SIGNAL)
    advance_time(setup.clock, QUERY_GAP_SECONDS)
    assert [resolution.order for resolution in other_broker.reconcile_unknown_orders()] == [None]
    assert [intent.state for intent in setup.broker.journal.intents()] == [OrderState.UNKNOWN]

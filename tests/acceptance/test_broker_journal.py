"""A journal that is lost at run time: missing orders are queried before the order of a signal is sent."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path

import pytest

from bot.base.errors import JournalError, OrderOutcomeUnknownError
from bot.base.models import Order
from bot.broker_manager import KrakenBroker
from bot.orders.journal import Journal
from bot.orders.order_state import Intent
from bot.trading.order_tracker import OrderTracker
from tests.acceptance.broker_tools import BrokerSetup, advance_time, open_broker_setup

pytestmark = pytest.mark.usefixtures("nonce_file")

BOT_ID = "lost1"
CL_ORD_ID = "lost10000000000001"


def await_complete_history(setup: BrokerSetup, broker: KrakenBroker, max_queries: int = 10) -> int:
    """Reconcile until the history is complete; return the number of queries that took."""
    for query_count in range(max_queries):
        if broker.history_is_complete() and not broker.unknown_orders():
            return query_count
        broker.reconcile_unknown_orders()
        advance_time(setup.clock, broker.next_query_seconds() or 0.0)
    return max_queries


def buy(broker: KrakenBroker) -> str:
    """Place the order of the one signal; return its txid."""
    price = broker.get_current_price("BTC/USD") + 10
    return broker.place_limit_order("BTC/USD", "buy", Decimal("0.01"), price, cl_ord_id=CL_ORD_ID).txid


def damage_journal(broker: KrakenBroker) -> None:
    """Overwrite all of the journal but its first page."""
    connection = broker.journal._database._connection
    assert connection is not None
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute("PRAGMA shrink_memory")
    path = Path(broker.journal.path)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))


@pytest.mark.parametrize("restarts", [False, True])
def test_journal_damaged_at_run_time_is_not_considered_complete(restarts: bool) -> None:
    """The bot continues in a new journal, reconciles its history, and sends no order a second time."""
    with open_broker_setup(bot_id=BOT_ID) as setup:
        broker = setup.broker
        await_complete_history(setup, broker)
        order_tracker = OrderTracker(broker)
        order_tracker.rebuild()
        buy(broker)
        advance_time(setup.clock, 600)
        order_tracker.refresh()
        damage_journal(broker)
        for _ in range(3):
            order_tracker.refresh()
        if restarts:
            broker.close()
            broker = setup.open_broker(bot_id=BOT_ID)
        broker.unknown_orders()
        assert not broker.history_is_complete()
        (txid,) = setup.simulator.orders_by_client_id()[CL_ORD_ID]
        assert buy(broker) == txid
        assert setup.placed_order_count() == 1
        broker.close()


def test_order_is_not_sent_from_a_just_lost_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the journal is lost between its check and the order's first byte, nothing is sent."""
    with open_broker_setup(bot_id=BOT_ID) as setup:
        await_complete_history(setup, setup.broker)
        record_intent = Journal.record_intent

        def lose_and_record(self: Journal, intent: Intent) -> None:
            with self._database.write() as connection:
                connection.execute("DELETE FROM known")
            record_intent(self, intent)

        monkeypatch.setattr(Journal, "record_intent", lose_and_record)
        with pytest.raises(JournalError, match="is new"):
            buy(setup.broker)
        assert setup.placed_order_count() == 0


def test_history_is_not_complete_before_it_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the found orders cannot be recorded, the history is queried again, and a found order is not sent again."""
    with open_broker_setup(bot_id=BOT_ID) as setup:
        await_complete_history(setup, setup.broker)
        txid = buy(setup.broker)
        setup.broker.close()
        Path(setup.broker.journal.path).unlink()
        restarted = setup.open_broker(bot_id=BOT_ID)
        record_orders = Journal.record_orders

        def fail(self: Journal, orders: Iterable[Order]) -> None:
            raise JournalError("the disk is full")

        monkeypatch.setattr(Journal, "record_orders", fail)
        assert await_complete_history(setup, restarted) == 10
        assert not restarted.history_is_complete()
        monkeypatch.setattr(Journal, "record_orders", record_orders)
        assert buy(restarted) == txid
        assert setup.placed_order_count() == 1
        restarted.close()


def test_resolution_found_by_an_order_of_another_pair_is_reported() -> None:
    """A resolution found while an order waits for the history of a lost journal is returned by the next
    reconciliation."""
    with open_broker_setup(bot_id=BOT_ID) as setup:
        broker = setup.broker
        await_complete_history(setup, broker)
        setup.simulator.faults.fire_next("answer_502", "AddOrder")
        with pytest.raises(OrderOutcomeUnknownError):
            buy(broker)
        broker.journal.close()
        for path in Path(broker.journal.path).parent.glob("journal.*"):
            path.unlink()
        broker.unknown_orders()
        broker.place_limit_order("ETH/USD", "buy", Decimal("0.1"), Decimal(10), cl_ord_id="lost10000000000002")
        assert broker.unknown_orders() == []
        (resolution,) = broker.reconcile_unknown_orders()
        assert resolution.order is not None
        assert (resolution.order.cl_ord_id, broker.reconcile_unknown_orders()) == (CL_ORD_ID, [])

"""A journal that is lost while orders are about: what it lacks is looked for before a signal's order leaves."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path

import pytest

from bot.base.errors import JournalError, OrderUnknownError
from bot.base.models import Order
from bot.broker_manager import KrakenBroker
from bot.orders.journal import Journal
from bot.orders.order_state import Intent
from bot.trading.order_tracker import OwnOrders
from tests.acceptance.broker_tools import Desk, open_desk, pass_time

pytestmark = pytest.mark.usefixtures("nonce_file")

BOT_ID = "lost1"
NAME = "lost10000000000001"


def await_the_past(desk: Desk, broker: KrakenBroker, looks_max: int = 10) -> int:
    """Settle until the past is known; return how many looks that took."""
    for looks in range(looks_max):
        if broker.knows_the_past() and not broker.unknown_orders():
            return looks
        broker.settle_unknown()
        pass_time(desk.clock, broker.next_look_up_seconds() or 0.0)
    return looks_max


def buy(broker: KrakenBroker) -> str:
    """Place the order of the one signal; return its txid."""
    price = broker.get_current_price("BTC/USD") + 10
    return broker.place_limit_order("BTC/USD", "buy", Decimal("0.01"), price, cl_ord_id=NAME).txid


def damage(broker: KrakenBroker) -> None:
    """Overwrite all of the journal but its first page."""
    connection = broker.journal._file._connection
    assert connection is not None
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute("PRAGMA shrink_memory")
    path = Path(broker.journal.path)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))


@pytest.mark.parametrize("restarts", [False, True])
def test_a_journal_damaged_while_the_bot_runs_is_not_taken_for_one_that_knows_all(restarts: bool) -> None:
    """The bot goes on in a new journal, looks for its past, and sends no signal's order a second time."""
    with open_desk(bot_id=BOT_ID) as desk:
        broker = desk.broker
        await_the_past(desk, broker)
        own = OwnOrders(broker)
        own.rebuild()
        buy(broker)
        pass_time(desk.clock, 600)
        own.refresh()
        damage(broker)
        for _ in range(3):
            own.refresh()
        if restarts:
            broker.close()
            broker = desk.open_broker(bot_id=BOT_ID)
        broker.unknown_orders()
        assert not broker.knows_the_past()
        (txid,) = desk.simulator.orders_by_client_id()[NAME]
        assert buy(broker) == txid
        assert desk.orders_placed() == 1
        broker.close()


def test_an_order_does_not_leave_from_a_journal_that_was_lost_a_moment_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the journal is lost between the look at it and the order's first byte, nothing is sent."""
    with open_desk(bot_id=BOT_ID) as desk:
        await_the_past(desk, desk.broker)
        intend = Journal.intend

        def lose(self: Journal, intent: Intent) -> None:
            with self._file.write() as connection:
                connection.execute("DELETE FROM known")
            intend(self, intent)

        monkeypatch.setattr(Journal, "intend", lose)
        with pytest.raises(JournalError, match="is new"):
            buy(desk.broker)
        assert desk.orders_placed() == 0


def test_the_past_is_not_known_before_it_is_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where what was found cannot be written the past is looked for again, and the order found is not sent again."""
    with open_desk(bot_id=BOT_ID) as desk:
        await_the_past(desk, desk.broker)
        txid = buy(desk.broker)
        desk.broker.close()
        Path(desk.broker.journal.path).unlink()
        later = desk.open_broker(bot_id=BOT_ID)
        take_rows = Journal.take_rows

        def full(self: Journal, rows: Iterable[Order]) -> None:
            raise JournalError("the disk is full")

        monkeypatch.setattr(Journal, "take_rows", full)
        assert await_the_past(desk, later) == 10
        assert not later.knows_the_past()
        monkeypatch.setattr(Journal, "take_rows", take_rows)
        assert buy(later) == txid
        assert desk.orders_placed() == 1
        later.close()


def test_a_fate_that_an_order_of_another_pair_has_found_out_is_told() -> None:
    """Where an order waits for the past of a lost journal, what its look-ups settle is told at the next settlement."""
    with open_desk(bot_id=BOT_ID) as desk:
        broker = desk.broker
        await_the_past(desk, broker)
        desk.simulator.faults.fire_next("answer_502", "AddOrder")
        with pytest.raises(OrderUnknownError):
            buy(broker)
        broker.journal.close()
        for path in Path(broker.journal.path).parent.glob("journal.*"):
            path.unlink()
        broker.unknown_orders()
        broker.place_limit_order("ETH/USD", "buy", Decimal("0.1"), Decimal(10), cl_ord_id="lost10000000000002")
        assert broker.unknown_orders() == []
        (fate,) = broker.settle_unknown()
        assert fate.order is not None
        assert (fate.order.cl_ord_id, broker.settle_unknown()) == (NAME, [])

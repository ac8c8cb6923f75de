"""The bot's own orders: loaded from the journal, updated from Kraken's order records, and written to the journal."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from bot.base.errors import NoAnswerError
from bot.base.models import Order, OrderStatus, Side
from bot.orders.journal import Journal
from bot.orders.order_state import OrderState
from bot.trading.exit_policy import OrderRole
from bot.trading.order_tracker import OrderTracker
from tests.journal_rows import make_intent
from tests.trading_fakes import BOT_ID, FakeBroker, SteppedClock, make_candles, make_order

NOW = 10_000.0
ID = f"{BOT_ID}|1"


@pytest.fixture
def clock() -> SteppedClock:
    """Return the market clock."""
    return SteppedClock(NOW)


@pytest.fixture
def broker(clock: SteppedClock) -> FakeBroker:
    """Return an account whose journal was complete 90 seconds ago."""
    broker = FakeBroker(clock, {"BTC/USD": make_candles([100] * 3)})
    broker.journal.set_complete_until(BOT_ID, NOW - 90)
    return broker


def bought_order(seconds: float = 1000.0) -> Order:
    """Return the order record of one coin that this bot bought then."""
    return make_order("O1", Side.BUY, "1", "100", cl_ord_id=ID, opened_seconds=seconds, closed_seconds=seconds)


def resting_order() -> Order:
    """Return the order record of a resting entry."""
    return replace(make_order("O1", Side.BUY, "1", "100", cl_ord_id=ID), status=OrderStatus.OPEN, executed=Decimal(0))


def record_query_starts(broker: FakeBroker) -> list[float]:
    """Return a list of the start times of all queries for closed orders."""
    start_times: list[float] = []
    get_closed_orders = broker.get_closed_orders

    def recording_get(since_seconds: float = 0) -> list[Order]:
        start_times.append(since_seconds)
        return get_closed_orders(since_seconds)

    broker.get_closed_orders = recording_get  # type: ignore[method-assign]
    return start_times


def test_orders_in_the_journal_are_not_queried_again(broker: FakeBroker) -> None:
    """A coin whose order only the journal has is held, its signal was placed, and Kraken is queried for later orders
    only."""
    broker.journal.record_orders([bought_order()])
    start_times, tracker = record_query_starts(broker), OrderTracker(broker)
    tracker.rebuild()
    assert tracker.book.holding("BTC/USD").quantity == 1
    assert tracker.was_placed(ID)
    assert start_times == [NOW - 150]


def test_an_accepted_order_without_a_record_is_still_working(broker: FakeBroker) -> None:
    """An order that the journal has as accepted and Kraken's lists do not have yet is working, but not open."""
    broker.journal.record_intent(make_intent(ID))
    broker.journal.mark_sent(ID, "1", NOW - 100, NOW - 92)
    broker.journal.set_state(ID, OrderState.OPEN, txid="O1")
    tracker = OrderTracker(broker)
    tracker.rebuild()
    assert [(order.txid, order.role, order.is_open) for order in tracker.working("BTC/USD")] == [
        ("O1", OrderRole.ENTRY, False)
    ]


def test_placed_and_not_placed_signals_are_loaded_from_the_journal(broker: FakeBroker) -> None:
    """This bot's placed intent counts as placed, its absent one as not placed, and another bot's is ignored."""
    for cl_ord_id, state in (
        (ID, OrderState.FILLED),
        (f"{BOT_ID}|2", OrderState.NOT_PLACED),
        ("other|1", OrderState.OPEN),
    ):
        broker.journal.record_intent(make_intent(cl_ord_id, symbol=cl_ord_id))
        broker.journal.mark_sent(cl_ord_id, "1", NOW - 100, NOW - 92)
        broker.journal.set_state(cl_ord_id, state)
    tracker = OrderTracker(broker)
    tracker.rebuild()
    assert [tracker.was_placed(cl_ord_id) for cl_ord_id in (ID, f"{BOT_ID}|2", "other|1")] == [True, False, False]
    assert tracker.not_placed_ids == {f"{BOT_ID}|2"}
    assert tracker.working("other|1") == ()


def test_the_journal_is_kept_up_to_date_while_nothing_is_open(broker: FakeBroker, clock: SteppedClock) -> None:
    """After an idle hour the journal is marked complete up to then."""
    tracker = OrderTracker(broker)
    tracker.rebuild()
    clock.time_seconds += 3600
    tracker.refresh()
    assert broker.journal.complete_until(BOT_ID) == NOW + 3600


def test_the_journal_is_not_marked_complete_before_the_history_is_read(broker: FakeBroker, clock: SteppedClock) -> None:
    """If the first read of the history fails, the next one an hour later finds a purchase from before the failure."""
    broker.fail("get_closed_orders", NoAnswerError("half an answer"))
    broker.orders["O1"] = bought_order(NOW - 80)
    tracker = OrderTracker(broker)
    with pytest.raises(NoAnswerError):
        tracker.rebuild()
    clock.time_seconds += 3600
    tracker.refresh()
    tracker.rebuild()
    assert tracker.book.holding("BTC/USD").quantity == 1


def test_an_entry_that_rested_and_is_in_neither_list_is_not_open(broker: FakeBroker) -> None:
    """An order that was open and is in neither list now is working, and not open, because it may have filled."""
    broker.orders["O1"] = resting_order()
    tracker = OrderTracker(broker)
    tracker.rebuild()
    assert [order.is_open for order in tracker.working("BTC/USD")] == [True]
    del broker.orders["O1"]
    tracker.refresh()
    assert [order.is_open for order in tracker.working("BTC/USD")] == [False]
    assert tracker.open_orders() == []


def test_an_order_in_neither_list_is_queried_by_its_id(broker: FakeBroker, clock: SteppedClock) -> None:
    """An order that leaves OpenOrders and does not appear in ClosedOrders is found by its id after 15 s."""
    broker.orders["O1"] = resting_order()
    tracker = OrderTracker(broker)
    tracker.rebuild()
    broker.orders["O1"] = bought_order(NOW)
    broker.get_closed_orders = lambda since_seconds=0: []  # type: ignore[method-assign]
    tracker.refresh()
    assert (broker.calls.count("query_order"), len(tracker.working("BTC/USD"))) == (0, 1)
    clock.time_seconds += 15
    tracker.refresh()
    assert (broker.calls.count("query_order"), len(tracker.working("BTC/USD"))) == (1, 0)
    assert tracker.book.holding("BTC/USD").quantity == 1


def test_a_vanished_order_is_reported_once_and_stays_working(broker: FakeBroker, clock: SteppedClock) -> None:
    """An order that Kraken does not know by its id either is reported after a minute, once, and never taken for
    gone."""
    broker.orders["O1"] = resting_order()
    tracker = OrderTracker(broker)
    tracker.rebuild()
    del broker.orders["O1"]
    reported = {}
    for seconds in range(0, 600, 10):
        tracker.refresh()
        for vanished in tracker.pop_vanished():
            reported[seconds] = vanished.txid
        clock.time_seconds += 10
    assert reported == {60: "O1"}
    assert [order.txid for order in tracker.working("BTC/USD")] == ["O1"]
    assert broker.calls.count("query_order") == 10


def test_an_open_order_that_the_list_lacks_is_not_vanished(broker: FakeBroker, clock: SteppedClock) -> None:
    """An order that only its id shows as open is not reported."""
    broker.orders["O1"] = resting_order()
    tracker = OrderTracker(broker)
    tracker.rebuild()
    broker.get_open_orders = list  # type: ignore[method-assign]
    for _ in range(60):
        tracker.refresh()
        assert tracker.pop_vanished() == []
        clock.time_seconds += 10


def test_external_orders_are_known_only_while_open(broker: FakeBroker) -> None:
    """An order of another sender is known while it is open, and dropped by the next refresh after that."""
    broker.orders |= {"O1": resting_order(), "O9": replace(resting_order(), txid="O9", cl_ord_id="")}
    tracker = OrderTracker(broker)
    tracker.rebuild()
    assert list(tracker.external_orders) == ["O9"]
    del broker.orders["O9"]
    tracker.refresh()
    assert tracker.external_orders == {}


def test_order_records_that_could_not_be_written_are_written_later(broker: FakeBroker, tmp_path: Path) -> None:
    """A failed write is reported as a journal error; once the disk works, the missing order record is written and the
    error is cleared."""
    tracker = OrderTracker(broker)
    tracker.rebuild()
    broker.journal = Journal(str(tmp_path / "gone" / "journal.sqlite"))
    tracker.adopt(bought_order())
    tracker.refresh()
    assert "could not be written" in tracker.journal_error
    (tmp_path / "gone").mkdir()
    tracker.refresh()
    assert broker.journal.orders() == [bought_order()]
    assert tracker.journal_error == ""


def test_an_order_record_is_written_only_when_it_changes(broker: FakeBroker) -> None:
    """A resting entry is written once, however often its unchanged record is read."""
    written: list[Order] = []
    broker.journal.record_orders = written.extend  # type: ignore[method-assign, assignment]
    broker.orders["O1"] = resting_order()
    tracker = OrderTracker(broker)
    tracker.rebuild()
    tracker.refresh()
    tracker.refresh()
    assert written == [resting_order()]

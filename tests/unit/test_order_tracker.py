"""The bot's own orders: taken over from the journal, followed by Kraken's rows, and kept in the journal."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from bot.base.errors import NoAnswerError
from bot.base.models import Order, OrderStatus, Side
from bot.orders.journal import Journal
from bot.orders.order_state import OrderState
from bot.trading.exit_policy import Role
from bot.trading.order_tracker import OwnOrders
from tests.journal_rows import intent
from tests.trading_fakes import BOT_ID, FakeBroker, SteppedClock, make_candles, make_order

NOW = 10_000.0
ID = f"{BOT_ID}|1"


@pytest.fixture
def clock() -> SteppedClock:
    """Return the market's clock."""
    return SteppedClock(NOW)


@pytest.fixture
def broker(clock: SteppedClock) -> FakeBroker:
    """Return an account whose journal is up to date since a minute and a half."""
    broker = FakeBroker(clock, {"BTC/USD": make_candles([100] * 3)})
    broker.journal.set_known_until(BOT_ID, NOW - 90)
    return broker


def bought(seconds: float = 1000.0) -> Order:
    """Return the row of one coin that this bot bought then."""
    return make_order("O1", Side.BUY, "1", "100", cl_ord_id=ID, opened_seconds=seconds, closed_seconds=seconds)


def resting() -> Order:
    """Return the row of an entry that rests."""
    return replace(make_order("O1", Side.BUY, "1", "100", cl_ord_id=ID), status=OrderStatus.OPEN, executed=Decimal(0))


def asked_since(broker: FakeBroker) -> list[float]:
    """Return a list to which each question for closed orders adds its moment."""
    moments: list[float] = []
    ask = broker.get_closed_orders

    def noted(since_seconds: float = 0) -> list[Order]:
        moments.append(since_seconds)
        return ask(since_seconds)

    broker.get_closed_orders = noted  # type: ignore[method-assign]
    return moments


def test_what_the_journal_has_is_not_asked_for_again(broker: FakeBroker) -> None:
    """A coin whose row only the journal has is held, its signal was placed, and Kraken is asked for what came since."""
    broker.journal.take_rows([bought()])
    moments, own = asked_since(broker), OwnOrders(broker)
    own.rebuild()
    assert own.book.holding("BTC/USD").quantity == 1
    assert own.has(ID)
    assert moments == [NOW - 150]


def test_what_was_accepted_and_not_seen_since_is_still_working(broker: FakeBroker) -> None:
    """An order that the journal has as accepted, and Kraken's lists not yet, is neither open nor gone."""
    broker.journal.intend(intent(ID))
    broker.journal.leave(ID, "1", NOW - 100, NOW - 92)
    broker.journal.set_state(ID, OrderState.OPEN, txid="O1")
    own = OwnOrders(broker)
    own.rebuild()
    assert [(order.txid, order.role, order.is_open) for order in own.working("BTC/USD")] == [("O1", Role.ENTRY, False)]


def test_which_signals_were_placed_and_which_not_is_taken_over(broker: FakeBroker) -> None:
    """This bot's placed intent counts as placed, its absent one as not placed, and another bot's as nothing."""
    for name, state in ((ID, OrderState.FILLED), (f"{BOT_ID}|2", OrderState.NOT_PLACED), ("other|1", OrderState.OPEN)):
        broker.journal.intend(intent(name, symbol=name))
        broker.journal.leave(name, "1", NOW - 100, NOW - 92)
        broker.journal.set_state(name, state)
    own = OwnOrders(broker)
    own.rebuild()
    assert [own.has(name) for name in (ID, f"{BOT_ID}|2", "other|1")] == [True, False, False]
    assert own.not_placed == {f"{BOT_ID}|2"}
    assert own.working("other|1") == ()


def test_the_journal_is_kept_up_to_date_while_nothing_is_open(broker: FakeBroker, clock: SteppedClock) -> None:
    """An idle hour after the start, the journal is known to lack nothing up to then."""
    own = OwnOrders(broker)
    own.rebuild()
    clock.time_seconds += 3600
    own.refresh()
    assert broker.journal.known_until(BOT_ID) == NOW + 3600


def test_before_the_history_is_read_the_journal_is_not_said_to_have_it(broker: FakeBroker, clock: SteppedClock) -> None:
    """Where Kraken does not answer the first reading, the next one an hour later finds what was bought before it."""
    broker.fail("get_closed_orders", NoAnswerError("half an answer"))
    broker.rows["O1"] = bought(NOW - 80)
    own = OwnOrders(broker)
    with pytest.raises(NoAnswerError):
        own.rebuild()
    clock.time_seconds += 3600
    own.refresh()
    own.rebuild()
    assert own.book.holding("BTC/USD").quantity == 1


def test_an_entry_that_rested_and_is_in_neither_list_is_not_open(broker: FakeBroker) -> None:
    """An order that was open and is in neither list now is still working, and not open: it may have filled."""
    broker.rows["O1"] = resting()
    own = OwnOrders(broker)
    own.rebuild()
    assert [order.is_open for order in own.working("BTC/USD")] == [True]
    del broker.rows["O1"]
    own.refresh()
    assert [order.is_open for order in own.working("BTC/USD")] == [False]
    assert own.open_orders() == []


def test_of_the_orders_of_others_those_are_known_that_are_open(broker: FakeBroker) -> None:
    """An order of another sender is known while it is open, and forgotten with the next look after that."""
    broker.rows |= {"O1": resting(), "O9": replace(resting(), txid="O9", cl_ord_id="")}
    own = OwnOrders(broker)
    own.rebuild()
    assert list(own.foreign) == ["O9"]
    del broker.rows["O9"]
    own.refresh()
    assert own.foreign == {}


def test_rows_that_could_not_be_written_are_written_later(broker: FakeBroker, tmp_path: Path) -> None:
    """While the disk refuses there is trouble; once it does not, the missing row is there and the trouble is over."""
    own = OwnOrders(broker)
    own.rebuild()
    broker.journal = Journal(str(tmp_path / "gone" / "journal.sqlite"))
    own.adopt(bought())
    own.refresh()
    assert "could not be written" in own.trouble
    (tmp_path / "gone").mkdir()
    own.refresh()
    assert broker.journal.orders() == [bought()]
    assert own.trouble == ""


def test_a_row_is_written_down_when_it_is_new_and_not_again(broker: FakeBroker) -> None:
    """A resting entry is written down once, however often its unchanged row is read."""
    written: list[Order] = []
    broker.journal.take_rows = written.extend  # type: ignore[method-assign, assignment]
    broker.rows["O1"] = resting()
    own = OwnOrders(broker)
    own.rebuild()
    own.refresh()
    own.refresh()
    assert written == [resting()]

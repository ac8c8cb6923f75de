"""Databases of commit c70f41a can be read, and today's program writes the same.

Another version on the same disk has to read what this one writes, and a rolled-back version too, so both directions are
compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from bot.base.clock import ReplayClock
from bot.base.errors import OrderBlockedError
from bot.base.models import OrderStatus, Side
from bot.orders.journal import EquityPoint, Journal
from bot.orders.order_state import OrderState
from bot.simulator.keys import ApiKey
from bot.simulator.options import SimulatorOptions
from bot.simulator.server import Simulator
from bot.simulator.storage import Storage
from tests.journal_rows import make_fill, make_intent, make_kraken_order, make_open_kraken_order
from tests.simulator_parts import START, YEAR_SECONDS, make_exchange, place_order
from tests.stores.stored_formats import API_KEY, API_SECRET, contents, restore

# The journal

# The last state of each order, by its number.
STATES = {
    1: OrderState.INTENDED,
    2: OrderState.SENT,
    3: OrderState.UNKNOWN,
    4: OrderState.OPEN,
    5: OrderState.PARTLY_FILLED,
    6: OrderState.FILLED,
    7: OrderState.CANCELED,
    8: OrderState.EXPIRED,
    9: OrderState.REFUSED,
    10: OrderState.NOT_PLACED,
}


def order_id(number: int) -> str:
    """Return the client order id of an order."""
    return f"mybot{number:013d}"


def txid(number: int) -> str:
    """Return Kraken's id of an order."""
    return f"OAAAAA-AAAAA-AAAA{number:02d}"


def fill_journal(path: Path) -> None:
    """Write a journal with an order in each state, fills and equity points, for two bots."""
    half = {"executed": Decimal("0.00500000"), "cost": Decimal("250.00000"), "fee": Decimal("0.62500")}
    journal = Journal(str(path))
    for number in STATES:
        journal.record_intent(make_intent(order_id(number), symbol=f"C{number}/USD", intended_seconds=100.0 + number))
    for number in range(2, 11):
        journal.mark_sent(order_id(number), f"17900000000000{number:02d}", 103.25 + number, 111.25 + number)
    journal.set_state(order_id(3), OrderState.UNKNOWN, "no answer")
    journal.set_state(order_id(9), OrderState.REFUSED, "EOrder:Insufficient funds")
    journal.set_state(order_id(10), OrderState.NOT_PLACED, "it was looked for in vain")
    journal.record_orders(
        [
            make_open_kraken_order(order_id(4), txid(4), symbol="C4/USD", expires_seconds=900.5),
            make_open_kraken_order(order_id(5), txid(5), symbol="C5/USD", **half, average_price=Decimal("50000.0")),
            make_kraken_order(order_id(6), txid(6), symbol="C6/USD"),
            make_kraken_order(
                order_id(7), txid(7), symbol="C7/USD", status=OrderStatus.CANCELED, reason="User requested", **half
            ),
            make_open_kraken_order(
                order_id(8), txid(8), symbol="C8/USD", status=OrderStatus.EXPIRED, closed_seconds=130.5
            ),
            make_open_kraken_order(
                "other0000000000001",
                txid(11),
                side=Side.SELL,
                kind="stop-loss",
                status=OrderStatus.PENDING,
                symbol="C11/USD",
            ),
        ]
    )
    journal.add_fills(
        [
            make_fill("TAAAAA-AAAAA-AAAAA5", txid(5), symbol="C5/USD", volume=half["executed"], cost=half["cost"]),
            make_fill("TAAAAA-AAAAA-AAAAA6", txid(6), symbol="C6/USD", side=Side.SELL, time_seconds=103.125),
        ]
    )
    journal.add_equity(EquityPoint(104.0, "USD", Decimal("10000.00")))
    journal.add_equity(EquityPoint(105.5, "EUR", Decimal("9999.1234")))
    journal.set_complete_until("mybot", 100.5)
    journal.set_complete_until("other", 50.25)
    journal.extend_complete_until("mybot", 200.5)
    journal.close()


@pytest.fixture
def old_journal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Journal]:
    """Return the stored journal; after the test, check that it was not moved aside as damaged."""
    path = tmp_path / "state" / "journal.sqlite"
    path.parent.mkdir()
    restore("journal.sql", path)
    with closing(Journal(str(path))) as journal:
        yield journal
    assert [one.name for one in path.parent.iterdir()] == ["journal.sqlite"]
    assert caplog.record_tuples == []


def test_the_journal_is_written_as_it_was(tmp_path: Path) -> None:
    """The same calls create the same tables, indexes, triggers and rows as in the stored journal."""
    restore("journal.sql", tmp_path / "stored")
    fill_journal(tmp_path / "today")
    assert contents(tmp_path / "today") == contents(tmp_path / "stored")


def test_every_stored_order_is_read_in_its_state(old_journal: Journal) -> None:
    """Each order of a stored journal is read in the state in which it was written; there is one in every state."""
    states = {one.cl_ord_id: one.state for one in old_journal.intents()}
    assert states == {order_id(number): state for number, state in STATES.items()} | {
        "other0000000000001": OrderState.OPEN
    }
    assert set(states.values()) == set(OrderState)


def test_a_stored_journal_reads_like_a_new_one(old_journal: Journal, tmp_path: Path) -> None:
    """Intents, orders, fills and equity of the stored journal equal those of a new one; `complete_until` is kept."""
    fill_journal(tmp_path / "today")
    with closing(Journal(str(tmp_path / "today"))) as today:
        assert old_journal.intents() == today.intents()
        assert old_journal.orders() == today.orders()
        assert old_journal.fills() == today.fills()
        assert old_journal.equity_points() == today.equity_points()
        assert old_journal.filled_volumes() == today.filled_volumes()
    assert [old_journal.complete_until(bot_id) for bot_id in ("mybot", "other", "third")] == [200.5, 50.25, 0.0]


def test_unresolved_and_working_stored_orders_are_found(old_journal: Journal) -> None:
    """Sent and unknown orders of a stored journal are unresolved; open and partly filled ones are working."""
    assert [one.cl_ord_id for one in old_journal.unresolved_intents()] == [order_id(2), order_id(3)]
    assert [one.cl_ord_id for one in old_journal.working_intents()] == ["other0000000000001", order_id(4), order_id(5)]


@pytest.mark.parametrize("number", [number for number in STATES if number != 1])
def test_no_stored_order_is_sent_again(old_journal: Journal, number: int) -> None:
    """No order of a stored journal can be intended again under its client order id, whatever became of it."""
    with pytest.raises(OrderBlockedError):
        old_journal.record_intent(make_intent(order_id(number)))


@pytest.mark.parametrize("number", [2, 3])
def test_an_unknown_stored_order_blocks_its_pair(old_journal: Journal, number: int) -> None:
    """An unknown order of a stored journal blocks a new order in its pair until it is resolved."""
    new = make_intent(order_id(99), symbol=f"C{number}/USD")
    old_journal.record_intent(new)
    with pytest.raises(OrderBlockedError):
        old_journal.mark_sent(new.cl_ord_id, "1790000000000099", 103.0, 111.0)
    old_journal.set_state(order_id(number), OrderState.NOT_PLACED)
    old_journal.mark_sent(new.cl_ord_id, "1790000000000099", 103.0, 111.0)


def test_reading_a_stored_journal_changes_nothing(old_journal: Journal, tmp_path: Path) -> None:
    """Opening and reading a stored journal changes nothing in it, so the previous version can still read it."""
    restore("journal.sql", tmp_path / "stored")
    old_journal.intents()
    old_journal.close()
    assert contents(Path(old_journal.path)) == contents(tmp_path / "stored")


# The simulated account

PRICE_SOURCE = "synthetic prices, seed 1"


def fill_account(path: Path) -> None:
    """Write an account with filled, resting, canceled and stop orders, and an armed dead man's switch."""
    exchange = make_exchange((0, "50000"), (100, "50000"))
    place_order(exchange, ordertype="market", cl_ord_id=order_id(1))
    place_order(exchange, price="1000", cl_ord_id=order_id(2), timeinforce="GTD", expiretm=str(int(START) + 900))
    canceled = place_order(exchange, price="2000", userref="7", oflags="fciq,post")
    exchange.advance(START + 10.5)
    exchange.cancel({"txid": canceled})
    place_order(exchange, type="sell", ordertype="stop-loss", price="40000", volume="0.005", cl_ord_id=order_id(3))
    exchange.arm_dead_man_switch(600)
    keys = [ApiKey(API_KEY, API_SECRET, "simulator", ("query-funds", "modify-trades"), 0, 1790000000000007, START, 1.5)]
    storage = Storage(path, PRICE_SOURCE)
    storage.save(exchange.account, keys, exchange.now, exchange.dead_man_switch_at)
    storage.close()


def test_the_simulated_account_is_written_as_it_was(tmp_path: Path) -> None:
    """The same account is stored in the same tables and rows as in the stored file."""
    restore("account.sql", tmp_path / "stored")
    fill_account(tmp_path / "today")
    assert contents(tmp_path / "today") == contents(tmp_path / "stored")


def test_a_simulator_opens_a_stored_account(tmp_path: Path) -> None:
    """A simulator opens the stored file with its key, nonce floor, orders and trade."""
    restore("account.sql", tmp_path / "account.db")
    options = SimulatorOptions(state_path=tmp_path / "account.db")
    with Simulator(options, ReplayClock(START + 10.5, START + YEAR_SECONDS)) as simulator:
        state, account = simulator.api.state(), simulator.exchange.account
        assert not simulator.is_new
        assert (simulator.key, simulator.secret) == (API_KEY, API_SECRET)
        assert state["floors"] == {API_KEY: "1790000000000007"}
        assert sorted(order.status for order in account.orders.values()) == ["canceled", "closed", "open", "open"]
        assert (len(account.trades), account.audit(), simulator.exchange.dead_man_switch_at) == (1, [], START + 610.5)

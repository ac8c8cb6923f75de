"""The first moments of a broker: no nonce before Kraken's time is known, no order before the past is known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from freezegun import freeze_time

from bot.base.clock import MarketClock, wall_seconds
from bot.base.errors import InvalidNonceError
from bot.broker_manager import get_kraken_nonce
from bot.orders.reconciliation import DEADLINE_SECONDS, GAP_SECONDS, MARGIN_SECONDS
from tests.acceptance.broker_tools import ORDER, open_desk, pass_time, price

NAMED = ORDER | {"cl_ord_id": "abcde1234567890123"}


def test_a_new_broker_draws_no_nonce(nonce_file: Path) -> None:
    """A broker that is made while the clock is two days ahead leaves no nonce behind that would outlive the error."""
    with open_desk() as desk:
        with freeze_time(datetime.now(UTC) + timedelta(days=2)):
            desk.open_broker().close()
        assert not nonce_file.exists()
        desk.broker.connect()
        assert get_kraken_nonce() <= (wall_seconds() + 2) * 1_000_000


@pytest.mark.usefixtures("nonce_file")
def test_the_first_order_is_looked_up_with_patience() -> None:
    """A pair's first named order waits 13 s from the first accepted read, is looked up among open orders, 3 s later
    among closed ones, and only then sent."""
    with open_desk() as desk:
        desk.broker.connect()
        start = desk.rows()[0].time
        desk.broker.private_call("AddOrder", NAMED)
        rows = [row for row in desk.rows() if row.method in ("OpenOrders", "ClosedOrders", "AddOrder")]
        assert [row.method for row in rows] == ["OpenOrders", "OpenOrders", "ClosedOrders", "AddOrder"]
        assert rows[1].time >= start + DEADLINE_SECONDS + MARGIN_SECONDS
        assert rows[2].time >= rows[1].time + GAP_SECONDS


@pytest.mark.usefixtures("nonce_file")
def test_a_journal_from_the_future_is_not_current() -> None:
    """A journal that a wrong clock has called complete until tomorrow is one that may lack orders, and is set right."""
    with open_desk() as desk:
        desk.broker.journal.set_known_until(desk.broker.bot_id, desk.clock.now() + 86_400)
        desk.broker.private_call("AddOrder", NAMED)
        assert desk.methods() == ["OpenOrders", "OpenOrders", "ClosedOrders", "AddOrder"]
        assert desk.broker.journal.known_until(desk.broker.bot_id) <= desk.clock.now()


@pytest.mark.usefixtures("nonce_file")
def test_later_orders_and_nameless_ones_are_not_looked_up() -> None:
    """A second order of the pair, and an order whose id was made just now, are sent without a look-up."""
    with open_desk() as desk:
        desk.broker.private_call("AddOrder", ORDER)
        assert desk.methods() == ["AddOrder"]
        desk.broker.private_call("AddOrder", NAMED)
        count = len(desk.methods())
        desk.broker.private_call("AddOrder", ORDER | {"cl_ord_id": "abcde1234567890124"})
        assert desk.methods()[count:] == ["AddOrder"]


@pytest.mark.usefixtures("nonce_file")
@pytest.mark.parametrize("clears", ["open", "closed"])
def test_an_order_of_an_earlier_life_is_not_sent_again(clears: str) -> None:
    """After a restart the same signal finds its order, whether it rests or was cancelled, and sends nothing."""
    with open_desk() as desk:
        desk.broker.private_call("AddOrder", NAMED)
        txid = desk.broker.get_open_orders()[0].txid
        if clears == "closed":
            desk.broker.cancel_order(txid)
        pass_time(desk.clock, 30)
        again = desk.open_broker()
        assert again.private_call("AddOrder", NAMED)["txid"] == [txid]
        again.close()
        assert desk.orders_placed() == 1


@pytest.mark.usefixtures("nonce_file")
def test_all_orders_of_an_earlier_life_are_not_sent_again() -> None:
    """After a restart two market orders of one pair, the parts of an exit, are both found, and none is sent."""
    with open_desk() as desk:
        names = ("abcde1234567890123", "abcde1234567890124")
        for name in names:
            desk.broker.place_market_order("BTC/USD", "buy", Decimal("0.01"), "base", cl_ord_id=name)
        again = desk.open_broker()
        for name in names:
            again.place_market_order("BTC/USD", "buy", Decimal("0.01"), "base", cl_ord_id=name)
        again.close()
        assert desk.orders_placed() == 2


@pytest.mark.usefixtures("nonce_file")
def test_what_is_neither_read_nor_cancel_is_sent_once() -> None:
    """A refused nonce on a method that could do something twice is raised and not repeated."""
    with open_desk() as desk:
        desk.simulator.faults.raise_next("Withdraw", "EAPI:Invalid nonce")
        with pytest.raises(InvalidNonceError):
            desk.broker.private_call("Withdraw", {"asset": "XBT", "key": "home", "amount": "1"})
        assert desk.methods() == ["Withdraw"]


@pytest.mark.usefixtures("nonce_file")
def test_a_sell_for_money_is_sized_by_the_current_price() -> None:
    """A market sell of 100 in quote sells coins for 100 at the current price, not at the collar's."""
    with open_desk() as desk:
        desk.broker.place_market_order("BTC/USD", "buy", Decimal("0.01"), "base")
        placed = desk.broker.place_market_order("BTC/USD", "sell", Decimal(100), "quote")
        assert Decimal("99.5") < placed.volume * price(desk) <= 100


@pytest.mark.usefixtures("nonce_file")
def test_an_order_without_connect_has_its_deadline_in_krakens_time() -> None:
    """A broker that never connected, on a clock a minute behind Kraken's, still has its order placed."""
    with open_desk() as desk:
        late = desk.open_broker(market=MarketClock(desk.clock.now() - 60, 1.0))
        assert late.private_call("AddOrder", ORDER)["txid"]
        late.close()


@pytest.mark.usefixtures("nonce_file")
@pytest.mark.parametrize("yes", [True, "true", "1", "TRUE"])
def test_a_validated_order_is_only_checked(yes: object) -> None:
    """However `validate` is spelt, nothing is placed."""
    with open_desk() as desk:
        desk.broker.private_call("AddOrder", ORDER | {"validate": yes})
        assert desk.orders_placed() == 0

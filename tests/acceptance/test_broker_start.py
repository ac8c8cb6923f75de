"""The start of a broker: no nonce before Kraken's time is known, no order before start-up reconciliation."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from freezegun import freeze_time

from bot.base.clock import MarketClock, wall_seconds
from bot.base.errors import InvalidNonceError
from bot.broker_manager import get_kraken_nonce
from bot.kraken.new_order import ORDER_DEADLINE_SECONDS
from bot.orders.reconciliation import DEADLINE_MARGIN_SECONDS, QUERY_GAP_SECONDS
from tests.acceptance.broker_tools import ORDER, advance_time, current_btc_price, open_broker_setup

ORDER_WITH_ID = ORDER | {"cl_ord_id": "abcde1234567890123"}


def test_new_broker_issues_no_nonce(nonce_file: Path) -> None:
    """Creating a broker while the clock is two days ahead does not store a nonce that would outlive the error."""
    with open_broker_setup() as setup:
        with freeze_time(datetime.now(UTC) + timedelta(days=2)):
            setup.open_broker().close()
        assert not nonce_file.exists()
        setup.broker.connect()
        assert get_kraken_nonce() <= (wall_seconds() + 2) * 1_000_000


@pytest.mark.usefixtures("nonce_file")
def test_first_order_waits_for_startup_reconciliation() -> None:
    """A pair's first order with a given id waits 13 s from the first accepted read; then open orders and 3 s later
    closed orders are queried, and only then is it sent."""
    with open_broker_setup() as setup:
        setup.broker.connect()
        start = setup.requests()[0].time
        setup.broker.private_call("AddOrder", ORDER_WITH_ID)
        methods = ("OpenOrders", "ClosedOrders", "AddOrder")
        requests = [request for request in setup.requests() if request.method in methods]
        assert [request.method for request in requests] == ["OpenOrders", *methods]
        assert requests[1].time >= start + ORDER_DEADLINE_SECONDS + DEADLINE_MARGIN_SECONDS
        assert requests[2].time >= requests[1].time + QUERY_GAP_SECONDS


@pytest.mark.usefixtures("nonce_file")
def test_journal_with_future_timestamp_is_not_current() -> None:
    """A journal that is complete until tomorrow, due to a wrong clock, counts as incomplete and is corrected."""
    with open_broker_setup() as setup:
        setup.broker.journal.set_complete_until(setup.broker.bot_id, setup.clock.now() + 86_400)
        setup.broker.private_call("AddOrder", ORDER_WITH_ID)
        assert setup.request_methods() == ["OpenOrders", "OpenOrders", "ClosedOrders", "GetApiKeyInfo", "AddOrder"]
        assert setup.broker.journal.complete_until(setup.broker.bot_id) <= setup.clock.now()


@pytest.mark.usefixtures("nonce_file")
def test_later_and_generated_id_orders_are_not_queried() -> None:
    """A second order of the pair, and an order with a generated id, are sent without a query."""
    with open_broker_setup() as setup:
        setup.broker.private_call("AddOrder", ORDER)
        assert setup.request_methods() == ["AddOrder"]
        setup.broker.private_call("AddOrder", ORDER_WITH_ID)
        count = len(setup.request_methods())
        setup.broker.private_call("AddOrder", ORDER | {"cl_ord_id": "abcde1234567890124"})
        assert setup.request_methods()[count:] == ["AddOrder"]


@pytest.mark.usefixtures("nonce_file")
@pytest.mark.parametrize("clears", ["open", "closed"])
def test_order_of_an_earlier_run_is_not_resent(clears: str) -> None:
    """After a restart the same signal finds its order, open or canceled, and sends nothing."""
    with open_broker_setup() as setup:
        setup.broker.private_call("AddOrder", ORDER_WITH_ID)
        txid = setup.broker.get_open_orders()[0].txid
        if clears == "closed":
            setup.broker.cancel_order(txid)
        advance_time(setup.clock, 30)
        restarted = setup.open_broker()
        assert restarted.private_call("AddOrder", ORDER_WITH_ID)["txid"] == [txid]
        restarted.close()
        assert setup.placed_order_count() == 1


@pytest.mark.usefixtures("nonce_file")
def test_all_orders_of_an_earlier_run_are_not_resent() -> None:
    """After a restart two market orders of one pair, the parts of an exit, are both found, and none is sent again."""
    with open_broker_setup() as setup:
        ids = ("abcde1234567890123", "abcde1234567890124")
        for cl_ord_id in ids:
            setup.broker.place_market_order("BTC/USD", "buy", Decimal("0.01"), "base", cl_ord_id=cl_ord_id)
        restarted = setup.open_broker()
        for cl_ord_id in ids:
            restarted.place_market_order("BTC/USD", "buy", Decimal("0.01"), "base", cl_ord_id=cl_ord_id)
        restarted.close()
        assert setup.placed_order_count() == 2


@pytest.mark.usefixtures("nonce_file")
def test_calls_other_than_reads_and_cancels_are_sent_once() -> None:
    """A refused nonce on a method that is not safe to repeat is raised and not repeated."""
    with open_broker_setup() as setup:
        setup.simulator.faults.raise_next("Withdraw", "EAPI:Invalid nonce")
        with pytest.raises(InvalidNonceError):
            setup.broker.private_call("Withdraw", {"asset": "XBT", "key": "home", "amount": "1"})
        assert setup.request_methods() == ["Withdraw"]


@pytest.mark.usefixtures("nonce_file")
def test_quote_sized_sell_uses_the_current_price() -> None:
    """A market sell of 100 in quote sells coins for 100 at the current price, not at the worst accepted price."""
    with open_broker_setup() as setup:
        setup.broker.place_market_order("BTC/USD", "buy", Decimal("0.01"), "base")
        placed = setup.broker.place_market_order("BTC/USD", "sell", Decimal(100), "quote")
        assert Decimal("99.5") < placed.volume * current_btc_price(setup) <= 100


@pytest.mark.usefixtures("nonce_file")
def test_an_order_without_connect_has_its_deadline_in_krakens_time() -> None:
    """A broker without connect(), on a clock a minute behind Kraken's, still gets its order placed."""
    with open_broker_setup() as setup:
        broker_behind = setup.open_broker(market_clock=MarketClock(setup.clock.now() - 60, 1.0))
        assert broker_behind.private_call("AddOrder", ORDER)["txid"]
        broker_behind.close()


@pytest.mark.usefixtures("nonce_file")
@pytest.mark.parametrize("validate", [True, "true", "1", "TRUE"])
def test_a_validated_order_is_only_checked(validate: object) -> None:
    """With any spelling of `validate` nothing is placed."""
    with open_broker_setup() as setup:
        setup.broker.private_call("AddOrder", ORDER | {"validate": validate})
        assert setup.placed_order_count() == 0

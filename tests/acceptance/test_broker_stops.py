"""Stop orders at Kraken over real HTTP: their fields, their limits, and that they work without the bot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal

import pytest

from bot.base.clock import ReplayClock
from bot.base.errors import OrderOutcomeUnknownError, OrderRuleError
from bot.base.models import Order, OrderStatus, Side
from bot.simulator.options import SimulatorOptions
from bot.simulator.server import Simulator
from tests.acceptance.broker_tools import YEARS_SECONDS, BrokerSetup, advance_time
from tests.simulator_parts import START, ScriptedPrices

pytestmark = pytest.mark.usefixtures("nonce_file")

CL_ORD_ID = "bot01abcdefghijklm"
ONE_COIN = {"ZUSD": "0", "XXBT": "1"}


@contextmanager
def falling_market(**settings: object) -> Iterator[BrokerSetup]:
    """Open a Kraken whose price falls from 50000 by 10 a second, with one coin in the account and a broker on it."""
    clock = ReplayClock(START, START + YEARS_SECONDS)
    prices = ScriptedPrices((0, "50000"), (2000, "30000"))
    with Simulator(SimulatorOptions(balances=ONE_COIN), clock, prices) as simulator:
        setup = BrokerSetup(simulator, clock, {"bot_id": "bot01", **settings})
        try:
            yield setup
        finally:
            setup.broker.close()


def place_stop(setup: BrokerSetup, quantity: str = "0.5", price: str = "45000") -> str:
    """Place the stop of these tests; return its txid."""
    placed = setup.broker.place_stop_order("BTC/USD", Side.SELL, Decimal(quantity), Decimal(price), cl_ord_id=CL_ORD_ID)
    return placed.txid


def only_open_order(setup: BrokerSetup) -> Order:
    """Return the one order that is open."""
    (order,) = setup.broker.get_open_orders()
    return order


def test_stop_rests_with_its_trigger_and_client_order_id() -> None:
    """A stop is open as stop-loss without expiry, with its trigger price and client order id, its fee in quote."""
    with falling_market() as setup:
        txid = place_stop(setup)
        order = only_open_order(setup)
        assert (order.txid, order.cl_ord_id, order.kind, order.side) == (txid, CL_ORD_ID, "stop-loss", Side.SELL)
        assert (order.price, order.volume, order.expires_seconds) == (Decimal(45000), Decimal("0.5"), 0.0)
        assert setup.simulator.exchange.account.orders[txid].flags == ("fciq",)


def test_a_stop_sells_while_no_bot_runs() -> None:
    """With its broker closed, a stop at 45000 sells when the price falls to it, and pays its fee in quote."""
    with falling_market() as setup:
        place_stop(setup)
        setup.broker.close()
        advance_time(setup.clock, 499)
        assert setup.simulator.exchange.account.trades == []
        advance_time(setup.clock, 2)
        restarted = setup.open_broker(bot_id="bot01")
        (sold,) = restarted.get_closed_orders()
        assert (sold.cl_ord_id, sold.status, sold.executed, sold.average_price) == (
            CL_ORD_ID,
            OrderStatus.CLOSED,
            Decimal("0.5"),
            Decimal("44999.9"),
        )
        balances = restarted.get_account_balance()
        assert balances["BTC"].total == Decimal("0.5")
        assert balances["USD"].total == sold.cost - sold.fee
        restarted.close()


def test_canceling_a_stop_frees_its_coins() -> None:
    """A resting stop reserves its coins, and its cancel frees them."""
    with falling_market() as setup:
        txid = place_stop(setup)
        assert setup.broker.get_account_balance()["BTC"].free == Decimal("0.5")
        assert setup.broker.cancel_order(txid, "BTC/USD")
        assert setup.broker.get_account_balance()["BTC"].free == 1


def test_stop_value_is_bounded_by_the_current_price() -> None:
    """A stop for coins worth more than MAX_ORDER_VALUE is not sent, however low its trigger is."""
    with falling_market(max_order_value=Decimal(250)) as setup:
        with pytest.raises(OrderRuleError, match="MAX_ORDER_VALUE"):
            place_stop(setup, "0.006", "40000")
        assert "AddOrder" not in setup.request_methods()


@pytest.mark.parametrize(("quantity", "price"), [("0.5", "45000.05"), ("0.00001", "45000")])
def test_a_stop_off_the_grid_or_below_the_minimum_is_not_sent(quantity: str, price: str) -> None:
    """A trigger between two price ticks, or a quantity below the minimum, raises OrderRuleError and is not sent."""
    with falling_market() as setup:
        with pytest.raises(OrderRuleError):
            place_stop(setup, quantity, price)
        assert "AddOrder" not in setup.request_methods()


def test_unanswered_stop_is_unknown_and_then_found() -> None:
    """A stop that was executed but answered 502 is unknown, and is then reconciled as the only order."""
    with falling_market() as setup:
        setup.simulator.faults.fire_next("answer_502", "AddOrder")
        with pytest.raises(OrderOutcomeUnknownError):
            place_stop(setup)
        assert [order.cl_ord_id for order in setup.broker.unknown_orders()] == [CL_ORD_ID]
        resolutions = setup.broker.reconcile_unknown_orders()
        assert [resolution.order.kind for resolution in resolutions if resolution.order] == ["stop-loss"]
        assert (setup.broker.unknown_orders(), setup.placed_order_count()) == ([], 1)


def test_a_stop_is_not_canceled_by_another_buy_of_the_account() -> None:
    """A buy of another program rests a tick below a stop: the stop sells, and the buy is canceled."""
    with falling_market() as setup:
        txid = place_stop(setup)
        setup.simulator.exchange.account.balances["ZUSD"] += 1000
        params = {"pair": "XBTUSD", "type": "buy", "ordertype": "limit", "volume": "0.001", "price": "44999.9"}
        buy = setup.simulator.exchange.add_order(params)["txid"][0]
        advance_time(setup.clock, 501)
        closed = {order.txid: (order.status, order.executed) for order in setup.broker.get_closed_orders()}
        assert closed == {txid: (OrderStatus.CLOSED, Decimal("0.5")), buy: (OrderStatus.CANCELED, Decimal(0))}

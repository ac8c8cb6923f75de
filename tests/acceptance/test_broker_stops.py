"""The stop that rests at Kraken, over real HTTP: what is sent, what bounds it, and that it works without the bot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal

import pytest

from bot.base.clock import ReplayClock
from bot.base.errors import OrderRuleError, OrderUnknownError
from bot.base.models import Order, OrderStatus, Side
from bot.simulator.options import SimulatorOptions
from bot.simulator.server import Simulator
from tests.acceptance.broker_tools import YEARS_SECONDS, Desk, pass_time
from tests.simulator_parts import START, DrawnPrices

pytestmark = pytest.mark.usefixtures("nonce_file")

NAME = "bot01abcdefghijklm"
ONE_COIN = {"ZUSD": "0", "XXBT": "1"}


@contextmanager
def falling_market(**settings: object) -> Iterator[Desk]:
    """Open a Kraken whose price falls from 50000 by 10 a second, with one coin in the account and a broker on it."""
    clock = ReplayClock(START, START + YEARS_SECONDS)
    prices = DrawnPrices((0, "50000"), (2000, "30000"))
    with Simulator(SimulatorOptions(balances=ONE_COIN), clock, prices) as simulator:
        desk = Desk(simulator, clock, {"bot_id": "bot01", **settings})
        try:
            yield desk
        finally:
            desk.broker.close()


def place_stop(desk: Desk, quantity: str = "0.5", price: str = "45000") -> str:
    """Place the stop of these tests; return its txid."""
    placed = desk.broker.place_stop_order("BTC/USD", Side.SELL, Decimal(quantity), Decimal(price), cl_ord_id=NAME)
    return placed.txid


def the_open_order(desk: Desk) -> Order:
    """Return the one order that is open."""
    (order,) = desk.broker.get_open_orders()
    return order


def test_a_stop_rests_with_its_trigger_and_its_name() -> None:
    """A stop is open without an end as stop-loss, at its trigger price, under its name, its fee in money."""
    with falling_market() as desk:
        txid = place_stop(desk)
        order = the_open_order(desk)
        assert (order.txid, order.cl_ord_id, order.kind, order.side) == (txid, NAME, "stop-loss", Side.SELL)
        assert (order.price, order.volume, order.expires_seconds) == (Decimal(45000), Decimal("0.5"), 0.0)
        assert desk.simulator.exchange.account.orders[txid].flags == ("fciq",)


def test_a_stop_sells_while_no_bot_runs() -> None:
    """With its broker closed, a stop at 45000 sells when the price has come down to it, and pays its fee in money."""
    with falling_market() as desk:
        place_stop(desk)
        desk.broker.close()
        pass_time(desk.clock, 499)
        assert desk.simulator.exchange.account.trades == []
        pass_time(desk.clock, 2)
        later = desk.open_broker(bot_id="bot01")
        (sold,) = later.get_closed_orders()
        assert (sold.cl_ord_id, sold.status, sold.executed, sold.average_price) == (
            NAME,
            OrderStatus.CLOSED,
            Decimal("0.5"),
            Decimal("44999.9"),
        )
        balances = later.get_account_balance()
        assert balances["BTC"].total == Decimal("0.5")
        assert balances["USD"].total == sold.cost - sold.fee
        later.close()


def test_the_coins_of_a_stop_are_free_once_it_is_cancelled() -> None:
    """A resting stop ties its coins up, and its cancel frees them."""
    with falling_market() as desk:
        txid = place_stop(desk)
        assert desk.broker.get_account_balance()["BTC"].free == Decimal("0.5")
        assert desk.broker.cancel_order(txid, "BTC/USD")
        assert desk.broker.get_account_balance()["BTC"].free == 1


def test_a_stop_is_bounded_by_what_its_coins_are_worth_now() -> None:
    """A stop over coins worth more than MAX_ORDER_VALUE is not sent, however low its trigger is."""
    with falling_market(max_order_value=Decimal(250)) as desk:
        with pytest.raises(OrderRuleError, match="MAX_ORDER_VALUE"):
            place_stop(desk, "0.006", "40000")
        assert "AddOrder" not in desk.methods()


@pytest.mark.parametrize(("quantity", "price"), [("0.5", "45000.05"), ("0.00001", "45000")])
def test_a_stop_off_the_grid_or_below_the_minimum_is_not_sent(quantity: str, price: str) -> None:
    """A trigger between two ticks, or a quantity below the pair's minimum, raises OrderRuleError and is not sent."""
    with falling_market() as desk:
        with pytest.raises(OrderRuleError):
            place_stop(desk, quantity, price)
        assert "AddOrder" not in desk.methods()


def test_a_stop_that_was_not_answered_is_unknown_and_found() -> None:
    """A stop that ran but was answered 502 is unknown, blocks its pair, and is settled as the one order there is."""
    with falling_market() as desk:
        desk.simulator.faults.fire_next("answer_502", "AddOrder")
        with pytest.raises(OrderUnknownError):
            place_stop(desk)
        assert [one.cl_ord_id for one in desk.broker.unknown_orders()] == [NAME]
        fates = desk.broker.settle_unknown()
        assert [fate.order.kind for fate in fates if fate.order] == ["stop-loss"]
        assert (desk.broker.unknown_orders(), desk.orders_placed()) == ([], 1)

"""The matching engine: expected values, computed by hand at Kraken's first fee tier (0.40 % maker, 0.80 % taker)."""

from __future__ import annotations

from decimal import Decimal

import pytest

from bot.simulator.account import SimOrder
from bot.simulator.errors import Refusal
from bot.simulator.faults import ExchangeBehavior
from tests.simulator_parts import START, make_exchange, order_error, place_order, read_balances


def D(text: str) -> Decimal:  # noqa: N802 - as short as the number
    return Decimal(text)


def test_a_market_buy_pays_one_tick_above_the_price_and_the_takers_fee() -> None:
    """0.01 BTC at 50000.1 costs 500.001 and 0.8 % of that, 4.0000 in whole units of ZUSD."""
    exchange = make_exchange((0, "50000"))
    place_order(exchange, ordertype="market")
    assert read_balances(exchange) == {"ZUSD": D("10000") - D("500.0010") - D("4.0000"), "XXBT": D("0.01")}


def test_a_market_sell_gets_one_tick_below_the_price_less_the_fee() -> None:
    """Selling every coin pays the fee in dollars: 499.999 less 4.0000."""
    exchange = make_exchange((0, "50000"), starting_balances={"ZUSD": "0", "XXBT": "0.01"})
    place_order(exchange, ordertype="market", type="sell")
    assert read_balances(exchange) == {"ZUSD": D("499.9990") - D("4.0000"), "XXBT": D("0")}


def test_a_sell_prefers_to_pay_its_fee_in_coins() -> None:
    """With coins left over, the default fcib takes 0.8 % of 0.01 BTC in BTC and the dollars come in full."""
    exchange = make_exchange((0, "50000"), starting_balances={"ZUSD": "0", "XXBT": "1"})
    place_order(exchange, ordertype="market", type="sell")
    assert read_balances(exchange) == {"ZUSD": D("499.9990"), "XXBT": D("0.99") - D("0.00008")}


def test_a_sell_with_fciq_pays_its_fee_in_dollars() -> None:
    """fciq overrides the default of sells."""
    exchange = make_exchange((0, "50000"), starting_balances={"ZUSD": "0", "XXBT": "1"})
    place_order(exchange, ordertype="market", type="sell", oflags="fciq")
    assert read_balances(exchange) == {"ZUSD": D("495.9990"), "XXBT": D("0.99")}


def test_a_buy_with_fcib_gets_fewer_coins() -> None:
    """fcib takes the buyer's fee from the coins."""
    exchange = make_exchange((0, "50000"))
    place_order(exchange, ordertype="market", oflags="fcib")
    assert read_balances(exchange) == {"ZUSD": D("9499.9990"), "XXBT": D("0.00992")}


def test_a_resting_buy_holds_its_cost_and_the_takers_fee() -> None:
    """0.01 at 49000 holds 490 + 3.92."""
    exchange = make_exchange((0, "50000"))
    place_order(exchange, price="49000")
    assert exchange.account.held["ZUSD"] == D("493.92")


def test_a_resting_buy_fills_at_its_own_price_as_maker_when_the_path_touches_it() -> None:
    """Halfway down from 50000 to 48000 the order at 49000 fills: 490 and 0.4 % of it."""
    exchange = make_exchange((0, "50000"), (100, "48000"))
    txid = place_order(exchange, price="49000")
    exchange.advance(START + 100)
    order, trade = exchange.account.orders[txid], exchange.account.trades[0]
    assert (order.status, trade.price, trade.maker, trade.time) == ("closed", D("49000"), True, START + 50)
    assert read_balances(exchange) == {"ZUSD": D("10000") - D("490") - D("1.96"), "XXBT": D("0.01")}
    assert exchange.account.held["ZUSD"] == 0


def test_a_resting_buy_fills_when_the_path_only_just_touches_it() -> None:
    """The path turns at exactly 49000 and the order at 49000 is filled there."""
    exchange = make_exchange((0, "50000"), (50, "49000"), (100, "50000"))
    place_order(exchange, price="49000")
    exchange.advance(START + 100)
    assert [trade.time for trade in exchange.account.trades] == [START + 50]


def test_a_resting_buy_does_not_fill_a_tick_above_its_price() -> None:
    """The path turns at 49000.1 and the order at 49000 stays open."""
    exchange = make_exchange((0, "50000"), (50, "49000.1"), (100, "50000"))
    txid = place_order(exchange, price="49000")
    exchange.advance(START + 100)
    assert exchange.account.orders[txid].status == "open"


def test_a_resting_sell_fills_when_the_path_comes_up_to_it() -> None:
    """The sell at 51000 fills at 51000, a quarter of the way up to 54000."""
    exchange = make_exchange((0, "50000"), (100, "54000"), starting_balances={"ZUSD": "0", "XXBT": "0.01"})
    place_order(exchange, type="sell", price="51000", oflags="fciq")
    exchange.advance(START + 100)
    assert [(t.price, t.time) for t in exchange.account.trades] == [(D("51000"), START + 25)]
    assert read_balances(exchange)["ZUSD"] == D("510") - D("2.04")


def test_a_marketable_limit_order_fills_at_once_at_the_better_price() -> None:
    """A buy limited at 51000 pays the touch, 50000.1, as taker."""
    exchange = make_exchange((0, "50000"))
    place_order(exchange, price="51000")
    assert [(t.price, t.maker) for t in exchange.account.trades] == [(D("50000.1"), False)]


def test_orders_fill_in_the_order_in_which_the_path_meets_them() -> None:
    """On the way down the buy at 49500 fills before the one at 49000, whichever was placed first."""
    exchange = make_exchange((0, "50000"), (100, "48000"))
    low, high = place_order(exchange, price="49000"), place_order(exchange, price="49500")
    exchange.advance(START + 100)
    assert [trade.order_txid for trade in exchange.account.trades] == [high, low]


@pytest.mark.parametrize(
    ("kind", "side", "trigger", "far", "fill"),
    [
        ("stop-loss", "sell", "49000", "48000", "48999.9"),
        ("stop-loss", "buy", "51000", "52000", "51000.1"),
        ("take-profit", "sell", "51000", "52000", "50999.9"),
        ("take-profit", "buy", "49000", "48000", "49000.1"),
    ],
)
def test_a_stop_fills_as_taker_one_tick_beyond_its_trigger(
    kind: str, side: str, trigger: str, far: str, fill: str
) -> None:
    """Each of the four kinds triggers on the last price and is then a market order."""
    exchange = make_exchange((0, "50000"), (100, far), starting_balances={"ZUSD": "10000", "XXBT": "1"})
    place_order(exchange, ordertype=kind, type=side, price=trigger)
    assert exchange.account.trades == []
    exchange.advance(START + 100)
    assert [(t.price, t.maker, t.time) for t in exchange.account.trades] == [(D(fill), False, START + 50)]


def test_a_stop_beyond_its_trigger_fires_at_once() -> None:
    """A stop-loss sell at 51000 under a price of 50000 sells at the touch."""
    exchange = make_exchange((0, "50000"), starting_balances={"ZUSD": "0", "XXBT": "1"})
    place_order(exchange, ordertype="stop-loss", type="sell", price="51000")
    assert [trade.price for trade in exchange.account.trades] == [D("49999.9")]


def test_an_unmarketable_ioc_or_fok_order_is_canceled() -> None:
    """IOC and FOK below the price are accepted, canceled and hold nothing."""
    exchange = make_exchange((0, "50000"))
    for force in ("IOC", "FOK"):
        order = exchange.account.orders[place_order(exchange, price="49000", timeinforce=force)]
        assert (order.status, order.executed) == ("canceled", D("0"))
    assert exchange.account.held["ZUSD"] == 0


def test_a_gtd_order_expires_exactly_at_its_expiry() -> None:
    """The price reaches the order ten seconds after its expiry; it has expired."""
    exchange = make_exchange((0, "50000"), (60, "50000"), (80, "48000"))
    txid = place_order(exchange, price="49000", timeinforce="GTD", expiretm="+60")
    exchange.advance(START + 100)
    order = exchange.account.orders[txid]
    assert (order.status, order.closed, exchange.account.held["ZUSD"]) == ("expired", START + 60, D("0"))


def test_a_gtd_order_fills_before_its_expiry() -> None:
    """The price reaches the order ten seconds before its expiry, within the same call of advance; it fills."""
    exchange = make_exchange((0, "50000"), (100, "48000"))
    txid = place_order(exchange, price="49000", timeinforce="GTD", expiretm="+60")
    exchange.advance(START + 100)
    assert exchange.account.orders[txid].status == "closed"


def test_the_dead_man_switch_cancels_all_orders_at_its_timeout() -> None:
    """Armed with 60 s, it cancels at 60 s what the price would have filled at 70 s."""
    exchange = make_exchange((0, "50000"), (60, "50000"), (80, "48000"))
    txid = place_order(exchange, price="49000")
    exchange.arm_dead_man_switch(60)
    exchange.advance(START + 100)
    order = exchange.account.orders[txid]
    assert (order.status, order.closed, exchange.dead_man_switch_at) == ("canceled", START + 60, None)


def test_the_dead_man_switch_can_be_renewed_and_disarmed() -> None:
    """Armed again it starts anew; with 0 it never fires."""
    exchange = make_exchange((0, "50000"))
    txid = place_order(exchange, price="49000")
    exchange.arm_dead_man_switch(60)
    exchange.advance(START + 50)
    exchange.arm_dead_man_switch(60)
    exchange.advance(START + 100)
    exchange.arm_dead_man_switch(0)
    exchange.advance(START + 1000)
    assert exchange.account.orders[txid].status == "open"


def test_the_dead_man_switch_timeout_is_at_most_a_day() -> None:
    """More than 86400 s is refused with Kraken's error."""
    with pytest.raises(Refusal, match=r"^EGeneral:Invalid timeout argument:above max$"):
        make_exchange((0, "50000")).arm_dead_man_switch(86_401)


def test_time_never_goes_back() -> None:
    """A call with an earlier time changes nothing."""
    exchange = make_exchange((0, "50000"), (100, "48000"))
    place_order(exchange, price="49000")
    exchange.advance(START + 10)
    exchange.advance(START - 1000)
    assert exchange.now == START + 10


def test_funds_held_for_one_order_are_not_free_for_the_next() -> None:
    """Two orders that need 6048 each do not both fit into 10000."""
    exchange = make_exchange((0, "50000"))
    place_order(exchange, price="40000", volume="0.15")
    assert order_error(exchange, price="40000", volume="0.15") == "EOrder:Insufficient funds"


def test_the_fee_counts_among_the_funds_needed() -> None:
    """504 is enough for 500 and its fee of 4.00; 503.99 is not."""
    enough, short = ({"ZUSD": amount} for amount in ("504", "503.99"))
    assert order_error(make_exchange((0, "60000"), starting_balances=enough), price="50000") == ""
    assert (
        order_error(make_exchange((0, "60000"), starting_balances=short), price="50000") == "EOrder:Insufficient funds"
    )


def test_a_canceled_order_releases_its_hold() -> None:
    """After CancelOrder nothing is held."""
    exchange = make_exchange((0, "50000"))
    txid = place_order(exchange, price="40000", volume="0.15")
    assert exchange.cancel({"txid": txid}) == {"count": 1}
    assert exchange.account.free_balance("ZUSD") == D("10000")


def test_the_fee_falls_with_the_volume_of_thirty_days_and_rises_again_after_them() -> None:
    """After 2500.005 dollars of trades the taker pays 0.6 %, and 30 days later 0.8 % again."""
    exchange = make_exchange((0, "50000"), starting_balances={"ZUSD": "100000"})
    place_order(exchange, ordertype="market", volume="0.05")
    place_order(exchange, ordertype="market", volume="0.01")
    exchange.advance(START + 30 * 86400)
    place_order(exchange, ordertype="market", volume="0.01")
    assert [trade.fee for trade in exchange.account.trades] == [D("20.0000"), D("3.0000"), D("4.0000")]


def test_a_viqc_market_buy_spends_the_quote_volume() -> None:
    """viqc: 1000 dollars at 50000.1 buy 0.01999996 BTC, rounded down to the lot."""
    exchange = make_exchange((0, "50000"))
    place_order(exchange, ordertype="market", volume="1000", oflags="viqc")
    assert exchange.account.trades[0].volume == D("0.01999996")


class SmallFills(ExchangeBehavior):
    """Fills 0.01 at a time."""

    def fill_volume(self, order: SimOrder) -> Decimal:
        """Return the rest of the order, at most 0.01."""
        return min(order.remaining, D("0.01"))


def test_a_partly_filled_order_keeps_holding_for_the_rest_and_fills_it_at_its_own_price() -> None:
    """Half of 0.02 fills on the first touch; the rest, held with the taker's fee, fills at 49000 below 49000."""
    points = ((0.0, "50000"), (100.0, "48000"), (200.0, "47000"))
    exchange = make_exchange(*points, behavior=SmallFills())
    order = exchange.account.orders[place_order(exchange, price="49000", volume="0.02")]
    exchange.advance(START + 100)
    assert (order.executed, order.status, exchange.account.held["ZUSD"]) == (D("0.01"), "open", D("493.92"))
    assert exchange.account.audit() == []
    exchange.advance(START + 200)
    assert [(t.price, t.maker) for t in exchange.account.trades] == [(D("49000"), True)] * 2
    assert order.status == "closed"

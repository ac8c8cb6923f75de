"""Positions and realised P&L from own order records; the expected values were computed by hand."""

from __future__ import annotations

from decimal import Decimal
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from bot.base.models import Order, OrderStatus, Side
from bot.orders.position import build_positions
from tests.trading_fakes import make_order

DAY = 86_400.0


def test_buys_add_up_to_a_holding_with_an_average_price() -> None:
    """Two buys of 2 at 100 and 1 at 130 make 3 coins at an average of 110, with the sum of both fees."""
    orders = [
        make_order("A", Side.BUY, "2", "200", "1", opened_seconds=10.0, closed_seconds=11.0),
        make_order("B", Side.BUY, "1", "130", "0.5", opened_seconds=20.0, closed_seconds=21.0),
    ]
    holding = build_positions(orders).holding("BTC/USD")
    assert (holding.quantity, holding.average_price) == (Decimal(3), Decimal(110))
    assert (holding.fees, holding.entry_seconds) == (Decimal("1.5"), 20.0)


def test_a_sale_realises_its_pnl_net_of_the_fees_of_both_legs() -> None:
    """Of 3 coins at 110 with 1.5 of fees, one sold for 120 less 0.4 realises 120 - 0.4 - 110 - 0.5 = 9.1."""
    orders = [
        make_order("A", Side.BUY, "3", "330", "1.5", closed_seconds=1.0),
        make_order("B", Side.SELL, "1", "120", "0.4", closed_seconds=2.0),
    ]
    book = build_positions(orders)
    assert [(pnl.time_seconds, pnl.amount) for pnl in book.realised] == [(2.0, Decimal("9.1"))]
    assert (book.holding("BTC/USD").quantity, book.holding("BTC/USD").cost) == (Decimal(2), Decimal(220))


def test_a_canceled_or_open_order_counts_its_executed_quantity() -> None:
    """A canceled order that executed 0.5 and an open one that executed 0.25 hold 0.75 together."""
    orders = [
        make_order("A", Side.BUY, "0.5", "50", status=OrderStatus.CANCELED, closed_seconds=5.0, volume=Decimal(1)),
        make_order("B", Side.BUY, "0.25", "25", status=OrderStatus.OPEN, opened_seconds=1.0, volume=Decimal(1)),
        make_order("C", Side.BUY, status=OrderStatus.EXPIRED, closed_seconds=6.0, volume=Decimal(1)),
    ]
    assert build_positions(orders).holding("BTC/USD").quantity == Decimal("0.75")


def test_a_stop_that_sells_while_its_entry_still_rests_leaves_nothing() -> None:
    """Half an entry fills, its stop sells that half, and only then does the entry expire: nothing is held."""
    half = make_order(
        "A",
        Side.BUY,
        "0.5",
        "50",
        volume=Decimal(1),
        status=OrderStatus.EXPIRED,
        opened_seconds=1.0,
        closed_seconds=60.0,
    )
    stop = make_order("B", Side.SELL, "0.5", "45", opened_seconds=10.0, closed_seconds=30.0)
    book = build_positions([half, stop])
    assert book.holdings == {}
    assert [pnl.amount for pnl in book.realised] == [Decimal(-5)]


def test_coins_the_bot_did_not_buy_are_not_in_its_position() -> None:
    """Selling 5 with 2 bought leaves nothing and realises the P&L of 2; selling with none bought realises nothing."""
    early = make_order("A", Side.SELL, "1", "90", closed_seconds=1.0)
    bought = make_order("B", Side.BUY, "2", "200", opened_seconds=2.0, closed_seconds=2.0)
    sold = make_order("C", Side.SELL, "5", "550", "5", closed_seconds=3.0)
    book = build_positions([early, bought, sold])
    assert book.holdings == {}
    assert [pnl.amount for pnl in book.realised] == [Decimal(218) - 200]


def test_the_realised_loss_today_is_net_and_starts_at_midnight_utc() -> None:
    """After a loss of 30 yesterday, and today one of 20 and a gain of 5, today's realised loss is 15, and zero
    tomorrow."""
    results = [(DAY - 1, "70"), (DAY, "80"), (DAY + 60, "105")]
    orders = [
        make_order(f"B{time_seconds}", Side.BUY, "1", "100", closed_seconds=time_seconds - 0.5)
        for time_seconds, _ in results
    ]
    orders += [
        make_order(f"S{time_seconds}", Side.SELL, "1", cost, closed_seconds=time_seconds)
        for time_seconds, cost in results
    ]
    book = build_positions(orders)
    assert book.realised_loss_today(DAY + 100) == 15
    assert book.realised_loss_today(2 * DAY) == 0


def test_a_net_gain_today_is_no_loss() -> None:
    """A gain of 10 and a loss of 4 on one day are a loss of zero."""
    orders = [
        make_order("A", Side.BUY, "2", "200", closed_seconds=1.0),
        make_order("B", Side.SELL, "1", "110", closed_seconds=2.0),
        make_order("C", Side.SELL, "1", "96", closed_seconds=3.0),
    ]
    assert build_positions(orders).realised_loss_today(4.0) == 0


def test_the_last_loss_is_the_time_of_the_latest_losing_exit() -> None:
    """A loss at 2 and a gain at 3 make 2 the last loss; without a losing exit there is none."""
    orders = [
        make_order("A", Side.BUY, "2", "200", closed_seconds=1.0),
        make_order("B", Side.SELL, "1", "90", closed_seconds=2.0),
        make_order("C", Side.SELL, "1", "110", closed_seconds=3.0),
    ]
    assert build_positions(orders).last_loss_seconds() == 2.0
    assert build_positions(orders[:1]).last_loss_seconds() is None


_amounts = st.decimals("0.00000001", "100000", places=8)


@st.composite
def _histories(draw: st.DrawFn) -> list[Order]:
    orders: list[Order] = []
    held_quantity = Decimal(0)
    for index in range(draw(st.integers(1, 12))):
        side = draw(st.sampled_from(Side)) if held_quantity else Side.BUY
        quantity = draw(st.decimals("0.00000001", held_quantity, places=8)) if side is Side.SELL else draw(_amounts)
        held_quantity += quantity if side is Side.BUY else -quantity
        cost, fee = draw(_amounts), draw(_amounts)
        orders.append(make_order(f"O{index}", side, str(quantity), str(cost), str(fee), closed_seconds=index + 1.0))
    return orders


@given(_histories())
def test_money_is_conserved_to_the_last_digit(orders: list[Order]) -> None:
    """The realised P&L less the cost of the held coins is exactly the money received less the money spent."""
    book = build_positions(orders)
    flows = [order.cost - order.fee if order.side is Side.SELL else -order.cost - order.fee for order in orders]
    held_cost = sum((holding.cost + holding.fees for holding in book.holdings.values()), Decimal(0))
    assert book.realised_total() - held_cost == sum(flows)


@given(_histories(), st.randoms(use_true_random=False))
def test_the_sequence_of_the_order_records_does_not_matter(orders: list[Order], random: Random) -> None:
    """The same order records in any sequence give the same book."""
    shuffled = list(orders)
    random.shuffle(shuffled)
    assert build_positions(shuffled) == build_positions(orders)

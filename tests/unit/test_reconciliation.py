"""What proves the fate of an order: found is placed; absent only by fence, open orders, gap, closed orders."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.base.models import Order, OrderStatus, Side
from bot.orders.reconciliation import DEADLINE_SECONDS, GAP_SECONDS, MARGIN_SECONDS, Step, UnknownOrder, UnknownOrders

SENT = 1000.0
DEADLINE = SENT + DEADLINE_SECONDS


def unknown(name: str = "bot01-a", symbol: str = "BTC/USD", sent: float = SENT) -> UnknownOrder:
    """Return an order that was sent and not answered."""
    return UnknownOrder(name, symbol, Side.BUY, Decimal(1), Decimal(100), sent, sent + DEADLINE_SECONDS)


def row(name: str) -> Order:
    """Return Kraken's row of an order."""
    zero = Decimal(0)
    return Order(
        txid=f"O{name}",
        cl_ord_id=name,
        symbol="BTC/USD",
        side=Side.BUY,
        kind="limit",
        status=OrderStatus.CANCELED,
        price=zero,
        volume=Decimal(1),
        executed=zero,
        cost=zero,
        fee=zero,
        average_price=zero,
        opened_seconds=SENT,
        closed_seconds=SENT,
        expires_seconds=0.0,
        reason="",
    )


def holding(*orders: UnknownOrder) -> UnknownOrders:
    """Return unknown orders."""
    orders_unknown = UnknownOrders()
    for order in orders:
        orders_unknown.add(order)
    return orders_unknown


def test_the_steps_come_in_their_order_and_not_before_their_time() -> None:
    """Fence at once; open at deadline + 5 s; closed 3 s after that answer; each waits until its moment."""
    orders = holding(unknown())
    assert orders.next_step(SENT) is Step.FENCE
    orders.looked_up(Step.FENCE, [], SENT, SENT + 1)
    assert orders.next_step(DEADLINE + MARGIN_SECONDS - 0.1) is Step.WAIT
    opened = DEADLINE + MARGIN_SECONDS
    assert orders.next_step(opened) is Step.OPEN
    orders.looked_up(Step.OPEN, [], opened, opened + 1)
    assert orders.next_step(opened + 1 + GAP_SECONDS - 0.1) is Step.WAIT
    closed = opened + 1 + GAP_SECONDS
    assert orders.next_step(closed) is Step.CLOSED
    (settled,) = orders.looked_up(Step.CLOSED, [], closed, closed + 1)
    assert (settled.order, orders.all()) == (None, [])


def test_the_margin_counts_from_the_fence_if_that_is_later() -> None:
    """Open orders are asked 5 s after a fence that was accepted after the deadline."""
    orders = holding(unknown())
    orders.looked_up(Step.FENCE, [], DEADLINE + 100, DEADLINE + 101)
    assert orders.next_step(DEADLINE + 101 + MARGIN_SECONDS - 0.1) is Step.WAIT
    assert orders.next_step(DEADLINE + 101 + MARGIN_SECONDS) is Step.OPEN


@pytest.mark.parametrize("step", list(Step))
def test_found_is_placed_at_any_time(step: Step) -> None:
    """An order whose id is in the rows of any look-up, at any moment, is settled as placed."""
    orders = holding(unknown())
    (settled,) = orders.looked_up(step, [row("other"), row("bot01-a")], SENT, SENT)
    assert settled.order == row("bot01-a")
    assert orders.all() == []


def test_rows_without_an_id_settle_nothing() -> None:
    """A row without cl_ord_id is nobody's, even where an order had none."""
    orders = holding(unknown(""))
    assert orders.looked_up(Step.OPEN, [row("")], SENT, SENT) == []


def test_a_look_up_sent_too_early_counts_for_nothing() -> None:
    """Open orders that were asked before their moment do not bring closed orders nearer."""
    orders = holding(unknown())
    orders.looked_up(Step.FENCE, [], SENT, SENT + 1)
    early = DEADLINE + MARGIN_SECONDS - 0.1
    orders.looked_up(Step.OPEN, [], early, early + 60)
    assert orders.next_step(early + 60) is Step.OPEN


def test_a_look_up_from_before_an_order_left_is_no_fence() -> None:
    """Rows that were asked for before the order left leave it without a fence."""
    orders = holding(unknown())
    orders.looked_up(Step.FENCE, [], SENT - 0.1, SENT + 1)
    assert orders.next_step(SENT + 2) is Step.FENCE


def test_what_was_asked_before_an_order_was_written_down_says_nothing_of_it() -> None:
    """A fence that was asked before the order could leave is none."""
    orders = holding(unknown())
    orders.looked_up(Step.FENCE, [], SENT - 0.1, SENT + 1)
    assert orders.next_step(SENT + 1) is Step.FENCE


def test_a_look_up_does_not_bring_a_settled_order_back() -> None:
    """An order that was answered while it was being looked up stays settled."""
    orders = holding(unknown())
    taken = orders.all

    def answered_meanwhile() -> list[UnknownOrder]:
        before = taken()
        orders.remove("bot01-a")
        return before

    orders.all = answered_meanwhile  # type: ignore[method-assign]
    orders.looked_up(Step.FENCE, [], SENT, SENT + 1)
    assert "bot01-a" not in orders


def test_a_failed_look_up_starts_the_pair_again_and_keeps_the_fence() -> None:
    """After a failed look-up open orders are asked again, without a new fence."""
    orders = holding(unknown())
    orders.looked_up(Step.FENCE, [], SENT, SENT + 1)
    opened = DEADLINE + MARGIN_SECONDS
    orders.looked_up(Step.OPEN, [], opened, opened)
    orders.look_up_failed()
    assert orders.next_step(opened + 60) is Step.OPEN


def test_one_pair_of_look_ups_settles_all_that_are_ready() -> None:
    """Two orders of the same moment are proved absent by the same look-ups; a later one is not."""
    late = unknown("bot01-c", "SOL/USD", DEADLINE + 5)
    orders = holding(unknown("bot01-a"), unknown("bot01-b", "ETH/USD"), late)
    orders.looked_up(Step.FENCE, [], SENT, SENT)
    opened = DEADLINE + MARGIN_SECONDS
    orders.looked_up(Step.OPEN, [], opened, opened)
    settled = orders.looked_up(Step.CLOSED, [], opened + GAP_SECONDS, opened + GAP_SECONDS)
    assert {each.unknown.cl_ord_id for each in settled} == {"bot01-a", "bot01-b"}
    assert [order.cl_ord_id for order in orders.all()] == ["bot01-c"]


def test_an_unknown_order_blocks_its_pair_only() -> None:
    """of_pair names the orders of that pair and no others."""
    first = unknown()
    assert holding(first).of_pair("BTC/USD") == [first]
    assert holding(first).of_pair("ETH/USD") == []


@given(
    st.lists(
        st.tuples(st.floats(0, 6), st.floats(0, 4), st.sampled_from([*Step]), st.booleans(), st.booleans()), max_size=40
    )
)
def test_absence_is_never_told_without_its_proof(walk: list[tuple[float, float, Step, bool, bool]]) -> None:
    """Whatever is looked up when, whatever fails: absent is only told after fence, open, gap and closed in time."""
    orders, now = holding(unknown()), SENT
    fence: float | None = None
    opened: float | None = None
    for wait, takes, any_step, fails, asked_in_turn in walk:
        asked = now + wait
        now = asked + takes
        step = orders.next_step(asked) if asked_in_turn else any_step
        if fails:
            orders.look_up_failed()
            opened = None
            continue
        settled = orders.looked_up(step, [], asked, now)
        if settled:
            assert step is Step.CLOSED
            assert fence is not None
            assert opened is not None
            assert asked >= opened + GAP_SECONDS
            return
        if step is Step.FENCE and fence is None:
            fence = now
        ready = fence is not None and asked >= max(DEADLINE, fence) + MARGIN_SECONDS
        if step is Step.OPEN and opened is None and ready:
            opened = now
    assert orders.all() == [
        replace(unknown(), fence_seconds=fence, open_answered_seconds=opened),
    ]

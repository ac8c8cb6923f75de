"""The proof of an order's outcome: found means placed; absence needs a fencing read, open orders, a gap and closed
orders."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.base.models import Order, OrderStatus, Side
from bot.kraken.new_order import ORDER_DEADLINE_SECONDS
from bot.orders.reconciler import UnknownOrders
from bot.orders.reconciliation import DEADLINE_MARGIN_SECONDS, QUERY_GAP_SECONDS, QueryStep, UnknownOrder

SENT_SECONDS = 1000.0
ORDER_DEADLINE = SENT_SECONDS + ORDER_DEADLINE_SECONDS


def make_unknown_order(name: str = "bot01-a", symbol: str = "BTC/USD", sent: float = SENT_SECONDS) -> UnknownOrder:
    """Return an order that was sent and not answered."""
    return UnknownOrder(name, symbol, Side.BUY, Decimal(1), Decimal(100), sent, sent + ORDER_DEADLINE_SECONDS)


def make_kraken_order(name: str) -> Order:
    """Return an order as Kraken returns it."""
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
        opened_seconds=SENT_SECONDS,
        closed_seconds=SENT_SECONDS,
        expires_seconds=0.0,
        reason="",
    )


def make_unknown_orders(*orders: UnknownOrder) -> UnknownOrders:
    """Return a collection of unknown orders."""
    orders_unknown = UnknownOrders()
    for order in orders:
        orders_unknown.add(order)
    return orders_unknown


def test_query_steps_run_in_order_and_on_time() -> None:
    """Fencing read at once; open orders at deadline + 5 s; closed orders 3 s after that answer; each step waits for its
    time."""
    orders = make_unknown_orders(make_unknown_order())
    assert orders.next_step(SENT_SECONDS) is QueryStep.FENCE
    orders.apply_query_result(QueryStep.FENCE, [], SENT_SECONDS, SENT_SECONDS + 1)
    assert orders.next_step(ORDER_DEADLINE + DEADLINE_MARGIN_SECONDS - 0.1) is QueryStep.WAIT
    opened = ORDER_DEADLINE + DEADLINE_MARGIN_SECONDS
    assert orders.next_step(opened) is QueryStep.OPEN
    orders.apply_query_result(QueryStep.OPEN, [], opened, opened + 1)
    assert orders.next_step(opened + 1 + QUERY_GAP_SECONDS - 0.1) is QueryStep.WAIT
    closed = opened + 1 + QUERY_GAP_SECONDS
    assert orders.next_step(closed) is QueryStep.CLOSED
    (resolution,) = orders.apply_query_result(QueryStep.CLOSED, [], closed, closed + 1)
    assert (resolution.order, orders.all()) == (None, [])


def test_margin_starts_at_a_later_fencing_read() -> None:
    """Open orders are queried 5 s after a fencing read that was accepted after the deadline."""
    orders = make_unknown_orders(make_unknown_order())
    orders.apply_query_result(QueryStep.FENCE, [], ORDER_DEADLINE + 100, ORDER_DEADLINE + 101)
    assert orders.next_step(ORDER_DEADLINE + 101 + DEADLINE_MARGIN_SECONDS - 0.1) is QueryStep.WAIT
    assert orders.next_step(ORDER_DEADLINE + 101 + DEADLINE_MARGIN_SECONDS) is QueryStep.OPEN


@pytest.mark.parametrize("step", list(QueryStep))
def test_found_order_is_placed_at_any_time(step: QueryStep) -> None:
    """An order whose id is in the result of any query, at any time, is resolved as placed."""
    orders = make_unknown_orders(make_unknown_order())
    (resolution,) = orders.apply_query_result(
        step, [make_kraken_order("other"), make_kraken_order("bot01-a")], SENT_SECONDS, SENT_SECONDS
    )
    assert resolution.order == make_kraken_order("bot01-a")
    assert orders.all() == []


def test_orders_without_an_id_resolve_nothing() -> None:
    """An order without cl_ord_id matches no unknown order, not even one without an id."""
    orders = make_unknown_orders(make_unknown_order(""))
    assert orders.apply_query_result(QueryStep.OPEN, [make_kraken_order("")], SENT_SECONDS, SENT_SECONDS) == []


def test_early_query_does_not_count() -> None:
    """Open orders that were queried too early do not count as a step."""
    orders = make_unknown_orders(make_unknown_order())
    orders.apply_query_result(QueryStep.FENCE, [], SENT_SECONDS, SENT_SECONDS + 1)
    early = ORDER_DEADLINE + DEADLINE_MARGIN_SECONDS - 0.1
    orders.apply_query_result(QueryStep.OPEN, [], early, early + 60)
    assert orders.next_step(early + 60) is QueryStep.OPEN


def test_query_from_before_sending_is_no_fencing_read() -> None:
    """A query from before the order was sent is no fencing read."""
    orders = make_unknown_orders(make_unknown_order())
    orders.apply_query_result(QueryStep.FENCE, [], SENT_SECONDS - 0.1, SENT_SECONDS + 1)
    assert orders.next_step(SENT_SECONDS + 2) is QueryStep.FENCE


def test_query_from_before_the_record_does_not_count() -> None:
    """A query from before the order could be sent is no fencing read."""
    orders = make_unknown_orders(make_unknown_order())
    orders.apply_query_result(QueryStep.FENCE, [], SENT_SECONDS - 0.1, SENT_SECONDS + 1)
    assert orders.next_step(SENT_SECONDS + 1) is QueryStep.FENCE


def test_query_does_not_restore_a_resolved_order() -> None:
    """An order that was answered during a query stays resolved."""
    orders = make_unknown_orders(make_unknown_order())
    original_all = orders.all

    def answered_meanwhile() -> list[UnknownOrder]:
        before = original_all()
        orders.remove("bot01-a")
        return before

    orders.all = answered_meanwhile  # type: ignore[method-assign]
    orders.apply_query_result(QueryStep.FENCE, [], SENT_SECONDS, SENT_SECONDS + 1)
    assert "bot01-a" not in orders


def test_failed_query_restarts_the_proof_and_keeps_the_fencing_read() -> None:
    """After a failed query open orders are queried again, without a new fencing read."""
    orders = make_unknown_orders(make_unknown_order())
    orders.apply_query_result(QueryStep.FENCE, [], SENT_SECONDS, SENT_SECONDS + 1)
    opened = ORDER_DEADLINE + DEADLINE_MARGIN_SECONDS
    orders.apply_query_result(QueryStep.OPEN, [], opened, opened)
    orders.restart_proof()
    assert orders.next_step(opened + 60) is QueryStep.OPEN


def test_one_pair_of_queries_resolves_all_ready_orders() -> None:
    """Two orders of the same time are proved absent by the same queries; a later one is not."""
    late = make_unknown_order("bot01-c", "SOL/USD", ORDER_DEADLINE + 5)
    orders = make_unknown_orders(make_unknown_order("bot01-a"), make_unknown_order("bot01-b", "ETH/USD"), late)
    orders.apply_query_result(QueryStep.FENCE, [], SENT_SECONDS, SENT_SECONDS)
    opened = ORDER_DEADLINE + DEADLINE_MARGIN_SECONDS
    orders.apply_query_result(QueryStep.OPEN, [], opened, opened)
    resolutions = orders.apply_query_result(
        QueryStep.CLOSED, [], opened + QUERY_GAP_SECONDS, opened + QUERY_GAP_SECONDS
    )
    assert {each.unknown_order.cl_ord_id for each in resolutions} == {"bot01-a", "bot01-b"}
    assert [order.cl_ord_id for order in orders.all()] == ["bot01-c"]


def test_unknown_order_blocks_only_its_pair() -> None:
    """`for_pair` returns the orders of that pair only."""
    first = make_unknown_order()
    assert make_unknown_orders(first).for_pair("BTC/USD") == [first]
    assert make_unknown_orders(first).for_pair("ETH/USD") == []


@given(
    st.lists(
        st.tuples(st.floats(0, 6), st.floats(0, 4), st.sampled_from([*QueryStep]), st.booleans(), st.booleans()),
        max_size=40,
    )
)
def test_absence_is_never_reported_without_proof(walk: list[tuple[float, float, QueryStep, bool, bool]]) -> None:
    """Whatever is queried when, and whatever fails: absence is reported only after fencing read, open orders, gap and
    closed orders in time."""
    orders, now = make_unknown_orders(make_unknown_order()), SENT_SECONDS
    fenced_at: float | None = None
    opened: float | None = None
    for wait, duration, any_step, fails, is_scheduled in walk:
        asked_at = now + wait
        now = asked_at + duration
        step = orders.next_step(asked_at) if is_scheduled else any_step
        if fails:
            orders.restart_proof()
            opened = None
            continue
        resolutions = orders.apply_query_result(step, [], asked_at, now)
        if resolutions:
            assert step is QueryStep.CLOSED
            assert fenced_at is not None
            assert opened is not None
            assert asked_at >= opened + QUERY_GAP_SECONDS
            return
        if step is QueryStep.FENCE and fenced_at is None:
            fenced_at = now
        ready = fenced_at is not None and asked_at >= max(ORDER_DEADLINE, fenced_at) + DEADLINE_MARGIN_SECONDS
        if step is QueryStep.OPEN and opened is None and ready:
            opened = now
    assert orders.all() == [
        replace(make_unknown_order(), fence_seconds=fenced_at, open_orders_answered_seconds=opened),
    ]

"""`journal check`: the differences that it reports, and that it reports none between equal records."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from bot.base.models import Fill, Order, OrderStatus, Side
from bot.orders.journal_audit import find_differences
from bot.orders.order_state import PLACED_STATES, UNRESOLVED_STATES, Intent, OrderState
from tests.journal_rows import make_fill, make_intent, make_kraken_order, make_open_kraken_order

ORDER = make_kraken_order()
INTENT = make_intent(state=OrderState.FILLED, txid=ORDER.txid)
FILL = make_fill()


def differences_of(
    orders: list[Order] | None = None,
    intents: list[Intent] | None = None,
    fills: list[Fill] | None = None,
    kraken_orders: list[Order] | None = None,
    kraken_fills: list[Fill] | None = None,
) -> list[str]:
    """Compare one filled order on both sides, except for the given parts."""
    return find_differences(
        [ORDER] if orders is None else orders,
        [INTENT] if intents is None else intents,
        [FILL] if fills is None else fills,
        [ORDER] if kraken_orders is None else kraken_orders,
        [FILL] if kraken_fills is None else kraken_fills,
    )


def test_identical_orders_have_no_differences() -> None:
    """One filled order that is the same on both sides has no difference, and neither have two empty sides."""
    assert differences_of() == []
    assert find_differences([], [], [], [], []) == []


def test_equal_amounts_written_differently_are_equal() -> None:
    """An amount with more trailing zeros is the same amount."""
    assert differences_of(orders=[replace(ORDER, fee=Decimal("1.250000000"))]) == []


@pytest.mark.parametrize("field", ["volume", "price", "executed", "cost", "fee", "average_price"])
def test_last_decimal_of_an_order_is_compared(field: str) -> None:
    """One amount of an order that differs in the eighth decimal is reported with both amounts."""
    theirs = replace(ORDER, **{field: getattr(ORDER, field) + Decimal("0.00000001")})
    (finding,) = differences_of(kraken_orders=[theirs])
    assert finding.startswith(f"the order {ORDER.txid}: {field} is {getattr(ORDER, field):f} in the journal and ")
    assert finding.endswith(f" and {getattr(theirs, field):f} at Kraken")


@pytest.mark.parametrize("field", ["volume", "price", "cost", "fee"])
def test_last_decimal_of_a_fill_is_compared(field: str) -> None:
    """One amount of a fill that differs in the eighth decimal is reported."""
    theirs = replace(FILL, **{field: getattr(FILL, field) + Decimal("0.00000001")})
    (finding,) = differences_of(kraken_fills=[theirs])
    assert finding.startswith(f"the fill {FILL.trade_id}: {field} is ")


@pytest.mark.parametrize(
    ("field", "value"),
    [("symbol", "ETH/USD"), ("side", Side.SELL), ("kind", "market"), ("opened_seconds", 1.0), ("cl_ord_id", "other")],
)
def test_each_order_field_is_compared(field: str, value: object) -> None:
    """An order with one field that differs at Kraken is reported."""
    findings = differences_of(kraken_orders=[replace(ORDER, **{field: value})])  # type: ignore[arg-type]
    assert (
        f"the order {ORDER.txid}: {field} is {getattr(ORDER, field)} in the journal and {value} at Kraken" in findings
    )


def test_order_on_one_side_only_is_a_difference() -> None:
    """An order that only Kraken or only the journal has is reported."""
    other = make_kraken_order(
        "mybot0000000000002", "OBBBBB-BBBBB-BBBBBB", **dict.fromkeys(("executed", "cost", "fee"), Decimal(0))
    )
    assert differences_of(kraken_orders=[ORDER, other]) == [
        f"the order {other.txid} is at Kraken and not in the journal",
        f"{other.cl_ord_id} is at Kraken and was never intended",
    ]
    known = make_intent(other.cl_ord_id, state=OrderState.FILLED, txid=other.txid)
    assert differences_of(orders=[ORDER, other], intents=[INTENT, known]) == [
        f"the order {other.txid} is in the journal and not at Kraken",
        f"{other.cl_ord_id} is filled in the journal and not at Kraken",
    ]


def test_duplicate_order_is_reported_as_duplicate() -> None:
    """Two orders of one id at Kraken are reported as duplicates, even if the journal has both."""
    second = replace(ORDER, txid="OBBBBB-BBBBB-BBBBBB")
    fills = [FILL, make_fill("TBBBBB-BBBBB-BBBBBB", second.txid)]
    findings = differences_of([ORDER, second], [INTENT], fills, [ORDER, second], fills)
    assert findings == [f"doubled: {ORDER.cl_ord_id} is 2 orders at Kraken ({ORDER.txid}, {second.txid})"]


@pytest.mark.parametrize("state", OrderState)
def test_intent_without_kraken_order(state: OrderState) -> None:
    """Without an order at Kraken, a placed intent is a difference, an unresolved one is reported as such, and no other
    is."""
    findings = find_differences([], [make_intent(state=state)], [], [], [])
    if state in PLACED_STATES:
        assert findings == [f"{INTENT.cl_ord_id} is {state} in the journal and not at Kraken"]
    elif state in UNRESOLVED_STATES:
        assert findings == [f"{INTENT.cl_ord_id} is {state} in the journal: what became of it is not known yet"]
    else:
        assert findings == []


@pytest.mark.parametrize("state", OrderState)
def test_intent_with_kraken_order(state: OrderState) -> None:
    """With a filled order at Kraken, an intent in any other state is a difference."""
    findings = differences_of(intents=[replace(INTENT, state=state)])
    if state is OrderState.FILLED:
        assert findings == []
    else:
        assert findings == [f"{INTENT.cl_ord_id} is {state} in the journal and filled at Kraken"]


def test_an_order_that_closes_between_the_two_lists() -> None:
    """An order that Kraken returns as open and then as closed counts as closed."""
    assert differences_of(kraken_orders=[make_open_kraken_order(), ORDER]) == []


@pytest.mark.parametrize("field", ["executed", "cost", "fee"])
def test_the_sums_of_fills(field: str) -> None:
    """The fills of an order in the journal add up exactly to its executed volume, cost and fee."""
    name = "volume" if field == "executed" else field
    half = replace(FILL, **{name: getattr(FILL, name) / 2})
    rest = make_fill("TBBBBB-BBBBB-BBBBBB", volume=Decimal(0), cost=Decimal(0), fee=Decimal(0))
    other_half = replace(rest, **{name: getattr(FILL, name) / 2})
    assert differences_of(fills=[half, other_half], kraken_fills=[half, other_half]) == []
    findings = differences_of(fills=[half, rest], kraken_fills=[half, rest])
    assert [finding.partition(" is ")[0] for finding in findings] == [f"the order {ORDER.txid}: {field}"]


def test_fill_on_one_side_only_is_a_difference() -> None:
    """A fill that only Kraken or only the journal has is reported."""
    other = make_fill("TBBBBB-BBBBB-BBBBBB", volume=Decimal(0), cost=Decimal(0), fee=Decimal(0))
    assert differences_of(kraken_fills=[FILL, other]) == [
        f"the fill {other.trade_id} is at Kraken and not in the journal"
    ]
    assert differences_of(fills=[FILL, other]) == [f"the fill {other.trade_id} is in the journal and not at Kraken"]


def test_external_fills_are_ignored() -> None:
    """A fill of an order that is not this bot's is ignored."""
    assert differences_of(kraken_fills=[FILL, make_fill("TBBBBB-BBBBB-BBBBBB", "OZZZZZ-ZZZZZ-ZZZZZZ")]) == []


def test_fills_without_their_order() -> None:
    """Fills in the journal whose order is missing there are reported."""
    findings = find_differences([], [], [FILL], [], [])
    assert findings[0] == f"the journal has fills of {ORDER.txid}, and not that order"


def test_partly_filled_canceled_order_has_its_fills() -> None:
    """The executed part of a canceled order has its fills like any other."""
    part = make_kraken_order(status=OrderStatus.CANCELED, volume=Decimal("0.02"))
    assert differences_of([part], [replace(INTENT, state=OrderState.CANCELED)], kraken_orders=[part]) == []

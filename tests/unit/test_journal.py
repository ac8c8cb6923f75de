"""The journal: which writes it allows, and that values round-trip."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.base.errors import OrderBlockedError
from bot.base.models import OrderStatus
from bot.orders.journal import EquityPoint, Journal
from bot.orders.order_state import ALLOWED_TRANSITIONS, PLACED_STATES, UNRESOLVED_STATES, WORKING_STATES, OrderState
from tests.journal_rows import make_fill, make_intent, make_kraken_order, make_open_kraken_order

OTHER = "mybot0000000000002"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """Return an empty journal."""
    made = Journal(str(tmp_path / "journal.sqlite"))
    yield made
    made.close()


def record_sent(journal: Journal, cl_ord_id: str = "mybot0000000000001") -> None:
    """Record an order as sent."""
    journal.record_intent(make_intent(cl_ord_id))
    journal.mark_sent(cl_ord_id, "1790000000000000", 103.0, 111.0)


def only_state(journal: Journal) -> OrderState:
    """Return the state of the only intent."""
    (only,) = journal.intents()
    return only.state


# State machine


@pytest.mark.parametrize("before", OrderState)
def test_only_allowed_transitions_can_be_written(journal: Journal, before: OrderState) -> None:
    """A transition in the table is written; any other changes nothing."""
    for number, after in enumerate(OrderState):
        intent = make_intent(f"mybot{number:013d}", state=before)
        journal.record_intent(intent)
        if after == before or after in ALLOWED_TRANSITIONS[before]:
            journal.set_state(intent.cl_ord_id, after)
            assert journal.get_intent(intent.cl_ord_id) == replace(intent, state=after)
        else:
            journal.set_state(intent.cl_ord_id, after, "a reason", "OAAAAA-AAAAA-AAAAAA")
            assert journal.get_intent(intent.cl_ord_id) == intent


@pytest.mark.parametrize("before", OrderState)
def test_plain_sql_cannot_bypass_the_transition_table(journal: Journal, before: OrderState) -> None:
    """Plain SQL on another connection is restricted to the same transitions."""
    journal.record_intent(make_intent(state=before))
    with closing(sqlite3.connect(journal.path, isolation_level=None)) as other:
        written = set()
        for after in OrderState:
            other.execute("BEGIN")
            with contextlib.suppress(sqlite3.IntegrityError):
                other.execute("UPDATE intents SET state = ?", (after,))
                written.add(after)
            other.execute("ROLLBACK")
    assert written == ALLOWED_TRANSITIONS[before] | {before}


@pytest.mark.parametrize("state", OrderState)
def test_only_unsent_intents_can_be_deleted(journal: Journal, state: OrderState) -> None:
    """SQL can delete an intent in the state `intended`, and none that may have been sent."""
    journal.record_intent(make_intent(state=state))
    with closing(sqlite3.connect(journal.path)) as other, other:
        try:
            other.execute("DELETE FROM intents")
        except sqlite3.IntegrityError:
            assert state is not OrderState.INTENDED
        else:
            assert state is OrderState.INTENDED


def test_transition_table_invariants() -> None:
    """A final state has no transition; only `intended` leads to `sent`; no placed state leads to an absent one."""
    for before, follows in ALLOWED_TRANSITIONS.items():
        assert (OrderState.SENT in follows) == (before is OrderState.INTENDED)
        if before in PLACED_STATES:
            assert not follows & (UNRESOLVED_STATES | {OrderState.REFUSED, OrderState.NOT_PLACED, OrderState.INTENDED})
        if before in PLACED_STATES - WORKING_STATES:
            assert not follows
    assert set(ALLOWED_TRANSITIONS) == set(OrderState)


# Intents


def test_mark_sent_stores_nonce_and_deadline(journal: Journal) -> None:
    """After `mark_sent` the intent is sent, unresolved, and has its nonce, time and deadline."""
    record_sent(journal)
    expected = make_intent(state=OrderState.SENT, nonce="1790000000000000", sent_seconds=103.0, deadline_seconds=111.0)
    assert journal.get_intent(expected.cl_ord_id) == expected
    assert journal.unresolved_intents() == [expected]


def test_unsent_intent_is_replaced(journal: Journal) -> None:
    """An intent that was never sent is replaced by the next one with its id."""
    journal.record_intent(make_intent())
    journal.record_intent(make_intent(price=Decimal(51000)))
    assert journal.intents() == [make_intent(price=Decimal(51000))]


@pytest.mark.parametrize("state", [one for one in OrderState if one is not OrderState.INTENDED])
def test_same_order_cannot_be_recorded_twice(journal: Journal, state: OrderState) -> None:
    """An order that may have been sent, whatever its outcome, cannot be recorded again."""
    journal.record_intent(make_intent(state=state))
    with pytest.raises(OrderBlockedError, match="it is not sent again"):
        journal.record_intent(make_intent())
    assert only_state(journal) is state


@pytest.mark.parametrize("state", OrderState)
def test_unresolved_order_blocks_its_pair(journal: Journal, state: OrderState) -> None:
    """`mark_sent` is refused only while another order of the pair is unresolved; the refused order stays intended."""
    journal.record_intent(make_intent(OTHER, state=state))
    journal.record_intent(make_intent())
    if state in UNRESOLVED_STATES:
        with pytest.raises(OrderBlockedError, match=OTHER):
            journal.mark_sent(make_intent().cl_ord_id, "1", 103.0, 111.0)
        assert journal.get_intent(make_intent().cl_ord_id) == make_intent()
    else:
        journal.mark_sent(make_intent().cl_ord_id, "1", 103.0, 111.0)
        sent = make_intent(state=OrderState.SENT, nonce="1", sent_seconds=103.0, deadline_seconds=111.0)
        assert journal.get_intent(make_intent().cl_ord_id) == sent


def test_unresolved_order_blocks_no_other_pair(journal: Journal) -> None:
    """An unresolved order of another pair does not block an order."""
    journal.record_intent(make_intent(OTHER, symbol="ETH/USD", state=OrderState.UNKNOWN))
    record_sent(journal)
    assert len(journal.unresolved_intents()) == 2


def test_abandoned_order_cannot_be_sent(journal: Journal) -> None:
    """An intent that was meanwhile resolved as not placed cannot be sent any more."""
    journal.record_intent(make_intent())
    journal.set_state(make_intent().cl_ord_id, OrderState.NOT_PLACED)
    with pytest.raises(OrderBlockedError, match="given up"):
        journal.mark_sent(make_intent().cl_ord_id, "1", 103.0, 111.0)


@pytest.mark.parametrize("state", OrderState)
def test_absence_proof_applies_to_one_sending_only(journal: Journal, state: OrderState) -> None:
    """An outcome of an order sent at a given time is written only where the intent is unresolved and was sent at that
    time."""
    intent = make_intent(state=state, sent_seconds=103.0)
    journal.record_intent(intent)
    journal.set_state(intent.cl_ord_id, OrderState.NOT_PLACED, sent_seconds=102.0)
    assert journal.intents() == [intent]
    journal.set_state(intent.cl_ord_id, OrderState.NOT_PLACED, sent_seconds=103.0)
    expected = OrderState.NOT_PLACED if state in UNRESOLVED_STATES else state
    assert journal.intents() == [replace(intent, state=expected)]


def test_repeated_state_changes_nothing(journal: Journal) -> None:
    """Writing the current state of an intent keeps its reason and txid."""
    journal.record_intent(make_intent(state=OrderState.REFUSED, reason="EOrder:Insufficient funds"))
    journal.set_state(make_intent().cl_ord_id, OrderState.REFUSED, "another reason", "OAAAAA-AAAAA-AAAAAA")
    assert journal.intents() == [make_intent(state=OrderState.REFUSED, reason="EOrder:Insufficient funds")]


def test_txid_is_preserved(journal: Journal) -> None:
    """A later transition without a txid keeps the txid."""
    record_sent(journal)
    journal.set_state(make_intent().cl_ord_id, OrderState.OPEN, txid="OAAAAA-AAAAA-AAAAAA")
    journal.set_state(make_intent().cl_ord_id, OrderState.FILLED)
    assert journal.intents()[0].txid == "OAAAAA-AAAAA-AAAAAA"


@pytest.mark.parametrize("state", OrderState)
def test_the_lists_of_intents(journal: Journal, state: OrderState) -> None:
    """`unresolved_intents` has the sent and unknown ones, `working_intents` the open and partly filled ones, `intents`
    all."""
    journal.record_intent(make_intent(state=state))
    assert [len(journal.unresolved_intents()), len(journal.working_intents()), len(journal.intents())] == [
        state in UNRESOLVED_STATES,
        state in WORKING_STATES,
        1,
    ]


# Kraken's order records


@pytest.mark.parametrize("state", [one for one in OrderState if one not in PLACED_STATES - WORKING_STATES])
def test_kraken_order_record_is_authoritative(journal: Journal, state: OrderState) -> None:
    """Whatever the state before the end was, Kraken's final record is written, with its txid."""
    journal.record_intent(make_intent(state=state))
    journal.record_orders([make_kraken_order()])
    (found,) = journal.intents()
    assert (found.state, found.txid) == (OrderState.FILLED, make_kraken_order().txid)
    assert journal.orders() == [make_kraken_order()]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (make_open_kraken_order(), OrderState.OPEN),
        (make_open_kraken_order(status=OrderStatus.PENDING), OrderState.OPEN),
        (make_open_kraken_order(executed=Decimal("0.001")), OrderState.PARTLY_FILLED),
        (make_kraken_order(), OrderState.FILLED),
        (make_kraken_order(status=OrderStatus.CANCELED), OrderState.CANCELED),
        (make_kraken_order(status=OrderStatus.EXPIRED), OrderState.EXPIRED),
    ],
    ids=["open", "pending", "partly filled", "closed", "canceled", "expired"],
)
def test_unknown_kraken_order_is_adopted(journal: Journal, record: object, expected: OrderState) -> None:
    """A record without an intent creates one, in the state of the record and with all its fields."""
    journal.record_orders([record])  # type: ignore[list-item]
    assert journal.intents() == [
        make_intent(intended_seconds=101.0, sent_seconds=101.0, state=expected, txid="OAAAAA-AAAAA-AAAAAA")
    ]


def test_order_without_client_order_id_is_ignored(journal: Journal) -> None:
    """A record without a cl_ord_id, which cannot be this bot's, is not written."""
    journal.record_orders([make_open_kraken_order(""), make_open_kraken_order()])
    assert [order.cl_ord_id for order in journal.orders()] == [make_open_kraken_order().cl_ord_id]
    assert len(journal.intents()) == 1


@pytest.mark.parametrize(
    "late",
    [
        make_open_kraken_order(),
        make_open_kraken_order(executed=Decimal("0.005")),
        make_open_kraken_order(executed=Decimal("0.01")),
    ],
    ids=["untouched", "partly filled", "all but closed"],
)
def test_final_order_record_stays_final(journal: Journal, late: object) -> None:
    """A record from before the end of an order that arrives after it changes nothing."""
    journal.record_orders([make_kraken_order()])
    journal.record_orders([late])  # type: ignore[list-item]
    assert journal.orders() == [make_kraken_order()]
    assert only_state(journal) is OrderState.FILLED


def test_executed_volume_never_decreases(journal: Journal) -> None:
    """A record with a lower executed volume than the previous one is older, and is not written."""
    newer = make_open_kraken_order(executed=Decimal("0.009"))
    journal.record_orders([newer])
    journal.record_orders([make_open_kraken_order(executed=Decimal("0.0085"))])
    assert journal.orders() == [newer]


def test_second_order_of_an_id_is_stored_without_changing_state(journal: Journal) -> None:
    """Two records of one id are both stored, and the intent keeps the txid and state of the first."""
    journal.record_orders([make_open_kraken_order()])
    journal.record_orders([make_kraken_order(txid="OZZZZZ-ZZZZZ-ZZZZZZ")])
    assert len(journal.orders()) == 2
    assert (only_state(journal), journal.intents()[0].txid) == (OrderState.OPEN, make_open_kraken_order().txid)


def test_journal_with_missing_intents_is_not_complete(journal: Journal) -> None:
    """If intents are missing that existed when the time was recorded, the journal is not complete."""
    journal.record_intent(make_intent())
    journal.set_complete_until("mybot", 100.0)
    with journal._database.write() as connection:
        connection.execute("DELETE FROM intents")
    assert journal.complete_until("mybot") == 0.0


def test_complete_until_is_per_bot(journal: Journal) -> None:
    """The time up to which a journal is complete is stored per bot id, and is 0.0 for an unknown one."""
    journal.set_complete_until("mybot", 100.0)
    journal.set_complete_until("mybot", 200.5)
    assert (journal.complete_until("mybot"), journal.complete_until("other")) == (200.5, 0.0)


# Fills, equity, money


def test_fill_is_recorded_once(journal: Journal) -> None:
    """A fill that is reported again is neither written again nor changed."""
    journal.add_fills([make_fill(), make_fill("TBBBBB-BBBBB-BBBBBB", time_seconds=50.0)])
    journal.add_fills([make_fill(price=Decimal(1)), make_fill("TCCCCC-CCCCC-CCCCCC", time_seconds=200.0)])
    assert [one.trade_id[1] for one in journal.fills()] == ["B", "A", "C"]
    assert journal.fills()[1] == make_fill()


def test_orders_whose_fills_are_missing(journal: Journal) -> None:
    """`orders_with_missing_fills` has exactly the orders whose fills do not add up to their executed volume."""
    complete, half, none = make_kraken_order("a", "O1"), make_kraken_order("b", "O2"), make_kraken_order("c", "O3")
    journal.record_orders([complete, half, none, make_open_kraken_order("d", "O4")])
    halves = [make_fill(f"T{number}", "O1", volume=Decimal("0.005")) for number in (1, 2)]
    journal.add_fills([*halves, make_fill("T3", "O2", volume=Decimal("0.009"))])
    assert journal.orders_with_missing_fills() == [half, none]


def test_equity_comes_back_in_order(journal: Journal) -> None:
    """Equity points are returned oldest first; the last one of a time and currency counts."""
    points = [EquityPoint(2.0, "USD", Decimal("10000.1234")), EquityPoint(1.0, "USD", Decimal("9999.00"))]
    for point in (EquityPoint(2.0, "USD", Decimal(1)), *points):
        journal.add_equity(point)
    assert journal.equity_points() == points[::-1]


def test_few_points_of_equity_are_all_in_the_curve(journal: Journal) -> None:
    """If there are no more points than requested, the curve has all of them, oldest first."""
    points = [EquityPoint(float(seconds), "USD", Decimal(seconds)) for seconds in (1, 2, 3, 1000)]
    for point in points:
        journal.add_equity(point)
    assert journal.equity_curve(4) == points


def test_many_points_of_equity_are_thinned_out_evenly(journal: Journal) -> None:
    """If there are more points than requested, the curve has the last one, and before each the newest that is a step
    older."""
    for seconds in (*range(100), 200):
        journal.add_equity(EquityPoint(float(seconds), "USD", Decimal(seconds)))
    # Four steps of 50 seconds, backwards from the end; for 150 it is the newest point that exists, and so on.
    assert [point.time_seconds for point in journal.equity_curve(5)] == [49.0, 99.0, 200.0]


MONEY = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20)


@given(st.lists(MONEY, min_size=6, max_size=6), st.floats(0, 4e9))
def test_amounts_round_trip_exactly(
    tmp_path_factory: pytest.TempPathFactory, amounts: list[Decimal], seconds: float
) -> None:
    """Any amount and any time is read back equal to what was written, in each table."""
    one, two, three, four, five, six = amounts
    expected = make_intent(volume=one, price=two, intended_seconds=seconds)
    placed = make_kraken_order(
        price=one, volume=two, executed=three, cost=four, fee=five, average_price=six, opened_seconds=seconds
    )
    filled = make_fill(price=one, volume=two, cost=three, fee=four, time_seconds=seconds)
    point = EquityPoint(seconds, "USD", five)
    journal = Journal(str(tmp_path_factory.mktemp("money") / "journal.sqlite"))
    journal.record_intent(expected)
    assert journal.intents() == [expected]
    journal.record_orders([placed])
    journal.add_fills([filled])
    journal.add_equity(point)
    journal.close()
    assert (journal.orders(), journal.fills(), journal.equity_points()) == ([placed], [filled], [point])
    journal.close()

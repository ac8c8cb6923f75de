"""The journal: what may be written, and that it comes back as it was."""

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
    """Write an order down as sent."""
    journal.record_intent(make_intent(cl_ord_id))
    journal.mark_sent(cl_ord_id, "1790000000000000", 103.0, 111.0)


def only_state(journal: Journal) -> OrderState:
    """Return the state of the only intent."""
    (only,) = journal.intents()
    return only.state


# The life of an order


@pytest.mark.parametrize("before", OrderState)
def test_only_allowed_transitions_can_be_written(journal: Journal, before: OrderState) -> None:
    """A step of an order's life that the table has is written; any other changes nothing."""
    for number, after in enumerate(OrderState):
        kept = make_intent(f"mybot{number:013d}", state=before)
        journal.record_intent(kept)
        if after == before or after in ALLOWED_TRANSITIONS[before]:
            journal.set_state(kept.cl_ord_id, after)
            assert journal.get_intent(kept.cl_ord_id) == replace(kept, state=after)
        else:
            journal.set_state(kept.cl_ord_id, after, "a reason", "OAAAAA-AAAAA-AAAAAA")
            assert journal.get_intent(kept.cl_ord_id) == kept


@pytest.mark.parametrize("before", OrderState)
def test_plain_sql_cannot_bypass_the_transition_table(journal: Journal, before: OrderState) -> None:
    """Plain SQL on the file, by another connection, is held to the same steps as the program."""
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


@pytest.mark.parametrize("kept", OrderState)
def test_only_unsent_intents_can_be_deleted(journal: Journal, kept: OrderState) -> None:
    """SQL can delete an intent that is only intended, and none that may have left."""
    journal.record_intent(make_intent(state=kept))
    with closing(sqlite3.connect(journal.path)) as other, other:
        try:
            other.execute("DELETE FROM intents")
        except sqlite3.IntegrityError:
            assert kept is not OrderState.INTENDED
        else:
            assert kept is OrderState.INTENDED


def test_transition_table_invariants() -> None:
    """Nothing follows an end; only `intended` leads to `sent`; nothing that is placed is ever taken to be absent."""
    for before, follows in ALLOWED_TRANSITIONS.items():
        assert (OrderState.SENT in follows) == (before is OrderState.INTENDED)
        if before in PLACED_STATES:
            assert not follows & (UNRESOLVED_STATES | {OrderState.REFUSED, OrderState.NOT_PLACED, OrderState.INTENDED})
        if before in PLACED_STATES - WORKING_STATES:
            assert not follows
    assert set(ALLOWED_TRANSITIONS) == set(OrderState)


# Intents


def test_mark_sent_stores_nonce_and_deadline(journal: Journal) -> None:
    """After `leave` the intent is sent, unsettled, and has its nonce, its time and its deadline."""
    record_sent(journal)
    wanted = make_intent(state=OrderState.SENT, nonce="1790000000000000", sent_seconds=103.0, deadline_seconds=111.0)
    assert journal.get_intent(wanted.cl_ord_id) == wanted
    assert journal.unresolved_intents() == [wanted]


def test_unsent_intent_is_replaced(journal: Journal) -> None:
    """An intent that never left is replaced by the next one of its id."""
    journal.record_intent(make_intent())
    journal.record_intent(make_intent(price=Decimal(51000)))
    assert journal.intents() == [make_intent(price=Decimal(51000))]


@pytest.mark.parametrize("kept", [one for one in OrderState if one is not OrderState.INTENDED])
def test_same_order_cannot_be_recorded_twice(journal: Journal, kept: OrderState) -> None:
    """An order that may have left, whatever became of it, cannot be intended again."""
    journal.record_intent(make_intent(state=kept))
    with pytest.raises(OrderBlockedError, match="it is not sent again"):
        journal.record_intent(make_intent())
    assert only_state(journal) is kept


@pytest.mark.parametrize("kept", OrderState)
def test_unresolved_order_blocks_its_pair(journal: Journal, kept: OrderState) -> None:
    """`leave` is refused while another order of the pair is unsettled, and only then; the order stays intended."""
    journal.record_intent(make_intent(OTHER, state=kept))
    journal.record_intent(make_intent())
    if kept in UNRESOLVED_STATES:
        with pytest.raises(OrderBlockedError, match=OTHER):
            journal.mark_sent(make_intent().cl_ord_id, "1", 103.0, 111.0)
        assert journal.get_intent(make_intent().cl_ord_id) == make_intent()
    else:
        journal.mark_sent(make_intent().cl_ord_id, "1", 103.0, 111.0)
        left = make_intent(state=OrderState.SENT, nonce="1", sent_seconds=103.0, deadline_seconds=111.0)
        assert journal.get_intent(make_intent().cl_ord_id) == left


def test_unresolved_order_blocks_no_other_pair(journal: Journal) -> None:
    """An unsettled order of another pair does not keep an order from leaving."""
    journal.record_intent(make_intent(OTHER, symbol="ETH/USD", state=OrderState.UNKNOWN))
    record_sent(journal)
    assert len(journal.unresolved_intents()) == 2


def test_abandoned_order_cannot_be_sent(journal: Journal) -> None:
    """An intent that somebody else has settled as not placed meanwhile cannot leave any more."""
    journal.record_intent(make_intent())
    journal.set_state(make_intent().cl_ord_id, OrderState.NOT_PLACED)
    with pytest.raises(OrderBlockedError, match="given up"):
        journal.mark_sent(make_intent().cl_ord_id, "1", 103.0, 111.0)


@pytest.mark.parametrize("state", OrderState)
def test_absence_proof_applies_to_one_sending_only(journal: Journal, state: OrderState) -> None:
    """What is said of an order that left at a moment is written only where that is unsettled, and left then."""
    kept = make_intent(state=state, sent_seconds=103.0)
    journal.record_intent(kept)
    journal.set_state(kept.cl_ord_id, OrderState.NOT_PLACED, sent_seconds=102.0)
    assert journal.intents() == [kept]
    journal.set_state(kept.cl_ord_id, OrderState.NOT_PLACED, sent_seconds=103.0)
    expected = OrderState.NOT_PLACED if state in UNRESOLVED_STATES else state
    assert journal.intents() == [replace(kept, state=expected)]


def test_repeated_state_changes_nothing(journal: Journal) -> None:
    """Writing the state that an intent has keeps its reason and its txid."""
    journal.record_intent(make_intent(state=OrderState.REFUSED, reason="EOrder:Insufficient funds"))
    journal.set_state(make_intent().cl_ord_id, OrderState.REFUSED, "another reason", "OAAAAA-AAAAA-AAAAAA")
    assert journal.intents() == [make_intent(state=OrderState.REFUSED, reason="EOrder:Insufficient funds")]


def test_txid_is_preserved(journal: Journal) -> None:
    """A later step that does not name the txid does not lose it."""
    record_sent(journal)
    journal.set_state(make_intent().cl_ord_id, OrderState.OPEN, txid="OAAAAA-AAAAA-AAAAAA")
    journal.set_state(make_intent().cl_ord_id, OrderState.FILLED)
    assert journal.intents()[0].txid == "OAAAAA-AAAAA-AAAAAA"


@pytest.mark.parametrize("kept", OrderState)
def test_the_lists_of_intents(journal: Journal, kept: OrderState) -> None:
    """`unsettled` has what is sent or unknown, `working` what is open or partly filled, and `intents` everything."""
    journal.record_intent(make_intent(state=kept))
    assert [len(journal.unresolved_intents()), len(journal.working_intents()), len(journal.intents())] == [
        kept in UNRESOLVED_STATES,
        kept in WORKING_STATES,
        1,
    ]


# Kraken's rows


@pytest.mark.parametrize("kept", [one for one in OrderState if one not in PLACED_STATES - WORKING_STATES])
def test_kraken_order_record_is_authoritative(journal: Journal, kept: OrderState) -> None:
    """Whatever an order was taken to be before its end, Kraken's final row of it is written, with its txid."""
    journal.record_intent(make_intent(state=kept))
    journal.record_orders([make_kraken_order()])
    (found,) = journal.intents()
    assert (found.state, found.txid) == (OrderState.FILLED, make_kraken_order().txid)
    assert journal.orders() == [make_kraken_order()]


@pytest.mark.parametrize(
    ("taken", "wanted"),
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
def test_unknown_kraken_order_is_adopted(journal: Journal, taken: object, wanted: OrderState) -> None:
    """A row without an intent makes one, in the state that the row shows and with all that it says of the order."""
    journal.record_orders([taken])  # type: ignore[list-item]
    assert journal.intents() == [
        make_intent(intended_seconds=101.0, sent_seconds=101.0, state=wanted, txid="OAAAAA-AAAAA-AAAAAA")
    ]


def test_order_without_client_order_id_is_ignored(journal: Journal) -> None:
    """A row without a cl_ord_id, which cannot be this bot's, is not taken."""
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
    """An answer from before an order's end, arriving after it, changes nothing."""
    journal.record_orders([make_kraken_order()])
    journal.record_orders([late])  # type: ignore[list-item]
    assert journal.orders() == [make_kraken_order()]
    assert only_state(journal) is OrderState.FILLED


def test_executed_volume_never_decreases(journal: Journal) -> None:
    """A row that has executed less than the one before is an older one, and is not taken."""
    newer = make_open_kraken_order(executed=Decimal("0.009"))
    journal.record_orders([newer])
    journal.record_orders([make_open_kraken_order(executed=Decimal("0.0085"))])
    assert journal.orders() == [newer]


def test_second_order_of_an_id_is_stored_without_changing_state(journal: Journal) -> None:
    """Two rows of one id are both kept, and the intent goes on with the first one's txid and state."""
    journal.record_orders([make_open_kraken_order()])
    journal.record_orders([make_kraken_order(txid="OZZZZZ-ZZZZZ-ZZZZZZ")])
    assert len(journal.orders()) == 2
    assert (only_state(journal), journal.intents()[0].txid) == (OrderState.OPEN, make_open_kraken_order().txid)


def test_journal_with_missing_intents_is_not_complete(journal: Journal) -> None:
    """Where rows are missing that were there when the moment was written down, it says nothing."""
    journal.record_intent(make_intent())
    journal.set_complete_until("mybot", 100.0)
    with journal._database.write() as connection:
        connection.execute("DELETE FROM intents")
    assert journal.complete_until("mybot") == 0.0


def test_complete_until_is_per_bot(journal: Journal) -> None:
    """Up to when a journal is complete is kept for each bot id, and is 0.0 for one that it never heard of."""
    journal.set_complete_until("mybot", 100.0)
    journal.set_complete_until("mybot", 200.5)
    assert (journal.complete_until("mybot"), journal.complete_until("other")) == (200.5, 0.0)


# Fills, equity, money


def test_fill_is_recorded_once(journal: Journal) -> None:
    """A fill that is told again is not written again and does not change."""
    journal.add_fills([make_fill(), make_fill("TBBBBB-BBBBB-BBBBBB", time_seconds=50.0)])
    journal.add_fills([make_fill(price=Decimal(1)), make_fill("TCCCCC-CCCCC-CCCCCC", time_seconds=200.0)])
    assert [one.trade_id[1] for one in journal.fills()] == ["B", "A", "C"]
    assert journal.fills()[1] == make_fill()


def test_orders_whose_fills_are_missing(journal: Journal) -> None:
    """`orders_with_missing_fills` has the orders whose fills do not make what they have executed, and no others."""
    whole, half, none = make_kraken_order("a", "O1"), make_kraken_order("b", "O2"), make_kraken_order("c", "O3")
    journal.record_orders([whole, half, none, make_open_kraken_order("d", "O4")])
    halves = [make_fill(f"T{number}", "O1", volume=Decimal("0.005")) for number in (1, 2)]
    journal.add_fills([*halves, make_fill("T3", "O2", volume=Decimal("0.009"))])
    assert journal.orders_with_missing_fills() == [half, none]


def test_equity_comes_back_in_order(journal: Journal) -> None:
    """Equity points come back oldest first; the last one of a moment and currency counts."""
    points = [EquityPoint(2.0, "USD", Decimal("10000.1234")), EquityPoint(1.0, "USD", Decimal("9999.00"))]
    for point in (EquityPoint(2.0, "USD", Decimal(1)), *points):
        journal.add_equity(point)
    assert journal.equity_points() == points[::-1]


def test_few_points_of_equity_are_all_in_the_curve(journal: Journal) -> None:
    """As long as there are no more points than asked for, the curve has all of them, oldest first."""
    points = [EquityPoint(float(seconds), "USD", Decimal(seconds)) for seconds in (1, 2, 3, 1000)]
    for point in points:
        journal.add_equity(point)
    assert journal.equity_curve(4) == points


def test_many_points_of_equity_are_thinned_out_evenly(journal: Journal) -> None:
    """Of more points than asked for, the curve has the last one, and before each the newest that is a step older."""
    for seconds in (*range(100), 200):
        journal.add_equity(EquityPoint(float(seconds), "USD", Decimal(seconds)))
    # Four steps of 50 seconds, back from the end; from 150 the newest that is there, and so on.
    assert [point.time_seconds for point in journal.equity_curve(5)] == [49.0, 99.0, 200.0]


MONEY = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20)


@given(st.lists(MONEY, min_size=6, max_size=6), st.floats(0, 4e9))
def test_amounts_round_trip_exactly(
    tmp_path_factory: pytest.TempPathFactory, amounts: list[Decimal], seconds: float
) -> None:
    """Any amount of money and any time is read back equal to what was written, in each table."""
    one, two, three, four, five, six = amounts
    wanted = make_intent(volume=one, price=two, intended_seconds=seconds)
    placed = make_kraken_order(
        price=one, volume=two, executed=three, cost=four, fee=five, average_price=six, opened_seconds=seconds
    )
    filled = make_fill(price=one, volume=two, cost=three, fee=four, time_seconds=seconds)
    point = EquityPoint(seconds, "USD", five)
    journal = Journal(str(tmp_path_factory.mktemp("money") / "journal.sqlite"))
    journal.record_intent(wanted)
    assert journal.intents() == [wanted]
    journal.record_orders([placed])
    journal.add_fills([filled])
    journal.add_equity(point)
    journal.close()
    assert (journal.orders(), journal.fills(), journal.equity_points()) == ([placed], [filled], [point])
    journal.close()

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
from bot.orders.order_state import NEXT, PLACED, UNSETTLED, WORKING, OrderState
from tests.journal_rows import fill, intent, open_row, row

OTHER = "mybot0000000000002"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """Return an empty journal."""
    made = Journal(str(tmp_path / "journal.sqlite"))
    yield made
    made.close()


def sent(journal: Journal, cl_ord_id: str = "mybot0000000000001") -> None:
    """Write an order down as sent."""
    journal.intend(intent(cl_ord_id))
    journal.leave(cl_ord_id, "1790000000000000", 103.0, 111.0)


def state(journal: Journal) -> OrderState:
    """Return the state of the only intent."""
    (only,) = journal.intents()
    return only.state


# The life of an order


@pytest.mark.parametrize("before", OrderState)
def test_the_lawful_steps_and_no_others_can_be_written(journal: Journal, before: OrderState) -> None:
    """A step of an order's life that the table has is written; any other changes nothing."""
    for number, after in enumerate(OrderState):
        kept = intent(f"mybot{number:013d}", state=before)
        journal.intend(kept)
        if after == before or after in NEXT[before]:
            journal.set_state(kept.cl_ord_id, after)
            assert journal.intent(kept.cl_ord_id) == replace(kept, state=after)
        else:
            journal.set_state(kept.cl_ord_id, after, "a reason", "OAAAAA-AAAAA-AAAAAA")
            assert journal.intent(kept.cl_ord_id) == kept


@pytest.mark.parametrize("before", OrderState)
def test_sql_does_not_get_round_the_table(journal: Journal, before: OrderState) -> None:
    """Plain SQL on the file, by another connection, is held to the same steps as the program."""
    journal.intend(intent(state=before))
    with closing(sqlite3.connect(journal.path, isolation_level=None)) as other:
        written = set()
        for after in OrderState:
            other.execute("BEGIN")
            with contextlib.suppress(sqlite3.IntegrityError):
                other.execute("UPDATE intents SET state = ?", (after,))
                written.add(after)
            other.execute("ROLLBACK")
    assert written == NEXT[before] | {before}


@pytest.mark.parametrize("kept", OrderState)
def test_only_what_has_not_left_can_be_deleted(journal: Journal, kept: OrderState) -> None:
    """SQL can delete an intent that is only intended, and none that may have left."""
    journal.intend(intent(state=kept))
    with closing(sqlite3.connect(journal.path)) as other, other:
        try:
            other.execute("DELETE FROM intents")
        except sqlite3.IntegrityError:
            assert kept is not OrderState.INTENDED
        else:
            assert kept is OrderState.INTENDED


def test_the_table_of_steps() -> None:
    """Nothing follows an end; only `intended` leads to `sent`; nothing that is placed is ever taken to be absent."""
    for before, follows in NEXT.items():
        assert (OrderState.SENT in follows) == (before is OrderState.INTENDED)
        if before in PLACED:
            assert not follows & (UNSETTLED | {OrderState.REFUSED, OrderState.NOT_PLACED, OrderState.INTENDED})
        if before in PLACED - WORKING:
            assert not follows
    assert set(NEXT) == set(OrderState)


# Intents


def test_an_order_is_sent_with_its_nonce_and_deadline(journal: Journal) -> None:
    """After `leave` the intent is sent, unsettled, and has its nonce, its time and its deadline."""
    sent(journal)
    wanted = intent(state=OrderState.SENT, nonce="1790000000000000", sent_seconds=103.0, deadline_seconds=111.0)
    assert journal.intent(wanted.cl_ord_id) == wanted
    assert journal.unsettled() == [wanted]


def test_what_is_only_intended_is_intended_anew(journal: Journal) -> None:
    """An intent that never left is replaced by the next one of its id."""
    journal.intend(intent())
    journal.intend(intent(price=Decimal(51000)))
    assert journal.intents() == [intent(price=Decimal(51000))]


@pytest.mark.parametrize("kept", [one for one in OrderState if one is not OrderState.INTENDED])
def test_the_same_order_is_not_intended_twice(journal: Journal, kept: OrderState) -> None:
    """An order that may have left, whatever became of it, cannot be intended again."""
    journal.intend(intent(state=kept))
    with pytest.raises(OrderBlockedError, match="it is not sent again"):
        journal.intend(intent())
    assert state(journal) is kept


@pytest.mark.parametrize("kept", OrderState)
def test_an_unsettled_order_keeps_its_pair(journal: Journal, kept: OrderState) -> None:
    """`leave` is refused while another order of the pair is unsettled, and only then; the order stays intended."""
    journal.intend(intent(OTHER, state=kept))
    journal.intend(intent())
    if kept in UNSETTLED:
        with pytest.raises(OrderBlockedError, match=OTHER):
            journal.leave(intent().cl_ord_id, "1", 103.0, 111.0)
        assert journal.intent(intent().cl_ord_id) == intent()
    else:
        journal.leave(intent().cl_ord_id, "1", 103.0, 111.0)
        left = intent(state=OrderState.SENT, nonce="1", sent_seconds=103.0, deadline_seconds=111.0)
        assert journal.intent(intent().cl_ord_id) == left


def test_an_unsettled_order_keeps_no_other_pair(journal: Journal) -> None:
    """An unsettled order of another pair does not keep an order from leaving."""
    journal.intend(intent(OTHER, symbol="ETH/USD", state=OrderState.UNKNOWN))
    sent(journal)
    assert len(journal.unsettled()) == 2


def test_an_order_that_was_given_up_does_not_leave(journal: Journal) -> None:
    """An intent that somebody else has settled as not placed meanwhile cannot leave any more."""
    journal.intend(intent())
    journal.set_state(intent().cl_ord_id, OrderState.NOT_PLACED)
    with pytest.raises(OrderBlockedError, match="given up"):
        journal.leave(intent().cl_ord_id, "1", 103.0, 111.0)


@pytest.mark.parametrize("state", OrderState)
def test_a_proof_is_of_one_sending(journal: Journal, state: OrderState) -> None:
    """What is said of an order that left at a moment is written only where that is unsettled, and left then."""
    kept = intent(state=state, sent_seconds=103.0)
    journal.intend(kept)
    journal.set_state(kept.cl_ord_id, OrderState.NOT_PLACED, sent_seconds=102.0)
    assert journal.intents() == [kept]
    journal.set_state(kept.cl_ord_id, OrderState.NOT_PLACED, sent_seconds=103.0)
    expected = OrderState.NOT_PLACED if state in UNSETTLED else state
    assert journal.intents() == [replace(kept, state=expected)]


def test_a_state_that_is_there_already_changes_nothing(journal: Journal) -> None:
    """Writing the state that an intent has keeps its reason and its txid."""
    journal.intend(intent(state=OrderState.REFUSED, reason="EOrder:Insufficient funds"))
    journal.set_state(intent().cl_ord_id, OrderState.REFUSED, "another reason", "OAAAAA-AAAAA-AAAAAA")
    assert journal.intents() == [intent(state=OrderState.REFUSED, reason="EOrder:Insufficient funds")]


def test_a_txid_is_kept(journal: Journal) -> None:
    """A later step that does not name the txid does not lose it."""
    sent(journal)
    journal.set_state(intent().cl_ord_id, OrderState.OPEN, txid="OAAAAA-AAAAA-AAAAAA")
    journal.set_state(intent().cl_ord_id, OrderState.FILLED)
    assert journal.intents()[0].txid == "OAAAAA-AAAAA-AAAAAA"


@pytest.mark.parametrize("kept", OrderState)
def test_the_lists_of_intents(journal: Journal, kept: OrderState) -> None:
    """`unsettled` has what is sent or unknown, `working` what is open or partly filled, and `intents` everything."""
    journal.intend(intent(state=kept))
    assert [len(journal.unsettled()), len(journal.working()), len(journal.intents())] == [
        kept in UNSETTLED,
        kept in WORKING,
        1,
    ]


# Kraken's rows


@pytest.mark.parametrize("kept", [one for one in OrderState if one not in PLACED - WORKING])
def test_krakens_row_is_the_last_word(journal: Journal, kept: OrderState) -> None:
    """Whatever an order was taken to be before its end, Kraken's final row of it is written, with its txid."""
    journal.intend(intent(state=kept))
    journal.take_rows([row()])
    (found,) = journal.intents()
    assert (found.state, found.txid) == (OrderState.FILLED, row().txid)
    assert journal.orders() == [row()]


@pytest.mark.parametrize(
    ("taken", "wanted"),
    [
        (open_row(), OrderState.OPEN),
        (open_row(status=OrderStatus.PENDING), OrderState.OPEN),
        (open_row(executed=Decimal("0.001")), OrderState.PARTLY_FILLED),
        (row(), OrderState.FILLED),
        (row(status=OrderStatus.CANCELED), OrderState.CANCELLED),
        (row(status=OrderStatus.EXPIRED), OrderState.EXPIRED),
    ],
    ids=["open", "pending", "partly filled", "closed", "canceled", "expired"],
)
def test_an_order_that_the_journal_did_not_know_is_adopted(journal: Journal, taken: object, wanted: OrderState) -> None:
    """A row without an intent makes one, in the state that the row shows and with all that it says of the order."""
    journal.take_rows([taken])  # type: ignore[list-item]
    assert journal.intents() == [
        intent(intended_seconds=101.0, sent_seconds=101.0, state=wanted, txid="OAAAAA-AAAAA-AAAAAA")
    ]


def test_an_order_without_an_id_is_nobodys(journal: Journal) -> None:
    """A row without a cl_ord_id, which cannot be this bot's, is not taken."""
    journal.take_rows([open_row(""), open_row()])
    assert [order.cl_ord_id for order in journal.orders()] == [open_row().cl_ord_id]
    assert len(journal.intents()) == 1


@pytest.mark.parametrize(
    "late",
    [open_row(), open_row(executed=Decimal("0.005")), open_row(executed=Decimal("0.01"))],
    ids=["untouched", "partly filled", "all but closed"],
)
def test_a_final_row_stays_final(journal: Journal, late: object) -> None:
    """An answer from before an order's end, arriving after it, changes nothing."""
    journal.take_rows([row()])
    journal.take_rows([late])  # type: ignore[list-item]
    assert journal.orders() == [row()]
    assert state(journal) is OrderState.FILLED


def test_what_was_executed_does_not_become_less(journal: Journal) -> None:
    """A row that has executed less than the one before is an older one, and is not taken."""
    newer = open_row(executed=Decimal("0.009"))
    journal.take_rows([newer])
    journal.take_rows([open_row(executed=Decimal("0.0085"))])
    assert journal.orders() == [newer]


def test_a_second_order_of_an_id_is_kept_and_changes_no_life(journal: Journal) -> None:
    """Two rows of one id are both kept, and the intent goes on with the first one's txid and state."""
    journal.take_rows([open_row()])
    journal.take_rows([row(txid="OZZZZZ-ZZZZZ-ZZZZZZ")])
    assert len(journal.orders()) == 2
    assert (state(journal), journal.intents()[0].txid) == (OrderState.OPEN, open_row().txid)


def test_a_journal_with_fewer_intents_than_it_had_knows_nothing(journal: Journal) -> None:
    """Where rows are missing that were there when the moment was written down, it says nothing."""
    journal.intend(intent())
    journal.set_known_until("mybot", 100.0)
    with journal._file.write() as connection:
        connection.execute("DELETE FROM intents")
    assert journal.known_until("mybot") == 0.0


def test_known_until_is_that_of_a_bot(journal: Journal) -> None:
    """Up to when a journal is complete is kept for each bot id, and is 0.0 for one that it never heard of."""
    journal.set_known_until("mybot", 100.0)
    journal.set_known_until("mybot", 200.5)
    assert (journal.known_until("mybot"), journal.known_until("other")) == (200.5, 0.0)


# Fills, equity, money


def test_a_fill_is_taken_once(journal: Journal) -> None:
    """A fill that is told again is not written again and does not change."""
    journal.add_fills([fill(), fill("TBBBBB-BBBBB-BBBBBB", time_seconds=50.0)])
    journal.add_fills([fill(price=Decimal(1)), fill("TCCCCC-CCCCC-CCCCCC", time_seconds=200.0)])
    assert [one.trade_id[1] for one in journal.fills()] == ["B", "A", "C"]
    assert journal.fills()[1] == fill()


def test_orders_whose_fills_are_missing(journal: Journal) -> None:
    """`without_fills` has the orders whose fills do not make what they have executed, and no others."""
    whole, half, none = row("a", "O1"), row("b", "O2"), row("c", "O3")
    journal.take_rows([whole, half, none, open_row("d", "O4")])
    halves = [fill(f"T{number}", "O1", volume=Decimal("0.005")) for number in (1, 2)]
    journal.add_fills([*halves, fill("T3", "O2", volume=Decimal("0.009"))])
    assert journal.without_fills() == [half, none]


def test_equity_comes_back_in_order(journal: Journal) -> None:
    """Equity points come back oldest first; the last one of a moment and currency counts."""
    points = [EquityPoint(2.0, "USD", Decimal("10000.1234")), EquityPoint(1.0, "USD", Decimal("9999.00"))]
    for point in (EquityPoint(2.0, "USD", Decimal(1)), *points):
        journal.add_equity(point)
    assert journal.equity() == points[::-1]


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
def test_money_comes_back_to_the_last_decimal(
    tmp_path_factory: pytest.TempPathFactory, amounts: list[Decimal], seconds: float
) -> None:
    """Any amount of money and any time is read back equal to what was written, in each table."""
    one, two, three, four, five, six = amounts
    wanted = intent(volume=one, price=two, intended_seconds=seconds)
    placed = row(price=one, volume=two, executed=three, cost=four, fee=five, average_price=six, opened_seconds=seconds)
    filled = fill(price=one, volume=two, cost=three, fee=four, time_seconds=seconds)
    point = EquityPoint(seconds, "USD", five)
    journal = Journal(str(tmp_path_factory.mktemp("money") / "journal.sqlite"))
    journal.intend(wanted)
    assert journal.intents() == [wanted]
    journal.take_rows([placed])
    journal.add_fills([filled])
    journal.add_equity(point)
    journal.close()
    assert (journal.orders(), journal.fills(), journal.equity()) == ([placed], [filled], [point])
    journal.close()

"""Reports of the journal: which one, what of it, and in which form."""

from __future__ import annotations

import csv
import json
import os
from decimal import Decimal
from pathlib import Path

import pytest

from bot.app.reports import check_journal, fill_rows, fill_sums, fills_report, find_journal, order_rows, orders_report
from bot.app.table import WIDTH, text_of
from bot.base.models import OrderStatus, Side
from bot.base.paths import journal_file
from bot.orders.journal import Journal
from bot.orders.order_state import UNSETTLED, WORKING, OrderState
from tests.journal_rows import fill, intent, open_row, row

NOW = 135.9


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """Return a journal with a filled order, a resting one, an unknown one and a refused one."""
    made = Journal(str(tmp_path / "journal.sqlite"))
    made.take_rows([row(opened_seconds=50.0), open_row("mybot0000000000002", "OBBBBB-BBBBB-BBBBBB")])
    for number, state in ((3, OrderState.UNKNOWN), (4, OrderState.REFUSED)):
        name = f"mybot000000000000{number}"
        made.intend(intent(name, symbol=f"{number}/USD"))
        made.leave(name, str(number), 100.0 + number, 111.0)
        made.set_state(name, state, "EOrder:Insufficient funds" if state is OrderState.REFUSED else "")
    made.add_fills([fill()])
    return made


NEWER = "What is only newer at Kraken, the next run takes over; then check again"


def states(journal: Journal, *, only_open: bool = False) -> list[object]:
    """Return the state of each row of the report."""
    return [one["state"] for one in order_rows(journal.intents(), journal.orders(), NOW, only_open=only_open)]


# Which journal


def made_at(path: str, seconds: float) -> Path:
    """Make a file that was written at a moment."""
    Path(path).touch()
    os.utime(path, (seconds, seconds))
    return Path(path)


def test_the_journal_of_the_live_key(tmp_path: Path) -> None:
    """In live mode it is the journal of the user's key, whichever was written last; none where that is not there."""
    nonce_file = str(tmp_path / "kraken_nonce.txt")
    assert find_journal(nonce_file, "live", False) is None
    made_at(journal_file(nonce_file, "paper"), 200)
    assert find_journal(nonce_file, "live", False) is None
    live = made_at(journal_file(nonce_file, "live"), 100)
    assert find_journal(nonce_file, "live", False) == live


def test_the_journal_of_the_paper_account(tmp_path: Path) -> None:
    """On paper it is the journal that was written last, its log counted, and never that of the live key."""
    nonce_file = str(tmp_path / "kraken_nonce.txt")
    made_at(journal_file(nonce_file, "live"), 900)
    assert find_journal(nonce_file, "live", True) is None
    one = made_at(journal_file(nonce_file, "one"), 200)
    two = made_at(journal_file(nonce_file, "two"), 300)
    made_at(f"{one}.damaged.17", 800)
    made_at(str(tmp_path / "journal.sqlite"), 800)
    assert find_journal(nonce_file, "live", True) == two
    made_at(f"{one}-wal", 400)
    assert find_journal(nonce_file, "live", True) == one
    assert find_journal(nonce_file, "", True) == Path(journal_file(nonce_file, "live"))


# Orders


def test_every_order_has_a_row(journal: Journal) -> None:
    """Every order has one row, oldest first, with the journal's word for its state."""
    assert states(journal) == ["filled", "open", "unknown", "refused"]


def test_open_orders_are_those_that_may_still_become_something(journal: Journal) -> None:
    """With `only_open` there are the orders that may still fill and those whose fate is not known."""
    assert states(journal, only_open=True) == ["open", "unknown"]
    intents = [intent(f"mybot{number:013d}", state=state) for number, state in enumerate(OrderState)]
    shown = {str(one["state"]) for one in order_rows(intents, [], NOW, only_open=True)}
    assert shown == {str(state) for state in UNSETTLED | WORKING}


def test_an_order_tells_what_it_executed(journal: Journal) -> None:
    """A placed order has the amounts of Kraken's row, an unplaced one those of its intent and zeros."""
    filled, _, unknown, refused = order_rows(journal.intents(), journal.orders(), NOW, only_open=False)
    assert (filled["executed"], filled["average"], filled["fee"]) == (row().executed, row().average_price, row().fee)
    assert (unknown["volume"], unknown["executed"], unknown["txid"]) == (intent().volume, Decimal(0), "")
    assert (filled["time"], refused["reason"]) == ("1970-01-01T00:00:50Z", "EOrder:Insufficient funds")


def test_an_unknown_order_tells_its_age(journal: Journal) -> None:
    """An order whose fate is not known has its age in whole seconds, never below zero; others have none."""
    ages = [one["unknown_seconds"] for one in order_rows(journal.intents(), journal.orders(), NOW, only_open=False)]
    assert ages == [None, None, 32, None]
    early = order_rows(journal.intents(), [], 0.0, only_open=True)
    assert early[-1]["unknown_seconds"] == 0


def test_a_second_order_of_an_id_has_a_row_of_its_own(journal: Journal) -> None:
    """Two orders of one id are two rows."""
    journal.take_rows([row(txid="OZZZZZ-ZZZZZ-ZZZZZZ", status=OrderStatus.CANCELED)])
    assert sorted(map(str, states(journal))) == ["cancelled", "filled", "open", "refused", "unknown"]


# Forms


def test_the_table_fits_a_small_screen(journal: Journal) -> None:
    """No line of the table is longer than 100 characters, and the columns stand under their heads."""
    lines = orders_report(journal, "table", False).splitlines()
    assert max(map(len, lines)) <= WIDTH
    head, first = lines[0], lines[1]
    assert head.split()[:4] == ["time", "(UTC)", "pair", "side"]
    assert first[head.index("pair") :].startswith("BTC/USD")
    assert first[head.index("state") :].startswith("filled")
    assert lines[2].split() == ["mybot0000000000001", "OAAAAA-AAAAA-AAAAAA"]


def test_the_table_says_unknown_for_how_long(journal: Journal) -> None:
    """In the table an unknown order has its age beneath it, and a refused one its reason."""
    text = text_of(order_rows(journal.intents(), journal.orders(), NOW, only_open=False), ["time", "state"], "table")
    assert "    mybot0000000000003  unknown for 32 s\n" in text
    assert text.endswith("    mybot0000000000004  EOrder:Insufficient funds")


def test_money_in_the_table_is_exact(journal: Journal) -> None:
    """The table leaves out zeros at the end of an amount, and nothing else of it."""
    amounts = {"1250.50000": "1250.5", "100": "100", "0.00000001": "0.00000001", "0E-8": "0", "1E+3": "1000"}
    for amount, wanted in amounts.items():
        assert text_of([{"fee": Decimal(amount)}], ["fee"], "table").splitlines()[1].strip() == wanted
    assert "0.00000000000000000000000000012345" in text_of(
        [{"fee": Decimal("0.00000000000000000000000000012345")}], ["fee"], "table"
    )


def test_json_and_csv_have_money_as_the_journal_has_it(journal: Journal) -> None:
    """JSON and CSV have the same rows and columns, with money as exact text."""
    data = json.loads(orders_report(journal, "json", False))
    assert (data[0]["volume"], data[0]["price"], data[0]["fee"]) == ("0.01000000", "50000.0", "1.25000")
    lines = list(csv.DictReader(orders_report(journal, "csv", False).splitlines()))
    assert lines == [{name: "" if value is None else str(value) for name, value in one.items()} for one in data]


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_nothing_is_told_of_no_journal(form: str) -> None:
    """Without a journal a table and CSV are their heads alone, and JSON is an empty list."""
    orders, fills = orders_report(None, form, False), fills_report(None, form)
    if form == "json":
        assert (orders, fills) == ("[]", "[]")
    else:
        assert [text.count("\n") for text in (orders, fills)] == [0, 0]
        assert [text[:4] for text in (orders, fills)] == ["time", "time"]


# Fills


def test_fills_are_told_with_their_sums(journal: Journal) -> None:
    """The table of fills ends with a line a pair: what was bought, what was sold, and the fees."""
    sold = fill("T2", side=Side.SELL, volume=Decimal("0.004"), cost=Decimal("202.5"), fee=Decimal("0.5"))
    other = fill("T3", symbol="ETH/EUR", volume=Decimal(2), cost=Decimal(5000), fee=Decimal(0))
    journal.add_fills([sold, other])
    assert fills_report(journal, "table").splitlines()[-2:] == [
        "BTC/USD: bought 0.01 BTC for 500 USD, sold 0.004 BTC for 202.5 USD, fees 1.75 USD",
        "ETH/EUR: bought 2 ETH for 5000 EUR, sold 0 ETH for 0 EUR, fees 0 EUR",
    ]
    assert fill_sums([]) == []
    for form in ("json", "csv"):
        assert "bought" not in fills_report(journal, form)


def test_a_fill_tells_order_and_trade(journal: Journal) -> None:
    """A fill has the ids of its order and of itself, in all forms."""
    (data,) = json.loads(fills_report(journal, "json"))
    assert data == {
        "time": "1970-01-01T00:01:42Z",
        "pair": "BTC/USD",
        "side": "buy",
        "volume": "0.01000000",
        "price": "50000.0",
        "cost": "500.00000",
        "fee": "1.25000",
        "order_txid": "OAAAAA-AAAAA-AAAAAA",
        "trade_id": "TAAAAA-AAAAA-AAAAAA",
    }
    assert list(data) == list(fill_rows([fill()])[0])
    assert "    OAAAAA-AAAAA-AAAAAA  TAAAAA-AAAAA-AAAAAA" in fills_report(journal, "table").splitlines()


# Check


def test_what_changes_while_kraken_is_read_is_no_difference(tmp_path: Path) -> None:
    """What the journal did not have before Kraken was read and has after it, is equal; the rest stays a finding."""
    journal = Journal(str(tmp_path / "journal.sqlite"))
    journal.take_rows([open_row(), open_row("mybot0000000000002", "OBBBBB-BBBBB-BBBBBB")])
    theirs = [row(), row("mybot0000000000002", "OBBBBB-BBBBB-BBBBBB")]

    def kraken() -> tuple[list[object], list[object]]:
        journal.take_rows(theirs[:1])
        journal.add_fills([fill()])
        return list(theirs), [fill(), fill("TBBBBB-BBBBB-BBBBBB", "OBBBBB-BBBBB-BBBBBB")]

    text, is_equal = check_journal(journal, kraken, "json")  # type: ignore[arg-type]
    assert not is_equal
    findings = json.loads(text)["findings"]
    assert findings
    assert all("OBBBBB" in one or "TBBBBB" in one or "mybot0000000000002" in one for one in findings)


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_a_check_in_every_form(tmp_path: Path, form: str) -> None:
    """All equal and not equal are told in each form."""
    journal = Journal(str(tmp_path / "journal.sqlite"))
    journal.take_rows([row()])
    journal.add_fills([fill()])
    good, is_good = check_journal(journal, lambda: ([row()], [fill()]), form)
    bad, is_bad = check_journal(journal, lambda: ([row()], []), form)
    finding = "the fill TAAAAA-AAAAA-AAAAAA is in the journal and not at Kraken"
    assert (is_good, is_bad) == (True, False)
    wanted = {
        "table": (
            "ok: 1 orders, 1 fills, all equal",
            f"{finding}\n1 differences; 1 orders and 1 fills in the journal. {NEWER}",
        ),
        "csv": ("finding", f"finding\n{finding}"),
    }
    if form == "json":
        assert json.loads(good) == {"equal": True, "orders": 1, "fills": 1, "findings": []}
        assert json.loads(bad) == {"equal": False, "orders": 1, "fills": 1, "findings": [finding]}
    else:
        assert (good, bad) == wanted[form]

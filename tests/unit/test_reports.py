"""Reports on the journal: which journal, which records, and which format."""

from __future__ import annotations

import csv
import json
import os
from decimal import Decimal
from pathlib import Path

import pytest

from bot.app.reports import (
    TABLE_WIDTH,
    check_journal,
    fill_rows,
    fill_totals,
    fills_report,
    find_journal,
    order_rows,
    orders_report,
    render_rows,
)
from bot.base.models import OrderStatus, Side
from bot.base.paths import journal_file_path
from bot.orders.journal import Journal
from bot.orders.order_state import UNRESOLVED_STATES, WORKING_STATES, OrderState
from tests.journal_rows import make_fill, make_intent, make_kraken_order, make_open_kraken_order

NOW = 135.9


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """Return a journal with a filled order, a resting one, an unknown one and a refused one."""
    opened = Journal(str(tmp_path / "journal.sqlite"))
    opened.record_orders(
        [make_kraken_order(opened_seconds=50.0), make_open_kraken_order("mybot0000000000002", "OBBBBB-BBBBB-BBBBBB")]
    )
    for number, state in ((3, OrderState.UNKNOWN), (4, OrderState.REFUSED)):
        cl_ord_id = f"mybot000000000000{number}"
        opened.record_intent(make_intent(cl_ord_id, symbol=f"{number}/USD"))
        opened.mark_sent(cl_ord_id, str(number), 100.0 + number, 111.0)
        opened.set_state(cl_ord_id, state, "EOrder:Insufficient funds" if state is OrderState.REFUSED else "")
    opened.add_fills([make_fill()])
    return opened


NEWER_ADVICE = "The next run records what is newer at Kraken; then check again"


def states(journal: Journal, *, only_open: bool = False) -> list[object]:
    """Return the state of each row of the report."""
    return [one["state"] for one in order_rows(journal.intents(), journal.orders(), NOW, only_open=only_open)]


# Which journal


def touch_at(path: str, seconds: float) -> Path:
    """Create a file with a modification time."""
    Path(path).touch()
    os.utime(path, (seconds, seconds))
    return Path(path)


def test_live_mode_finds_the_journal_of_its_key(tmp_path: Path) -> None:
    """Live mode uses the journal of the user's key, whichever was written last, and none if that does not exist."""
    nonce_file = str(tmp_path / "kraken_nonce.txt")
    assert find_journal(nonce_file, "live", False) is None
    touch_at(journal_file_path(nonce_file, "paper"), 200)
    assert find_journal(nonce_file, "live", False) is None
    live = touch_at(journal_file_path(nonce_file, "live"), 100)
    assert find_journal(nonce_file, "live", False) == live


def test_paper_mode_finds_the_newest_journal(tmp_path: Path) -> None:
    """Paper mode uses the journal that was written last, its write-ahead log included, never that of the live key."""
    nonce_file = str(tmp_path / "kraken_nonce.txt")
    touch_at(journal_file_path(nonce_file, "live"), 900)
    assert find_journal(nonce_file, "live", True) is None
    one = touch_at(journal_file_path(nonce_file, "one"), 200)
    two = touch_at(journal_file_path(nonce_file, "two"), 300)
    touch_at(f"{one}.damaged.17", 800)
    touch_at(str(tmp_path / "journal.sqlite"), 800)
    assert find_journal(nonce_file, "live", True) == two
    touch_at(f"{one}-wal", 400)
    assert find_journal(nonce_file, "live", True) == one
    assert find_journal(nonce_file, "", True) == Path(journal_file_path(nonce_file, "live"))


# Orders


def test_every_order_has_a_row(journal: Journal) -> None:
    """Every order has one row, oldest first, with its state in the journal."""
    assert states(journal) == ["filled", "open", "unknown", "refused"]


def test_open_orders_are_working_or_unknown(journal: Journal) -> None:
    """With `only_open` the report has the orders that may still fill and those whose outcome is unknown."""
    assert states(journal, only_open=True) == ["open", "unknown"]
    intents = [make_intent(f"mybot{number:013d}", state=state) for number, state in enumerate(OrderState)]
    states_in_report = {str(one["state"]) for one in order_rows(intents, [], NOW, only_open=True)}
    assert states_in_report == {str(state) for state in UNRESOLVED_STATES | WORKING_STATES}


def test_order_row_has_executed_amounts(journal: Journal) -> None:
    """A placed order has the amounts of Kraken's record, an unplaced one those of its intent and zeros."""
    filled, _, unknown, refused = order_rows(journal.intents(), journal.orders(), NOW, only_open=False)
    assert (filled["executed"], filled["average"], filled["fee"]) == (
        make_kraken_order().executed,
        make_kraken_order().average_price,
        make_kraken_order().fee,
    )
    assert (unknown["volume"], unknown["executed"], unknown["txid"]) == (make_intent().volume, Decimal(0), "")
    assert (filled["time"], refused["reason"]) == ("1970-01-01T00:00:50Z", "EOrder:Insufficient funds")


def test_unknown_order_row_has_its_age(journal: Journal) -> None:
    """An order whose outcome is unknown has its age in whole seconds, never negative; others have none."""
    ages = [one["unknown_seconds"] for one in order_rows(journal.intents(), journal.orders(), NOW, only_open=False)]
    assert ages == [None, None, 32, None]
    early = order_rows(journal.intents(), [], 0.0, only_open=True)
    assert early[-1]["unknown_seconds"] == 0


def test_orders_sharing_an_id_have_separate_rows(journal: Journal) -> None:
    """Two orders of one id have two rows."""
    journal.record_orders([make_kraken_order(txid="OZZZZZ-ZZZZZ-ZZZZZZ", status=OrderStatus.CANCELED)])
    assert sorted(map(str, states(journal))) == ["cancelled", "filled", "open", "refused", "unknown"]


# Formats


def test_table_fits_100_columns(journal: Journal) -> None:
    """No line of the table is longer than 100 characters, and the columns are aligned with their headings."""
    lines = orders_report(journal, "table", False).splitlines()
    assert max(map(len, lines)) <= TABLE_WIDTH
    head, first = lines[0], lines[1]
    assert head.split()[:4] == ["time", "(UTC)", "pair", "side"]
    assert first[head.index("pair") :].startswith("BTC/USD")
    assert first[head.index("state") :].startswith("filled")
    assert lines[2].split() == ["mybot0000000000001", "OAAAAA-AAAAA-AAAAAA"]


def test_table_shows_age_of_unknown_order(journal: Journal) -> None:
    """In the table an unknown order has its age on the next line, and a refused one its reason."""
    text = render_rows(
        order_rows(journal.intents(), journal.orders(), NOW, only_open=False), ["time", "state"], "table"
    )
    assert "    mybot0000000000003  unknown for 32 s\n" in text
    assert text.endswith("    mybot0000000000004  EOrder:Insufficient funds")


def test_table_amounts_are_exact(journal: Journal) -> None:
    """The table omits trailing zeros of an amount and no other digit."""
    amounts = {"1250.50000": "1250.5", "100": "100", "0.00000001": "0.00000001", "0E-8": "0", "1E+3": "1000"}
    for amount, expected in amounts.items():
        assert render_rows([{"fee": Decimal(amount)}], ["fee"], "table").splitlines()[1].strip() == expected
    assert "0.00000000000000000000000000012345" in render_rows(
        [{"fee": Decimal("0.00000000000000000000000000012345")}], ["fee"], "table"
    )


def test_json_and_csv_amounts_are_as_stored(journal: Journal) -> None:
    """JSON and CSV have the same rows and columns, with amounts as exact text."""
    data = json.loads(orders_report(journal, "json", False))
    assert (data[0]["volume"], data[0]["price"], data[0]["fee"]) == ("0.01000000", "50000.0", "1.25000")
    lines = list(csv.DictReader(orders_report(journal, "csv", False).splitlines()))
    assert lines == [{name: "" if value is None else str(value) for name, value in one.items()} for one in data]


@pytest.mark.parametrize("output_format", ["table", "json", "csv"])
def test_report_without_journal_is_empty(output_format: str) -> None:
    """Without a journal, a table and CSV have headings only, and JSON is an empty list."""
    orders, fills = orders_report(None, output_format, False), fills_report(None, output_format)
    if output_format == "json":
        assert (orders, fills) == ("[]", "[]")
    else:
        assert [text.count("\n") for text in (orders, fills)] == [0, 0]
        assert [text[:4] for text in (orders, fills)] == ["time", "time"]


# Fills


def test_fills_table_ends_with_totals(journal: Journal) -> None:
    """The table of fills ends with one line per pair: bought, sold, and fees."""
    sold = make_fill("T2", side=Side.SELL, volume=Decimal("0.004"), cost=Decimal("202.5"), fee=Decimal("0.5"))
    other = make_fill("T3", symbol="ETH/EUR", volume=Decimal(2), cost=Decimal(5000), fee=Decimal(0))
    journal.add_fills([sold, other])
    assert fills_report(journal, "table").splitlines()[-2:] == [
        "BTC/USD: bought 0.01 BTC for 500 USD, sold 0.004 BTC for 202.5 USD, fees 1.75 USD",
        "ETH/EUR: bought 2 ETH for 5000 EUR, sold 0 ETH for 0 EUR, fees 0 EUR",
    ]
    assert fill_totals([]) == []
    for output_format in ("json", "csv"):
        assert "bought" not in fills_report(journal, output_format)


def test_fill_row_has_order_and_trade_ids(journal: Journal) -> None:
    """A fill has the ids of its order and its trade in all formats."""
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
    assert list(data) == list(fill_rows([make_fill()])[0])
    assert "    OAAAAA-AAAAA-AAAAAA  TAAAAA-AAAAA-AAAAAA" in fills_report(journal, "table").splitlines()


# Audit


def test_changes_during_the_check_are_not_differences(tmp_path: Path) -> None:
    """Records that the journal gained while Kraken was read count as equal; the others stay differences."""
    journal = Journal(str(tmp_path / "journal.sqlite"))
    journal.record_orders(
        [make_open_kraken_order(), make_open_kraken_order("mybot0000000000002", "OBBBBB-BBBBB-BBBBBB")]
    )
    kraken_orders = [make_kraken_order(), make_kraken_order("mybot0000000000002", "OBBBBB-BBBBB-BBBBBB")]

    def fetch_kraken_records() -> tuple[list[object], list[object]]:
        journal.record_orders(kraken_orders[:1])
        journal.add_fills([make_fill()])
        return list(kraken_orders), [make_fill(), make_fill("TBBBBB-BBBBB-BBBBBB", "OBBBBB-BBBBB-BBBBBB")]

    text, is_equal = check_journal(journal, fetch_kraken_records, "json")  # type: ignore[arg-type]
    assert not is_equal
    findings = json.loads(text)["differences"]
    assert findings
    assert all("OBBBBB" in one or "TBBBBB" in one or "mybot0000000000002" in one for one in findings)


@pytest.mark.parametrize("output_format", ["table", "json", "csv"])
def test_check_report_in_every_format(tmp_path: Path, output_format: str) -> None:
    """Equality and differences are reported in each format."""
    journal = Journal(str(tmp_path / "journal.sqlite"))
    journal.record_orders([make_kraken_order()])
    journal.add_fills([make_fill()])
    good, is_good = check_journal(journal, lambda: ([make_kraken_order()], [make_fill()]), output_format)
    bad, is_bad = check_journal(journal, lambda: ([make_kraken_order()], []), output_format)
    finding = "the fill TAAAAA-AAAAA-AAAAAA is in the journal and not at Kraken"
    assert (is_good, is_bad) == (True, False)
    expected = {
        "table": (
            "ok: 1 orders, 1 fills, all equal",
            f"{finding}\n1 differences; 1 orders and 1 fills in the journal. {NEWER_ADVICE}",
        ),
        "csv": ("difference", f"difference\n{finding}"),
    }
    if output_format == "json":
        assert json.loads(good) == {"equal": True, "orders": 1, "fills": 1, "differences": []}
        assert json.loads(bad) == {"equal": False, "orders": 1, "fills": 1, "differences": [finding]}
    else:
        assert (good, bad) == expected[output_format]

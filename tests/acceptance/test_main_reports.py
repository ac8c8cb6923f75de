"""`python main.py orders`, `fills` and `journal check`, with and without a running bot."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path

import pytest

from bot.base.clock import wall_seconds
from bot.base.paths import journal_file_path
from bot.orders.journal import Journal
from bot.orders.order_state import OrderState
from tests.acceptance.local_kraken import FILLING, QUIET, RESTING, LocalKraken, local_kraken
from tests.acceptance.processes import isolated_settings, run, running
from tests.conftest import ROOT
from tests.journal_rows import make_intent, make_kraken_order, make_open_kraken_order

SOME_KEY = {"KRAKEN_API_KEY": "c29tZWtleQ==", "KRAKEN_API_SECRET": "c29tZXNlY3JldA=="}


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the state folder of a paper bot that was stopped after its warm-up."""
    folder = tmp_path_factory.mktemp("paper") / "state"
    run("--cycles", "1", settings={"STATE_DIR": str(folder)})
    return folder


@pytest.fixture
def copy(paper: Path, state: Path) -> Path:
    """Return a copy of that folder that a test may change."""
    shutil.copytree(paper, state)
    return state


def run_command(*arguments: str, settings: Mapping[str, str], code: int = 0) -> str:
    """Run main.py to its end, which must have this exit code; return its standard output."""
    result = subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *arguments],
        env={**os.environ, **isolated_settings(settings)},
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
        check=False,
    )
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout


def journal_of(folder: Path) -> Path:
    """Return the only journal of a folder."""
    (path,) = folder.glob("journal.*.sqlite")
    return path


def change_journal(folder: Path, statement: str) -> None:
    """Change the only journal of a folder by SQL."""
    with closing(sqlite3.connect(journal_of(folder))) as connection, connection:
        assert connection.execute(statement).rowcount == 1


def add_order(kraken: LocalKraken, folder: Path, id_suffix: str) -> str:
    """Place an order with this bot's id without the bot; return its txid."""
    with closing(sqlite3.connect(journal_of(folder))) as connection:
        (bot_id,) = connection.execute("SELECT substr(cl_ord_id, 1, 5) FROM intents").fetchone()
    params = {"pair": "XBTUSD", "type": "buy", "ordertype": "limit", "volume": "0.01", "price": "100"}
    with kraken.simulator.api.lock:
        return str(kraken.simulator.exchange.add_order({**params, "cl_ord_id": f"{bot_id}{id_suffix}"})["txid"][0])


# Orders and fills


def test_orders_and_fills_are_reported_while_the_bot_runs(state: Path) -> None:
    """While a bot runs, its filled order is reported exactly as Kraken has it, with its own fills only."""
    with local_kraken(state, FILLING) as kraken, running(settings=kraken.settings(), until="filled: buy"):
        (reported,) = json.loads(run_command("orders", "--json", settings=kraken.settings()))
        (kraken_order,) = kraken.orders
        assert (reported["txid"], reported["cl_ord_id"], reported["state"]) == (
            kraken_order.txid,
            kraken_order.cl_ord_id,
            "filled",
        )
        expected = (kraken_order.volume, kraken_order.executed, kraken_order.fee)
        assert (Decimal(reported["volume"]), Decimal(reported["executed"]), Decimal(reported["fee"])) == expected
        fills = csv.DictReader(run_command("fills", "--csv", settings=kraken.settings()).splitlines())
        assert {fill["order_txid"] for fill in fills} <= {kraken_order.txid}


def test_a_resting_order_is_open(state: Path) -> None:
    """An entry that rests at Kraken is listed by `orders --open`, and not in `fills`."""
    with local_kraken(state, RESTING) as kraken, running(settings=kraken.settings(), until="accepted as"):
        (reported,) = json.loads(run_command("orders", "--open", "--json", settings=kraken.settings()))
        assert (reported["state"], Decimal(reported["executed"])) == ("open", Decimal(0))
        assert json.loads(run_command("fills", "--json", settings=kraken.settings())) == []


# Orders that are resolved by hand


@pytest.fixture
def unknown_order(state: Path) -> Iterator[tuple[Journal, dict[str, str]]]:
    """Return the journal of a live key with an unknown order of two minutes ago, and the settings."""
    settings = {"TRADING_MODE": "live", "KRAKEN_API_URL": "http://127.0.0.1:9", "STATE_DIR": str(state), **SOME_KEY}
    state.mkdir()
    with closing(Journal(journal_file_path(state / "kraken_nonce.txt", SOME_KEY["KRAKEN_API_KEY"]))) as journal:
        journal.record_intent(make_intent(state=OrderState.UNKNOWN, sent_seconds=wall_seconds() - 120))
        yield journal, settings


def test_an_order_resolved_as_not_placed_frees_its_pair(unknown_order: tuple[Journal, dict[str, str]]) -> None:
    """`orders resolve ID --not-placed` makes an unknown order one that was not placed, and no longer unresolved."""
    journal, settings = unknown_order
    run_command("orders", "resolve", make_intent().cl_ord_id, "--not-placed", settings=settings)
    assert [intent.state for intent in journal.intents()] == [OrderState.NOT_PLACED]
    assert journal.unresolved_intents() == []


def test_an_order_resolved_as_placed_is_followed_by_its_txid(unknown_order: tuple[Journal, dict[str, str]]) -> None:
    """`orders resolve ID --placed TXID` makes an unknown order a working one with that transaction id."""
    journal, settings = unknown_order
    run_command("orders", "resolve", make_intent().cl_ord_id, "--placed", "OQ7TEX-3F5KA-9ZPLMN", settings=settings)
    assert [intent.txid for intent in journal.working_intents()] == ["OQ7TEX-3F5KA-9ZPLMN"]


@pytest.mark.parametrize("has_record", [True, False])
def test_a_vanished_order_is_ended_with_what_it_had_executed(state: Path, has_record: bool) -> None:
    """`orders resolve ID --not-placed` ends an accepted order that Kraken does not know, and keeps what it bought."""
    vanished = make_open_kraken_order(txid="OBBBBB-BBBBB-BBBBBB", executed=Decimal("0.004"))
    with local_kraken(state, QUIET) as kraken, open_journal(kraken, state) as journal:
        if has_record:
            journal.record_orders([vanished])
        else:
            journal.record_intent(make_intent(state=OrderState.OPEN, txid=vanished.txid))
        run_command("orders", "resolve", vanished.cl_ord_id, "--not-placed", settings=kraken.settings())
        assert journal.working_intents() == []
        records = [(order.is_open, order.executed) for order in journal.orders()]
        assert records == [(False, Decimal("0.004"))] * has_record


def test_an_order_that_kraken_knows_has_not_vanished(state: Path) -> None:
    """`orders resolve ID --not-placed` ends with 2 for an order that rests at Kraken, and changes nothing."""
    with local_kraken(state, RESTING) as kraken:
        settings = kraken.settings(CANCEL_ENTRIES_ON_STOP="0")
        with running(settings=settings, until="accepted as") as bot:
            assert bot.stop() == 0
        with open_journal(kraken, state) as journal:
            (intent,) = journal.working_intents()
            run_command("orders", "resolve", intent.cl_ord_id, "--not-placed", settings=settings, code=2)
            assert journal.working_intents() == [intent]


@contextmanager
def open_journal(kraken: LocalKraken, state: Path) -> Iterator[Journal]:
    """Open the journal of a live bot."""
    state.mkdir(exist_ok=True)
    key = kraken.settings()["KRAKEN_API_KEY"]
    with closing(Journal(journal_file_path(state / "kraken_nonce.txt", key))) as journal:
        yield journal


@pytest.mark.parametrize(
    ("cl_ord_id", "answer"),
    [
        ("mybot0000000000009", ["--not-placed"]),
        ("mybot0000000000001", ["--placed", "not a txid"]),
        ("mybot0000000000001", ["--placed", "OAAAAA-AAAAA-AAAAAA"]),
        ("mybot0000000000002", ["--not-placed"]),
        ("mybot0000000000003", ["--not-placed"]),
        ("history", ["--placed", "OAAAAA-AAAAA-AAAAAA"]),
    ],
    ids=["no such order", "no txid", "another order's txid", "known outcome", "sent just now", "history is no order"],
)
def test_a_wrong_resolution_changes_nothing(
    unknown_order: tuple[Journal, dict[str, str]], cl_ord_id: str, answer: list[str]
) -> None:
    """`orders resolve` refuses an order that it does not know or that has an outcome, one that was sent just now, and a
    wrong transaction id, and ends with 2."""
    journal, settings = unknown_order
    filled = make_intent("mybot0000000000002", state=OrderState.FILLED, txid="OAAAAA-AAAAA-AAAAAA")
    just_sent = make_intent("mybot0000000000003", state=OrderState.UNKNOWN, sent_seconds=wall_seconds())
    for intent in (filled, just_sent):
        journal.record_intent(intent)
    before = journal.intents()
    run_command("orders", "resolve", cl_ord_id, *answer, settings=settings, code=2)
    assert journal.intents() == before


def test_no_order_is_resolved_while_a_bot_runs(state: Path) -> None:
    """`orders resolve` ends with 6 while a bot runs on the folder."""
    with local_kraken(state, RESTING) as kraken, running(settings=kraken.settings(), until="accepted as"):
        run_command("orders", "resolve", "history", "--not-placed", settings=kraken.settings(), code=6)


def test_a_history_that_counts_as_complete_needs_no_evidence(unknown_order: tuple[Journal, dict[str, str]]) -> None:
    """After `orders resolve history --not-placed` the journal has every order of this bot up to now."""
    journal, settings = unknown_order
    run_command("orders", "resolve", "history", "--not-placed", settings=settings | {"BOT_ID": "mybot"})
    assert wall_seconds() - 60 < journal.complete_until("mybot") <= wall_seconds()


def test_reports_need_no_network(state: Path) -> None:
    """Orders and fills of a live key are reported without Kraken, with the age of an unknown order."""
    settings = {"TRADING_MODE": "live", "KRAKEN_API_URL": "http://127.0.0.1:9", "STATE_DIR": str(state), **SOME_KEY}
    state.mkdir()
    journal = Journal(journal_file_path(state / "kraken_nonce.txt", SOME_KEY["KRAKEN_API_KEY"]))
    journal.record_intent(make_intent(state=OrderState.UNKNOWN))
    journal.close()
    assert "  unknown for " in run_command("orders", "--open", settings=settings)
    assert run_command("fills", settings=settings).startswith("time (UTC)")
    assert not (state / "kraken_nonce.txt").exists()


@pytest.mark.parametrize("mode", ["paper", "live"])
def test_reports_without_a_journal_are_empty(state: Path, mode: str) -> None:
    """Without a journal orders and fills are empty, `journal check` ends with 2, and no state is created."""
    settings = {"TRADING_MODE": mode, "KRAKEN_API_URL": "http://127.0.0.1:9", "STATE_DIR": str(state), **SOME_KEY}
    for command in ("orders", "fills"):
        assert f"No journal yet in {state}" in run(command, settings=settings).text
    output = run_command("journal", "check", "--json", settings=settings, code=2)
    assert output == f"Stopped: STATE_DIR is {state}, where there is no journal yet: nothing to check.\n"
    assert json.loads(run_command("orders", "--json", settings=settings)) == []
    assert not state.exists()


def test_paper_mode_names_the_journal_it_reads(copy: Path) -> None:
    """In paper mode the first line names the paper journal, even if the live key's journal is newer."""
    live_journal = journal_file_path(copy / "kraken_nonce.txt", SOME_KEY["KRAKEN_API_KEY"])
    paper_journal = journal_of(copy)
    Journal(live_journal).record_orders([make_kraken_order()])
    bot = run("fills", settings={"STATE_DIR": str(copy), **SOME_KEY})
    assert bot.lines[0] == f"# {paper_journal}"
    assert "OAAAAA-AAAAA-AAAAAA" not in bot.text


def test_the_output_formats_agree(paper: Path) -> None:
    """Table, JSON and CSV list the same orders in the same order, and no table line is over 100 characters."""
    settings = {"STATE_DIR": str(paper)}
    data = json.loads(run_command("orders", "--json", settings=settings))
    table = run_command("orders", settings=settings).splitlines()
    lines = list(csv.DictReader(run_command("orders", "--csv", settings=settings).splitlines()))
    assert len(data) > 5
    assert [entry["txid"] for entry in data] == [entry["txid"] for entry in lines]
    assert [entry["txid"] for entry in data] == [line.split()[1] for line in table[2::2]]
    assert [entry["time"] for entry in data] == sorted(entry["time"] for entry in data)
    assert max(map(len, table)) <= 100


def test_two_output_formats_at_once_are_refused(paper: Path) -> None:
    """Both formats at once end with exit code 2 and no output."""
    assert run_command("orders", "--json", "--csv", settings={"STATE_DIR": str(paper)}, code=2) == ""


def test_a_journal_of_a_newer_program_is_refused_in_one_message(copy: Path) -> None:
    """A journal of a newer program ends each command with one message and exit code 2."""
    with closing(sqlite3.connect(journal_of(copy))) as connection:
        connection.execute("PRAGMA user_version = 99")
    for command in ("orders", "fills"):
        assert run_command(command, settings={"STATE_DIR": str(copy)}, code=2).startswith("Stopped: the journal ")


# Journal check


def test_journal_check_after_a_paper_run(copy: Path) -> None:
    """After a paper run journal and paper account agree on every order and fill: exit code 0."""
    orders = len(json.loads(run_command("orders", "--json", settings={"STATE_DIR": str(copy)})))
    fills = len(json.loads(run_command("fills", "--json", settings={"STATE_DIR": str(copy)})))
    output = run_command("journal", "check", settings={"STATE_DIR": str(copy)})
    assert output == f"ok: {orders} orders, {fills} fills, all equal\n"
    assert fills > 5


@pytest.mark.parametrize(
    ("statement", "finding"),
    [
        ("UPDATE orders SET fee = fee || '1' WHERE txid = (SELECT max(order_txid) FROM fills)", ": fee is "),
        ("UPDATE fills SET price = price || '1' WHERE trade_id = (SELECT max(trade_id) FROM fills)", ": price is "),
        ("DELETE FROM fills WHERE trade_id = (SELECT max(trade_id) FROM fills)", "is at Kraken and not in the journal"),
        ("DELETE FROM orders WHERE txid = (SELECT max(order_txid) FROM fills)", "is at Kraken and not in the journal"),
    ],
    ids=["a fee", "a price", "a fill", "an order"],
)
def test_journal_check_finds_changed_and_missing_records(copy: Path, statement: str, finding: str) -> None:
    """A changed amount, a missing fill or a missing order in the journal is reported, with exit code 7."""
    change_journal(copy, statement)
    assert finding in run_command("journal", "check", settings={"STATE_DIR": str(copy)}, code=7)
    report = json.loads(run_command("journal", "check", "--json", settings={"STATE_DIR": str(copy)}, code=7))
    assert not report["equal"]
    assert any(finding in listed_finding for listed_finding in report["differences"])


def test_journal_check_on_paper_needs_exclusive_access(state: Path) -> None:
    """While a paper bot runs, `journal check` names it and ends with exit code 6; orders and fills are reported."""
    with running(settings={"STATE_DIR": str(state)}, until="filled: buy"):
        output = run_command("journal", "check", settings={"STATE_DIR": str(state)}, code=6)
        assert output.startswith("Stopped: Another bot (process ")
        assert json.loads(run_command("orders", "--json", settings={"STATE_DIR": str(state)}))
        assert run_command("fills", settings={"STATE_DIR": str(state)}).startswith("time (UTC)")


def test_journal_check_of_a_live_account(state: Path) -> None:
    """For a live account only this bot's orders are compared; one that the journal lacks is found."""
    with local_kraken(state, FILLING) as kraken:
        kraken.place_external_order()
        run("--cycles", "1", settings=kraken.settings())
        placed = kraken.request_methods.count("AddOrder")
        assert run_command("journal", "check", settings=kraken.settings()).startswith("ok: 1 orders, ")
        txid = add_order(kraken, state, "0000000000001")
        output = run_command("journal", "check", settings=kraken.settings(), code=7)
        assert f"the order {txid} is at Kraken and not in the journal" in output
        assert kraken.request_methods.count("AddOrder") == placed
        assert kraken.refused_nonces == 0


def test_journal_check_finds_an_order_placed_twice(state: Path) -> None:
    """Two orders with one client order id at Kraken are reported as doubled."""
    with local_kraken(state, FILLING) as kraken:
        run("--cycles", "1", settings=kraken.settings())
        (order,) = kraken.orders
        with kraken.simulator.api.lock:
            params = {"pair": "XBTUSD", "type": "buy", "ordertype": "limit", "volume": "0.01", "price": "100"}
            kraken.simulator.exchange.add_order({**params, "cl_ord_id": order.cl_ord_id})
        output = run_command("journal", "check", settings=kraken.settings(), code=7)
        assert f"doubled: {order.cl_ord_id} is 2 orders at Kraken" in output


def test_journal_check_while_a_live_bot_runs(state: Path) -> None:
    """While a live bot with a resting order runs, all is equal, and no nonce is refused."""
    with local_kraken(state, RESTING) as kraken, running(settings=kraken.settings(), until="accepted as") as bot:
        kraken.wait_for("OpenOrders", 2)
        assert run_command("journal", "check", settings=kraken.settings()) == "ok: 1 orders, 0 fills, all equal\n"
        assert bot.stop() == 0
        assert kraken.refused_nonces == 0


def test_journal_check_of_recorded_prices(copy: Path, tmp_path: Path) -> None:
    """A recorded market, whose account would start again, is not opened for a check: exit code 2."""
    prices = tmp_path / "prices.csv"
    prices.touch()
    output = run_command(
        "journal", "check", settings={"STATE_DIR": str(copy), "PRICE_SOURCE": f"replay:{prices}"}, code=2
    )
    assert output.startswith("Stopped: PRICE_SOURCE names a recorded market")

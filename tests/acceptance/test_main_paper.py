"""`python main.py` without settings: the first run of a new user."""

from __future__ import annotations

import re
import socket
import sqlite3
import sys
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from bot.simulator.account import Account
from bot.simulator.prices import SyntheticPrices
from bot.simulator.storage import Storage
from tests.acceptance.local_kraken import local_kraken
from tests.acceptance.processes import BotProcess, run, running, stored_nonce


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the state folder of the first start."""
    return tmp_path_factory.mktemp("paper") / "state"


@pytest.fixture(scope="module")
def first(state: Path) -> BotProcess:
    """Return the first run on a folder, which ends after one cycle at current prices."""
    return run("--cycles", "1", settings={"STATE_DIR": str(state)})


def read_equity(bot: BotProcess) -> tuple[str, str]:
    """Return the equity at the start and at the end of a run."""
    found = re.search(r"^Equity (\S+) -> (\S+) USD;", bot.text, re.MULTILINE)
    assert found, bot.text
    return found[1], found[2]


def load_account(state: Path) -> Account:
    """Return the stored paper account of a folder."""
    storage = Storage(state / "paper_synthetic.db", SyntheticPrices(1).source_id)
    try:
        saved_state = storage.load()
    finally:
        storage.close()
    assert saved_state is not None
    return saved_state.account


def account_problems(state: Path) -> list[str]:
    """Return inconsistencies in the paper account of a folder, and client order ids that were used twice."""
    account = load_account(state)
    ids = [order.cl_ord_id for order in account.orders.values()]
    return account.audit() + [f"{cl_ord_id} twice" for cl_ord_id in set(ids) if ids.count(cl_ord_id) > 1]


def test_the_banner_shows_mode_nonce_account_pairs_and_prices(state: Path, first: BotProcess) -> None:
    """The first lines are: paper trading; nonce with its offset and file; account; pairs and prices."""
    assert first.lines[0] == "PAPER TRADING: a local Kraken, no real money."
    nonce_file = re.escape(str(state / "kraken_nonce.txt"))
    assert re.fullmatch(rf"Nonce: \d{{16}}, not ahead of the clock, in {nonce_file}", first.lines[1])
    assert first.lines[2].startswith("Account: USD 10000; bot id ")
    beginning = "Trading BTC/USD at 1h with moving_average; prices: synthetic prices (made up"
    assert first.lines[3].startswith(beginning)


def test_the_warm_up_has_fills_and_is_marked(first: BotProcess) -> None:
    """The warm-up over past candles has at least one fill, and every line of it is marked as replay."""
    first.wait_for("The warm-up is over")
    end_line = next(number for number, line in enumerate(first.lines) if "The warm-up is over" in line)
    # An entry that still rests when the warm-up ends may fill afterwards.
    log_lines = first.lines[4:end_line]
    assert any("filled: " in line for line in log_lines)
    assert all(re.match(r"\[replay \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\] ", line) for line in log_lines)


def test_after_the_warm_up_the_log_is_unmarked(first: BotProcess) -> None:
    """After the lines of the warm-up follows at least one at current prices."""
    end_line = next(number for number, line in enumerate(first.lines) if "The warm-up is over" in line)
    assert not [line for line in first.lines[end_line:] if "replay" in line]


def test_the_summary_reports_equity_orders_and_refused_nonces(first: BotProcess) -> None:
    """The last lines report equity, orders, fills and that no nonce was refused."""
    fills = len(first.wait_for("filled: (buy|sell)"))
    start, end = read_equity(first)
    assert start == "10000.00"
    assert Decimal(end) > 0
    orders = rf"orders: \d+ placed, 0 refused by Kraken, 0 unknown; fills {fills}; refused nonces: 0"
    assert re.fullmatch(rf"Equity 10000.00 -> \S+ USD; realised -?\d+\.\d\d USD; {orders}", first.lines[-1])


def test_the_account_is_consistent_after_the_first_run(state: Path, first: BotProcess) -> None:
    """Starting balance, fills and fees give the balances exactly, and no client order id was used twice."""
    assert first.lines
    assert account_problems(state) == []


def test_a_second_start_resumes_without_a_warm_up(state: Path, first: BotProcess) -> None:
    """The next start begins with the balances of the first one and a higher nonce, without a warm-up."""
    account, nonce = load_account(state), stored_nonce(state)
    second = run("--cycles", "1", settings={"STATE_DIR": str(state)})
    assert "replay" not in second.text
    usd, btc = account.balances["ZUSD"], account.balances["XXBT"]
    holdings = f"USD {usd.normalize():f}" + (f", BTC {btc.normalize():f}" if btc else "")
    assert second.lines[2].startswith(f"Account: {holdings}; bot id ")
    assert int(second.lines[1].split()[1].rstrip(",")) > nonce
    assert read_equity(first)[1] == read_equity(second)[0] or btc
    assert account_problems(state) == []


def test_auto_without_internet_falls_back_to_synthetic_prices(tmp_path: Path) -> None:
    """With PRICE_SOURCE=auto and no response from Kraken synthetic prices are used, and the prices line says why."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with running(
            settings={"STATE_DIR": str(tmp_path / "state"), "PRICE_SOURCE": "auto", "KRAKEN_API_URL": url},
            until="filled: (buy|sell)",
        ) as bot:
            assert bot.stop() == 0
    assert "synthetic prices (made up; live ones were not to be had: Kraken does not answer)" in bot.lines[3]


def test_unreachable_live_prices_stop_the_start(tmp_path: Path) -> None:
    """With PRICE_SOURCE=live and no response from Kraken the start ends with one message and exit code 5."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        settings = {"STATE_DIR": str(tmp_path / "state"), "PRICE_SOURCE": "live", "KRAKEN_API_URL": url}
        bot = run(settings=settings, exit_code=5)
    assert "Kraken's public API does not answer" in bot.lines[-1]


def test_auto_uses_live_prices_when_kraken_is_reachable(tmp_path: Path) -> None:
    """With PRICE_SOURCE=auto the paper bot uses the prices of the answering Kraken, which gets no private request."""
    with local_kraken(tmp_path, speed=1.0) as kraken:
        url = kraken.simulator.url
        settings = {"STATE_DIR": str(tmp_path / "state"), "PRICE_SOURCE": "auto", "KRAKEN_API_URL": url}
        with running(settings=settings, until="^Trading .*prices: ") as bot:
            assert bot.stop() == 0
        assert bot.lines[0].startswith("PAPER TRADING")
        assert f"live prices from {url}" in bot.lines[3]
        assert kraken.request_methods == []


def test_a_damaged_account_file_is_refused_and_left_unchanged(tmp_path: Path) -> None:
    """A damaged account file ends the start with a message that names it and exit code 2, and does not change."""
    state = tmp_path / "state"
    state.mkdir()
    path = state / "paper_synthetic.db"
    path.write_bytes(b"no account at all" * 100)
    bot = run(settings={"STATE_DIR": str(state)}, exit_code=2)
    assert "paper_synthetic.db" in bot.lines[-1]
    assert path.read_bytes() == b"no account at all" * 100


def test_a_state_dir_that_is_a_file_is_a_configuration_error(tmp_path: Path) -> None:
    """A STATE_DIR that is a file ends the start with exit code 2 and a message that names it."""
    (tmp_path / "state").touch()
    bot = run(settings={"STATE_DIR": str(tmp_path / "state")}, exit_code=2)
    assert "STATE_DIR" in bot.lines[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing binds root to file modes")
def test_a_read_only_state_dir_is_a_configuration_error(tmp_path: Path) -> None:
    """A read-only STATE_DIR ends the start with exit code 2 and a message that names it; check says the same."""
    state = tmp_path / "state"
    state.mkdir(mode=0o555)
    for arguments in ((), ("check",)):
        bot = run(*arguments, settings={"STATE_DIR": str(state)}, exit_code=2, is_unprivileged=True)
        assert f"STATE_DIR is {state}" in bot.text


def test_the_account_of_a_killed_bot_resumes(tmp_path: Path) -> None:
    """A paper bot that is killed during its warm-up starts again, and its account adds up."""
    state = tmp_path / "state"
    with running(settings={"STATE_DIR": str(state)}, until="filled: (buy|sell)") as bot:
        bot.kill()
    (state / "halt").touch()  # an exit at current prices would take long
    # Start-up reconciliation waits in market time for orders of the first run.
    second = run("--cycles", "1", settings={"STATE_DIR": str(state), "MARKET_SPEED": "20"})
    assert "Account: USD 10000" not in second.text
    assert second.lines[-1].endswith("; refused nonces: 0")
    assert account_problems(state) == []
    with closing(sqlite3.connect(state / "paper_synthetic.db")) as account, account:
        assert account.execute("PRAGMA integrity_check").fetchone() == ("ok",)

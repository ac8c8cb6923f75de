"""`python main.py` with no settings at all: what a newcomer sees."""

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
from tests.acceptance.processes import Bot, run, running, stored_nonce


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the state folder of the first start."""
    return tmp_path_factory.mktemp("paper") / "state"


@pytest.fixture(scope="module")
def first(state: Path) -> Bot:
    """Return the first start on a folder: it ends by itself after a tick at current prices."""
    return run("--ticks", "1", settings={"STATE_DIR": str(state)})


def money(bot: Bot) -> tuple[str, str]:
    """Return the equity at the start and at the end of a run."""
    found = re.search(r"^equity   (\S+) -> (\S+) USD$", bot.text, re.MULTILINE)
    assert found, bot.text
    return found[1], found[2]


def kept_account(state: Path) -> Account:
    """Return the paper account of a folder as its file has it."""
    storage = Storage(state / "paper_synthetic.db", SyntheticPrices(1).world)
    try:
        kept = storage.load()
    finally:
        storage.close()
    assert kept is not None
    return kept.account


def account_problems(state: Path) -> list[str]:
    """Return what does not add up in the paper account of a folder, and client ids that were used twice."""
    account = kept_account(state)
    ids = [order.cl_ord_id for order in account.orders.values()]
    return account.audit() + [f"{one} twice" for one in set(ids) if ids.count(one) > 1]


def test_the_first_lines_say_what_is_at_stake(state: Path, first: Bot) -> None:
    """The first lines are: paper in plain sight; nonce with its lead and file; pairs; prices; account."""
    assert first.lines[0] == "PAPER TRADING: a local Kraken, no real money."
    nonce_file = re.escape(str(state / "kraken_nonce.txt"))
    assert re.fullmatch(rf"nonce    \d{{16}}, not ahead of the clock, in {nonce_file}", first.lines[1])
    assert first.lines[2] == "pairs    BTC/USD at 1h, strategy moving_average"
    assert first.lines[3].startswith("prices   synthetic prices (made up")
    assert first.lines[4].startswith("account  10000 USD; bot id ")


def test_the_past_is_replayed_with_fills_and_marked(first: Bot) -> None:
    """The last 720 candles are replayed with at least one fill, and every line of theirs is marked as replay."""
    first.wait_for("the replay is over")
    over = next(number for number, line in enumerate(first.lines) if "the replay is over" in line)
    # An entry that still rests when the replay ends may fill afterwards.
    dated = [line for line in first.lines[:over] if re.match(r"\d{4}-\d\d-\d\dT", line)]
    assert any("filled: " in line for line in dated)
    assert all("Z replay  " in line for line in dated)


def test_after_the_replay_it_goes_on_with_the_present(first: Bot) -> None:
    """After the replayed lines comes at least one of the present."""
    dated = first.wait_for(r"^\d{4}-\d\d-\d\dT")
    assert "replay" not in dated[-1]


def test_the_summary_tells_equity_orders_and_refused_nonces(first: Bot) -> None:
    """The last lines tell equity, orders, fills and that no nonce was refused."""
    fills = len(first.wait_for("filled: (buy|sell)"))
    start, end = money(first)
    assert (start, first.lines[-1]) == ("10000.00", "refused nonces: 0")
    assert Decimal(end) > 0
    assert first.wait_for(rf"^orders   \d+ placed, 0 refused by Kraken, 0 unknown; fills {fills}$")


def test_the_account_of_the_first_start_adds_up(state: Path, first: Bot) -> None:
    """Start money, fills and fees give the balances to the last decimal, and no client id was used twice."""
    assert first.lines
    assert account_problems(state) == []


def test_a_second_start_goes_on_without_a_replay(state: Path, first: Bot) -> None:
    """The next start begins with the balances that the first one left and a higher nonce, and replays nothing."""
    left, nonce = kept_account(state), stored_nonce(state)
    again = run("--ticks", "1", settings={"STATE_DIR": str(state)})
    assert "replay" not in again.text
    usd, btc = left.balances["ZUSD"], left.balances["XXBT"]
    held = f"{usd.normalize():f} USD" + (f", {btc.normalize():f} BTC" if btc else "")
    assert again.lines[4].startswith(f"account  {held}; bot id ")
    assert int(again.lines[1].split()[1].rstrip(",")) > nonce
    assert money(first)[1] == money(again)[0] or btc
    assert account_problems(state) == []


def test_without_internet_auto_takes_made_up_prices_and_says_so(tmp_path: Path) -> None:
    """PRICES=auto where Kraken does not answer falls back to synthetic prices, and the prices line says why."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with running(
            settings={"STATE_DIR": str(tmp_path / "state"), "PRICES": "auto", "KRAKEN_API_URL": url},
            until="filled: (buy|sell)",
        ) as bot:
            assert bot.stop() == 0
    assert "synthetic prices (made up; live ones were not to be had: Kraken does not answer)" in bot.lines[3]


def test_live_prices_that_are_not_to_be_had_end_the_start(tmp_path: Path) -> None:
    """PRICES=live where Kraken does not answer ends with one message and exit code 5."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        settings = {"STATE_DIR": str(tmp_path / "state"), "PRICES": "live", "KRAKEN_API_URL": url}
        bot = run(settings=settings, code=5)
    assert "Kraken's public API does not answer" in bot.lines[-1]


def test_auto_takes_live_prices_where_kraken_answers(tmp_path: Path) -> None:
    """PRICES=auto trades on paper with the prices of the Kraken that answers, whose private side hears nothing."""
    with local_kraken(tmp_path, speed=1.0) as kraken:
        url = kraken.simulator.url
        settings = {"STATE_DIR": str(tmp_path / "state"), "PRICES": "auto", "KRAKEN_API_URL": url}
        with running(settings=settings, until="^account") as bot:
            assert bot.stop() == 0
        assert bot.lines[0].startswith("PAPER TRADING")
        assert f"live prices from {url}" in bot.lines[3]
        assert kraken.methods == []


def test_a_damaged_account_is_neither_repaired_nor_begun_anew(tmp_path: Path) -> None:
    """A damaged account file ends the start with one message that names it, exit code 2, and is left as it is."""
    state = tmp_path / "state"
    state.mkdir()
    path = state / "paper_synthetic.db"
    path.write_bytes(b"no account at all" * 100)
    bot = run(settings={"STATE_DIR": str(state)}, code=2)
    assert "paper_synthetic.db" in bot.lines[-1]
    assert path.read_bytes() == b"no account at all" * 100


def test_a_folder_that_is_a_file_is_a_bad_setting(tmp_path: Path) -> None:
    """A STATE_DIR that is a file ends the start with exit code 2 and its name."""
    (tmp_path / "state").touch()
    bot = run(settings={"STATE_DIR": str(tmp_path / "state")}, code=2)
    assert "STATE_DIR" in bot.lines[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing binds root to file modes")
def test_a_folder_where_nothing_may_be_written_is_a_bad_setting(tmp_path: Path) -> None:
    """A STATE_DIR that is read-only ends the start with exit code 2 and its name; check says the same."""
    state = tmp_path / "state"
    state.mkdir(mode=0o555)
    for words in ((), ("check",)):
        bot = run(*words, settings={"STATE_DIR": str(state)}, code=2, bound=True)
        assert f"STATE_DIR is {state}" in bot.text


def test_an_account_of_a_killed_bot_goes_on(tmp_path: Path) -> None:
    """A paper bot that is killed in the middle of its replay starts again, and its account adds up."""
    state = tmp_path / "state"
    with running(settings={"STATE_DIR": str(state)}, until="filled: (buy|sell)") as bot:
        bot.kill()
    (state / "halt").touch()  # an exit would take its time in the present
    # What may still turn up of the first life is waited for in the market's time.
    again = run("--ticks", "1", settings={"STATE_DIR": str(state), "MARKET_SPEED": "20"})
    assert "account  10000 USD" not in again.text
    assert again.lines[-1] == "refused nonces: 0"
    assert account_problems(state) == []
    with closing(sqlite3.connect(state / "paper_synthetic.db")) as account, account:
        assert account.execute("PRAGMA integrity_check").fetchone() == ("ok",)

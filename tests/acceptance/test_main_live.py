"""`python main.py` in live mode on a local Kraken: it trades, or reports in one message why it does not."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from bot.base.clock import wall_us
from bot.base.paths import journal_file_path
from bot.simulator.keys import TRADING_PERMISSIONS
from tests.acceptance.local_kraken import FILLING, QUIET, RESTING, local_kraken, trading_kraken
from tests.acceptance.processes import BotProcess, run, running, stored_nonce

ACCOUNT_LINE = r"^Account: "
# Any Base64: no Kraken knows it.
SOME_KEY = {"KRAKEN_API_KEY": "c29tZWtleQ==", "KRAKEN_API_SECRET": "c29tZXNlY3JldA=="}


def stop_message(bot: BotProcess) -> str:
    """Return the message with which the bot ended, which must be the only one."""
    messages = [line for line in bot.lines if line.startswith("Stopped: ")]
    assert len(messages) == 1, bot.text
    return messages[0]


def test_a_live_bot_announces_live_mode_and_trades(state: Path) -> None:
    """Live mode is announced in capitals, the order of a signal is placed once, and its fill is reported."""
    with local_kraken(state, FILLING) as kraken:
        bot = run("--cycles", "1", settings=kraken.settings())
        assert bot.lines[0] == "*** LIVE TRADING: REAL ORDERS WITH REAL MONEY ***"
        assert "1 placed, 0 refused by Kraken, 0 unknown; fills 1" in bot.text
        assert "refused nonces: 0" in bot.text
        assert kraken.request_methods[0] == "GetApiKeyInfo"
        assert kraken.request_methods.count("AddOrder") == 1
        assert stored_nonce(state) == kraken.nonce_floor
        kraken.check_account()


def test_a_second_start_within_the_same_candle_does_not_repeat_the_order(state: Path) -> None:
    """A signal whose entry was placed, and canceled at the stop, is not placed again by the next start."""
    with local_kraken(state, RESTING) as kraken:
        run("--cycles", "1", settings=kraken.settings())
        second_run = run("--cycles", "1", settings=kraken.settings())
        assert "this signal was placed before" in second_run.text
        assert kraken.request_methods.count("AddOrder") == 1


def test_a_start_waits_for_a_journal_that_cannot_be_opened(state: Path) -> None:
    """A start whose journal cannot be opened places nothing and waits until it is stopped; the next one trades."""
    with local_kraken(state, FILLING) as kraken:
        journal_path = Path(journal_file_path(state / "kraken_nonce.txt", kraken.simulator.key))
        journal_path.mkdir(parents=True)
        with running(settings=kraken.settings(), until="Waiting: the journal") as bot:
            bot.send(signal.SIGTERM)
            bot.wait_for(r"^Ended: stopped\.$")
        assert "AddOrder" not in kraken.request_methods
        journal_path.rmdir()
        assert "1 placed" in run("--cycles", "1", settings=kraken.settings()).text
        kraken.check_account()


def test_a_stopped_bot_leaves_its_journal_in_one_file(state: Path) -> None:
    """When a bot that has traded is stopped, its journal has no WAL file: a copy of the one file is complete."""
    with local_kraken(state, FILLING) as kraken, running(settings=kraken.settings(), until="filled: buy") as bot:
        assert list(state.glob("journal.*.sqlite-wal"))
        assert bot.stop() == 0
        assert [path.suffix for path in state.glob("journal.*")] == [".sqlite"]


def test_the_state_folder_is_made_for_its_owner_alone(state: Path) -> None:
    """A missing state folder is created with mode 0700, and its nonce file with mode 0600."""
    with local_kraken(state / "deeper") as kraken:
        run("--cycles", "1", settings=kraken.settings())
    assert (state / "deeper").stat().st_mode & 0o777 == 0o700
    assert (state / "deeper" / "kraken_nonce.txt").stat().st_mode & 0o777 == 0o600


def test_live_mode_without_keys_names_both(state: Path) -> None:
    """Live mode without keys names the two variables, exits with 2, and creates no state."""
    bot = run(settings={"TRADING_MODE": "live", "STATE_DIR": str(state)}, exit_code=2)
    assert "KRAKEN_API_KEY" in stop_message(bot)
    assert "KRAKEN_API_SECRET" in stop_message(bot)
    assert not state.exists()


@pytest.mark.parametrize("wrong", ["KRAKEN_API_KEY", "KRAKEN_API_SECRET"])
def test_a_wrong_key_or_secret_ends_with_exit_code_3(state: Path, wrong: str) -> None:
    """A key or secret that Kraken does not know ends the start with one message and exit code 3."""
    with local_kraken(state) as kraken:
        bot = run(settings=kraken.settings(**{wrong: "d3Jvbmc="}), exit_code=3)
        assert ("EAPI:Invalid key" if wrong == "KRAKEN_API_KEY" else "EAPI:Invalid signature") in stop_message(bot)
        assert kraken.request_methods == ["GetApiKeyInfo"]


@pytest.mark.parametrize(
    ("permissions", "window", "message"),
    [
        ((*TRADING_PERMISSIONS, "withdraw-funds"), 0, "withdraw"),
        (TRADING_PERMISSIONS, 1000, "nonce window of 1000"),
        (("query-funds", "modify-trades"), 0, "Query closed orders & trades"),
    ],
    ids=["withdraw", "window", "missing"],
)
def test_a_key_with_wrong_permissions_ends_with_exit_code_3(
    state: Path, permissions: tuple[str, ...], window: int, message: str
) -> None:
    """A key that may withdraw, has a nonce window or lacks permissions is reported, and nothing is traded."""
    with local_kraken(state, FILLING) as kraken:
        key, secret = kraken.simulator.add_key(permissions, window)
        bot = run(settings=kraken.settings(KRAKEN_API_KEY=key, KRAKEN_API_SECRET=secret), exit_code=3)
        assert message in stop_message(bot)
        assert kraken.request_methods == ["GetApiKeyInfo"]


def test_no_network_ends_with_exit_code_5(state: Path) -> None:
    """If nothing answers, the start ends with one message and exit code 5."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        settings = {"TRADING_MODE": "live", "KRAKEN_API_URL": url, "STATE_DIR": str(state), **SOME_KEY}
        bot = run(settings=settings, exit_code=5)
    assert "no connection" in stop_message(bot)


BAD_SETTINGS = {
    "TRADING_MODE": "lvie",
    "KRAKEN_API_URL": "http://example.com",
    "KRAKEN_TIER": "gold",
    "NONCE_UNIT": "weeks",
    "PRICE_SOURCE": "guessed",
    "MARKET_SPEED": "fast",
    "PAIRS": ",",
    "TIMEFRAME": "7m",
    "STRATEGY": "luck",
    "ORDER_VALUE": "many",
    "MAX_ORDER_VALUE": "1e5",
    "MAX_POSITION_VALUE": "-3",
    "MAX_DAILY_LOSS": "none",
    "COOLDOWN_SECONDS": "x",
    "MAX_SLIPPAGE_PERCENT": "90",
    "ENTRY_TTL_SECONDS": "soon",
    "CANCEL_ENTRIES_ON_STOP": "perhaps",
    "ALLOW_WITHDRAW_KEY": "2",
    "BOT_ID": "toolong",
}


def test_every_bad_setting_is_named_at_once(state: Path) -> None:
    """All wrong settings are named in one message with exit code 2, and no state is created."""
    bot = run(settings={**BAD_SETTINGS, "STATE_DIR": str(state)}, exit_code=2)
    assert stop_message(bot)
    assert [name for name in BAD_SETTINGS if name not in bot.text] == []
    assert not state.exists()


def test_a_former_setting_name_is_refused_with_the_new_one(state: Path) -> None:
    """A setting under its former name ends with exit code 2 and the new name, and nothing is made or sent."""
    former, name = "STOP_PERCENT", "STOP_LOSS_PERCENT"
    bot = run(settings={former: "5", "STATE_DIR": str(state)}, exit_code=2)
    assert f"{former} in the environment is now called {name}" in bot.text
    assert not state.exists()


def test_a_pair_that_kraken_does_not_have_is_a_bad_setting(state: Path) -> None:
    """An unknown pair is named with exit code 2, before any order."""
    with local_kraken(state, FILLING) as kraken:
        bot = run(settings=kraken.settings(PAIRS="BTC/USD,NO/SUCH"), exit_code=2)
        assert "NO/SUCH" in stop_message(bot)
        assert "AddOrder" not in kraken.request_methods


def test_pairs_of_two_quote_currencies_are_a_bad_setting(state: Path) -> None:
    """Pairs that have no quote currency in common end the run with one message and exit code 2, and no order."""
    with local_kraken(state, FILLING, pairs=("BTC/USD", "BTC/EUR")) as kraken:
        bot = run(settings=kraken.settings(PAIRS="BTC/USD,BTC/EUR"), exit_code=2)
        assert stop_message(bot) == bot.lines[-1]
        assert bot.text.count("one quote currency") == 1
        assert "Equity" not in bot.text
        assert "AddOrder" not in kraken.request_methods


def test_a_market_speed_for_the_real_kraken_is_refused(state: Path) -> None:
    """MARKET_SPEED with a Kraken on another machine is a bad setting."""
    settings = {"TRADING_MODE": "live", "MARKET_SPEED": "2", "STATE_DIR": str(state), **SOME_KEY}
    assert "MARKET_SPEED" in stop_message(run(settings=settings, exit_code=2))


def test_a_key_with_a_nanosecond_nonce_floor_opens_the_circuit_breaker(state: Path) -> None:
    """A key whose floor is in nanoseconds costs five refusals and exit code 4; the next start sends nothing."""
    with local_kraken(state) as kraken:
        key, secret = kraken.simulator.add_key(floor=wall_us() * 1000)
        settings = kraken.settings(KRAKEN_API_KEY=key, KRAKEN_API_SECRET=secret)
        first_run = run(settings=settings, exit_code=4)
        assert "NONCE_UNIT=ns" in stop_message(first_run)
        assert (kraken.refused_nonces, len(kraken.request_methods)) == (5, 5)
        second_run = run(settings=settings, exit_code=4)
        assert "nothing is sent on this key" in stop_message(second_run)
        assert len(kraken.request_methods) == 5


def test_a_lockout_opens_the_circuit_breaker(state: Path) -> None:
    """A lockout ends the start with exit code 4 after one request; the next start sends nothing."""
    with local_kraken(state) as kraken:
        kraken.simulator.faults.raise_next("GetApiKeyInfo", "EGeneral:Temporary lockout", times=99)
        assert "Temporary lockout" in stop_message(run(settings=kraken.settings(), exit_code=4))
        assert "locked" in stop_message(run(settings=kraken.settings(), exit_code=4))
        assert kraken.request_methods == ["GetApiKeyInfo"]


def test_a_nonce_file_far_ahead_stops_the_start(state: Path) -> None:
    """A nonce file two days ahead of the clock ends the start with exit code 4 before any private call."""
    state.mkdir()
    (state / "kraken_nonce.txt").write_text(str(wall_us() + 2 * 86_400_000_000), "ascii")
    with local_kraken(state) as kraken:
        assert "2.0 days ahead" in stop_message(run(settings=kraken.settings(), exit_code=4))
        assert kraken.request_methods == []


def test_halt_mode_sends_no_order(state: Path) -> None:
    """In halt mode a signal is refused, and no order is sent."""
    with local_kraken(state, FILLING) as kraken:
        bot = run("--cycles", "1", settings=kraken.settings(TRADING_MODE="halt"))
        assert bot.lines[0].startswith("HALTED")
        assert "entry refused (halted)" in bot.text
        assert "AddOrder" not in kraken.request_methods


def test_halt_mode_does_not_cancel_resting_entries(state: Path) -> None:
    """A run in halt mode does not cancel an entry of a killed bot; a run in live mode does."""
    with local_kraken(state, RESTING) as kraken:
        with running(settings=kraken.settings(), until="accepted as") as bot:
            bot.kill()
        run("--cycles", "1", settings=kraken.settings(TRADING_MODE="halt"))
        assert "CancelOrder" not in kraken.request_methods
        run("--cycles", "1", settings=kraken.settings())
        assert "CancelOrder" in kraken.request_methods


def test_the_halt_file_halts_the_bot(state: Path) -> None:
    """With a file named halt in the state folder no order is sent; without it the same signal is traded."""
    state.mkdir()
    (state / "halt").touch()
    with local_kraken(state, RESTING) as kraken:
        bot = run("--cycles", "1", settings=kraken.settings())
        assert "entry refused (halted)" in bot.text
        assert "AddOrder" not in kraken.request_methods
        (state / "halt").unlink()
        run("--cycles", "1", settings=kraken.settings())
        assert kraken.request_methods.count("AddOrder") == 1


def test_a_halt_works_while_the_bot_runs(state: Path) -> None:
    """While the halt file exists no order is sent, not even an exit; without the file trading continues."""
    with trading_kraken(state) as kraken, running(settings=kraken.settings(), until="accepted as") as bot:
        (state / "halt").touch()
        bot.wait_for(r"exit refused \(halted\)")
        sent_count = kraken.request_methods.count("AddOrder")
        bot.wait_for(r"exit refused \(halted\)", times=3)
        assert kraken.request_methods.count("AddOrder") == sent_count
        (state / "halt").unlink()
        bot.wait_for("exit: sell .* accepted as")
        assert bot.stop() == 0


def test_a_second_bot_on_the_folder_is_refused(state: Path) -> None:
    """A second bot names the first one's process and host, exits with 6, and sends nothing."""
    with local_kraken(state) as kraken, running(settings=kraken.settings(), until=r"nothing to do") as first:
        second = run(settings=kraken.settings(), exit_code=6)
        assert f"process {first.pid} on {socket.gethostname()}" in stop_message(second)
        # The first bot's start and the end of its start-up reconciliation.
        assert kraken.request_methods.count("GetApiKeyInfo") == 2
        assert first.stop() == 0


def test_the_folder_of_a_killed_bot_is_free_at_once(state: Path) -> None:
    """After SIGKILL of a bot the next one starts on its folder and continues above its nonces."""
    with local_kraken(state) as kraken:
        with running(settings=kraken.settings(), until=r"nothing to do") as first:
            first.kill()
        floor = kraken.nonce_floor
        run("--cycles", "1", settings=kraken.settings())
        assert stored_nonce(state) > floor
        assert kraken.refused_nonces == 0


def test_a_start_survives_one_failed_read_and_not_three(state: Path) -> None:
    """Kraken is busy for the first read of the account: the run waits a moment, reads it again and trades. Busy three
    times, it ends with the exit code of an exchange that does not answer."""
    with local_kraken(state, QUIET) as kraken:
        kraken.simulator.faults.raise_next("BalanceEx", "EService:Busy")
        bot = run("--cycles", "1", settings=kraken.settings())
        assert len(bot.wait_for("read again in 2 s: .*EService:Busy")) == 1
        assert "Ended: 1 cycles done." in bot.text
        kraken.simulator.faults.raise_next("BalanceEx", "EService:Busy", times=3)
        run("--cycles", "1", settings=kraken.settings(), exit_code=5)

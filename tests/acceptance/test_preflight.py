"""The other commands: check, nonce show, simulator, --help, --cycles, and unknown arguments."""

from __future__ import annotations

import re
import signal
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from bot.base.clock import MarketClock, format_utc, wall_seconds, wall_us
from bot.simulator.keys import TRADING_PERMISSIONS
from bot.simulator.options import SimulatorOptions
from bot.simulator.server import Simulator
from tests.acceptance.local_kraken import FILLING, local_kraken
from tests.acceptance.processes import run, running, stored_nonce

LOSS = {"MAX_DAILY_LOSS": "40"}


def test_check_in_paper_mode_needs_no_settings(state: Path) -> None:
    """Without settings check reports settings, state, mode and nonce as ok, and ends with 0."""
    bot = run("check", settings={"STATE_DIR": str(state)})
    assert [line.split(":")[0].split() for line in bot.lines] == [
        ["ok", "settings"],
        ["ok", "state"],
        ["ok", "mode"],
        ["ok", "nonce"],
    ]


def test_check_in_live_mode_checks_everything_and_sends_no_order(state: Path) -> None:
    """With a valid key check reports settings, state, clock, nonce, pairs and key as ok, and sends no order."""
    with local_kraken(state, FILLING) as kraken:
        bot = run("check", settings=kraken.settings())
        assert [line.split(":")[0].split() for line in bot.lines if line.startswith("ok")] == [
            ["ok", "settings"],
            ["ok", "state"],
            ["ok", "clock"],
            ["ok", "nonce"],
            ["ok", "pairs"],
            ["ok", "key"],
        ]
        assert "modify-trades" in bot.lines[-1]
        assert set(kraken.request_methods) == {"GetApiKeyInfo", "BalanceEx"}


@pytest.mark.parametrize("mode", ["paper", "live"])
def test_check_prints_every_size_with_its_unit_and_share(state: Path, mode: str) -> None:
    """Of 10000 USD an order of 50 is 0.5 %, at most 250 are 2.5 %, a position of 500 is 5 % and a loss of 40 is
    0.4 %."""
    with local_kraken(state, FILLING) as kraken:
        bot = run("check", settings=kraken.settings(TRADING_MODE=mode, MARKET_SPEED="1", ORDER_VALUE="50", **LOSS))
    assert (
        "of 10000 USD free: ORDER_VALUE 50 (0.5 %), MAX_ORDER_VALUE 250 (2.5 %), MAX_POSITION_VALUE 500 (5 %), "
        "MAX_DAILY_LOSS 40 (0.4 %)"
    ) in bot.text


@pytest.mark.parametrize("mode", ["paper", "live"])
def test_check_warns_of_sizes_that_no_entry_can_have(state: Path, mode: str) -> None:
    """An order of 0.04 USD is below the pair's minimum, and one above the position's limit is refused: both are
    warnings."""
    with local_kraken(state, FILLING) as kraken:
        for size, words in (("0.04", "below the minimum of BTC/USD: 0.00005 BTC"), ("60", "above MAX_POSITION_VALUE")):
            sizes = {"ORDER_VALUE": size, "MAX_POSITION_VALUE": "50"}
            bot = run("check", settings=kraken.settings(TRADING_MODE=mode, MARKET_SPEED="1", **sizes))
            assert words in bot.wait_for("^WARNING  sizes")[-1]


def test_check_says_what_a_run_on_paper_would_refuse(state: Path) -> None:
    """Two pairs of a recorded market, a pair that paper does not know, two quote currencies, and a speed of recorded
    prices end `check` with the exit code and the sentence of `run`."""
    state.mkdir()
    recording = state / "candles.csv"
    recording.write_text("".join(f"{60 * minute},100,100,100,100,1,1\n" for minute in range(1000)), "ascii")
    replay = f"replay:{recording}"
    for settings in (
        {"PRICE_SOURCE": replay, "PAIRS": "BTC/USD,ETH/USD", "TIMEFRAME": "1m"},
        {"PRICE_SOURCE": replay, "TIMEFRAME": "1m", "MARKET_SPEED": "2"},
        {"PAIRS": "DOGE/USD"},
        {"PAIRS": "BTC/USD,BTC/EUR"},
    ):
        problem = run("check", settings={"STATE_DIR": str(state)} | settings, exit_code=2).wait_for("^PROBLEM")[0]
        stopped = run("run", settings={"STATE_DIR": str(state)} | settings, exit_code=2).wait_for("^Stopped: ")[0]
        assert problem == f"PROBLEM  mode: {stopped.removeprefix('Stopped: ')}"


def test_check_names_a_journal_that_run_would_refuse(state: Path) -> None:
    """A journal of a newer version ends `check` with 2, as it ends `run`."""
    with local_kraken(state, FILLING) as kraken:
        run("run", "--cycles", "1", settings=kraken.settings())
        (journal,) = state.glob("journal.*.sqlite")
        with closing(sqlite3.connect(journal)) as database:
            database.execute("PRAGMA user_version = 1000000")
        bot = run("check", settings=kraken.settings(), exit_code=2)
        run("run", "--cycles", "1", settings=kraken.settings(), exit_code=2)
    assert journal.name in bot.wait_for("^PROBLEM  state")[0]


def test_check_warns_of_a_wrong_clock_and_takes_no_nonce_from_it(state: Path) -> None:
    """If Kraken's Time is three days behind this machine's clock, the nonce of check follows Kraken's."""
    clock = MarketClock(wall_seconds() - 3 * 86_400)
    with Simulator(SimulatorOptions(), clock) as simulator:
        live_settings = {"TRADING_MODE": "live", "KRAKEN_API_URL": simulator.url, "STATE_DIR": str(state)}
        run("check", settings=live_settings | {"KRAKEN_API_KEY": simulator.key, "KRAKEN_API_SECRET": simulator.secret})
        assert stored_nonce(state) < wall_us() - 2 * 86_400_000_000


def test_check_takes_no_nonce_while_the_clock_is_unknown(state: Path) -> None:
    """In live mode without a response from Kraken check does not write the nonce file and ends with 5."""
    live_settings = {"TRADING_MODE": "live", "KRAKEN_API_URL": "http://127.0.0.1:9", "STATE_DIR": str(state)}
    bot = run(
        "check",
        settings=live_settings | {"KRAKEN_API_KEY": "Nobody0Home", "KRAKEN_API_SECRET": "bm9ib2R5"},
        exit_code=5,
    )
    assert "127.0.0.1:9" in bot.wait_for("^PROBLEM  clock")[0]
    assert not (state / "kraken_nonce.txt").exists()


def test_check_names_the_problems_of_the_key(state: Path) -> None:
    """For a key with a nonce window that may withdraw check names both and ends with 3."""
    with local_kraken(state) as kraken:
        key, secret = kraken.simulator.add_key((*TRADING_PERMISSIONS, "withdraw-funds"), nonce_window=1000)
        bot = run("check", settings=kraken.settings(KRAKEN_API_KEY=key, KRAKEN_API_SECRET=secret), exit_code=3)
    (problem,) = bot.wait_for("^PROBLEM")
    assert problem.startswith("PROBLEM  key: ")
    assert "nonce window of 1000" in problem
    assert "withdraw" in problem


@pytest.mark.parametrize(("days", "label"), [(13, "WARNING"), (15, "ok")])
def test_check_tells_the_limits_of_the_key(state: Path, days: int, label: str) -> None:
    """Check names the allowed addresses and the expiry of a key, warns of an expiry within 14 days, and ends with 0."""
    with local_kraken(state) as kraken:
        methods = kraken.simulator.api.private_endpoints.methods
        read_key_info = methods["GetApiKeyInfo"]
        until = kraken.simulator.clock.now() + days * 86_400
        limits = {"validUntil": str(int(until)), "ipAllowlist": ["192.0.2.1"]}
        methods["GetApiKeyInfo"] = lambda params, key: read_key_info(params, key) | limits
        bot = run("check", settings=kraken.settings())
    (line,) = bot.wait_for(f"^{label} +key: ")
    assert format_utc(int(until)) in line
    assert "192.0.2.1" in line


@pytest.mark.parametrize(("pairs", "problem"), [("BTC/USD,NO/SUCH", "NO/SUCH"), ("BTC/USD,BTC/EUR", "EUR, USD")])
def test_check_names_pairs_that_cannot_be_traded(state: Path, pairs: str, problem: str) -> None:
    """For an unknown pair, or two quote currencies, check names them and ends with 2."""
    with local_kraken(state, pairs=("BTC/USD", "BTC/EUR")) as kraken:
        bot = run("check", settings=kraken.settings(PAIRS=pairs), exit_code=2)
    assert problem in bot.wait_for("^PROBLEM  pairs")[0]


def test_check_names_a_wrong_secret(state: Path) -> None:
    """For a wrong secret check prints Kraken's error and ends with 3."""
    with local_kraken(state) as kraken:
        bot = run("check", settings=kraken.settings(KRAKEN_API_SECRET="d3Jvbmc="), exit_code=3)
    assert "EAPI:Invalid signature" in bot.wait_for("^PROBLEM  key")[0]


def test_check_names_a_key_with_a_higher_nonce_floor(state: Path) -> None:
    """For a key with a nanosecond floor check says so and ends with 4."""
    with local_kraken(state) as kraken:
        key, secret = kraken.simulator.add_key(floor=wall_us() * 1000)
        bot = run("check", settings=kraken.settings(KRAKEN_API_KEY=key, KRAKEN_API_SECRET=secret), exit_code=4)
    assert "nanoseconds" in bot.wait_for("^PROBLEM  key")[0]


def test_check_names_a_missing_network(state: Path) -> None:
    """If nothing answers, check reports clock and key as problems and the nonce as ok, and ends with 5."""
    with socket.socket() as closed, local_kraken(state) as kraken:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        bot = run("check", settings=kraken.settings(KRAKEN_API_URL=url), exit_code=5)
    assert [line.split(":")[0] for line in bot.wait_for("^PROBLEM")] == ["PROBLEM  clock", "PROBLEM  key"]
    assert bot.wait_for("^ok       nonce")


def test_check_names_a_nonce_file_that_cannot_be_written(state: Path) -> None:
    """If a folder is in place of the nonce file, check names it and ends with 4."""
    (state / "kraken_nonce.txt").mkdir(parents=True)
    bot = run("check", settings={"STATE_DIR": str(state)}, exit_code=4)
    assert "kraken_nonce.txt" in bot.wait_for("^PROBLEM  nonce")[0]


@pytest.mark.parametrize("mode", ["paper", "live"])
def test_check_names_a_nonce_file_far_ahead_and_does_not_change_it(state: Path, mode: str) -> None:
    """For a nonce file 30 days ahead check reports it, ends with 4, and does not raise the nonce further."""
    state.mkdir()
    ahead = wall_us() + 30 * 86_400_000_000
    (state / "kraken_nonce.txt").write_text(str(ahead), "ascii")
    with local_kraken(state) as kraken:
        bot = run("check", settings=kraken.settings(TRADING_MODE=mode), exit_code=4)
    assert "30.0 days ahead of the clock" in bot.wait_for("^PROBLEM  nonce")[0]
    assert stored_nonce(state) == ahead


def test_check_sees_a_running_bot(state: Path) -> None:
    """While a bot runs on the folder, check names its process and does not disturb it."""
    with local_kraken(state) as kraken, running(settings=kraken.settings(), until="nothing to do") as bot:
        check = run("check", settings=kraken.settings())
        assert f"process {bot.pid} on {socket.gethostname()}) is running on it" in check.text
        assert bot.stop() == 0
        assert kraken.refused_nonces == 0


def test_nonce_show_prints_value_offset_and_file_and_takes_no_nonce(state: Path) -> None:
    """`nonce show` prints the last nonce, its offset from the clock and its file, and does not change the file."""
    settings = {"STATE_DIR": str(state)}
    assert run("nonce", "show", settings=settings).text == f"none yet in {state / 'kraken_nonce.txt'}"
    assert not state.exists()
    state.mkdir()
    ahead = wall_us() + 3_600_000_000
    (state / "kraken_nonce.txt").write_text(str(ahead), "ascii")
    text = run("nonce", "show", settings=settings).text
    match = re.fullmatch(rf"{ahead}, (3\d\d\d\.\d) s ahead of the clock, in {state / 'kraken_nonce.txt'}", text)
    assert match
    assert stored_nonce(state) == ahead


def test_nonce_show_distinguishes_a_damaged_file_from_a_missing_one(state: Path) -> None:
    """`nonce show` reports a file without a number as unreadable, not as missing."""
    state.mkdir()
    (state / "kraken_nonce.txt").write_text("junk", "ascii")
    text = run("nonce", "show", settings={"STATE_DIR": str(state)}).text
    assert text == f"none that can be read in {state / 'kraken_nonce.txt'}"


def test_help_lists_every_command_and_exit_code(state: Path) -> None:
    """`--help` names the commands, --cycles and the exit codes."""
    text = run("--help", settings={"STATE_DIR": str(state)}).text
    assert all(name in text for name in ("run", "check", "nonce", "simulator", "--cycles", "exit codes"))
    assert [code for code in range(7) if not re.search(rf"\b{code} ", text)] == []
    assert not state.exists()


@pytest.mark.parametrize("arguments", [("trade",), ("nonce",), ("nonce", "lower"), ("--cycles", "0")], ids=str)
def test_unknown_arguments_end_with_2(state: Path, arguments: tuple[str, ...]) -> None:
    """An unknown argument ends with exit code 2 and the usage, and nothing is started."""
    bot = run(*arguments, settings={"STATE_DIR": str(state)}, exit_code=2)
    assert bot.lines[0].startswith("usage: main.py")
    assert not state.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ticks", "1"), "--ticks is now called --cycles"),
        (("run", "--ticks=1"), "--ticks is now called --cycles"),
        (("run", "--stay"), "--stay is now called --forever"),
    ],
    ids=str,
)
def test_former_option_is_refused_with_the_new_one(state: Path, arguments: tuple[str, ...], message: str) -> None:
    """An option under its former name ends with exit code 2, the usage and the new name, and nothing is started."""
    bot = run(*arguments, settings={"STATE_DIR": str(state)}, exit_code=2)
    assert bot.lines[0].startswith("usage: main.py")
    assert message in bot.text
    assert not state.exists()


def test_cycles_may_follow_run(state: Path) -> None:
    """`run --cycles 1` is `--cycles 1`."""
    with local_kraken(state) as kraken:
        assert "Ended: 1 cycles done." in run("run", "--cycles", "1", settings=kraken.settings()).text


def test_the_simulator_runs_alone_until_a_signal(state: Path) -> None:
    """`simulator` prints its address, key and secret, and ends with 0 on SIGTERM."""
    with running("simulator", "--port", "0", settings={"STATE_DIR": str(state)}, until="^secret ") as bot:
        assert re.fullmatch(r"Kraken simulator on http://127\.0\.0\.1:\d+", bot.lines[0])
        assert bot.stop(signal.SIGTERM) == 0
    assert not state.exists()


def test_a_bot_trades_on_the_simulator_command(state: Path) -> None:
    """A live bot with the address, key and secret that `simulator` prints is accepted by it."""
    arguments = ("simulator", "--port", "0", "--speed", "20")
    with running(*arguments, settings={"STATE_DIR": str(state)}, until="^secret ") as simulator:
        url, key, secret = (line.split()[-1] for line in simulator.lines[:3])
        keys = {"KRAKEN_API_URL": url, "KRAKEN_API_KEY": key, "KRAKEN_API_SECRET": secret}
        settings = {"TRADING_MODE": "live", "STATE_DIR": str(state), "MARKET_SPEED": "20", "SKIP_OVERLAP_WAIT": "1"}
        bot = run("--cycles", "1", settings=settings | keys)
        assert bot.lines[-1].endswith("; refused nonces: 0")
        simulator.kill()

"""`PRICE_SOURCE=replay:FILE python main.py`: recorded prices from start to end, also if the bot is killed midway."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bot.simulator.instruments import known_instruments
from bot.simulator.prices_recorded import RecordedPrices
from bot.simulator.storage import Storage
from tests.acceptance.processes import BotProcess, run, running, stored_nonce

# At full size the file has 20,160 candles.
SHORT_LINES = 1_500
FULL_FILE_SECONDS_MAX = 600.0
SEED = 20_261_122


@pytest.fixture(scope="module")
def recording(shared: Path, full_size: bool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of real one-minute candles: all of them at full size, else the first ones."""
    source = shared / "data" / "XBTUSD_1.csv"
    if full_size:
        return source
    copy = tmp_path_factory.mktemp("recording") / "XBTUSD_1.csv"
    copy.write_text("".join(source.read_text("ascii").splitlines(keepends=True)[:SHORT_LINES]), "ascii")
    return copy


def settings_for(recording: Path, state: Path) -> dict[str, str]:
    """Return the settings of a bot that replays a recording minute by minute."""
    # With a fixed bot id the orders of the same signals have the same ids on every account.
    return {"PRICE_SOURCE": f"replay:{recording}", "TIMEFRAME": "1m", "STATE_DIR": str(state), "BOT_ID": "tests"}


def filled_client_order_ids(recording: Path, state: Path) -> list[str]:
    """Check the account; return the client order ids of the filled orders, oldest first."""
    prices = RecordedPrices(known_instruments(["BTC/USD"]).pairs[0], recording)
    storage = Storage(state / f"paper_replay_{prices.short_digest}.db", prices.source_id)
    try:
        saved_state = storage.load()
    finally:
        storage.close()
    assert saved_state is not None
    assert saved_state.account.audit() == []
    orders = sorted(saved_state.account.orders.values(), key=lambda order: order.opened)
    ids = [order.cl_ord_id for order in orders]
    assert len(ids) == len(set(ids))
    return [order.cl_ord_id for order in orders if order.executed]


@pytest.fixture(scope="module")
def uninterrupted(recording: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[BotProcess, list[str]]:
    """Return a replay from start to end, and the ids of the orders that filled in it."""
    state = tmp_path_factory.mktemp("uninterrupted")
    bot = run(settings=settings_for(recording, state), timeout_seconds=FULL_FILE_SECONDS_MAX)
    return bot, filled_client_order_ids(recording, state)


def test_a_recording_is_replayed_from_start_to_end(
    recording: Path, uninterrupted: tuple[BotProcess, list[str]], full_size: bool
) -> None:
    """A recording of real prices runs to its end, with fills, a summary and no refused nonce."""
    bot, fills = uninterrupted
    assert f"recorded prices of BTC/USD from {recording.resolve()}" in bot.lines[3]
    assert len(fills) >= (200 if full_size else 20)
    reported_fills = len(bot.wait_for("filled: (buy|sell)"))
    assert reported_fills >= len(fills)
    assert "Ended: the market's prices have ended." in bot.text
    assert bot.wait_for(rf"; orders: \d+ placed, 0 refused by Kraken, 0 unknown; fills {reported_fills};")
    assert bot.lines[-1].endswith("; refused nonces: 0")


def test_a_killed_replay_resumes_and_fills_the_same_orders(
    recording: Path, uninterrupted: tuple[BotProcess, list[str]], full_size: bool, tmp_path: Path
) -> None:
    """A replay that is killed and restarted several times resumes and fills the same orders."""
    rng = random.Random(SEED)
    settings = settings_for(recording, tmp_path)
    last_nonce = 0
    for _ in range(12 if full_size else 2):
        with running(settings=settings, until="filled: ") as bot:
            bot.wait_for("replay", times=rng.randrange(8, 80 if full_size else 16))
            bot.kill()
        assert stored_nonce(tmp_path) > last_nonce, f"seed {SEED}"
        last_nonce = stored_nonce(tmp_path)
    bot = run(settings=settings, timeout_seconds=FULL_FILE_SECONDS_MAX)
    assert bot.lines[-1].endswith("; refused nonces: 0")
    # Amounts may differ: after a start a pair's first order waits until no earlier one can be in flight.
    assert filled_client_order_ids(recording, tmp_path) == uninterrupted[1], f"seed {SEED}"


def test_a_finished_replay_restarts(recording: Path, tmp_path: Path) -> None:
    """The start after a finished replay begins again with the starting balance."""
    short_recording = tmp_path / "few.csv"
    short_recording.write_text("".join(recording.read_text("ascii").splitlines(keepends=True)[:200]), "ascii")
    for _ in range(2):
        bot = run(settings=settings_for(short_recording, tmp_path))
        assert bot.lines[2].startswith("Account: USD 10000; ")
        assert bot.wait_for("filled: buy")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("time,open,high,low,close,volume,trades", "is not unix,open,high,low,close,volume,trades"),
        ("1640991660,1,1,1,1,1,1", "is not in order of time"),
    ],
    ids=["header", "order"],
)
def test_a_damaged_recording_is_named_with_its_line(tmp_path: Path, line: str, problem: str) -> None:
    """A line that is not a candle ends the start with exit code 2 and one message with the line number."""
    candle_lines = [f"{1640991660 + 60 * index},46319.0,46385.0,46319.0,46377.0,49.6,992" for index in range(3)]
    path = tmp_path / "damaged.csv"
    path.write_text("\n".join([*candle_lines, line]) + "\n", "ascii")
    bot = run(settings=settings_for(path, tmp_path / "state"), exit_code=2)
    assert bot.lines[-1].startswith("Stopped: ")
    assert f"line 4: '{line}' {problem}" in bot.lines[-1]


def test_a_missing_recording_is_a_configuration_error(tmp_path: Path) -> None:
    """A file that does not exist ends the start with exit code 2 and a message that names it."""
    bot = run(settings=settings_for(tmp_path / "none.csv", tmp_path / "state"), exit_code=2)
    assert "none.csv" in bot.lines[-1]

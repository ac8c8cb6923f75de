"""`pause`, `halt` and `resume` on the whole program: what a bot still sends, cancels and says."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from bot.simulator.account import SimOrder
from tests.acceptance.local_kraken import CROSSING, FILLING, HOUR, RESTING, LocalKraken, local_kraken, trading_kraken
from tests.acceptance.processes import run, running
from tests.acceptance.test_supervisor import WAITING, refuse_key, running_service
from tests.webhook import Webhook

# The entry fills, and the price then falls far below it.
FALLEN = (*FILLING, 1000, 999, 998)
# A day: an entry does not expire while a test lasts.
LONG_TTL = {"ENTRY_TTL_SECONDS": "86400"}


def own_orders(kraken: LocalKraken, kind: str) -> list[SimOrder]:
    """Return the orders of a kind that the bot has placed."""
    return [order for order in kraken.orders if order.cl_ord_id and order.kind == kind]


def buy_without_stop(kraken: LocalKraken) -> None:
    """Let a bot without stops buy."""
    with running(settings=kraken.settings(PAIRS="BTC/USD"), until="filled: buy") as bot:
        assert bot.stop() == 0


@pytest.mark.parametrize("command", ["pause", "halt"])
def test_the_command_cancels_the_resting_entry(state: Path, command: str) -> None:
    """`pause` and `halt` cancel the running bot's resting entry, and not the order of another program."""
    with local_kraken(state, RESTING) as kraken:
        external_txid = kraken.place_external_order()
        with running(settings=kraken.settings(**LONG_TTL), until="accepted as") as bot:
            run(command, settings=kraken.settings())
            bot.wait_for("canceled: buy")
            assert [order.txid for order in kraken.open_orders()] == [external_txid]
            assert bot.stop() == 0


@pytest.mark.parametrize(
    ("command", "resume", "is_in_force", "refusal", "is_over"),
    [
        ("pause", "resume", "^Entries are paused: ", "entries paused", "^Entries are no longer paused"),
        ("halt", "resume --halt", "^Halted: ", "halted", "^The halt is lifted"),
    ],
)
def test_the_command_lets_no_entry_through_until_resume(
    state: Path, command: str, resume: str, is_in_force: str, refusal: str, is_over: str
) -> None:
    """After `pause` or `halt` no entry is placed; after `resume` entries are placed again."""
    with trading_kraken(state) as kraken, running(settings=kraken.settings(), until="filled: buy") as bot:
        run(command, settings=kraken.settings())
        bot.wait_for(is_in_force)
        before = len(bot.wait_for("entry: buy .* accepted"))
        bot.wait_for(rf"refused \({refusal}\)", times=2)
        assert len(bot.wait_for("entry: buy .* accepted")) == before
        run(*resume.split(), settings=kraken.settings())
        bot.wait_for(is_over)
        bot.wait_for("entry: buy .* accepted", times=before + 1)
        assert bot.stop() == 0


def test_an_entry_of_an_earlier_run_does_not_fill_under_a_halt(state: Path) -> None:
    """A bot that starts halted cancels the resting entry of a killed one."""
    with local_kraken(state, RESTING) as kraken:
        with running(settings=kraken.settings(**LONG_TTL), until="accepted as") as bot:
            bot.kill()
        (state / "halt").touch()
        settings = kraken.settings(CANCEL_ENTRIES_ON_STOP="0", **LONG_TTL)
        run("--cycles", "2", settings=settings)
        assert kraken.open_orders() == []


def test_a_halted_bot_protects_its_position(state: Path) -> None:
    """A halted bot that holds a position without a stop places the stop, and keeps it where another percentage is
    set."""
    with local_kraken(state, FILLING) as kraken:
        buy_without_stop(kraken)
        (state / "halt").touch()
        for percent in ("20", "30"):
            run("--cycles", "2", settings=kraken.settings(PAIRS="BTC/USD", STOP_LOSS_PERCENT=percent))
        (stop,) = own_orders(kraken, "stop-loss")
        (entry,) = own_orders(kraken, "limit")
        assert stop.status == "open"
        assert abs(stop.price - entry.cost / entry.executed * Decimal("0.8")) < 1


def test_a_halted_bot_sends_no_stop_that_would_sell_at_once(state: Path) -> None:
    """Where the price has fallen below the trigger, a halted bot places no stop, and alerts."""
    with Webhook() as hook, local_kraken(state, FALLEN) as kraken:
        buy_without_stop(kraken)
        (state / "halt").touch()
        kraken.advance_time((len(FALLEN) - len(CROSSING) - 1) * HOUR)
        settings = kraken.settings(PAIRS="BTC/USD", STOP_LOSS_PERCENT="10", ALERT_WEBHOOK_URL=hook.url)
        with running(settings=settings, until="beyond its trigger") as bot:
            events = {hook.next_request().body["event"] for _ in range(2)}
            assert bot.stop() == 0
        assert events == {"halted", "position"}
        assert kraken.request_methods.count("AddOrder") == 1


def test_a_halt_is_reported_while_the_bot_does_not_trade(state: Path) -> None:
    """A service that waits because its key is refused says and alerts at once that it is halted, and `status` shows
    it."""
    with Webhook() as hook, local_kraken(state) as kraken:
        settings = refuse_key(kraken)
        hook_setting = {"ALERT_WEBHOOK_URL": hook.url}
        with running_service(settings | hook_setting, WAITING) as (bot, dashboard):
            assert hook.next_request().body["event"] == "trading_interrupted"
            run("halt", settings=settings)
            bot.wait_for("^Halted: ")
            assert hook.next_request().body["event"] == "halted"
            assert dashboard.snapshot()["entries"] == "halted"
            assert bot.stop() == 0


def test_resume_names_what_still_holds_trading_back(state: Path) -> None:
    """`resume` ends the pause and leaves the halt, `resume --halt` lifts the halt and leaves the pause; each says what
    stays."""
    settings = {"STATE_DIR": str(state)}
    run("halt", settings=settings)
    run("pause", settings=settings)
    assert "python main.py resume --halt" in run("resume", settings=settings).text
    assert {path.name for path in state.iterdir()} == {"halt"}
    run("pause", settings=settings)
    assert "still paused" in run("resume", "--halt", settings=settings).text
    assert {path.name for path in state.iterdir()} == {"entries_stopped"}


@pytest.mark.parametrize("command", ["pause", "halt"])
def test_a_control_that_no_bot_reads_is_said(state: Path, command: str) -> None:
    """Where no bot runs on the state folder, `pause` and `halt` say so; where one runs, they do not."""
    assert f"No bot is running on {state}" in run(command, settings={"STATE_DIR": str(state)}).text
    with local_kraken(state) as kraken, running(settings=kraken.settings(), until="nothing to do"):
        assert "No bot" not in run(command, settings=kraken.settings()).text

"""SIGTERM and Ctrl-C: `python main.py` ends with 0 within seconds, in any state, and loses nothing."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bot.app.instance_lock import read_instance_file
from tests.acceptance.local_kraken import FILLING, HANGING_OPTIONS, RESTING, local_kraken, trading_kraken
from tests.acceptance.processes import (
    STOP_TIMEOUT_SECONDS,
    TIMEOUT_SECONDS,
    BotProcess,
    isolated_settings,
    run,
    running,
    stored_nonce,
)
from tests.conftest import ROOT

SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("signal_number", SIGNALS, ids=lambda signal_number: signal_number.name)
def test_a_signal_ends_a_quiet_bot_with_a_summary(state: Path, signal_number: signal.Signals) -> None:
    """SIGTERM and Ctrl-C end a waiting bot with exit code 0 and the summary."""
    with local_kraken(state, FILLING) as kraken, running(settings=kraken.settings(), until="filled: buy") as bot:
        assert bot.stop(signal_number) == 0
        assert f"{signal_number.name}: stopping" in bot.text
        assert "Ended: stopped." in bot.text
        assert "Equity 10000.00 -> " in bot.text
        assert "refused nonces: 0" in bot.text
        kraken.check_account()


def test_resting_entries_are_canceled_by_txid_and_external_orders_left_open(state: Path) -> None:
    """On SIGTERM the bot cancels its own resting entry by txid; an external order stays open."""
    with local_kraken(state, RESTING) as kraken:
        external_txid = kraken.place_external_order()
        with running(settings=kraken.settings(), until="accepted as") as bot:
            assert bot.stop() == 0
            assert "left alone" in bot.text
        assert [order.txid for order in kraken.open_orders()] == [external_txid]
        assert kraken.request_methods.count("CancelOrder") == 1
        assert "CancelAll" not in kraken.request_methods


def test_resting_entries_stay_open_when_configured(state: Path) -> None:
    """With CANCEL_ENTRIES_ON_STOP=0 the entry is still open after SIGTERM, and the next start adopts it."""
    with local_kraken(state, RESTING) as kraken:
        settings = kraken.settings(CANCEL_ENTRIES_ON_STOP="0")
        with running(settings=settings, until="accepted as") as bot:
            assert bot.stop() == 0
        assert len(kraken.open_orders()) == 1
        assert "CancelOrder" not in kraken.request_methods
        second_run = run("--cycles", "1", settings=settings)
        assert "own order adopted" in second_run.text
        assert kraken.request_methods.count("AddOrder") == 1


def test_an_entry_that_fills_as_the_bot_stops_is_not_called_canceled(state: Path) -> None:
    """An entry that fills the moment before the cancel at the stop is reported as filled, and not as canceled."""
    with local_kraken(state, RESTING) as kraken, running(settings=kraken.settings(), until="accepted as") as bot:
        kraken.simulator.faults.fire_next("cancel_race", "CancelOrder")
        assert bot.stop() == 0
        assert kraken.orders[0].executed == kraken.orders[0].volume
        assert "filled: buy" in bot.text
        assert "cancel accepted" not in bot.text
        assert "canceled: buy" not in bot.text


def test_a_hanging_read_does_not_delay_shutdown(state: Path) -> None:
    """Ctrl-C while a read hangs ends the bot with exit code 0 in time; the read is no unknown order, and the bot does
    not release its state folder."""
    with local_kraken(state, options=HANGING_OPTIONS) as kraken:
        kraken.simulator.faults.fire_next("slow", "OpenOrders")
        with BotProcess(settings=kraken.settings()) as bot:
            kraken.wait_for("OpenOrders")
            assert bot.stop(signal.SIGINT) == 0
            assert "ends without waiting for it" in bot.text
            assert "unknown:" not in bot.text
            assert "refused nonces: 0" in bot.text
        # Releasing the folder would remove the contents of the instance file; the end of a process does not.
        assert read_instance_file(state)["pid"] == bot.pid
        assert stored_nonce(state) == kraken.nonce_floor


def test_an_order_in_flight_does_not_delay_shutdown_and_is_never_sent_twice(state: Path) -> None:
    """On SIGTERM while a third order hangs it is reported as unknown, two entries are canceled, none is repeated."""
    with local_kraken(state, RESTING, options=HANGING_OPTIONS) as kraken:
        run("--cycles", "1", settings=kraken.settings(PAIRS="BTC/USD,ETH/USD", CANCEL_ENTRIES_ON_STOP="0"))
        settings = kraken.settings(PAIRS="BTC/USD,ETH/USD,SOL/USD")
        kraken.simulator.faults.fire_next("slow", "AddOrder")
        with BotProcess(settings=settings) as bot:
            kraken.wait_for("AddOrder", times=3)
            assert bot.stop() == 0
        (order,) = kraken.open_orders()
        assert bot.wait_for(f"SOL/USD  unknown: buy .*{order.cl_ord_id}")
        assert kraken.request_methods.count("CancelOrder") == 2
        second_run = run("--cycles", "1", settings=settings)
        assert second_run.wait_for(f"SOL/USD  own order adopted: .*{order.txid}")
        assert kraken.request_methods.count("AddOrder") == 3
        assert kraken.refused_nonces == 0
        kraken.check_account()


def test_a_signal_before_the_first_answer_ends_the_start(state: Path) -> None:
    """SIGTERM while the very first call hangs ends the bot with exit code 0 in time."""
    with socket.create_server(("127.0.0.1", 0)) as silent_server, local_kraken(state) as kraken:
        url = f"http://127.0.0.1:{silent_server.getsockname()[1]}"
        with running(settings=kraken.settings(KRAKEN_API_URL=url, MARKET_SPEED="1"), until="LIVE TRADING") as bot:
            with silent_server.accept()[0]:
                assert bot.stop() == 0
            assert "SIGTERM: stopping" in bot.text


def test_a_signal_while_the_start_repeats_a_refused_nonce_ends_it(state: Path) -> None:
    """SIGTERM while the start waits to repeat a refused nonce ends the bot with exit code 0 in time."""
    with local_kraken(state, speed=0.1) as kraken:  # a market this slow turns 2 s into 20 s
        kraken.simulator.faults.fire_next("spurious_nonce", "GetApiKeyInfo", times=9)
        with running(settings=kraken.settings(), until="refusal 2") as bot:
            assert bot.stop() == 0
        assert kraken.request_methods == ["GetApiKeyInfo"] * 2


def test_a_signal_during_the_warm_up_ends_it_with_a_summary(state: Path) -> None:
    """SIGTERM during the warm-up ends the bot with exit code 0 and a summary; the next start resumes the account."""
    settings = {"STATE_DIR": str(state)}
    with running(settings=settings, until="replay .*filled: buy") as bot:
        assert bot.stop() == 0
        assert "Ended: stopped." in bot.text
        assert re.search(r"^Equity 10000.00 -> \d+\.\d\d USD;", bot.text, re.MULTILINE)
    (state / "halt").touch()  # an exit at current prices would take long
    # Start-up reconciliation waits in market time for orders of the first run.
    second_run = run("--cycles", "1", settings={**settings, "MARKET_SPEED": "20"})
    assert "Account: USD 10000" not in second_run.text
    assert second_run.lines[-1].endswith("; refused nonces: 0")


def test_a_signal_while_kraken_is_unreachable_ends_the_bot(state: Path) -> None:
    """SIGTERM after Kraken became unreachable ends the bot with exit code 0; the account could not be read."""
    with contextlib.ExitStack() as stack:
        kraken = stack.enter_context(local_kraken(state))
        bot = stack.enter_context(running(settings=kraken.settings(), until="nothing to do"))
        kraken.simulator.__exit__(None, None, None)
        assert bot.stop() == 0
        assert "The account could not be read at the end" in bot.text
        assert "Equity 10000.00 -> - USD" in bot.text


def test_a_second_signal_changes_nothing(state: Path) -> None:
    """A second Ctrl-C neither prints a traceback nor prevents the orderly end."""
    with local_kraken(state, RESTING) as kraken, running(settings=kraken.settings(), until="accepted as") as bot:
        bot.send(signal.SIGINT)
        bot.send(signal.SIGINT)
        assert bot.wait_and_check(STOP_TIMEOUT_SECONDS) == 0
        assert "Ended: stopped." in bot.text
        assert kraken.open_orders() == []


def test_a_closed_output_pipe_ends_the_bot_cleanly(state: Path, tmp_path: Path) -> None:
    """When its output pipe is closed (`| head`), the bot ends with exit code 0 and leaves no entry open."""
    errors = tmp_path / "errors"
    with trading_kraken(state) as kraken, errors.open("w") as stderr:
        environment = {**os.environ, **isolated_settings(kraken.settings())}
        command = [sys.executable, str(ROOT / "main.py")]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True) as bot:
            assert bot.stdout is not None
            next(line for line in bot.stdout if "accepted as" in line)
            bot.stdout.close()
            assert bot.wait(TIMEOUT_SECONDS) == 0
        assert errors.read_text() == ""
        assert kraken.open_orders() == []

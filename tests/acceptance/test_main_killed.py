"""The bot is killed by SIGKILL at random times, again and again, on one Kraken that keeps running."""

from __future__ import annotations

import random
from pathlib import Path

from bot.base.clock import sleep
from tests.acceptance.journal_comparison import check_journal_against_exchange
from tests.acceptance.local_kraken import FILLING, HANGING_OPTIONS, local_kraken, trading_kraken
from tests.acceptance.processes import BotProcess, run, stored_nonce

SEED = 20_261_122


def test_a_bot_killed_at_random_moments_loses_nothing(tmp_path: Path, full_size: bool) -> None:
    """After many kills no nonce is refused, no floor lost, no order duplicated, and journal and exchange agree."""
    rng = random.Random(SEED)
    with trading_kraken(tmp_path) as kraken:
        settings = kraken.settings(PAIRS="BTC/USD,ETH/USD,SOL/USD")
        run_count = 50 if full_size else 4
        for run_index in range(run_count):
            with BotProcess(settings=settings) as bot:
                if run_index % 2:
                    # Around one of its orders.
                    kraken.wait_for("AddOrder", times=kraken.request_methods.count("AddOrder") + 1)
                    sleep(rng.uniform(0.0, 0.1))
                else:
                    # Anywhere from the first import to well into trading.
                    sleep(rng.uniform(0.1, 3.0 if full_size else 1.5))
                bot.kill()
                bot.check_output()
            context = f"seed {SEED}, run {run_index} with the output\n{bot.text}"
            assert not kraken.nonce_floor or stored_nonce(tmp_path) >= kraken.nonce_floor, context
            assert kraken.refused_nonces == 0, context
            kraken.check_account()
        # In halt mode it places nothing, but reconciles and follows orders until the last entry has filled or expired.
        run("--cycles", "12", settings=settings | {"TRADING_MODE": "halt"})
        assert kraken.refused_nonces == 0
        check_journal_against_exchange(kraken.simulator, tmp_path)
        sides = {order.side for order in kraken.orders if order.executed}
        assert len(kraken.orders) >= run_count // 3, f"seed {SEED}: too few orders"
        assert not full_size or sides == {"buy", "sell"}


def test_an_order_whose_response_was_lost_to_a_kill_is_not_repeated(tmp_path: Path) -> None:
    """A bot that is killed between its order's arrival and the response finds the order at its next start and sends
    none."""
    with local_kraken(tmp_path, FILLING, options=HANGING_OPTIONS) as kraken:
        kraken.simulator.faults.fire_next("slow", "AddOrder")
        with BotProcess(settings=kraken.settings()) as bot:
            kraken.wait_for("AddOrder")
            bot.kill()
        second_run = run("--cycles", "1", settings=kraken.settings())
        assert "holding 0.08333333" in second_run.text
        assert kraken.request_methods.count("AddOrder") == 1
        assert kraken.refused_nonces == 0
        kraken.check_account()

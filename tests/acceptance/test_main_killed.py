"""The bot is killed with SIGKILL at random moments, again and again, against one Kraken that outlives it."""

from __future__ import annotations

import random
from pathlib import Path

from bot.base.clock import sleep
from tests.acceptance.journal_comparison import check_books
from tests.acceptance.local_kraken import FILLING, HANGING, local_kraken, waving_kraken
from tests.acceptance.processes import Bot, run, stored_nonce

SEED = 20_261_122


def test_a_bot_killed_at_random_moments_loses_nothing(tmp_path: Path, full_size: bool) -> None:
    """However often it is killed: no nonce refused, no floor lost, no order doubled, and journal and exchange agree."""
    chance = random.Random(SEED)
    with waving_kraken(tmp_path) as kraken:
        settings = kraken.settings(PAIRS="BTC/USD,ETH/USD,SOL/USD")
        lives = 50 if full_size else 4
        for life in range(lives):
            with Bot(settings=settings) as bot:
                if life % 2:
                    # Around an order of its own.
                    kraken.wait_for("AddOrder", times=kraken.methods.count("AddOrder") + 1)
                    sleep(chance.uniform(0.0, 0.1))
                else:
                    # Anywhere from the first import to well into trading.
                    sleep(chance.uniform(0.1, 3.0 if full_size else 1.5))
                bot.kill()
                bot.check_output()
            where = f"seed {SEED}, life {life}, which said\n{bot.text}"
            assert not kraken.floor or stored_nonce(tmp_path) >= kraken.floor, where
            assert kraken.refused_nonces == 0, where
            kraken.check_account()
        # Halted it orders nothing, but settles and follows what there is, until the last entry has filled or expired.
        run("--ticks", "12", settings=settings | {"TRADING_MODE": "halt"})
        assert kraken.refused_nonces == 0
        check_books(kraken.simulator, tmp_path)
        sides = {order.side for order in kraken.orders if order.executed}
        assert len(kraken.orders) >= lives // 3, f"seed {SEED}: there was too little to lose"
        assert not full_size or sides == {"buy", "sell"}


def test_an_order_whose_answer_the_bot_did_not_live_to_see_is_not_repeated(tmp_path: Path) -> None:
    """Killed between its order's arrival and the answer, the bot finds the order at its next start and sends none."""
    with local_kraken(tmp_path, FILLING, options=HANGING) as kraken:
        kraken.simulator.faults.fire_next("slow", "AddOrder")
        with Bot(settings=kraken.settings()) as bot:
            kraken.wait_for("AddOrder")
            bot.kill()
        again = run("--ticks", "1", settings=kraken.settings())
        assert "holding 0.08333333" in again.text
        assert kraken.methods.count("AddOrder") == 1
        assert kraken.refused_nonces == 0
        kraken.check_account()

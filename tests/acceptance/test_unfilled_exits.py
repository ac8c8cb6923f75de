"""An exit that finds no buyer within the maximum slippage."""

from __future__ import annotations

import re
from pathlib import Path

from tests.acceptance.local_kraken import CROSSING, FILLING, HOUR, local_kraken
from tests.acceptance.processes import running

# The entry fills, and the price then falls to 900, where the strategy exits.
FALLEN = (*FILLING, 900, 900, 900)


def test_an_exit_that_never_fills_is_reported_once_with_the_best_bid(state: Path) -> None:
    """While an exit is sent again and again and none fills, the bot says so once, and names the best bid."""
    with local_kraken(state, FALLEN) as kraken:
        # The bid is a tick below the last price, and 0.01 percent of 900 are less than a tick.
        settings = kraken.settings(PAIRS="BTC/USD", MAX_SLIPPAGE_PERCENT="0.01")
        with running(settings=settings, until="filled: buy") as bot:
            assert bot.stop() == 0
        kraken.advance_time((len(FALLEN) - len(CROSSING) - 1) * HOUR)
        with running(settings=settings, until="exit: sell .* accepted") as bot:
            bot.wait_for("exit: sell .* accepted", times=4)
            (line,) = bot.wait_for("finds no buyer")
            assert bot.stop() == 0
        assert "filled: sell" not in bot.text
        (bid,) = re.findall(r"the best bid is (\d+\.\d)", line)
        assert 897 < float(bid) < 903

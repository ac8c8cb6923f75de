"""An account moves from one host to another, each with a state folder of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

from bot.base.clock import wall_us
from tests.acceptance.local_kraken import FILLING, LocalKraken, local_kraken
from tests.acceptance.nonce_tools import write_nonce_file
from tests.acceptance.processes import BotProcess, run

TEN_MINUTES_US = 600_000_000


def trade(kraken: LocalKraken, host: Path) -> BotProcess:
    """Run the bot on a host for one cycle."""
    return run("--cycles", "1", settings=kraken.settings(STATE_DIR=str(host)))


def test_with_its_state_an_account_moves_without_a_refused_nonce(tmp_path: Path) -> None:
    """With a copy of its folder a bot continues on another host, with nonces ahead of the clock too: no nonce is
    refused, no order is sent again, and the journal agrees with Kraken.
    """
    old, new = tmp_path / "old", tmp_path / "new"
    with local_kraken(old, FILLING) as kraken:
        old.mkdir()
        write_nonce_file(old, wall_us() + TEN_MINUTES_US)
        assert "1 placed" in trade(kraken, old).text
        shutil.copytree(old, new)
        moved_bot = trade(kraken, new)
        assert "0 placed" in moved_bot.text
        assert kraken.nonce_floor > wall_us()
        assert kraken.refused_nonces == 0
        run("journal", "check", settings=kraken.settings(STATE_DIR=str(new)))
        kraken.check_account()


def test_on_the_clock_an_account_moves_without_its_state(tmp_path: Path) -> None:
    """With an empty folder a bot continues on another host if its nonces were at the clock: no nonce is refused, no
    order is sent again, and the new journal agrees with Kraken.
    """
    old, new = tmp_path / "old", tmp_path / "new"
    with local_kraken(old, FILLING) as kraken:
        assert "1 placed" in trade(kraken, old).text
        moved_bot = trade(kraken, new)
        assert "0 placed" in moved_bot.text
        assert kraken.refused_nonces == 0
        run("journal", "check", settings=kraken.settings(STATE_DIR=str(new)))
        kraken.check_account()

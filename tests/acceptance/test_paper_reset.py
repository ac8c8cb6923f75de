"""`python main.py paper reset`: a new paper account, and the files of the former one."""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import closing
from pathlib import Path

from bot.orders.journal import Journal
from tests.acceptance.processes import run, running
from tests.journal_rows import make_intent


def journals(state: Path) -> list[Path]:
    """Return the journals of a state folder."""
    return list(state.glob("journal.*.sqlite"))


def test_paper_reset_begins_a_new_account_and_keeps_the_old_one(state: Path) -> None:
    """`paper reset` moves the account and its journal into a folder of their own, where they are read as before, and
    the next run has a new account.
    """
    settings = {"STATE_DIR": str(state)}
    with running(settings=settings, until="filled: ") as bot:
        bot.kill()
    with closing(Journal(str(state / "journal.00000000.sqlite"))) as other:
        other.record_intent(make_intent())
    old_names = {path.name for path in state.iterdir()}
    [journal] = [path.name for path in journals(state) if path.name != "journal.00000000.sqlite"]
    reset = run("paper", "reset", settings=settings)
    [kept] = [path for path in state.iterdir() if path.is_dir()]
    assert str(kept) in reset.text
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert {"paper_synthetic.db", journal} <= {path.name for path in kept.iterdir()} <= old_names
    assert [path.name for path in journals(state)] == ["journal.00000000.sqlite"]
    again = run("--cycles", "1", settings=settings)
    assert "Account: USD 10000" in again.text
    # Moved back, the old account is whole.
    for path in kept.iterdir():
        os.rename(path, state / path.name)
    (state / "halt").touch()
    former = run("--cycles", "1", settings={**settings, "MARKET_SPEED": "20"})
    assert "Account: USD 10000" not in former.text


def test_paper_reset_is_refused_while_a_bot_runs(state: Path) -> None:
    """While a bot runs on the folder, `paper reset` moves nothing and ends with exit code 6."""
    settings = {"STATE_DIR": str(state)}
    with running(settings=settings, until="filled: ") as bot:
        refused = run("paper", "reset", settings=settings, exit_code=6)
        assert f"process {bot.pid} on" in refused.text
        assert [path for path in state.iterdir() if path.is_dir()] == []


def test_paper_reset_takes_a_damaged_account(state: Path) -> None:
    """`paper reset` moves a damaged account away unchanged, and the next run begins a new one."""
    state.mkdir()
    (state / "paper_synthetic.db").write_bytes(b"no account at all" * 100)
    settings = {"STATE_DIR": str(state)}
    assert "python main.py paper reset" in run("--cycles", "1", settings=settings, exit_code=2).text
    run("paper", "reset", settings=settings)
    [kept] = state.glob("*/paper_synthetic.db")
    assert kept.read_bytes() == b"no account at all" * 100
    assert "Account: USD 10000" in run("--cycles", "1", settings=settings).text


def test_paper_reset_resets_the_account_of_its_price_source(state: Path) -> None:
    """`paper reset` moves the account of PRICE_SOURCE alone, with `auto` those of synthetic and live prices, and
    nothing where there is none.
    """
    state.mkdir()
    names = ["paper_live.db", "paper_replay_0a1b2c3d.db", "paper_synthetic.db"]

    def reset(price_source: str) -> list[str]:
        for name in names:
            (state / name).touch()
        run("paper", "reset", settings={"STATE_DIR": str(state), "PRICE_SOURCE": price_source})
        moved = [path.name for path in state.glob("paper_account.*/*")]
        for folder in state.glob("paper_account.*"):
            shutil.rmtree(folder)
        return sorted(moved)

    assert reset("live") == ["paper_live.db"]
    assert reset("auto") == ["paper_live.db", "paper_synthetic.db"]
    names = names[:2]
    assert reset("synthetic") == []


def test_paper_reset_leaves_an_account_that_is_open_elsewhere(state: Path) -> None:
    """`paper reset` ends with exit code 2 and moves nothing while the simulator alone has the account open."""
    settings = {"STATE_DIR": str(state)}
    state.mkdir()
    account = state / "paper_synthetic.db"
    with running("simulator", "--port", "0", "--state", str(account), settings=settings, until="^secret "):
        refused = run("paper", "reset", settings=settings, exit_code=2)
        assert "in use by another program" in refused.text
    assert account.exists()

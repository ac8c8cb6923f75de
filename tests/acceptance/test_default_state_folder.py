"""Without STATE_DIR: nonce files in `bot/`, all other state in `state/`, and what former versions left in `bot/`."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from bot.base.paths import journal_file_path
from bot.cli.commands import COMMANDS
from tests.acceptance import script_tools
from tests.acceptance.local_kraken import local_kraken, trading_kraken
from tests.acceptance.processes import BotProcess, run, running
from tests.acceptance.versions import extract_old_version
from tests.conftest import ROOT

NO_SETTINGS: dict[str, str] = {}
# A command line for each command but the simulator alone, which has no state folder.
COMMAND_LINES = {
    "run": "run",
    "status": "status",
    "pause": "pause",
    "halt": "halt",
    "resume": "resume",
    "check": "check",
    "nonce": "nonce show",
    "orders": "orders",
    "fills": "fills",
    "journal": "journal check",
    "paper": "paper reset",
}
FORMER_FILES = ("halt", "entries_stopped", "journal.0a1b2c3d.sqlite", "paper_live.db")
SCRIPT = """
from bot.broker_manager import KrakenBroker
from bot.config import load_settings

settings = load_settings()
broker = KrakenBroker(settings.api_key, settings.api_secret, api_url=settings.api_url)
broker.get_account_balance()
print(broker.journal.fills())
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Return a copy of the program, with nothing in it but what a clone has."""
    folder = tmp_path / "program"
    ignore = shutil.ignore_patterns("__pycache__", "kraken_nonce*", "journal.*.sqlite*", "*.db*", "halt", "*.json")
    shutil.copytree(ROOT / "bot", folder / "bot", ignore=ignore)
    shutil.copy(ROOT / "main.py", folder)
    return folder


def type_command(bot: BotProcess) -> None:
    """Type the commands that the message of a refused bot ends with, in another folder."""
    commands = bot.text.partition("then type:\n")[2]
    assert commands
    subprocess.run(["sh", "-ec", commands], cwd="/", check=True)


def test_state_is_beside_the_code(program: Path) -> None:
    """A bot on paper that is killed leaves nothing but nonce files in `bot/`, the rest in a private `state/`, and goes
    on from there.
    """
    before = {path.name for path in (program / "bot").iterdir()}
    with running(settings=NO_SETTINGS, until="filled: (buy|sell)", program=program) as bot:
        bot.kill()
    made = {path.name for path in (program / "bot").iterdir()} - before - {"__pycache__"}
    assert "kraken_nonce.txt" in made
    assert {name for name in made if not name.startswith("kraken_nonce.")} == set()
    state = program / "state"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert {"bot.json", "paper_synthetic.db"} < {path.name for path in state.iterdir()}
    assert len(list(state.glob("journal.*.sqlite"))) == 1
    (state / "halt").touch()  # an exit at current prices would take long
    again = run("--cycles", "1", settings={"MARKET_SPEED": "20"}, program=program)
    assert "Account: USD 10000" not in again.text
    assert len(list(state.glob("journal.*.sqlite"))) == 1


@pytest.mark.parametrize("name", FORMER_FILES)
def test_state_of_a_former_version_is_moved_by_the_named_command(program: Path, name: str) -> None:
    """State that is still in `bot/` ends a command with exit code 2; the command in the message moves it."""
    (program / "bot" / name).write_text("former")
    refused = run("orders", settings=NO_SETTINGS, program=program, exit_code=2)
    assert str(program / "bot") in refused.text
    type_command(refused)
    assert not (program / "bot" / name).exists()
    assert (program / "state" / name).read_text() == "former"
    assert stat.S_IMODE((program / "state").stat().st_mode) == 0o700
    run("resume", settings=NO_SETTINGS, program=program)


def test_every_command_refuses_state_of_a_former_version(program: Path) -> None:
    """Each command ends with exit code 2 and the `mv` while a halt is at its former place."""
    assert set(COMMAND_LINES) == set(COMMANDS) - {"simulator"}
    (program / "bot" / "halt").touch()
    for line in COMMAND_LINES.values():
        refused = run(*line.split(), settings=NO_SETTINGS, program=program, exit_code=2)
        assert f"mv {program / 'bot' / 'halt'} {program / 'state'}" in refused.text
    assert not (program / "state").exists()


def test_what_is_in_both_places_is_moved_aside(program: Path) -> None:
    """A journal in `bot/` never takes the place of the one in `state/`, nor its log a place beside that."""
    former, state = program / "bot", program / "state"
    state.mkdir()
    (state / "journal.0a1b2c3d.sqlite").write_text("newer")
    for name in ("journal.0a1b2c3d.sqlite", "journal.0a1b2c3d.sqlite-wal", "halt"):
        (former / name).write_text("former")
    type_command(run("orders", settings=NO_SETTINGS, program=program, exit_code=2))
    assert {path.name: path.read_text() for path in state.iterdir() if path.is_file()} == {
        "journal.0a1b2c3d.sqlite": "newer",
        "halt": "former",
    }
    assert {path.name for path in (state / "former").iterdir()} == {
        "journal.0a1b2c3d.sqlite",
        "journal.0a1b2c3d.sqlite-wal",
    }
    run("resume", settings=NO_SETTINGS, program=program)


@pytest.mark.parametrize("folder", ["bot", "state"])
def test_a_halt_counts_under_both_places(program: Path, folder: str) -> None:
    """A running bot sends no order from the moment that `halt` is in `state/` or at its former place."""
    with trading_kraken(program) as kraken:
        settings = kraken.settings(STATE_DIR="", TIMEFRAME="1m")
        with running(settings=settings, until="filled: ", program=program) as bot:
            (program / folder / "halt").touch()
            bot.wait_for("^Halted: ")
            placed = kraken.request_methods.count("AddOrder")
            bot.wait_for(r"(entry|exit) refused \(halted\)")
            assert kraken.request_methods.count("AddOrder") == placed
            (program / folder / "halt").unlink()
            bot.wait_for("^The halt is lifted")


def test_a_bot_of_the_former_version_keeps_a_new_one_out(program: Path, tmp_path: Path) -> None:
    """While a bot of the former version runs on `bot/`, a new one is refused: for its files, and for the bot itself."""
    old = extract_old_version(tmp_path / "old")
    # Without a setting that version has its state in `bot/` of its own folder, as this setting says of ours.
    settings = {"STATE_DIR": str(program / "bot"), "PRICES": "synthetic"}
    with running(settings=settings, until="filled: ", program=old.folder) as former:
        former.send(signal.SIGSTOP)  # or it would write its journal again
        type_command(run(settings=NO_SETTINGS, program=program, exit_code=2))
        refused = run(settings=NO_SETTINGS, program=program, exit_code=6)
        assert f"process {former.pid} on" in refused.text


def test_a_bot_keeps_one_of_the_former_version_out(program: Path, tmp_path: Path) -> None:
    """While a bot runs with `state/`, a bot of the former version is refused on `bot/`."""
    old = extract_old_version(tmp_path / "old")
    with running(settings=NO_SETTINGS, until="filled: ", program=program):
        run(settings={"STATE_DIR": str(program / "bot"), "PRICES": "synthetic"}, program=old.folder, exit_code=6)


def test_a_script_has_its_journal_in_the_state_folder(program: Path, tmp_path: Path) -> None:
    """The broker of a script has its nonces in `bot/` and its journal in `state/`, and refuses one in `bot/`."""
    path = script_tools.write_script(tmp_path / "mine", SCRIPT)
    with local_kraken(program) as kraken:
        environment = {**script_tools.script_environment(kraken.simulator, program), "STATE_DIR": ""}
        result = script_tools.run_script(path, environment, program)
        assert result.returncode == 0, result.stderr
        journal = Path(journal_file_path(program / "state" / "any", kraken.simulator.key))
        assert journal.exists()
        assert stat.S_IMODE(journal.parent.stat().st_mode) == 0o700
        assert (program / "bot" / "kraken_nonce.txt").exists()
        os.rename(journal, program / "bot" / journal.name)
        result = script_tools.run_script(path, environment, program)
    assert f"mv {program / 'bot' / journal.name}" in result.stderr.splitlines()[-1]
    assert not journal.exists()

"""The state folder: private to its owner, refused if others can write it, and no symbolic link in it is followed."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bot.app.control_files import ENTRIES_PAUSED_FILE_NAME, create_control_file
from bot.base.paths import journal_file_path, key_file_path
from bot.base.shared_json import SharedJson
from bot.kraken.breaker_file import BreakerFile
from bot.nonce.file_store import FileStore
from bot.nonce.local_lock import Priority, RequestLock
from bot.orders.journal import Journal
from bot.simulator.storage import Storage
from tests.acceptance import script_tools
from tests.acceptance.local_kraken import FILLING, local_kraken, trading_kraken
from tests.acceptance.processes import run, running

# A script that trades, opens its circuit breaker, and exits with all files open.
SCRIPT = """
import os
from decimal import Decimal

from bot.broker_manager import NONCE_FILE, KrakenBroker
from bot.config import load_settings
from bot.base.paths import key_file_path
from bot.kraken.breaker_file import BreakerFile

settings = load_settings()
broker = KrakenBroker(settings.api_key, settings.api_secret, api_url=settings.api_url)
broker.connect()
broker.place_limit_order("BTC/USD", "buy", Decimal("0.001"), Decimal(1000))
BreakerFile(key_file_path(NONCE_FILE, settings.api_key, "silence")).trip(1, "")
os._exit(0)
"""


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    """Set the umask of processes started in this block."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    """Return the modes of a folder, named `.`, and of its files."""
    return {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.iterdir()]}


def assert_private(folder: Path, *names: str) -> None:
    """Fail if one of these files is missing, or any file is accessible to other users."""
    actual = modes(folder)
    assert set(names) <= set(actual)
    assert actual == dict.fromkeys(actual, 0o600) | {".": 0o700}


def key_files(folder: Path, key: str, *kinds: str) -> list[str]:
    """Return the names of a key's files."""
    return [Path(key_file_path(folder / "kraken_nonce.txt", key, kind)).name for kind in kinds]


def test_bot_files_are_private(state: Path) -> None:
    """With any umask the folder and each file of a live bot that has traded are private to the owner; no file contains
    the key or the secret.
    """
    with local_kraken(state, FILLING) as kraken, umask(0), running(settings=kraken.settings(), until="filled: buy"):
        journal = Path(journal_file_path(state / "kraken_nonce.txt", kraken.simulator.key)).name
        names_of_key = key_files(state, kraken.simulator.key, "lock", "gate", "refused", "budget")
        assert_private(
            state, "bot.json", "kraken_nonce.txt", journal, f"{journal}-wal", f"{journal}-shm", *names_of_key
        )
        contents = b"".join(path.read_bytes() for path in state.iterdir())
        assert kraken.simulator.key.encode() not in contents
        assert kraken.simulator.secret.encode() not in contents


def test_paper_account_files_are_private(state: Path) -> None:
    """With any umask the files of a paper account are private to the owner."""
    with umask(0), running(settings={"STATE_DIR": str(state)}, until="^Account: "):
        assert_private(state, "paper_synthetic.db", "paper_synthetic.db-wal")


def test_script_files_are_private(tmp_path: Path) -> None:
    """With any umask the files and folders that a script's broker creates are private to the owner."""
    state = tmp_path / "above" / "state"
    with local_kraken(state) as kraken:
        path = script_tools.write_script(tmp_path / "mine", SCRIPT)
        with umask(0):
            result = script_tools.run_script(path, script_tools.script_environment(kraken.simulator, state))
        assert result.returncode == 0, result.stderr
        journal = Path(journal_file_path(state / "kraken_nonce.txt", kraken.simulator.key)).name
        names_of_key = key_files(state, kraken.simulator.key, "lock", "gate", "refused", "budget", "silence")
        assert_private(state, "kraken_nonce.txt", journal, f"{journal}-wal", f"{journal}-shm", *names_of_key)
        assert stat.S_IMODE(state.parent.stat().st_mode) == 0o700


def use_every_file(state: Path) -> None:
    """Use a file of each kind, and close it."""
    FileStore(str(state / "nonce.txt")).next_nonce()
    SharedJson(str(state / "key.budget")).update(dict.copy)
    BreakerFile(str(state / "key.silence")).trip(1, "")
    Storage(state / "paper.db", "any prices").close()
    with closing(RequestLock(str(state / "key.lock"))) as request_lock, request_lock.hold(Priority.READ):
        pass
    with closing(Journal(str(state / "journal.sqlite"))) as journal:
        journal.orders()


def test_wider_file_modes_are_narrowed(state: Path) -> None:
    """Files of every kind with wider modes, as from a backup, are private to the owner after the next use."""
    names = ("nonce.txt", "key.budget", "key.silence", "paper.db", "key.lock", "key.gate", "journal.sqlite")
    use_every_file(state)
    for name in names:
        (state / name).chmod(0o666)
    use_every_file(state)
    assert_private(state, *names)


def test_world_writable_state_folder_is_refused(state: Path) -> None:
    """A world-writable state folder ends the start with one sentence and exit code 2, and stays empty."""
    state.mkdir()
    state.chmod(0o777)
    bot = run(settings={"STATE_DIR": str(state)}, exit_code=2)
    problem = "where every user of this machine can write: take that away with chmod o-w, or name another."
    assert bot.lines[1:] == [f"Stopped: STATE_DIR is {state}, {problem}"]
    assert list(state.iterdir()) == []


def test_symlinks_are_not_followed(state: Path, tmp_path: Path) -> None:
    """If all its files are symbolic links, a live bot does not change their targets, and reports the links."""
    outside = tmp_path / "outside"
    outside.mkdir()
    state.mkdir()
    with local_kraken(state, FILLING) as kraken:
        nonce_file = state / "kraken_nonce.txt"
        kinds = ("lock", "gate", "refused", "budget", "silence")
        journal = Path(journal_file_path(nonce_file, kraken.simulator.key))
        names = [nonce_file.name, "bot.json", journal.name, *key_files(state, kraken.simulator.key, *kinds)]
        for name in names:
            (outside / name).write_text("mine")
            (state / name).symlink_to(outside / name)
        with running(settings=kraken.settings(), until="Waiting: the journal") as bot:
            bot.wait_for(r"The nonce file .* cannot be written \(it is a symbolic link\)")
            bot.wait_for(r"Waiting: the journal .* \(it is a symbolic link\)")
            bot.send(signal.SIGTERM)
            bot.wait_for(r"^Ended: stopped\.$")
        assert "AddOrder" not in kraken.request_methods
    assert {path.name: path.read_text() for path in outside.iterdir()} == dict.fromkeys(names, "mine")


@pytest.mark.timeout(20)
def test_pausing_entries_does_not_block(tmp_path: Path) -> None:
    """With a FIFO in place of the file that pauses entries, its creation raises OSError at once."""
    os.mkfifo(tmp_path / ENTRIES_PAUSED_FILE_NAME)
    with pytest.raises(OSError, match=ENTRIES_PAUSED_FILE_NAME):
        create_control_file(tmp_path, ENTRIES_PAUSED_FILE_NAME)


def test_a_link_in_place_of_the_paper_account_is_refused(state: Path, tmp_path: Path) -> None:
    """A symbolic link in place of the paper account's WAL file ends the start with one sentence and exit code 2."""
    state.mkdir()
    (tmp_path / "mine").write_text("mine")
    link = state / "paper_synthetic.db-wal"
    link.symlink_to(tmp_path / "mine")
    bot = run(settings={"STATE_DIR": str(state)}, exit_code=2)
    assert [line for line in bot.lines if "paper_synthetic.db-wal is a symbolic link" in line] == [bot.lines[-1]]
    assert (tmp_path / "mine").read_text() == "mine"


def test_bot_ends_when_its_folder_is_replaced(state: Path) -> None:
    """A trading bot whose state folder is replaced ends with exit code 6 and reports why.

    It places no further order, and does not write its instance file to the new folder.
    """
    with trading_kraken(state) as kraken, running(settings=kraken.settings(TIMEFRAME="1m"), until="filled: ") as bot:
        state.rename(state.with_name("away"))
        state.mkdir(mode=0o700)
        placed = kraken.request_methods.count("AddOrder")
        assert bot.wait_and_check() == 6
        assert f"Stopped: the state folder {state} was moved, replaced or removed" in bot.text
        assert kraken.request_methods.count("AddOrder") == placed
        assert not (state / "bot.json").exists()
        kraken.check_account()

"""The file that `get_kraken_nonce` uses: NONCE_FILE, its default, and the files of keys in nanoseconds."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

import bot.broker_manager
from bot.base import clock
from bot.base.errors import NonceAheadError
from bot.base.paths import key_file_path
from bot.broker_manager import KrakenBroker, check_nonce_file, get_kraken_nonce
from tests.child_process import Child
from tests.conftest import ROOT

CHILDREN = "tests.stores.children"
SECRET = "a2V5"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the program, so that no `.env` of the person who runs the tests counts."""
    folder = tmp_path_factory.mktemp("program")
    for part in ("bot", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "kraken_nonce*"))
    return folder


def default_in(folder: Path, program: Path, **environment: str) -> str:
    """Return the default of NONCE_FILE in a process with this working directory."""
    variables = {"PYTHONPATH": str(program), **environment}
    with Child(CHILDREN, "print_default_nonce_file", limit_seconds=20, cwd=folder, environment=variables) as child:
        return child.read_line()


def test_a_new_setting_takes_effect_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Setting `bot.broker_manager.NONCE_FILE` takes effect with the next call, in both directions."""
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    for path in (first, second, first):
        monkeypatch.setattr(bot.broker_manager, "NONCE_FILE", str(path))
        assert path.exists() == (path == first and second.exists())
        nonce = get_kraken_nonce()
        assert path.read_text() == str(nonce)


def test_spellings_share_a_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two spellings of one path share the in-process floor: with the file destroyed, neither goes back."""
    (tmp_path / "state").mkdir()
    ahead = clock.wall_us() + 3_600_000_000
    monkeypatch.setattr(bot.broker_manager, "NONCE_FILE", str(tmp_path / "state" / "n.txt"))
    last = get_kraken_nonce(ahead)
    (tmp_path / "state" / "n.txt").write_text("")
    monkeypatch.setattr(bot.broker_manager, "NONCE_FILE", f"{tmp_path}/./state/../state/n.txt")
    assert get_kraken_nonce() == last + 1


def test_each_path_has_its_own_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A floor belongs to a path: another file's nonces do not start above it."""
    monkeypatch.setattr(bot.broker_manager, "NONCE_FILE", str(tmp_path / "one.txt"))
    ahead = get_kraken_nonce(clock.wall_us() + 3_600_000_000)
    monkeypatch.setattr(bot.broker_manager, "NONCE_FILE", str(tmp_path / "two.txt"))
    assert get_kraken_nonce() < ahead


def test_a_path_object_is_as_good_as_a_string(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NONCE_FILE may be a `pathlib.Path`, and shares the floor of the same path as text."""
    path = tmp_path / "n.txt"
    monkeypatch.setattr(bot.broker_manager, "NONCE_FILE", path)
    last = get_kraken_nonce(clock.wall_us() + 3_600_000_000)
    monkeypatch.setattr(bot.broker_manager, "NONCE_FILE", str(path))
    path.unlink()
    assert get_kraken_nonce() == last + 1


def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative NONCE_FILE keeps naming the file that it named first, whatever the working directory becomes."""
    monkeypatch.setattr(bot.broker_manager, "NONCE_FILE", f"{tmp_path.name}.txt")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    first = get_kraken_nonce()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert get_kraken_nonce() > first
    assert [path.name for path in tmp_path.rglob("*.txt")] == [f"{tmp_path.name}.txt"]


def test_the_default_follows_the_environment(tmp_path: Path, program: Path) -> None:
    """STATE_DIR wins over a mounted Railway volume, and that wins over bot/ beside main.py."""
    state, volume = str(tmp_path / "state"), str(tmp_path / "volume")
    assert default_in(tmp_path, program) == str(program / "bot" / "kraken_nonce.txt")
    assert default_in(tmp_path, program, RAILWAY_VOLUME_MOUNT_PATH=volume) == f"{volume}/kraken_nonce.txt"
    both = default_in(tmp_path, program, RAILWAY_VOLUME_MOUNT_PATH=volume, STATE_DIR=state)
    assert both == f"{state}/kraken_nonce.txt"


def test_the_default_follows_the_env_beside_main(tmp_path: Path, program: Path) -> None:
    """The `.env` beside main.py counts, its paths are relative to its folder, and the environment wins over it."""
    (program / ".env").write_text("STATE_DIR=state\n")
    try:
        assert default_in(tmp_path, program) == str(program / "state" / "kraken_nonce.txt")
        assert default_in(tmp_path, program, STATE_DIR=str(tmp_path)) == str(tmp_path / "kraken_nonce.txt")
    finally:
        (program / ".env").unlink()


def test_the_working_directory_means_nothing(tmp_path: Path, program: Path) -> None:
    """Neither the working directory nor a `.env` in it changes the default."""
    (tmp_path / ".env").write_text("STATE_DIR=wrong\n")
    (tmp_path / "kraken_nonce.txt").write_text("1")
    assert default_in(tmp_path, program) == str(program / "bot" / "kraken_nonce.txt")


def test_importing_makes_no_file(tmp_path: Path, program: Path) -> None:
    """Importing the module requests no nonce and creates no file."""
    default_in(tmp_path, program, STATE_DIR=str(tmp_path / "state"))
    assert list(tmp_path.iterdir()) == []


def test_at_least_goes_through(nonce_file: Path) -> None:
    """`get_kraken_nonce(at_least)` returns at least that, and raises where it is more than a day ahead."""
    ahead = clock.wall_us() + 3_600_000_000
    assert get_kraken_nonce(ahead) == ahead
    assert get_kraken_nonce() == ahead + 1
    with pytest.raises(NonceAheadError):
        get_kraken_nonce(clock.wall_us() + clock.DAY_US + 60_000_000)
    assert nonce_file.read_text() == str(ahead + 1)


def test_threads_share_one_sequence(nonce_file: Path) -> None:
    """Eight threads at once get different nonces, each thread rising, and the file holds the highest."""
    nonces: list[list[int]] = [[] for _ in range(8)]

    def request_nonces(thread_nonces: list[int]) -> None:
        thread_nonces.extend(get_kraken_nonce() for _ in range(500))

    threads = [threading.Thread(target=request_nonces, args=(thread_nonces,)) for thread_nonces in nonces]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = [nonce for thread_nonces in nonces for nonce in thread_nonces]
    assert len(set(together)) == len(together) == 4000
    assert all(thread_nonces == sorted(thread_nonces) for thread_nonces in nonces)
    assert nonce_file.read_text() == str(max(together))


@pytest.mark.usefixtures("nonce_file")
def test_accounts_share_one_sequence() -> None:
    """Two brokers with different keys share one rising sequence."""
    brokers = [KrakenBroker(key, SECRET, api_url="http://127.0.0.1:9") for key in ("KEY-A", "KEY-B")]
    nonces = [int(broker._nonce_monotonic()) for _ in range(10) for broker in brokers]
    assert nonces == sorted(set(nonces))


def test_a_key_in_nanoseconds_has_a_file_of_its_own(nonce_file: Path) -> None:
    """With nonce_unit ns nonces have 19 digits in the key's own file; the common file stays at 16 and rises too."""
    broker = KrakenBroker("KEY-NS", SECRET, api_url="http://127.0.0.1:9", nonce_unit="ns")
    own_file = Path(key_file_path(nonce_file, "KEY-NS", "txt"))
    common = 0
    for _ in range(10):
        nonce = int(broker._nonce_monotonic())
        assert len(str(nonce)) == 19
        assert own_file.read_text() == str(nonce)
        assert len(nonce_file.read_text()) == 16
        assert int(nonce_file.read_text()) > common
        common = int(nonce_file.read_text())


def test_the_key_does_not_stand_in_file_names(nonce_file: Path) -> None:
    """The files of a key are named by 8 hexadecimal digits of its hash, never by the key."""
    path = Path(key_file_path(nonce_file, "SECRET-KEY", "lock"))
    assert path.name == "kraken_nonce.04eda6b4.lock"
    assert path.parent == nonce_file.parent


def test_a_file_more_than_a_day_ahead_is_reported_before_the_first_call(nonce_file: Path) -> None:
    """`check_nonce_file` raises for a file two days ahead, with path and remedy, and not for one an hour ahead."""
    nonce_file.write_text(str(clock.wall_us() + clock.DAY_US // 24))
    check_nonce_file()
    nonce_file.write_text(str(clock.wall_us() + 2 * clock.DAY_US))
    with pytest.raises(NonceAheadError, match="new API key") as caught:
        check_nonce_file()
    assert str(nonce_file) in str(caught.value)

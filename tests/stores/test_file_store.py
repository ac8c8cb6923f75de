"""The rule of the file store on a healthy file: max(clock, last + 1, at_least), written before it is returned."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
from pathlib import Path
from types import FrameType

import pytest

from bot.base import clock
from bot.base.errors import NonceAheadError, NonceError, NonceStoreError
from bot.nonce import file_store
from bot.nonce.file_store import NANOSECONDS, RESTART_STEP_US, FileStore, open_file_store
from tests.stores.conftest import FrozenClock


def file_nonce(path: Path) -> int:
    """Return the number in the file; fail if the file holds anything else."""
    text = path.read_text("ascii")
    assert text == str(int(text))
    return int(text)


def test_the_first_nonce_is_the_clock(path: Path, frozen_clock: FrozenClock) -> None:
    """Without a file the first nonce is the clock in microseconds, and the file holds exactly its 16 digits."""
    assert FileStore(str(path)).next_nonce() == frozen_clock.us
    assert path.read_bytes() == b"%016d" % frozen_clock.us


@pytest.mark.parametrize("before", [-(10**12), -1, 0, 1, 10**6, 10**12])
@pytest.mark.parametrize("wanted", [None, -(10**9), -1, 0, 1, 2, 10**9])
def test_the_rule(path: Path, frozen_clock: FrozenClock, before: int, wanted: int | None) -> None:
    """After the first nonce every nonce is the highest of the clock, the last plus one, and at_least."""
    store = FileStore(str(path))
    store.next_nonce()
    last = frozen_clock.us + before
    path.write_text(str(last))
    floor = store._floor
    at_least = 0 if wanted is None else frozen_clock.us + wanted
    expected = max(frozen_clock.us, last + 1, floor + 1, at_least)
    assert store.next_nonce(at_least) == expected
    assert file_nonce(path) == expected


def test_the_file_holds_what_was_returned(path: Path) -> None:
    """After each of 500 nonces the file holds exactly the returned nonce, which is above the one before."""
    store = FileStore(str(path))
    last = 0
    for _ in range(500):
        nonce = store.next_nonce()
        assert nonce > last
        assert path.read_bytes() == str(nonce).encode()
        last = nonce


def test_a_day_ahead_is_the_limit(path: Path, frozen_clock: FrozenClock) -> None:
    """at_least may be a day ahead of the clock; one microsecond more raises and leaves the file unchanged."""
    store = FileStore(str(path))
    store.next_nonce()
    before = path.read_bytes()
    with pytest.raises(NonceAheadError):
        store.next_nonce(frozen_clock.us + clock.DAY_US + 1)
    assert path.read_bytes() == before
    assert store.next_nonce(frozen_clock.us + clock.DAY_US) == frozen_clock.us + clock.DAY_US


def test_a_refused_at_least_does_not_lock_the_file(path: Path, frozen_clock: FrozenClock) -> None:
    """After a refused request another descriptor can lock the file at once."""
    store = FileStore(str(path))
    store.next_nonce()
    with pytest.raises(NonceAheadError):
        store.next_nonce(frozen_clock.us + 2 * clock.DAY_US)
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_store_unlocks_after_each_nonce(path: Path) -> None:
    """Between two requests another descriptor can lock the file at once."""
    store = FileStore(str(path))
    store.next_nonce()
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("last", [10**16 - 1, 10**16 - 2, 10**16 - RESTART_STEP_US - 1])
def test_sixteen_digits_are_the_limit(path: Path, last: int) -> None:
    """Where the next nonce would have 17 digits `next_nonce` raises and the file is unchanged."""
    path.write_text(str(last))
    with pytest.raises(NonceStoreError, match="no higher nonce"):
        FileStore(str(path)).next_nonce()
    assert file_nonce(path) == last


def test_the_last_nonce_of_sixteen_digits(path: Path) -> None:
    """The highest number of 16 digits is still issued."""
    path.write_text(str(10**16 - 1 - RESTART_STEP_US - 1))
    assert FileStore(str(path)).next_nonce() == 10**16 - 1


def test_the_first_nonce_ahead_of_the_clock_skips_a_second(path: Path, frozen_clock: FrozenClock) -> None:
    """A store whose first request finds the file ahead of the clock continues from last + 1 s, then in steps of one."""
    last = frozen_clock.us + 5_000_000
    path.write_text(str(last))
    store = FileStore(str(path))
    assert store.next_nonce() == last + RESTART_STEP_US + 1
    assert store.next_nonce() == last + RESTART_STEP_US + 2


def test_the_first_nonce_behind_the_clock_skips_nothing(path: Path, frozen_clock: FrozenClock) -> None:
    """A store whose first request finds the file behind the clock starts from the clock."""
    path.write_text(str(frozen_clock.us - 1))
    assert FileStore(str(path)).next_nonce() == frozen_clock.us


def test_the_restart_step_applies_after_a_refused_at_least_too(path: Path, frozen_clock: FrozenClock) -> None:
    """A first request that raised issued nothing, so the next one still counts as the first."""
    last = frozen_clock.us + 5_000_000
    path.write_text(str(last))
    store = FileStore(str(path))
    with pytest.raises(NonceAheadError):
        store.next_nonce(frozen_clock.us + 2 * clock.DAY_US)
    assert store.next_nonce() == last + RESTART_STEP_US + 1


def test_next_nonce_in_a_signal_handler_raises(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler that calls `next_nonce` inside `next_nonce` gets NonceError; the outer call is not disturbed."""
    store = FileStore(str(path))
    store.next_nonce()
    caught: list[NonceError] = []

    def handler(_number: int, _frame: FrameType | None) -> None:
        try:
            store.next_nonce()
        except NonceError as error:
            caught.append(error)

    pwrite = os.pwrite

    def interrupted(descriptor: int, data: bytes, offset: int) -> int:
        signal.raise_signal(signal.SIGUSR1)
        return pwrite(descriptor, data, offset)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        monkeypatch.setattr(os, "pwrite", interrupted)
        nonce = store.next_nonce()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(caught) == 1
    assert file_nonce(path) == nonce
    monkeypatch.undo()
    assert store.next_nonce() > nonce


def test_a_new_file_is_private(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new nonce file has mode 0600 from the moment of its creation, whatever the umask allows."""
    monkeypatch.setattr(os, "fchmod", None)  # a later fchmod would leave a moment in between
    before = os.umask(0)
    try:
        FileStore(str(path)).next_nonce()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_open_file_of_ours_becomes_private(path: Path) -> None:
    """An own nonce file that others could read or write gets mode 0600 with the first nonce."""
    path.write_text("1700000000000000")
    path.chmod(0o664)
    FileStore(str(path)).next_nonce()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    """A missing folder of the nonce file is created with access for its owner only."""
    path = tmp_path / "state" / "kraken_nonce.txt"
    nonce = FileStore(str(path)).next_nonce()
    assert file_nonce(path) == nonce
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


class Calls:
    """Counts the calls of a function of `os` and passes them on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.descriptors: list[bool] = []
        self._original = getattr(os, name)
        monkeypatch.setattr(os, name, self)

    def __call__(self, descriptor: int) -> None:
        self.descriptors.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        self._original(descriptor)

    @property
    def count(self) -> int:
        """Return the number of calls."""
        return len(self.descriptors)


def test_the_folder_is_synced_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Creating the file syncs the folder exactly once; an existing file does not sync it."""
    calls = Calls(monkeypatch, "fsync")
    store = FileStore(str(path))
    for _ in range(10):
        store.next_nonce()
    assert sum(calls.descriptors) == 1
    FileStore(str(path)).next_nonce()
    assert sum(calls.descriptors) == 1


def test_behind_the_clock_it_syncs_once_a_second(
    path: Path, frozen_clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the nonce is the clock, 50 nonces over 5 seconds sync 5 times: once a second."""
    calls = Calls(monkeypatch, "fdatasync")
    store = FileStore(str(path))
    for _ in range(50):
        store.next_nonce()
        frozen_clock.advance(0.1)
    assert calls.count == 5


def test_ahead_of_the_clock_it_always_syncs(
    path: Path, frozen_clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the nonce is ahead of the clock, every nonce is synced before it is returned."""
    store = FileStore(str(path))
    store.next_nonce(frozen_clock.us + 1_000_000)
    calls = Calls(monkeypatch, "fdatasync")
    for number in range(1, 21):
        store.next_nonce()
        assert calls.count == number


def test_one_descriptor_is_kept_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first nonce no file is opened any more."""
    store = FileStore(str(path))
    store.next_nonce()

    def refuse(*_arguments: object, **_options: object) -> int:
        raise AssertionError("opened again")

    monkeypatch.setattr(os, "open", refuse)
    for _ in range(10):
        store.next_nonce()


def test_a_lock_that_is_never_released_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another process never unlocks the file, `next_nonce` raises NonceStoreError, and works again afterwards."""
    monkeypatch.setattr(file_store, "LOCK_TIMEOUT_SECONDS", 0.05)
    store = FileStore(str(path))
    last = store.next_nonce()
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(NonceStoreError, match="another process"):
            store.next_nonce()
        assert file_nonce(path) == last
    assert store.next_nonce() > last


def test_peek_changes_nothing(path: Path) -> None:
    """`peek` returns the number in the file, or None without one, and changes neither file nor floor."""
    store = FileStore(str(path))
    assert store.peek() is None
    assert not path.exists()
    nonce = store.next_nonce()
    assert store.peek() == nonce
    assert file_nonce(path) == nonce


def test_the_clock_of_kraken_is_the_clock(path: Path) -> None:
    """Once the machine's clock was found wrong, nonces start from Kraken's time."""
    kraken_seconds = clock.wall_seconds() + 3600
    clock.nonce_clock.follow_kraken(kraken_seconds)
    nonce = FileStore(str(path)).next_nonce()
    assert 0 <= nonce - int(kraken_seconds * 1_000_000) < 60_000_000


def test_nanoseconds_have_nineteen_digits(path: Path, frozen_clock: FrozenClock) -> None:
    """A store in nanoseconds starts from the clock in nanoseconds, with 19 digits."""
    assert FileStore(str(path), NANOSECONDS).next_nonce() == frozen_clock.us * 1000
    assert len(path.read_bytes()) == 19


def test_spellings_of_a_path_are_one_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All spellings of one path (relative, with dots, through a link to the folder) give the same store."""
    (tmp_path / "state").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "state")
    monkeypatch.chdir(tmp_path)
    spellings: list[str | Path] = [
        tmp_path / "state" / "n.txt",
        "state/n.txt",
        f"{tmp_path}/state/../state/./n.txt",
        str(tmp_path / "link" / "n.txt"),
    ]
    assert len({id(open_file_store(spelling)) for spelling in spellings}) == 1
    assert open_file_store(tmp_path / "other.txt") is not open_file_store(spellings[0])

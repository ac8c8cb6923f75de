"""Restarts with every kind of clock: a restart is a new store, or a new process, on the same file."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import freezegun
import pytest

import bot.broker_manager
from bot.base import clock
from bot.nonce.file_store import RESTART_STEP_US, FileStore
from tests.child_process import Child

START = dt.datetime(2026, 11, 22, 12, 0, 0, tzinfo=dt.UTC)
STEPS = {
    "frozen": dt.timedelta(0),
    "back 2 s": dt.timedelta(seconds=-2),
    "back a day": dt.timedelta(days=-1),
    "forward 2 s": dt.timedelta(seconds=2),
    "forward a year": dt.timedelta(days=365),
}
each_step = pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())


def expected_first(last: int) -> int:
    """Return the expected first nonce of a restarted program: the clock, or a second above the file."""
    now = clock.wall_us()
    return now if last < now else last + RESTART_STEP_US + 1


@each_step
def test_a_restart_goes_on_above_the_last(path: Path, step: dt.timedelta) -> None:
    """After a restart with any clock the store continues above its last nonce: at the clock, or a second above the
    file."""
    with freezegun.freeze_time(START) as frozen:
        store = FileStore(str(path))
        last = [store.next_nonce() for _ in range(10)][-1]
        frozen.move_to(START + step)
        restarted = FileStore(str(path))
        first = restarted.next_nonce()
        assert first == expected_first(last)
        assert first > last
        assert [restarted.next_nonce() for _ in range(10)] == list(range(first + 1, first + 11))
        assert path.read_text() == str(first + 10)


@each_step
def test_the_clock_steps_under_a_running_store(path: Path, step: dt.timedelta) -> None:
    """Without a restart only a forward step of the clock changes the next nonce: max(clock, last + 1)."""
    with freezegun.freeze_time(START) as frozen:
        store = FileStore(str(path))
        last = [store.next_nonce() for _ in range(10)][-1]
        frozen.move_to(START + step)
        assert store.next_nonce() == max(clock.wall_us(), last + 1)


@each_step
def test_the_public_function_follows_the_same_rule(nonce_file: Path, step: dt.timedelta) -> None:
    """`get_kraken_nonce` rises over any step of the clock and writes what it returns."""
    with freezegun.freeze_time(START) as frozen:
        nonces = [bot.broker_manager.get_kraken_nonce() for _ in range(10)]
        frozen.move_to(START + step)
        nonces += [bot.broker_manager.get_kraken_nonce() for _ in range(10)]
    assert nonces == sorted(set(nonces))
    assert nonce_file.read_text() == str(nonces[-1])


def test_twenty_restarts_while_the_clock_goes_back(path: Path) -> None:
    """Twenty restarts, each with the clock an hour further back, never issue a nonce twice or a lower one."""
    nonces = []
    with freezegun.freeze_time(START) as frozen:
        for number in range(20):
            frozen.move_to(START - dt.timedelta(hours=number))
            store = FileStore(str(path))
            nonces += [store.next_nonce() for _ in range(3)]
    assert nonces == sorted(set(nonces))


def test_a_year_ahead_and_back(path: Path) -> None:
    """One boot in a wrong year raises the floor, and no restart with the right clock goes below it."""
    with freezegun.freeze_time(START + dt.timedelta(days=365)):
        highest = FileStore(str(path)).next_nonce()
    with freezegun.freeze_time(START):
        assert FileStore(str(path)).next_nonce() == highest + RESTART_STEP_US + 1


def _by_hours(hours: int) -> Callable[[int], int]:
    return lambda now_us: now_us + hours * 3_600_000_000


@pytest.mark.parametrize("shift", [_by_hours(0), _by_hours(-30), _by_hours(20)], ids=["now", "30 h ago", "20 h ahead"])
def test_a_new_process_goes_on(path: Path, shift: Callable[[int], int]) -> None:
    """A new process continues above the number in the file, whether that is behind its clock or ahead of it."""
    last = shift(clock.wall_us())
    path.write_text(str(last))
    nonces = []
    for _ in range(2):
        with Child("tests.stores.children", "print_next_nonce", path, limit_seconds=20) as child:
            nonces += [int(line) for line in child.read_to_end()]
        assert path.read_text() == str(nonces[-1])
    assert last < nonces[0] < nonces[1]


def test_a_lost_file_and_a_restart_leave_only_the_clock(path: Path) -> None:
    """Not guaranteed: after a lost file and a restart the nonce is the clock, whatever was issued before."""
    with freezegun.freeze_time(START):
        FileStore(str(path)).next_nonce()
    path.unlink()
    before = START - dt.timedelta(hours=1)
    with freezegun.freeze_time(before):
        assert FileStore(str(path)).next_nonce() == int(before.timestamp()) * 1_000_000

"""The nonce survives the program: the first suite of the original design, against the real implementation.

The file can also be run directly: `python tests/test_nonce_persistence.py` ends with 0 if everything holds, else with
1.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import pytest

import bot.broker_manager
from bot.broker_manager import get_kraken_nonce

DRAW = "import sys; from bot import broker_manager as b; b.NONCE_FILE = sys.argv[1]; print(b.get_kraken_nonce())"


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Take the nonces from a file of the test's own, never from the user's."""
    path = tmp_path / "kraken_nonce.txt"
    monkeypatch.setattr(bot.broker_manager, "NONCE_FILE", str(path))
    return path


def draw_in_a_new_process(path: Path) -> int:
    """Start the program anew, take one nonce there and return it."""
    with tempfile.TemporaryDirectory() as elsewhere:
        answer = subprocess.run(
            [sys.executable, "-c", DRAW, str(path)],
            cwd=elsewhere,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    return int(answer.stdout)


def test_the_first_call_makes_the_file(path: Path) -> None:
    """The first call returns an int and creates a file that holds exactly that number."""
    assert not path.exists()
    nonce = get_kraken_nonce()
    assert type(nonce) is int
    assert path.read_text() == str(nonce)


def test_the_second_call_is_higher_and_rewrites_the_file(path: Path) -> None:
    """The second call returns a higher number, and the file holds that one."""
    first = get_kraken_nonce()
    second = get_kraken_nonce()
    assert second > first
    assert path.read_text() == str(second)


def test_a_restarted_program_goes_on(path: Path) -> None:
    """New processes, one after the other, get nonces above the file, and so does the process that stayed."""
    drawn = [get_kraken_nonce(), draw_in_a_new_process(path), draw_in_a_new_process(path)]
    assert path.read_text() == str(drawn[-1])
    drawn.append(get_kraken_nonce())
    assert drawn == sorted(set(drawn))


def test_a_restarted_program_goes_on_above_a_clock_that_is_behind(path: Path) -> None:
    """When the file is an hour ahead of the clock, a new process gets a nonce above the file and not from the clock."""
    last = get_kraken_nonce(time.time_ns() // 1000 + 3_600_000_000)
    assert draw_in_a_new_process(path) > last


def test_ten_rapid_calls(path: Path) -> None:
    """Ten calls in a row give ten rising numbers, and the file holds the last of them."""
    drawn = [get_kraken_nonce() for _ in range(10)]
    assert drawn == sorted(set(drawn))
    assert path.read_text() == str(drawn[-1])


def test_higher_after_time_has_passed(path: Path) -> None:
    """Once the clock has moved on, the nonce is higher and has caught up with the clock."""
    first = get_kraken_nonce()
    while time.time_ns() // 1000 <= first:
        pass
    now = time.time_ns() // 1000
    second = get_kraken_nonce()
    assert second >= now > first
    assert path.read_text() == str(second)


if __name__ == "__main__":
    sys.exit(min(1, pytest.main([__file__, "--quiet", "-p", "no:cacheprovider"])))

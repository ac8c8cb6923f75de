"""The security audit: bandit's findings, the reason for each ignore, and the packages that the locks let in."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

IGNORE = re.compile(r"# nosec\b(?P<rest>.*)")
# In bandit's format, with the reason that bandit itself does not require.
IGNORE_REASON = re.compile(r" (?P<rules>B\d{3}(?:,B\d{3})*) # (?:noqa: \S+ - )?\w+ \w+.*")
LOCKS = sorted((ROOT / ".ci" / "locked").glob("*.txt"))
REQUIREMENT = re.compile(r"[a-z0-9-]+(\[[a-z0-9,-]+\])?==[0-9][0-9a-z.+]*( ; [^\\]+)?")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def bandit(*words: str) -> list[dict[str, object]]:
    """Return bandit's findings in the program, at every level, with the settings in pyproject.toml."""
    command = [
        sys.executable,
        "-m",
        "bandit",
        "-c",
        "pyproject.toml",
        "-q",
        "-f",
        "json",
        *words,
        "-r",
        "main.py",
        "bot",
    ]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    report = json.loads(ended.stdout)
    assert report["errors"] == []
    assert report["metrics"]["_totals"]["loc"] > 10_000
    found: list[dict[str, object]] = report["results"]
    return found


def nosec_comments() -> dict[tuple[str, int], str]:
    """Return for each ignored line of the program the text after `# nosec`."""
    return {
        (str(path.relative_to(ROOT)), number): match["rest"]
        for path in [ROOT / "main.py", *sorted((ROOT / "bot").rglob("*.py"))]
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if (match := IGNORE.search(line))
    }


def test_every_bandit_finding_has_a_reason() -> None:
    """Bandit has no finding except those ignored by number with a reason beside them, and no ignore is superfluous."""
    skip_list = re.search(
        r"^skips = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    assert skip_list is not None
    assert [line for line in skip_list[1].splitlines() if not re.fullmatch(r' +"B\d{3}", # \S+ .+', line)] == []
    comments = nosec_comments()
    assert [(place, rest) for place, rest in comments.items() if not IGNORE_REASON.fullmatch(rest)] == []
    unused, found = dict(comments), []
    for finding in bandit("--ignore-nosec"):
        lines = finding["line_range"]
        assert isinstance(lines, list)
        places = [(str(finding["filename"]), line) for line in lines]
        matching = [place for place in places if str(finding["test_id"]) in comments.get(place, "")]
        found += [] if matching else [f"{places[0]}: {finding['test_id']} {finding['issue_text']}"]
        for place in matching:
            unused.pop(place, None)
    assert found == []
    assert unused == {}


def requirements(lock: Path) -> list[str]:
    """Return the requirements of a lock, each as one line, without comments."""
    lines = [line.partition("#")[0].strip() for line in lock.read_text("utf-8").splitlines()]
    return re.sub(r"\\\n", "", "\n".join(filter(None, lines))).splitlines()


def test_lock_files_are_the_expected_ones() -> None:
    """There is a lock for building, running, stores, development, locking and the vulnerability look-up, and no
    other."""
    assert [lock.stem for lock in LOCKS] == ["audit", "build", "dev", "lock", "run", "stores"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_locked_package_has_hashes(lock: Path) -> None:
    """Each line of a lock is one package in one version with its hashes: no address, no option, no bare name."""
    assert requirements(lock)
    for entry in requirements(lock):
        requirement, *hashes = re.split(r" +(?=--hash=)", entry)
        assert REQUIREMENT.fullmatch(requirement), entry[:200]
        assert hashes, requirement
        assert all(HASH.fullmatch(one) for one in hashes), requirement

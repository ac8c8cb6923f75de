"""The program of an earlier commit, beside the one under test: its folder, and its names of settings."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import ROOT

# The last commit before the modules moved.
OLD_COMMIT = "c70f41a"
# The settings that have another name there, by their name here.
OLD_NAMES = {
    "COOLDOWN_SECONDS": "LOSS_PAUSE_SECONDS",
    "ENTRY_TTL_SECONDS": "ENTRY_LIFETIME_SECONDS",
    "MAX_SLIPPAGE_PERCENT": "MARKET_COLLAR_PERCENT",
    "PRICE_SOURCE": "PRICES",
    "SKIP_OVERLAP_WAIT": "SINGLE_INSTANCE",
    "STOP_LOSS_PERCENT": "STOP_PERCENT",
}


@dataclass(frozen=True, slots=True)
class Version:
    """The folder of a version's main.py; `names` maps settings of today to its names."""

    folder: Path = ROOT
    names: Mapping[str, str] = field(default_factory=dict)
    # The option of `run` that keeps the bot running through transient errors.
    forever: str = "--forever"

    def rename_settings(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Return settings under the names that this version knows."""
        return {self.names.get(name, name): value for name, value in settings.items()}


HERE = Version()


def extract_old_version(folder: Path) -> Version:
    """Extract the old version into a folder; fail where this clone does not have the commit."""
    parts = ("bot", "main.py", "docs/other-programs.md")
    archive = subprocess.run(["git", "archive", OLD_COMMIT, *parts], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.fail(
            f"this clone does not have the commit {OLD_COMMIT}, whose program is the old instance of this test: "
            "fetch the whole history (git fetch --unshallow)",
            pytrace=False,
        )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return Version(folder, OLD_NAMES, forever="--stay")

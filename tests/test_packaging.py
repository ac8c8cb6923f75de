"""The package that pip builds from pyproject.toml: every file of the program, no state, and where it may run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.acceptance.processes import isolated_settings
from tests.conftest import ROOT

BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
START = "from bot.cli.start import start; start()"
NEXT_NONCE = "from bot.broker_manager import get_kraken_nonce; print(get_kraken_nonce())"
TIMEOUT_SECONDS = 60.0


@pytest.fixture(scope="module")
def site_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the package of a clone in which a bot has run, and unpack it as pip does."""
    clone = tmp_path_factory.mktemp("clone")
    for name in ("LICENSE", "README.md", "main.py", "pyproject.toml"):
        shutil.copy(ROOT / name, clone)
    shutil.copytree(ROOT / "bot", clone / "bot", ignore=shutil.ignore_patterns("__pycache__"))
    (clone / "state").mkdir()
    for name in ("bot/kraken_nonce.txt", "bot/halt", "bot/journal.0a1b2c3d.sqlite", "state/paper_live.db"):
        (clone / name).write_text("state")
    built = subprocess.run(
        [sys.executable, "-c", BUILD, str(clone)],
        cwd=clone,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    folder = tmp_path_factory.mktemp("python") / "site-packages"
    with zipfile.ZipFile(clone / built.stdout.splitlines()[-1]) as wheel:
        wheel.extractall(folder)
    return folder


def run_code(code: str, *arguments: str, site_packages: Path, state: str = "") -> subprocess.CompletedProcess[str]:
    """Run code with the installed package in a folder where nothing else is found."""
    python = {"PYTHONPATH": str(site_packages), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd="/",
        env={**os.environ, **isolated_settings({"STATE_DIR": state}), **python},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def test_the_package_has_the_program_and_nothing_else(site_packages: Path) -> None:
    """The package has each file of the program in git: modules, templates, static files, scripts of the stores; no
    file of a state, and no other package.
    """
    listing = subprocess.run(["git", "ls-files", "bot"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    files = {str(path.relative_to(site_packages)) for path in site_packages.rglob("*") if path.is_file()}
    assert {path for path in files if ".dist-info/" not in path} == set(listing.stdout.split())


@pytest.mark.parametrize("command", ["run", "check", "status", "orders", "paper reset"])
def test_an_installed_package_needs_a_state_folder(site_packages: Path, command: str) -> None:
    """Without STATE_DIR each command of an installed package ends with exit code 2, says why, and writes nothing."""
    before = sorted(site_packages.rglob("*"))
    ended = run_code(START, *command.split(), site_packages=site_packages)
    assert ended.returncode == 2, ended.stderr
    assert "STATE_DIR is not set" in ended.stdout
    assert str(site_packages) in ended.stdout
    assert sorted(site_packages.rglob("*")) == before


def test_an_installed_package_runs_with_a_state_folder(site_packages: Path, tmp_path: Path) -> None:
    """With STATE_DIR an installed package has all state there."""
    ended = run_code(START, "--cycles", "1", site_packages=site_packages, state=str(tmp_path / "state"))
    assert ended.returncode == 0, ended.stdout
    assert {"kraken_nonce.txt", "paper_synthetic.db"} < {path.name for path in (tmp_path / "state").iterdir()}
    assert not list(site_packages.rglob("kraken_nonce*"))


def test_a_script_on_an_installed_package_gets_no_nonce(site_packages: Path, tmp_path: Path) -> None:
    """Without STATE_DIR `get_kraken_nonce` of an installed package raises SettingsError: the bot has another file."""
    ended = run_code(NEXT_NONCE, site_packages=site_packages)
    assert ended.returncode == 1
    assert "SettingsError: STATE_DIR is not set" in ended.stderr.splitlines()[-1]
    assert run_code(NEXT_NONCE, site_packages=site_packages, state=str(tmp_path)).returncode == 0

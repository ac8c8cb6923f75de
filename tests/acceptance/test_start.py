"""`python main.py` on a Python that is too old, or without a package: one sentence, exit code 2, no traceback."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.acceptance.processes import isolated_settings
from tests.conftest import ROOT

TIMEOUT_SECONDS = 45.0
OLD_VERSIONS = ("2.7", "3.4", "3.5", "3.6", "3.7", "3.8", "3.9", "3.10")
# What a Python does on its start where it finds this module: it takes itself for another version.
PRETEND_TO_BE_OLD = "import sys\nsys.version = '3.10.99 (simulated)'\nsys.version_info = (3, 10, 99, 'final', 0)\n"


def run_main(
    command: list[str], *arguments: str, program: Path = ROOT, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run main.py to its end with an interpreter's command line."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [*command, str(program / "main.py"), *arguments],
        cwd="/",
        env={**variables, **isolated_settings({}), **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


# Old interpreters


def old_interpreters() -> Iterator[tuple[str, str]]:
    """Yield each older Python on PATH, or kept by pyenv, that starts: its file and its version."""
    folders = [*os.get_exec_path(), *map(str, Path.home().glob(".pyenv/versions/*/bin"))]
    for version in OLD_VERSIONS:
        paths = (shutil.which(f"python{version}", path=folder) for folder in folders)
        for path in filter(None, paths):
            code = "import sys; sys.stdout.write(sys.version.split()[0])"
            started = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False)
            # A launcher of a version manager may be there without any such Python behind it.
            if started.returncode == 0:
                yield path, started.stdout
                break


def required_python() -> str:
    """Return the oldest Python that pyproject.toml allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return str(project["requires-python"]).removeprefix(">=")


def assert_version_sentence(ended: subprocess.CompletedProcess[str], version: str) -> None:
    """Fail unless main.py ended with 2 and one line that names the Python that is needed and this version."""
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == ""
    [line] = ended.stderr.splitlines()
    assert f"needs Python {required_python()} or newer" in line
    assert f"this is Python {version}:" in line


def test_a_python_that_takes_itself_for_an_old_one_is_refused(tmp_path: Path) -> None:
    """A Python whose version says 3.10 gets the sentence, on any machine."""
    (tmp_path / "sitecustomize.py").write_text(PRETEND_TO_BE_OLD, "ascii")
    ended = run_main([sys.executable], "--help", environment={"PYTHONPATH": str(tmp_path)})
    assert_version_sentence(ended, "3.10.99")


def test_every_old_python_of_this_machine_is_refused() -> None:
    """Each older Python that is found here reads main.py and gets the sentence."""
    for path, version in old_interpreters():
        assert_version_sentence(run_main([path], "--help"), version)


def test_main_parses_on_old_pythons() -> None:
    """main.py has no syntax newer than Python 3.4, which is as far back as the parser here can look."""
    source = (ROOT / "main.py").read_text("ascii")
    ast.parse(source, feature_version=(3, 4))
    with pytest.raises(SyntaxError):
        ast.parse("x: int = 1", feature_version=(3, 4))
    assert "__future__" not in source


# Missing packages


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """Return a folder with a link to each installed package, for a test to take one away."""
    folder = tmp_path / "packages"
    folder.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if path.suffix != ".pth":
            (folder / path.name).symlink_to(path)
    return folder


def assert_package_sentence(ended: subprocess.CompletedProcess[str], package: str) -> None:
    """Fail unless main.py ended with 2 and one line that names the package and what installs it."""
    assert ended.returncode == 2, ended.stderr
    [line] = ended.stderr.splitlines()
    assert line.startswith(f"The package {package} is missing")
    assert "`make run`" in line
    assert "`python -m pip install .`" in line


def test_a_python_without_any_package_gets_one_sentence() -> None:
    """Without any installed package main.py names one that pyproject.toml asks for."""
    ended = run_main([sys.executable, "-S"], "--help")
    named = re.match(r"The package (\S+) ", ended.stderr)
    assert named is not None, ended.stderr
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    assert named[1] in {re.split(r"[<>=]", dependency)[0] for dependency in dependencies}
    assert_package_sentence(ended, named[1])


@pytest.mark.parametrize(
    ("module", "package"),
    [
        ("krakenex", "krakenex"),
        ("dotenv", "python-dotenv"),
        ("certifi", "certifi"),
        ("requests", "requests"),
    ],
)
def test_a_missing_package_is_named(packages: Path, module: str, package: str) -> None:
    """With one package missing, also one that another package needs, main.py names it before it does anything."""
    (packages / module).unlink()
    ended = run_main([sys.executable, "-S"], "check", environment={"PYTHONPATH": str(packages)})
    assert_package_sentence(ended, package)
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("module", "package"),
    [
        ("jinja2", "jinja2"),
        ("prometheus_client", "prometheus-client"),
        ("starlette", "starlette"),
        ("uvicorn", "uvicorn"),
    ],
)
def test_a_missing_package_of_the_dashboard_is_named(tmp_path: Path, packages: Path, module: str, package: str) -> None:
    """What only the dashboard needs is named by a run that opens it, and not missed by one without."""
    (packages / module).unlink()
    environment = {"PYTHONPATH": str(packages), "STATE_DIR": str(tmp_path / "state")}
    assert run_main([sys.executable, "-S"], "nonce", "show", environment=environment).returncode == 0
    ended = run_main([sys.executable, "-S"], "run", environment={**environment, "PORT": ""})
    assert_package_sentence(ended, package)


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("import bot.no_such_module", "ModuleNotFoundError: No module named 'bot.no_such_module'"),
        ("from bot.base.clock import no_such_name", "ImportError: cannot import name 'no_such_name'"),
        ("from os import no_such_name", "ImportError: cannot import name 'no_such_name' from 'os'"),
    ],
)
def test_a_faulty_import_of_our_own_is_no_missing_package(tmp_path: Path, statement: str, error: str) -> None:
    """An import in the bot that can never work ends with its traceback, as every fault in the program does."""
    ignore = shutil.ignore_patterns("__pycache__", "*.txt", "*.sqlite*")
    shutil.copytree(ROOT / "bot", tmp_path / "bot", ignore=ignore)
    shutil.copy(ROOT / "main.py", tmp_path)
    with (tmp_path / "bot" / "cli" / "run.py").open("a", encoding="ascii") as module:
        module.write(f"\n{statement}\n")
    ended = run_main([sys.executable], "--help", program=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.startswith("Traceback")
    assert error in ended.stderr.splitlines()[-1]
    assert "make run" not in ended.stderr

"""The pages on settings and running agree with the program: defaults, ranges, commands, samples, files."""

from __future__ import annotations

import re
import signal
import subprocess
from decimal import Decimal
from pathlib import Path

import dotenv
import pytest

from bot.base.errors import SettingsError
from bot.base.models import Candle, Pair
from bot.base.timeframes import TIMEFRAMES
from bot.cli.parser import parse_arguments
from bot.config import DEFAULTS, LOG_FORMATS, TRADING_MODES, load_settings
from bot.kraken.rate_counters import TIERS
from bot.nonce.file_store import UNITS
from bot.trading import strategies
from bot.trading.strategies.base import Strategy, StrategyContext
from tests.child_process import Child
from tests.conftest import ROOT
from tests.pages import backquoted, code_blocks, first_names, read_page, read_section, rows

# Settings


def settings_rows() -> dict[str, list[str]]:
    """Return the rows of the settings tables by name."""
    return {backquoted(line[0])[0]: line for line in rows(read_section("docs/configuration.md", "Settings"))}


def test_configuration_page_lists_every_setting() -> None:
    """docs/configuration.md has every setting once, with its default."""
    names = first_names(read_section("docs/configuration.md", "Settings"))
    assert sorted(names) == sorted(DEFAULTS)
    assert {name: line[1].strip("`") for name, line in settings_rows().items()} == DEFAULTS


def test_example_file_lists_every_setting() -> None:
    """.env.example has every setting once, commented out, with its default and a line before it."""
    lines = read_page(".env.example").splitlines()
    given = [number for number, line in enumerate(lines) if re.match(r"#[A-Z_]+=", line)]
    assert [line for line in lines if line and not line.startswith("#")] == []
    assert all(re.match(r"# \S.*[.:]$", lines[number - 1]) for number in given)
    assert sorted(lines[number][1:].partition("=")[0] for number in given) == sorted(DEFAULTS)


def test_example_file_equals_the_defaults(tmp_path: Path) -> None:
    """.env.example with its settings in force means the same as no settings at all."""
    path = tmp_path / ".env"
    path.write_text(re.sub(r"^#(?=[A-Z_]+=)", "", read_page(".env.example"), flags=re.MULTILINE))
    values = {name: value or "" for name, value in dotenv.dotenv_values(path).items()}
    assert values == DEFAULTS
    assert load_settings({name: value for name, value in values.items() if value}) == load_settings({})


def test_documented_choices_match_the_code() -> None:
    """Where docs/configuration.md lists the values of a setting, the list is complete."""
    known = {
        "TRADING_MODE": TRADING_MODES,
        "KRAKEN_TIER": TIERS,
        "NONCE_UNIT": UNITS,
        "TIMEFRAME": TIMEFRAMES,
        "STRATEGY": strategies.STRATEGIES,
        "LOG_FORMAT": LOG_FORMATS,
    }
    lists = {name: backquoted(line[2]) for name, line in settings_rows().items() if backquoted(line[2])}
    del lists["PRICE_SOURCE"]
    assert {name: allowed for name, allowed in lists.items() if allowed != ["0", "1"]} == {
        name: list(words) for name, words in known.items()
    }


def problems(name: str, value: str) -> list[str]:
    """Return the problems of one value of a setting."""
    try:
        load_settings({name: value}, strategies.STRATEGIES)
    except SettingsError as error:
        return [problem for problem in error.problems if problem.startswith(f"{name} is ")]
    return []


@pytest.mark.parametrize("name", [name for name, line in settings_rows().items() if " to " in line[2]])
def test_documented_ranges_match_the_code(name: str) -> None:
    """A range in docs/configuration.md is exact: its limits are allowed and values beyond them are not, except a 0
    before the range."""
    numbers = settings_rows()[name][2].removeprefix("0, or ")
    minimum, maximum = (Decimal(number) for number in numbers.split(" to "))
    assert problems(name, f"{minimum}") + problems(name, f"{maximum}") == []
    assert all(problems(name, f"{out_of_range}") for out_of_range in (minimum - Decimal("0.0001"), maximum + 1))


def test_documented_examples_are_valid() -> None:
    """Every example in docs/configuration.md is a valid value of its setting, and a switch is 0 or 1."""
    for name, line in settings_rows().items():
        values = backquoted(line[3]) + (["0", "1"] if line[2] == "`0` or `1`" else [])
        if not name.endswith("_FILE"):
            assert [problem for value in values for problem in problems(name, value)] == []
    assert all(problems(name, "2") for name, line in settings_rows().items() if line[2] == "`0` or `1`")


def test_documented_strategy_works() -> None:
    """The strategy in docs/configuration.md buys a fall of five percent and sells a rise of ten."""
    scope: dict[str, type[Strategy]] = {}
    exec(code_blocks(read_section("docs/configuration.md", "Strategies"), "python")[0], scope)  # noqa: S102 - our own page
    strategy = scope["BuyTheDip"]()
    fallen = strategy.decide(_view("100", "95", quantity="0"))
    risen = strategy.decide(_view("109", "110", quantity="0.5"))
    assert [(order.kind, order.price, order.quantity) for order in fallen] == [("entry", Decimal(95), Decimal("1.05"))]
    assert [(order.kind, order.price, order.quantity) for order in risen] == [("exit", None, Decimal("0.5"))]
    assert (
        strategy.decide(_view("100", "96", quantity="0")) + strategy.decide(_view("100", "109", quantity="0.5")) == []
    )


def _view(opened: str, closed: str, quantity: str) -> StrategyContext:
    zero, tick = Decimal(0), Decimal("0.1")
    pair = Pair("A/B", "AB", "AB", "A/B", "A", "B", "A", "B", 1, 2, 5, tick, tick, zero)
    prices = (Decimal(opened), max(Decimal(opened), Decimal(closed)), zero, Decimal(closed))
    candle = Candle(60, *prices, volume=zero)
    return StrategyContext(
        pair, 60, (candle,), Decimal(quantity), Decimal(100), 0.0, False, Decimal(100), Decimal(1000)
    )


def test_documented_commands_match_the_parser() -> None:
    """docs/configuration.md lists the commands that main.py knows, and each can be parsed."""
    lines = backquoted("".join(line[0] for line in rows(read_section("docs/configuration.md", "Commands"))))
    words = [line.removeprefix("python main.py").replace("N", "1").split() for line in lines]
    known = {parse_arguments(line).command for line in words if line != ["--help"]}
    reports = {"orders", "fills", "journal"}
    assert known == reports | {None, "run", "check", "nonce", "status", "pause", "halt", "resume", "paper", "simulator"}


# A run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """Return the output of a newcomer's run until Ctrl-C, and its state folder."""
    folder = tmp_path_factory.mktemp("state")
    # The defaults are set explicitly, because the program also reads a .env of the person who runs the tests.
    settings = {name: value for name, value in DEFAULTS.items() if value}
    terminal_settings = {"STATE_DIR": str(folder), "PRICE_SOURCE": "synthetic", "PORT": "", "LOG_FORMAT": "text"}
    with Child("main", environment={**settings, **terminal_settings}) as child:
        lines = [child.read_line()]
        while lines[-1] and "Watching" not in lines[-1]:
            lines.append(child.read_line())
        child.signal(signal.SIGINT)
        return [*lines, *child.read_to_end()], folder


def line_pattern(line: str) -> str:
    """Return a line without its variable parts: numbers, ids, reasons and the location of the nonce file."""
    line = re.sub(r"O[0-9A-Z]{5}-[0-9A-Z]{5}-[0-9A-Z]{6}", "ID", line)
    line = re.sub(r"(?<=accepted as ID): .*", "", line)
    line = re.sub(r"(?<=bot id )\w+", "ID", re.sub(r" in \S+kraken_nonce.txt", "", line))
    return re.sub(r"-?\d+(\.\d+)?", "0", line)


def test_readme_sample_matches_real_output(run: tuple[list[str], Path]) -> None:
    """Every line of the sample in README.md has the form of a line of a newcomer's run, in the same order."""
    output_patterns = iter([line_pattern(line) for line in run[0]])
    for line in code_blocks(read_page("README.md"))[0].splitlines():
        assert line_pattern(line) in output_patterns, line


def test_every_state_file_is_documented(run: tuple[list[str], Path]) -> None:
    """Every file that a newcomer's run leaves in its state folder is in the table of docs/configuration.md."""
    named = backquoted("".join(line[0] for line in rows(read_section("docs/configuration.md", "State"))))
    patterns = [re.sub("<[a-z]+>", r"[0-9a-f]{8}", re.escape(name)) for name in named]
    file_names = sorted(path.name for path in run[1].iterdir())
    assert file_names
    assert [name for name in file_names if not any(re.fullmatch(pattern, name) for pattern in patterns)] == []


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone")
def test_state_files_are_ignored_by_git(run: tuple[list[str], Path]) -> None:
    """Git ignores every file that a run leaves, in `state/` and where former versions had it, and no file of the
    program.
    """
    file_names = [f"{folder}/{path.name}" for folder in ("bot", "state") for path in sorted(run[1].iterdir())]
    words = ["git", "check-ignore", "--no-index"]
    completed = subprocess.run([*words, *file_names], cwd=ROOT, capture_output=True, text=True, check=False)
    assert completed.stdout.split() == file_names
    source_paths = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "bot").rglob("*.py"))]
    assert subprocess.run([*words, *source_paths], cwd=ROOT, capture_output=True, check=False).stdout == b""

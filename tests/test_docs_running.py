"""The pages on settings and running say what the program does: defaults, ranges, commands, samples, files."""

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
from bot.cli.parser import parse
from bot.config import DEFAULTS, LOG_FORMATS, MODES, load_settings
from bot.kraken.rate_counters import TIERS
from bot.nonce.file_store import UNITS
from bot.trading import strategies
from bot.trading.strategies.base import MarketView, Strategy
from tests.child_process import Child
from tests.conftest import ROOT
from tests.pages import blocks, names_in, quoted, rows, section, text_of

# Settings


def settings_rows() -> dict[str, list[str]]:
    """Return the rows of the settings tables by name."""
    return {quoted(line[0])[0]: line for line in rows(section("docs/configuration.md", "Settings"))}


def test_the_configuration_page_has_every_setting() -> None:
    """docs/configuration.md has every setting once, with its default."""
    names = names_in(section("docs/configuration.md", "Settings"))
    assert sorted(names) == sorted(DEFAULTS)
    assert {name: line[1].strip("`") for name, line in settings_rows().items()} == DEFAULTS


def test_the_example_file_has_every_setting() -> None:
    """.env.example has every setting once, commented out, with its default and a line before it."""
    lines = text_of(".env.example").splitlines()
    given = [number for number, line in enumerate(lines) if re.match(r"#[A-Z_]+=", line)]
    assert [line for line in lines if line and not line.startswith("#")] == []
    assert all(re.match(r"# \S.*[.:]$", lines[number - 1]) for number in given)
    assert sorted(lines[number][1:].partition("=")[0] for number in given) == sorted(DEFAULTS)


def test_the_example_file_means_the_defaults(tmp_path: Path) -> None:
    """.env.example with its settings in force means the same as no settings at all."""
    path = tmp_path / ".env"
    path.write_text(re.sub(r"^#(?=[A-Z_]+=)", "", text_of(".env.example"), flags=re.MULTILINE))
    values = {name: value or "" for name, value in dotenv.dotenv_values(path).items()}
    assert values == DEFAULTS
    assert load_settings({name: value for name, value in values.items() if value}) == load_settings({})


def test_choices_on_the_page_are_the_choices() -> None:
    """Where docs/configuration.md lists words that a setting can be, these are the words."""
    known = {
        "TRADING_MODE": MODES,
        "KRAKEN_TIER": TIERS,
        "NONCE_UNIT": UNITS,
        "TIMEFRAME": TIMEFRAMES,
        "STRATEGY": strategies.STRATEGIES,
        "LOG_FORMAT": LOG_FORMATS,
    }
    lists = {name: quoted(line[2]) for name, line in settings_rows().items() if quoted(line[2])}
    del lists["PRICES"]
    assert {name: allowed for name, allowed in lists.items() if allowed != ["0", "1"]} == {
        name: list(words) for name, words in known.items()
    }


def problems(name: str, value: str) -> list[str]:
    """Return what is wrong with one value of a setting."""
    try:
        load_settings({name: value}, strategies.STRATEGIES)
    except SettingsError as error:
        return [problem for problem in error.problems if problem.startswith(f"{name} is ")]
    return []


@pytest.mark.parametrize("name", [name for name, line in settings_rows().items() if " to " in line[2]])
def test_ranges_on_the_page_are_the_ranges(name: str) -> None:
    """Where docs/configuration.md gives a setting from one number to another, these are allowed and none beyond, but
    for a 0 that stands before them."""
    numbers = settings_rows()[name][2].removeprefix("0, or ")
    least, most = (Decimal(number) for number in numbers.split(" to "))
    assert problems(name, f"{least}") + problems(name, f"{most}") == []
    assert all(problems(name, f"{beyond}") for beyond in (least - Decimal("0.0001"), most + 1))


def test_switches_and_examples_on_the_page_are_allowed() -> None:
    """Every example in docs/configuration.md is a value that its setting can have, and a switch is 0 or 1."""
    for name, line in settings_rows().items():
        values = quoted(line[3]) + (["0", "1"] if line[2] == "`0` or `1`" else [])
        if not name.endswith("_FILE"):
            assert [problem for value in values for problem in problems(name, value)] == []
    assert all(problems(name, "2") for name, line in settings_rows().items() if line[2] == "`0` or `1`")


def test_the_strategy_of_the_page_works() -> None:
    """The strategy in docs/configuration.md buys a fall of five percent and sells a rise of ten."""
    scope: dict[str, type[Strategy]] = {}
    exec(blocks(section("docs/configuration.md", "Strategies"), "python")[0], scope)  # noqa: S102 - our own page
    strategy = scope["BuyTheDip"]()
    fallen = strategy.decide(_view("100", "95", held="0"))
    risen = strategy.decide(_view("109", "110", held="0.5"))
    assert [(order.kind, order.price, order.quantity) for order in fallen] == [("entry", Decimal(95), Decimal("1.05"))]
    assert [(order.kind, order.price, order.quantity) for order in risen] == [("exit", None, Decimal("0.5"))]
    assert strategy.decide(_view("100", "96", held="0")) + strategy.decide(_view("100", "109", held="0.5")) == []


def _view(opened: str, closed: str, held: str) -> MarketView:
    zero, tick = Decimal(0), Decimal("0.1")
    pair = Pair("A/B", "AB", "AB", "A/B", "A", "B", "A", "B", 1, 2, 5, tick, tick, zero)
    prices = (Decimal(opened), max(Decimal(opened), Decimal(closed)), zero, Decimal(closed))
    candle = Candle(60, *prices, volume=zero)
    return MarketView(pair, 60, (candle,), Decimal(held), Decimal(100), 0.0, False, Decimal(100), Decimal(1000))


def test_the_table_of_commands_is_what_main_takes() -> None:
    """docs/configuration.md lists the commands that main.py knows, and each can be parsed."""
    lines = quoted("".join(line[0] for line in rows(section("docs/configuration.md", "Commands"))))
    words = [line.removeprefix("python main.py").replace("N", "1").split() for line in lines]
    known = {parse(line).command for line in words if line != ["--help"]}
    assert known == {None, "run", "check", "nonce", "orders", "fills", "journal", "status", "resume", "simulator"}


# A run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """Return what a newcomer's run says until it is stopped by Ctrl-C, and its state folder."""
    folder = tmp_path_factory.mktemp("state")
    # The defaults in so many words, because a .env of the person who runs this is read as well.
    settings = {name: value for name, value in DEFAULTS.items() if value}
    as_on_a_terminal = {"STATE_DIR": str(folder), "PRICES": "synthetic", "PORT": "", "LOG_FORMAT": "text"}
    with Child("main", environment={**settings, **as_on_a_terminal}) as child:
        lines = [child.line()]
        while lines[-1] and "watching:" not in lines[-1]:
            lines.append(child.line())
        child.signal(signal.SIGINT)
        return [*lines, *child.rest()], folder


def shape(line: str) -> str:
    """Return a line without what changes from run to run: numbers, ids, reasons and the place of the file."""
    line = re.sub(r"O[0-9A-Z]{5}-[0-9A-Z]{5}-[0-9A-Z]{6}", "ID", line.partition(", because")[0])
    line = re.sub(r"(?<=bot id )\w+", "ID", re.sub(r" in \S+kraken_nonce.txt", "", line))
    return re.sub(r"-?\d+(\.\d+)?", "0", line)


def test_the_readme_shows_what_the_program_says(run: tuple[list[str], Path]) -> None:
    """Every line of the sample in README.md has the form of a line that a newcomer's run says, in the same order."""
    said = iter([shape(line) for line in run[0]])
    for line in blocks(text_of("README.md"))[0].splitlines():
        assert shape(line) in said, line


def test_every_file_that_a_run_leaves_is_named(run: tuple[list[str], Path]) -> None:
    """Every file that a newcomer's run leaves in its state folder is in the table of docs/configuration.md."""
    named = quoted("".join(line[0] for line in rows(section("docs/configuration.md", "State"))))
    patterns = [re.sub("<[a-z]+>", r"[0-9a-f]{8}", re.escape(name)) for name in named]
    left = sorted(path.name for path in run[1].iterdir())
    assert left
    assert [name for name in left if not any(re.fullmatch(pattern, name) for pattern in patterns)] == []


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone")
def test_no_file_that_a_run_leaves_is_for_git(run: tuple[list[str], Path]) -> None:
    """Git ignores every file that a run leaves, where the state folder is that of a newcomer, and no file of ours."""
    left = [f"bot/{path.name}" for path in sorted(run[1].iterdir())]
    words = ["git", "check-ignore", "--no-index"]
    done = subprocess.run([*words, *left], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == left
    ours = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "bot").rglob("*.py"))]
    assert subprocess.run([*words, *ours], cwd=ROOT, capture_output=True, check=False).stdout == b""

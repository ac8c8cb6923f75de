"""The pages say what the program does: names, defaults, tables and samples are compared with the code."""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import ccxt
import krakenex
import pytest

import main
from bot.app.lifecycle import Runner
from bot.base import errors
from bot.base.errors import BotError, KrakenError
from bot.broker_manager import get_kraken_nonce
from bot.cli import parser
from bot.config import load_settings
from bot.dashboard.snapshot import Reader
from bot.kraken import transport
from bot.kraken.error_table import ERROR_TABLE, Category, Ran, Repeat, error_for
from bot.nonce import leader_election
from bot.nonce.local_lock import WAIT_SECONDS_MAX
from bot.nonce.postgres_store import ANSWER_SECONDS, CONNECTIONS
from bot.nonce.redis_store import TIMEOUT_SECONDS
from bot.nonce.shared_store import BEGIN_SECONDS_MAX, TURN_SECONDS
from bot.orders import order_state
from bot.orders.order_state import OrderState
from bot.orders.reconciler import CURRENT_SECONDS
from bot.orders.reconciliation import DEADLINE_SECONDS, GAP_SECONDS, MARGIN_SECONDS
from bot.simulator import faults
from bot.simulator.api import PUBLIC
from bot.simulator.instruments import KNOWN_PAIRS
from bot.simulator.private import PERMISSIONS
from bot.simulator.server import Simulator
from tests.conftest import ROOT
from tests.pages import DOCS, PAGES, blocks, names_in, quoted, rows, section, text_of

by_name = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


# Pages and links


@by_name
def test_a_page_has_one_title(page: Path) -> None:
    """A page is ASCII and has exactly one title, in its first line."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("ascii"), flags=re.MULTILINE | re.DOTALL)
    titles = [number for number, line in enumerate(text.splitlines()) if line.startswith("# ")]
    assert titles == [0]


def anchors(page: Path) -> set[str]:
    """Return the anchors that the headings of a page make."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("ascii"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@by_name
def test_links_lead_somewhere(page: Path) -> None:
    """Every link between pages names a file that is there and a heading that it has."""
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text("ascii")):
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.is_file(), target
        assert not anchor or anchor in anchors(linked), target


def test_the_readme_leads_to_every_page() -> None:
    """README.md links every page of docs."""
    linked = set(re.findall(r"\]\((docs/[^)#]+)\)", text_of("README.md")))
    assert linked == {f"docs/{page.name}" for page in DOCS}


@by_name
def test_files_that_a_page_names_exist(page: Path) -> None:
    """Every path of the repository that a page names in backquotes is there."""
    named = [word for word in quoted(page.read_text("ascii")) if re.match(r"(bot|docs|tests|\.ci)/\S+$", word)]
    paths = [word.partition("::")[0] for word in named]
    assert [path for path in paths if not (ROOT / path).exists() and "kraken_nonce" not in path] == []


@by_name
def test_tests_that_a_page_names_exist(page: Path) -> None:
    """Every test that a page names as the proof of a sentence is there."""
    named = re.findall(r"`(tests/[\w/]+\.py)::([\w:]+)`", page.read_text("ascii"))
    for path, name in named:
        body: list[ast.stmt] = ast.parse((ROOT / path).read_text("utf-8")).body
        *classes, function = name.split("::")
        for inside in classes:
            body = next((node.body for node in body if isinstance(node, ast.ClassDef) and node.name == inside), [])
        assert function in {node.name for node in body if isinstance(node, ast.FunctionDef)}, f"{path}::{name}"


def test_commands_that_the_pages_name_exist() -> None:
    """Every `make` target of the Makefile is on the pages, every target on the pages is in the Makefile."""
    targets = set(re.search(r"^\.PHONY: (.+)$", text_of("Makefile"), re.MULTILINE)[1].split())  # type: ignore[index]
    text = "".join(page.read_text("ascii") for page in PAGES)
    code = re.findall(r"`[^`\n]*`|^    .*", text, re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z]+)\b", "\n".join(code))) == targets


# Errors


def test_the_tree_of_errors_is_the_tree_in_the_code() -> None:
    """docs/errors.md, the docstring of bot/base/errors.py and the classes there draw the same tree."""
    drawn = textwrap.dedent((errors.__doc__ or "").partition("\n\n")[2]).strip()
    assert blocks(section("docs/errors.md", "The tree"))[0].strip() == drawn
    found: dict[str, str] = {}
    above: list[str] = []
    for line in drawn.splitlines():
        start = re.search(r"\w", line)
        assert start is not None
        name, depth = line[start.start() :].split()[0], start.start() // 4
        above[depth:] = [name]
        found[name] = above[depth - 1] if depth else "Exception"
    assert found == {name: kind.__bases__[0].__name__ for name, kind in _own_errors().items()}


def _own_errors() -> dict[str, type[BotError]]:
    return {name: kind for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, BotError)}


def test_every_error_of_ours_has_a_row() -> None:
    """docs/errors.md says of every error that is not Kraken's own answer what was sent and what to do.

    Those that the tree says nothing about only hold others together.
    """
    drawn = blocks(section("docs/errors.md", "The tree"))[0]
    told = re.findall(r"^[ |`-]*(\w+) +\S", drawn, re.MULTILINE)
    wanted = [name for name in told if not issubclass(_own_errors()[name], KrakenError)]
    assert sorted(names_in(section("docs/errors.md", "Errors of our own"))) == sorted(wanted)


def test_the_exit_codes_are_those_of_main() -> None:
    """docs/errors.md names for each exit code the errors that main.py gives it for."""
    wanted: dict[str, set[str]] = {}
    for code, kinds in main.EXIT_CODES:
        wanted.setdefault(str(code), set()).update(kind.__name__ for kind in kinds)
    table = {line[0]: set(quoted(line[2])) for line in rows(section("docs/errors.md", "Exit codes"))}
    assert {code: names for code, names in table.items() if names} == wanted
    assert set(table) == {*wanted, "0", "1", "7"}
    assert all(re.search(rf"\b{code} ", parser.EPILOG) for code in table)


REPEATS = {Repeat.NEVER: "no", Repeat.FRESH_NONCE: "with a fresh nonce", Repeat.WAIT: "after the wait"}
RAN = {Ran.NO: "no", Ran.MAYBE: "maybe"}


def kraken_table() -> str:
    """Return the table of Kraken's strings as it should stand in docs/errors.md."""
    head = "| Kraken's string | error | meaning | did it run | may a read be repeated | wait | settles an order |\n"
    lines = [head + "| --- | --- | --- | --- | --- | --- | --- |"]
    for row in ERROR_TABLE:
        kind = type(error_for("", [row.prefix])).__name__
        wait = f"{row.wait_seconds:g} s" if row.wait_seconds else ""
        final = "yes" if row.final_for_order else "no"
        cells = (f"`{row.prefix}`", f"`{kind}`", row.meaning, RAN[row.ran], REPEATS[row.repeat], wait, final)
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return "\n".join(lines)


def advice_table() -> str:
    """Return the table of what to do about Kraken's errors as it should stand in docs/errors.md."""
    advice: dict[str, str] = {}
    for category in Category:
        row = next(row for row in ERROR_TABLE if row.category is category)
        error = error_for("", [row.prefix])
        advice[type(error).__name__] = str(error).rpartition(f"This means: {row.meaning}. ")[2]
    lines = [f"| `{name}` | {text} |" for name, text in advice.items()]
    return "\n".join(["| error | what to do |", "| --- | --- |", *lines])


def test_the_severity_on_the_page_is_the_severity() -> None:
    """docs/errors.md names the kinds of Kraken's errors in the order in which the most severe one decides."""
    order = ", ".join(category.value for category in Category)
    assert order in " ".join(section("docs/errors.md", "Kraken's errors").split())


@pytest.mark.parametrize("table", [kraken_table, advice_table], ids=lambda table: table.__name__)
def test_the_tables_of_krakens_errors_are_those_of_the_code(table: object) -> None:
    """docs/errors.md has the tables of Kraken's strings and of what to do about them as the code has them."""
    assert callable(table)
    wanted = table()
    page = text_of("docs/errors.md")
    assert wanted in page, "put this into docs/errors.md:\n" + "\n".join(
        difflib.unified_diff(page.splitlines(), wanted.splitlines(), lineterm="", n=0)
    )


# Orders


def test_the_life_of_an_order_is_the_one_in_the_code() -> None:
    """docs/orders.md draws the order states as the docstring of order_state.py does, and names every one."""
    text = section("docs/orders.md", "An order's life")
    drawn = re.search(r"(?:^    .*\n)+", order_state.__doc__ or "", re.MULTILINE)
    assert drawn is not None
    assert blocks(text) == [textwrap.dedent(drawn[0])]
    assert set(names_in(text)) == set(OrderState)


def test_the_times_of_the_proof_on_the_page_are_the_times() -> None:
    """docs/orders.md gives deadline, margin, gap, their sum, and the age of a current journal as the code has them."""
    text = " ".join(section("docs/orders.md", "How an unknown order is settled").split())
    assert f"a deadline, {DEADLINE_SECONDS:g} s after it leaves" in text
    assert f"not earlier than {MARGIN_SECONDS:g} s after both the deadline and the fence" in text
    assert f"at least {GAP_SECONDS:g} s after that answer" in text
    whole = f"{DEADLINE_SECONDS + MARGIN_SECONDS + GAP_SECONDS:g} s"
    assert f"unknown for {whole} at most" in text
    current, old = rows(section("docs/orders.md", "At the start"))
    assert f"within the last {CURRENT_SECONDS:g} s" in current[0]
    assert f"older than {CURRENT_SECONDS:g} s" in old[0]
    assert f"up to {whole}" in old[1]


# The simulator


def test_the_faults_on_the_page_are_the_faults() -> None:
    """docs/simulator.md names every fault that the simulator has."""
    assert names_in(section("docs/simulator.md", "Faults")) == [*faults.NAMES, faults.PARTIAL_FILL, faults.ERROR]


def test_the_options_on_the_page_are_the_options() -> None:
    """docs/simulator.md names every option of `python -m bot.simulator`."""
    command = [sys.executable, "-m", "bot.simulator", "--help"]
    usage = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    named = {quoted(line[0])[0].split()[0] for line in rows(section("docs/simulator.md", "Running it alone"))}
    assert named == set(re.findall(r"--[a-z-]+", usage)) - {"--help"}


def test_the_pairs_on_the_page_are_the_pairs() -> None:
    """docs/simulator.md names the pairs that the simulator knows by itself."""
    assert [
        name for name in quoted(section("docs/simulator.md", "Prices")) if re.fullmatch(r"[A-Z]+/[A-Z]+", name)
    ] == list(KNOWN_PAIRS)


def test_the_endpoints_on_the_page_are_answered() -> None:
    """docs/simulator.md names every endpoint, and the simulator knows each: the public ones by asking."""
    public, private = (quoted(line[1]) for line in rows(section("docs/simulator.md", "Endpoints")))
    assert set(private) == {*PERMISSIONS, "GetApiKeyInfo"}
    with Simulator() as simulator:
        for name in public:
            with urlopen(f"{simulator.url}{PUBLIC}{name}") as answer:  # noqa: S310 - http on loopback
                assert b"Unknown method" not in answer.read(), name
        with urlopen(f"{simulator.url}{PUBLIC}Nothing") as answer:  # noqa: S310 - http on loopback
            assert b"Unknown method" in answer.read()


def test_the_state_on_the_page_is_the_state() -> None:
    """docs/simulator.md names every field of /simulator/state."""
    assert set(names_in(section("docs/simulator.md", "Looking inside"))) == set(Simulator().api.state())


def test_other_clients_draw_from_the_same_file(nonce_file: Path) -> None:
    """krakenex and ccxt, told to draw from get_kraken_nonce as the pages say, share a key without a refusal."""
    with Simulator() as simulator:
        api = krakenex.API(simulator.key, simulator.secret)
        api.uri = simulator.url
        api._nonce = get_kraken_nonce
        exchange = ccxt.kraken({"apiKey": simulator.key, "secret": simulator.secret, "enableRateLimit": False})
        exchange.urls["api"] = {"public": simulator.url, "private": simulator.url}
        exchange.nonce = get_kraken_nonce
        for _ in range(3):
            assert api.query_private("Balance")["error"] == []
            assert exchange.fetch_balance()["USD"]["total"] == 10_000
        api.close()
        exchange.session.close()
        state = simulator.api.state()
    assert state["refused_nonces"] == 0
    assert state["floors"] == {simulator.key: nonce_file.read_text()}


# The code layout


def drawn_modules(tree: str) -> Iterator[str]:
    """Return the paths in a drawing of folders and modules, one a line, indented by depth."""
    above: list[str] = []
    for line in tree.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        above[depth:] = [name]
        if not name.endswith("/"):
            yield "".join(above)


def test_the_drawing_of_the_code_layout_has_every_module() -> None:
    """docs/architecture.md names every module of the program once, and no other."""
    paths = [ROOT / "main.py", *(ROOT / "bot").rglob("*.py")]
    wanted = [str(path.relative_to(ROOT)) for path in paths if path.name != "__init__.py"]
    drawn = list(drawn_modules(blocks(section("docs/architecture.md", "The code layout"))[0]))
    assert sorted(drawn) == sorted(wanted)


def test_the_bounds_of_a_turn_on_the_page_are_the_bounds() -> None:
    """docs/nonces.md gives the bounds of a turn, of connecting, of the answer and of waiting as the code has them."""
    connect, answer = transport.CONNECT_SECONDS_MAX, transport.ANSWER_SECONDS_MAX
    text = " ".join(section("docs/nonces.md", "Turns").split())
    assert f"A turn ends within {connect + answer:g} s" in text
    assert f"{connect:g} s to connect, {answer:g} s for the answer" in text
    assert f"longer than {WAIT_SECONDS_MAX:g} s gets `TurnTimeout`" in text
    assert answer > transport.READ_SECONDS_MAX


def test_the_times_of_a_shared_store_on_the_page_are_the_times() -> None:
    """docs/stores.md gives the times of lease, turn, take-over, first order and time-outs as the code has them."""
    text = " ".join(text_of("docs/stores.md").split())
    clean, unclean = (seconds + MARGIN_SECONDS + GAP_SECONDS for seconds in (0.0, DEADLINE_SECONDS))
    ways = rows(section("docs/stores.md", "Who trades"))
    assert [line[2] for line in ways] == [f"{clean:g} s", *[f"{unclean:g} s"] * 3]
    assert f"it looks every {leader_election.STANDBY_SECONDS:g} s" in ways[0][1]
    assert leader_election.SILENT_PART == 0.1
    assert "a tenth of the lifetime is left" in ways[3][1]
    assert 3 * leader_election.RENEW_PART <= 1 - leader_election.SILENT_PART
    assert "renewed three times in that" in text
    assert f"or {TURN_SECONDS:g} s after it began, by the server's clock" in text
    assert f"must begin in its first {BEGIN_SECONDS_MAX:g} s" in text
    left_seconds = TURN_SECONDS - BEGIN_SECONDS_MAX - transport.CONNECT_SECONDS_MAX
    assert f"its bytes leave {left_seconds:g} s before the turn ends" in text
    assert TIMEOUT_SECONDS == ANSWER_SECONDS
    assert f"gives up after {ANSWER_SECONDS:g} s for the connection and {ANSWER_SECONDS:g} s for the answer" in text
    assert f"A process has up to {['', 'one', 'two', 'three', 'four'][CONNECTIONS]} connections" in text
    assert main.OVERLAP_SECONDS == 120.0
    assert "sends no order for its first two minutes" in text
    assert f"comes after {main.OVERLAP_SECONDS + MARGIN_SECONDS + GAP_SECONDS:g} s at the earliest" in text


# Code on the pages


def test_every_module_that_the_pages_import_is_there() -> None:
    """The Python on the pages can be compiled, and what it imports from the bot exists."""
    for page in PAGES:
        for code in blocks(page.read_text("ascii"), "python"):
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bot"):
                    module = importlib.import_module(node.module or "")
                    assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_every_fact_of_the_page_is_named() -> None:
    """docs/operating.md has a row for each field of /api/status."""
    reader = Reader(load_settings({}), Runner(print))
    facts = reader.read()
    reader.close()
    named = {name for line in rows(section("docs/operating.md", "For programs")) for name in quoted(line[0])}
    assert named - {"journal_problem"} == facts.keys()

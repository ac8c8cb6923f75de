"""The pages agree with the code: names, defaults, tables and samples are compared."""

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

from bot.app.lifecycle import Lifecycle
from bot.app.venue import OVERLAP_SECONDS
from bot.base import errors
from bot.base.errors import BotError, KrakenError
from bot.broker_manager import get_kraken_nonce
from bot.cli import parser
from bot.cli.exit_codes import EXIT_CODES, JOURNAL_DIFFERS, PROGRAM_FAULT
from bot.config import load_settings
from bot.dashboard.snapshot import SnapshotReader
from bot.kraken import http_connection
from bot.kraken.error_table import ERROR_TABLE, Category, ErrorRule, Executed, make_error
from bot.kraken.new_order import ORDER_DEADLINE_SECONDS
from bot.nonce import leader_election
from bot.nonce.local_lock import LOCK_TIMEOUT_SECONDS
from bot.nonce.postgres_store import MAX_CONNECTIONS, RESPONSE_TIMEOUT_SECONDS
from bot.nonce.redis_store import TIMEOUT_SECONDS
from bot.nonce.shared_store import LOCK_LIFETIME_SECONDS, SEND_WINDOW_SECONDS
from bot.orders import order_state
from bot.orders.order_state import OrderState
from bot.orders.reconciler import JOURNAL_MAX_AGE_SECONDS
from bot.orders.reconciliation import DEADLINE_MARGIN_SECONDS, QUERY_GAP_SECONDS
from bot.simulator import faults
from bot.simulator.api import PUBLIC_PATH
from bot.simulator.instruments import KNOWN_PAIRS
from bot.simulator.private import PERMISSIONS
from bot.simulator.server import Simulator
from tests.conftest import ROOT
from tests.pages import DOCS, PAGES, backquoted, code_blocks, first_names, read_page, read_section, rows

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


# Pages and links


@every_page
def test_a_page_has_one_title(page: Path) -> None:
    """A page is ASCII and has exactly one title, in its first line."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("ascii"), flags=re.MULTILINE | re.DOTALL)
    titles = [number for number, line in enumerate(text.splitlines()) if line.startswith("# ")]
    assert titles == [0]


def anchors(page: Path) -> set[str]:
    """Return the anchors that the headings of a page make."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("ascii"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_resolve(page: Path) -> None:
    """Every link between pages names an existing file and an existing heading."""
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text("ascii")):
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.is_file(), target
        assert not anchor or anchor in anchors(linked), target


def test_readme_links_every_page() -> None:
    """README.md links every page of docs."""
    linked = set(re.findall(r"\]\((docs/[^)#]+)\)", read_page("README.md")))
    assert linked == {f"docs/{page.name}" for page in DOCS}


@every_page
def test_files_that_a_page_names_exist(page: Path) -> None:
    """Every path of the repository that a page names in backquotes exists."""
    named = [word for word in backquoted(page.read_text("ascii")) if re.match(r"(bot|docs|tests|\.ci)/\S+$", word)]
    paths = [word.partition("::")[0] for word in named]
    assert [path for path in paths if not (ROOT / path).exists() and "kraken_nonce" not in path] == []


@every_page
def test_tests_that_a_page_names_exist(page: Path) -> None:
    """Every test that a page names as a proof exists."""
    named = re.findall(r"`(tests/[\w/]+\.py)::([\w:]+)`", page.read_text("ascii"))
    for path, name in named:
        body: list[ast.stmt] = ast.parse((ROOT / path).read_text("utf-8")).body
        *classes, function = name.split("::")
        for inside in classes:
            body = next((node.body for node in body if isinstance(node, ast.ClassDef) and node.name == inside), [])
        assert function in {node.name for node in body if isinstance(node, ast.FunctionDef)}, f"{path}::{name}"


def test_commands_that_the_pages_name_exist() -> None:
    """Every `make` target of the Makefile is on the pages, every target on the pages is in the Makefile."""
    targets = set(re.search(r"^\.PHONY: (.+)$", read_page("Makefile"), re.MULTILINE)[1].split())  # type: ignore[index]
    text = "".join(page.read_text("ascii") for page in PAGES)
    code = re.findall(r"`[^`\n]*`|^    .*", text, re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z]+)\b", "\n".join(code))) == targets


# Errors


def test_error_tree_matches_the_code() -> None:
    """docs/errors.md, the docstring of bot/base/errors.py and the classes there have the same tree."""
    tree = textwrap.dedent((errors.__doc__ or "").partition("\n\n")[2]).strip()
    assert code_blocks(read_section("docs/errors.md", "The tree"))[0].strip() == tree
    bases_in_docs: dict[str, str] = {}
    ancestors: list[str] = []
    for line in tree.splitlines():
        start = re.search(r"\w", line)
        assert start is not None
        name, depth = line[start.start() :].split()[0], start.start() // 4
        ancestors[depth:] = [name]
        bases_in_docs[name] = ancestors[depth - 1] if depth else "Exception"
    assert bases_in_docs == {name: kind.__bases__[0].__name__ for name, kind in _bot_errors().items()}


def _bot_errors() -> dict[str, type[BotError]]:
    return {name: kind for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, BotError)}


def test_every_bot_error_is_documented() -> None:
    """docs/errors.md says of every error that is not Kraken's own answer what was sent and what to do.

    Errors without a description in the tree only group others.
    """
    tree = code_blocks(read_section("docs/errors.md", "The tree"))[0]
    described = re.findall(r"^[ |`-]*(\w+) +\S", tree, re.MULTILINE)
    expected = [name for name in described if not issubclass(_bot_errors()[name], KrakenError)]
    assert sorted(first_names(read_section("docs/errors.md", "The bot's own errors"))) == sorted(expected)


def test_documented_exit_codes_match_the_code() -> None:
    """docs/errors.md names for each exit code the errors that the command line gives it for."""
    expected: dict[str, set[str]] = {}
    for code, kinds in EXIT_CODES:
        expected.setdefault(str(code), set()).update(kind.__name__ for kind in kinds)
    table = {line[0]: set(backquoted(line[2])) for line in rows(read_section("docs/errors.md", "Exit codes"))}
    assert {code: names for code, names in table.items() if names} == expected
    assert set(table) == {*expected, "0", str(PROGRAM_FAULT), str(JOURNAL_DIFFERS)}
    assert all(re.search(rf"\b{code} ", parser.EPILOG) for code in table)


RAN_LABELS = {Executed.NO: "no", Executed.MAYBE: "maybe"}


def repeat_label(row: ErrorRule) -> str:
    """Return how a read that Kraken refused may be repeated."""
    if row.category is Category.NONCE:
        return "with a fresh nonce"
    return "after the wait" if row.wait_seconds and row.category is not Category.LOCKOUT else "no"


def kraken_table() -> str:
    """Return the table of Kraken's strings as it should stand in docs/errors.md."""
    head = "| Kraken's string | error | meaning | did it run | may a read be repeated | wait | final for an order |\n"
    lines = [head + "| --- | --- | --- | --- | --- | --- | --- |"]
    for row in ERROR_TABLE:
        kind = type(make_error("", [row.prefix])).__name__
        wait = f"{row.wait_seconds:g} s" if row.wait_seconds else ""
        final = "yes" if row.is_final_for_order else "no"
        cells = (
            f"`{row.prefix}`",
            f"`{kind}`",
            row.meaning,
            RAN_LABELS[row.executed],
            repeat_label(row),
            wait,
            final,
        )
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return "\n".join(lines)


def advice_table() -> str:
    """Return the table of advice on Kraken's errors as it should stand in docs/errors.md."""
    advice: dict[str, str] = {}
    for category in Category:
        row = next(row for row in ERROR_TABLE if row.category is category)
        error = make_error("", [row.prefix])
        advice[type(error).__name__] = str(error).rpartition(f"This means: {row.meaning}. ")[2]
    lines = [f"| `{name}` | {text} |" for name, text in advice.items()]
    return "\n".join(["| error | what to do |", "| --- | --- |", *lines])


def test_error_severity_matches_the_code() -> None:
    """docs/errors.md lists the categories of Kraken's errors in the order of their severity."""
    order = ", ".join(category.value for category in Category)
    assert order in " ".join(read_section("docs/errors.md", "Kraken's errors").split())


@pytest.mark.parametrize("table", [kraken_table, advice_table], ids=lambda table: table.__name__)
def test_kraken_error_tables_match_the_code(table: object) -> None:
    """docs/errors.md has the tables of Kraken's strings and of the advice as the code has them."""
    assert callable(table)
    expected = table()
    page = read_page("docs/errors.md")
    assert expected in page, "put this into docs/errors.md:\n" + "\n".join(
        difflib.unified_diff(page.splitlines(), expected.splitlines(), lineterm="", n=0)
    )


# Orders


def test_order_state_diagram_matches_the_code() -> None:
    """docs/orders.md has the diagram of the order states in the docstring of order_state.py, and lists every state."""
    text = read_section("docs/orders.md", "Order states")
    diagram = re.search(r"(?:^    .*\n)+", order_state.__doc__ or "", re.MULTILINE)
    assert diagram is not None
    assert code_blocks(text) == [textwrap.dedent(diagram[0])]
    assert set(first_names(text)) == set(OrderState)


def test_reconciliation_times_match_the_code() -> None:
    """docs/orders.md gives deadline, margin, gap, their sum, and the age of a current journal as the code has them."""
    text = " ".join(read_section("docs/orders.md", "How an unknown order is reconciled").split())
    assert f"a deadline, {ORDER_DEADLINE_SECONDS:g} s after it leaves" in text
    assert f"not earlier than {DEADLINE_MARGIN_SECONDS:g} s after both the deadline and the fencing read" in text
    assert f"at least {QUERY_GAP_SECONDS:g} s after that answer" in text
    total = f"{ORDER_DEADLINE_SECONDS + DEADLINE_MARGIN_SECONDS + QUERY_GAP_SECONDS:g} s"
    assert f"unknown for {total} at most" in text
    current, old = rows(read_section("docs/orders.md", "Start-up reconciliation"))
    assert f"within the last {JOURNAL_MAX_AGE_SECONDS:g} s" in current[0]
    assert f"older than {JOURNAL_MAX_AGE_SECONDS:g} s" in old[0]
    assert f"up to {total}" in old[1]


# The simulator


def test_documented_faults_match_the_code() -> None:
    """docs/simulator.md names every fault that the simulator has."""
    assert first_names(read_section("docs/simulator.md", "Faults")) == [
        *faults.FAULT_NAMES,
        faults.PARTIAL_FILL,
        faults.ERROR,
    ]


def test_documented_simulator_options_match_the_code() -> None:
    """docs/simulator.md names every option of `python -m bot.simulator`."""
    command = [sys.executable, "-m", "bot.simulator", "--help"]
    usage = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    named = {backquoted(line[0])[0].split()[0] for line in rows(read_section("docs/simulator.md", "Running it alone"))}
    assert named == set(re.findall(r"--[a-z-]+", usage)) - {"--help"}


def test_documented_pairs_match_the_code() -> None:
    """docs/simulator.md lists the pairs that the simulator knows by itself."""
    assert [
        name for name in backquoted(read_section("docs/simulator.md", "Prices")) if re.fullmatch(r"[A-Z]+/[A-Z]+", name)
    ] == list(KNOWN_PAIRS)


def test_documented_endpoints_exist() -> None:
    """docs/simulator.md lists every endpoint, and the simulator has each; the public ones are requested."""
    public, private = (backquoted(line[1]) for line in rows(read_section("docs/simulator.md", "Endpoints")))
    assert set(private) == {*PERMISSIONS, "GetApiKeyInfo"}
    with Simulator() as simulator:
        for name in public:
            with urlopen(f"{simulator.url}{PUBLIC_PATH}{name}") as answer:  # noqa: S310 - http on loopback
                assert b"Unknown method" not in answer.read(), name
        with urlopen(f"{simulator.url}{PUBLIC_PATH}Nothing") as answer:  # noqa: S310 - http on loopback
            assert b"Unknown method" in answer.read()


def test_documented_simulator_state_matches_the_code() -> None:
    """docs/simulator.md names every field of /simulator/state."""
    assert set(first_names(read_section("docs/simulator.md", "Looking inside"))) == set(Simulator().api.state())


def test_other_clients_share_the_nonce_file(nonce_file: Path) -> None:
    """krakenex and ccxt, which take their nonces from get_kraken_nonce as the pages say, share a key without a
    refusal."""
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


def modules_in_layout(tree: str) -> Iterator[str]:
    """Return the paths in a tree of folders and modules, one a line, indented by depth."""
    ancestors: list[str] = []
    for line in tree.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        ancestors[depth:] = [name]
        if not name.endswith("/"):
            yield "".join(ancestors)


def test_the_drawing_of_the_code_layout_has_every_module() -> None:
    """docs/architecture.md lists every module of the program once, and no other."""
    paths = [ROOT / "main.py", *(ROOT / "bot").rglob("*.py")]
    wanted = [str(path.relative_to(ROOT)) for path in paths if path.name != "__init__.py"]
    drawn = list(modules_in_layout(code_blocks(read_section("docs/architecture.md", "The code layout"))[0]))
    assert sorted(drawn) == sorted(wanted)


def test_documented_request_lock_times_match_the_code() -> None:
    """docs/nonces.md gives the times of lock, connection, answer and wait as the code has them."""
    connect, answer = http_connection.CONNECT_TIMEOUT_SECONDS, http_connection.RESPONSE_TIMEOUT_SECONDS
    text = " ".join(read_section("docs/nonces.md", "The request lock").split())
    assert f"A request holds the lock for at most {connect + answer:g} s" in text
    assert f"{connect:g} s to connect, {answer:g} s for the answer" in text
    assert f"waits longer than {LOCK_TIMEOUT_SECONDS:g} s gets `RequestLockTimeout`" in text
    assert answer > http_connection.READ_TIMEOUT_SECONDS


def test_documented_store_times_match_the_code() -> None:
    """docs/stores.md gives the times of lease, lock, takeover, first order and time-outs as the code has them."""
    text = " ".join(read_page("docs/stores.md").split())
    clean, unclean = (
        seconds + DEADLINE_MARGIN_SECONDS + QUERY_GAP_SECONDS for seconds in (0.0, ORDER_DEADLINE_SECONDS)
    )
    failover_rows = rows(read_section("docs/stores.md", "Leader election"))
    assert [line[2] for line in failover_rows] == [f"{clean:g} s", *[f"{unclean:g} s"] * 3]
    assert f"the standby polls every {leader_election.STANDBY_POLL_SECONDS:g} s" in failover_rows[0][1]
    assert leader_election.SAFETY_FRACTION == 0.1
    assert "when a tenth of the lifetime is left" in failover_rows[3][1]
    assert 3 * leader_election.RENEW_FRACTION <= 1 - leader_election.SAFETY_FRACTION
    assert "renewed three times in that" in text
    assert f"or {LOCK_LIFETIME_SECONDS:g} s after it was acquired, by the server's clock" in text
    assert f"must begin in its first {SEND_WINDOW_SECONDS:g} s" in text
    left_seconds = LOCK_LIFETIME_SECONDS - SEND_WINDOW_SECONDS - http_connection.CONNECT_TIMEOUT_SECONDS
    assert f"its bytes leave {left_seconds:g} s before the lock ends" in text
    assert TIMEOUT_SECONDS == RESPONSE_TIMEOUT_SECONDS
    timeout = f"{RESPONSE_TIMEOUT_SECONDS:g} s"
    assert f"gives up after {timeout} for the connection and {timeout} for the answer" in text
    assert f"A process has up to {['', 'one', 'two', 'three', 'four'][MAX_CONNECTIONS]} connections" in text
    assert OVERLAP_SECONDS == 120.0
    assert "sends no order for its first two minutes" in text
    assert f"comes after {OVERLAP_SECONDS + DEADLINE_MARGIN_SECONDS + QUERY_GAP_SECONDS:g} s at the earliest" in text


# Code on the pages


def test_every_module_that_the_pages_import_is_there() -> None:
    """The Python on the pages can be compiled, and what it imports from the bot exists."""
    for page in PAGES:
        for code in code_blocks(page.read_text("ascii"), "python"):
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bot"):
                    module = importlib.import_module(node.module or "")
                    assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_every_status_field_is_documented() -> None:
    """docs/operating.md has a row for each field of /api/status."""
    reader = SnapshotReader(load_settings({}), Lifecycle())
    status = reader.read()
    reader.close()
    documented = {
        name for line in rows(read_section("docs/operating.md", "For programs")) for name in backquoted(line[0])
    }
    assert documented - {"journal_problem"} == status.keys()

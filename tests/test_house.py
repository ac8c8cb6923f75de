"""The house rules hold, and each rule catches what it is for."""

from __future__ import annotations

import functools
import subprocess

import pytest

from tests import house_rules, money_rules, tree_rules
from tests.conftest import ROOT
from tests.house_rules import Rule, Source

PROGRAM_RULES: list[Rule] = [
    house_rules.module_length,
    house_rules.function_length,
    house_rules.class_length,
    house_rules.import_inside_function,
    house_rules.relative_import,
    house_rules.global_statement,
    house_rules.environment,
    house_rules.clock,
    house_rules.unsafe,
    house_rules.broad_except,
    house_rules.docstrings,
    money_rules.float_money,
]
TEST_RULES: list[Rule] = [house_rules.module_length, house_rules.test_docstrings]
TREE_RULES = [tree_rules.cycles, tree_rules.arrows, tree_rules.dead_modules]


def read(folder: str) -> list[Source]:
    """Return the modules of a folder."""
    paths = sorted((ROOT / folder).rglob("*.py"))
    return [
        Source(
            ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path.read_text("utf-8")
        )
        for path in paths
    ]


@functools.cache
def program() -> list[Source]:
    """Return the modules of the program."""
    return [*read("bot"), Source("main", (ROOT / "main.py").read_text("utf-8"))]


def tracked() -> list[str]:
    """Return the paths that git tracks; without a git checkout, skip."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [path for path in listing.stdout.split("\0") if path and (ROOT / path).is_file()]


@pytest.mark.parametrize("rule", PROGRAM_RULES, ids=lambda rule: rule.__name__)
def test_the_program_keeps_the_rule(rule: Rule) -> None:
    """No module of the program breaks the rule."""
    problems = [line for source in program() for line in rule(source)]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("rule", TEST_RULES, ids=lambda rule: rule.__name__)
def test_the_tests_keep_the_rule(rule: Rule) -> None:
    """No module of the tests breaks the rule."""
    problems = [line for source in read("tests") for line in rule(source)]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("rule", TREE_RULES, ids=lambda rule: rule.__name__)
def test_the_modules_together_keep_the_rule(rule: tree_rules.TreeRule) -> None:
    """The modules of the program, taken together, do not break the rule."""
    problems = rule(program())
    assert not problems, "\n".join(problems)


def test_only_main_and_the_tests_know_the_simulator() -> None:
    """Apart from main and the simulator itself, no module of the program imports the simulator."""
    edges = tree_rules.graph(program())
    importers = {name for name, targets in edges.items() if any(tree_rules.room(one) == "simulator" for one in targets)}
    assert {name for name in importers if tree_rules.room(name) not in {"main", "simulator"}} == set()


def test_the_top_level_is_fixed() -> None:
    """Git tracks nothing at the top level that has no place there."""
    assert tree_rules.top_level(tracked()) == []


def test_tracked_text_is_clean() -> None:
    """No tracked file has pictures, paths of one machine, addresses of registries, or something put off."""
    texts = {path: (ROOT / path).read_bytes().decode("utf-8", errors="replace") for path in tracked()}
    problems = [line for path, text in texts.items() for line in tree_rules.text_problems(path, text)]
    assert not problems, "\n".join(problems)

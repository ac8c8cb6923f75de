"""The code rules hold; the import layers are import-linter's (see pyproject.toml)."""

from __future__ import annotations

import functools
import subprocess

import pytest

from tests import code_rules, money_rules, tree_rules
from tests.code_rules import Rule, Source
from tests.conftest import ROOT

PROGRAM_RULES: list[Rule] = [
    code_rules.import_inside_function,
    code_rules.main_imports,
    code_rules.relative_import,
    code_rules.global_statement,
    code_rules.environment,
    code_rules.clock,
    code_rules.unsafe,
    code_rules.broad_except,
    code_rules.docstrings,
    money_rules.float_money,
]
TEST_RULES: list[Rule] = [code_rules.test_docstrings]
TREE_RULES = [tree_rules.dead_modules]


def read_sources(folder: str) -> list[Source]:
    """Return the modules of a folder."""
    paths = sorted((ROOT / folder).rglob("*.py"))
    return [
        Source(
            ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path.read_text("utf-8")
        )
        for path in paths
    ]


@functools.cache
def program_sources() -> list[Source]:
    """Return the modules of the program."""
    return [*read_sources("bot"), Source("main", (ROOT / "main.py").read_text("utf-8"))]


def tracked_paths() -> list[str]:
    """Return the paths that git tracks; without a git checkout, skip."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [path for path in listing.stdout.split("\0") if path and (ROOT / path).is_file()]


@pytest.mark.parametrize("rule", PROGRAM_RULES, ids=lambda rule: rule.__name__)
def test_program_follows_the_rule(rule: Rule) -> None:
    """No module of the program breaks the rule."""
    problems = [line for source in program_sources() for line in rule(source)]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("rule", TEST_RULES, ids=lambda rule: rule.__name__)
def test_tests_follow_the_rule(rule: Rule) -> None:
    """No module of the tests breaks the rule."""
    problems = [line for source in read_sources("tests") for line in rule(source)]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("rule", TREE_RULES, ids=lambda rule: rule.__name__)
def test_module_graph_follows_the_rule(rule: tree_rules.TreeRule) -> None:
    """The modules of the program, taken together, do not break the rule."""
    problems = rule(program_sources())
    assert not problems, "\n".join(problems)


def test_the_top_level_is_fixed() -> None:
    """Git tracks nothing at the top level beyond the fixed list."""
    assert tree_rules.top_level(tracked_paths()) == []


def test_tracked_text_is_clean() -> None:
    """No tracked file has pictures, paths of one machine, addresses of registries, or postponed work."""
    texts = {path: (ROOT / path).read_bytes().decode("utf-8", errors="replace") for path in tracked_paths()}
    problems = [line for path, text in texts.items() for line in tree_rules.text_problems(path, text)]
    assert not problems, "\n".join(problems)

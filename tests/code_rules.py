"""The code rules for one module: each takes a `Source` and returns its violations, one line for each."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """A module's name, such as `bot.nonce.file_store`, and its text."""

    name: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed text."""
        return ast.parse(self.text, filename=self.name)

    @cached_property
    def parents(self) -> dict[ast.AST, ast.AST]:
        """The parent of each node."""
        return {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}

    def ancestors(self, node: ast.AST) -> Iterator[ast.AST]:
        """Yield the parents of the node, innermost first."""
        while (outer := self.parents.get(node)) is not None:
            yield outer
            node = outer

    def finding(self, node: ast.AST, message: str) -> str:
        """Return a finding with its location."""
        return f"{self.name}:{getattr(node, 'lineno', 1)}: {message}"


Rule = Callable[[Source], list[str]]


def _functions(source: Source) -> list[FunctionNode]:
    return [node for node in ast.walk(source.tree) if isinstance(node, FunctionNode)]


def _dotted(node: ast.AST) -> str:
    """Return `a.b.c` for such an expression, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (left := _dotted(node.value)):
        return f"{left}.{node.attr}"
    return ""


def imported(source: Source) -> list[tuple[ast.stmt, str]]:
    """Return each import statement with each full name it may name: a module, or something in one."""
    pairs: list[tuple[ast.stmt, str]] = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            pairs += [(node, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            pairs += [(node, f"{node.module or ''}.{alias.name}") for alias in node.names]
    return pairs


def import_inside_function(source: Source) -> list[str]:
    """Imports stand at the top of a module, where the module graph can be seen; except optional drivers, what only a
    run with a page or a simulator needs, and where a missing package is reported."""
    if source.name in {
        "bot.app.venue",
        "bot.cli.commands",
        "bot.cli.start",
        "bot.dashboard.listener",
        "bot.nonce.open_store",
    }:
        return []
    return [
        source.finding(node, "import inside a function")
        for node, _ in imported(source)
        if any(isinstance(outer, FunctionNode) for outer in source.ancestors(node))
    ]


def main_imports(source: Source) -> list[str]:
    """main.py starts the command line, and knows nothing else of the bot."""
    if source.name != "main":
        return []
    return [source.finding(node, name) for node, name in imported(source) if not re.match(r"(sys$|bot\.cli\.)", name)]


def relative_import(source: Source) -> list[str]:
    """Imports name modules in full, so that they can be searched for."""
    return [
        source.finding(node, "relative import")
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]


def global_statement(source: Source) -> list[str]:
    """Shared state is an object, not a name that functions rebind."""
    return [source.finding(node, "global") for node in ast.walk(source.tree) if isinstance(node, ast.Global)]


ENVIRONMENT_CALLS = re.compile(r"os\.(environb?|getenvb?|putenv|unsetenv)(\.|$)|dotenv(\.|$)")


def environment(source: Source) -> list[str]:
    """Only `bot.config` reads the environment; but for OpenSSL's own variables, where TLS begins."""
    if source.name in {"bot.config", "bot.kraken.http_connection"}:
        return []
    used = [(node, _dotted(node)) for node in ast.walk(source.tree) if isinstance(node, ast.Attribute)]
    return [source.finding(node, name) for node, name in used + imported(source) if ENVIRONMENT_CALLS.match(name)]


CLOCK_CALLS = re.compile(r"(.*\.)?(datetime|date)\.(now|utcnow|today)$")


def clock(source: Source) -> list[str]:
    """Only `bot.base.clock` reads the time and sleeps."""
    if source.name == "bot.base.clock":
        return []
    times = [source.finding(node, "import time") for node, name in imported(source) if name.split(".")[0] == "time"]
    calls = [(node, _dotted(node)) for node in ast.walk(source.tree) if isinstance(node, ast.Attribute)]
    return times + [source.finding(node, name) for node, name in calls if CLOCK_CALLS.match(name)]


# Names that run text as a program, create objects from bytes, start a shell or another program, or name a file that
# somebody else may create first.
UNSAFE_MODULES = frozenset("code codeop dill jsonpickle marshal pickle pty shelve subprocess".split())
UNSAFE_NAMES = frozenset({"__import__", "compile", "eval", "exec"})
UNSAFE_CALLS = re.compile(
    r"(os\.(system|popen|exec\w+|spawn\w+|posix_spawn\w*)|yaml\.(unsafe_|full_)?load(_all)?|tempfile\.mktemp|runpy\.\w+"
    r"|builtins\.(eval|exec|compile|__import__)|asyncio\.create_subprocess_\w+)$"
)


def unsafe(source: Source) -> list[str]:
    """Nothing turns data into a program."""
    problems = [
        source.finding(statement, f"import {name}")
        for statement, name in imported(source)
        if name.split(".")[0] in UNSAFE_MODULES or UNSAFE_CALLS.match(name)
    ]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Name) and node.id in UNSAFE_NAMES:
            problems.append(source.finding(node, node.id))
        elif isinstance(node, ast.Attribute) and UNSAFE_CALLS.match(_dotted(node)):
            problems.append(source.finding(node, _dotted(node)))
        elif isinstance(node, ast.keyword) and node.arg == "shell":
            problems.append(source.finding(node.value, "shell="))
    return problems


def broad_except(source: Source) -> list[str]:
    """Nothing catches everything, except one place each in three modules and handlers that always raise again."""
    broad: list[str] = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler) and _is_broad(node.type):
            last = node.body[-1]
            if not (isinstance(last, ast.Raise) and last.exc is None):
                broad.append(source.finding(node, "broad except"))
        elif isinstance(node, ast.Call) and _dotted(node.func).endswith("suppress") and any(map(_is_broad, node.args)):
            broad.append(source.finding(node, "broad suppress"))
    return (
        broad[1:] if source.name in {"bot.trading.trader", "bot.trading.strategy_runner", "bot.base.events"} else broad
    )


def _is_broad(caught: ast.expr | None) -> bool:
    if isinstance(caught, ast.Tuple):
        return any(map(_is_broad, caught.elts))
    return caught is None or _dotted(caught) in {"Exception", "BaseException"}


def docstrings(source: Source) -> list[str]:
    """Modules, and every public class, function and method, have a docstring."""
    missing = [] if ast.get_docstring(source.tree) else [f"{source.name}: no module docstring"]
    for node in ast.walk(source.tree):
        if not isinstance(node, FunctionNode | ast.ClassDef) or ast.get_docstring(node):
            continue
        outer = list(source.ancestors(node))
        private = any(getattr(one, "name", "").startswith("_") for one in [node, *outer])
        nested = any(isinstance(one, FunctionNode) for one in outer)
        if not private and not nested:
            missing.append(source.finding(node, f"{node.name} has no docstring"))
    return missing


def test_docstrings(source: Source) -> list[str]:
    """Each test states its claim in its docstring."""
    return [
        source.finding(node, f"{node.name} has no docstring")
        for node in _functions(source)
        if node.name.startswith("test") and not ast.get_docstring(node)
    ]


test_docstrings.__test__ = False  # type: ignore[attr-defined]  # a rule, not a test

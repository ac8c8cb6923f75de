"""The code rule on money: it is Decimal everywhere, and a float is a time or a probability."""

from __future__ import annotations

import ast
import re

from tests.code_rules import FunctionNode, Source

MONEY_WORDS = frozenset(
    "amount ask balance balances bid budget cash close collar cost costs equity fee fees funds gain held high loss low"
    " margin money notional open pnl price prices profit quantity slippage spread stop turnover value volume volumes"
    " worth".split()
)
# A name with one of these words is not money, whatever else it says: `open_seconds`, `loss_probability`.
TIME_WORDS = frozenset(
    "age chance closetm day days deadline decay delay elapsed expiretm hour hours interval jitter latency minute"
    " minutes ms opentm probability second seconds speed time timeout times timestamp tm".split()
)
# Further words for a converted number that is a time.
TIMESTAMP_WORDS = frozenset("at expires now since start until when".split())
# Synthetic noise alone is made in floats; prices leave these modules as Decimal on the tick grid.
NOISE_MODULES = re.compile(r"bot\.simulator\.prices(_\w+)?$")


def _words(name: str) -> frozenset[str]:
    return frozenset(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_"))


def is_money(name: str) -> bool:
    """Tell whether a name speaks of money or an amount of coins."""
    return bool(_words(name) & MONEY_WORDS) and not _words(name) & TIME_WORDS


def float_money(source: Source) -> list[str]:
    """No float holds money: not by annotation, not by literal, not by conversion."""
    if NOISE_MODULES.match(source.name):
        return []
    return _annotations(source) + _literals(source) + _conversions(source)


def _annotations(source: Source) -> list[str]:
    named: list[tuple[ast.AST, str, ast.expr | None]] = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.arg):
            named.append((node, node.arg, node.annotation))
        elif isinstance(node, ast.AnnAssign):
            named.append((node, _last_name(node.target), node.annotation))
        elif isinstance(node, FunctionNode):
            named.append((node, node.name, node.returns))
    return [
        source.finding(node, f"{name} is money and typed float")
        for node, name, annotation in named
        if annotation is not None and is_money(name) and re.search(r"\bfloat\b", ast.unparse(annotation))
    ]


def _literals(source: Source) -> list[str]:
    """A float literal may not meet money in one operation, comparison, argument or assignment, nor enter a Decimal."""
    problems = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, float):
            outer = next(one for one in source.ancestors(node) if not isinstance(one, ast.UnaryOp))
            names = _combined_names(outer)
            if "Decimal" in names or any(map(is_money, names)):
                problems.append(source.finding(node, f"{node.value} meets {', '.join(sorted(names))}"))
    return problems


def _combined_names(outer: ast.AST) -> set[str]:
    """Return the names that a value inside `outer` is combined with."""
    if isinstance(outer, ast.Call):
        return {_last_name(outer.func)} & {"Decimal"}
    if isinstance(outer, ast.BinOp | ast.Compare):
        return {_last_name(node) for node in ast.walk(outer)} - {""}
    return set(_target_names(outer))


def _conversions(source: Source) -> list[str]:
    """`float(x)` is for times and probabilities: the name that gets its value, or x itself, has to say so."""
    problems = []
    for node in ast.walk(source.tree):
        if not (isinstance(node, ast.Call) and _last_name(node.func) == "float") or ast.unparse(node) == "float('inf')":
            continue
        names = next((names for outer in source.ancestors(node) if (names := _target_names(outer))), ["no name"])
        words = [*names, *re.findall(r"\w+", ast.unparse(node))]
        if any(map(is_money, names)) or not any(_words(name) & (TIME_WORDS | TIMESTAMP_WORDS) for name in words):
            problems.append(source.finding(node, f"{ast.unparse(node)} for {', '.join(names)}"))
    return problems


def _target_names(outer: ast.AST) -> list[str]:
    """Return the names that a value inside `outer` is assigned to."""
    if isinstance(outer, ast.keyword):
        return [outer.arg or ""]
    if isinstance(outer, ast.Assign):
        return [_last_name(target) for target in outer.targets]
    if isinstance(outer, ast.AnnAssign | ast.AugAssign):
        return [_last_name(outer.target)]
    return [outer.name] if isinstance(outer, FunctionNode) else []


def _last_name(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""

"""The code rules for modules together (dead ones) and for every tracked text file."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.code_rules import Source, imported

TreeRule = Callable[[list[Source]], list[str]]

TOP_LEVEL = frozenset(
    ".ci .dockerignore .env.example .github .gitignore .railway Dockerfile LICENSE Makefile README.md bot docs main.py"
    " pyproject.toml render.yaml tests".split()
)


def graph(sources: list[Source]) -> dict[str, set[str]]:
    """Return for each module which of the others it imports."""
    names = {source.name for source in sources}
    edges: dict[str, set[str]] = {}
    for source in sources:
        named = {name for _, name in imported(source)}
        # `from a.b import c` names the module a.b.c if there is one, and something in a.b if not.
        targets = {name if name in names else name.rpartition(".")[0] for name in named}
        edges[source.name] = (targets & names) - {source.name}
    return edges


def dead_modules(sources: list[Source]) -> list[str]:
    """Every module is imported by another one, or is the entry point of a program."""
    used = {one for targets in graph(sources).values() for one in targets}
    packages = {source.name.rpartition(".")[0] for source in sources}
    starts = {"main", *(source.name for source in sources if source.name.endswith(".__main__"))}
    return [f"nothing imports {source.name}" for source in sources if source.name not in used | packages | starts]


def top_level(paths: list[str]) -> list[str]:
    """The top level of the repository is fixed."""
    return sorted({path.split("/")[0] for path in paths} - TOP_LEVEL)


# Written in pieces, so that this file does not break its own rules.
EMOJI = re.compile("[\u2600-\u27bf\u2b00-\u2bff\ufe0f\U0001f000-\U0001faff]")
MACHINE_PATHS = re.compile(r"(?<![\w.~)}-])/(?:ro" + r"ot|wo" + r"rk|ho" + r"me|Us" + r"ers)/")
REGISTRIES = re.compile(r"pypi\.o" + r"rg|python" + r"hosted|index" + r"-url|npm" + r"js\.(?:o" + r"rg|com)")
UNFINISHED_MARKS = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|HA" + r"CK|XX" + r"X)\b")


def text_problems(path: str, text: str) -> list[str]:
    """A text file has no pictures, no path of one machine, no registry's address, no postponed work."""
    rules = {
        "emoji or tick": EMOJI,
        "path of a machine": MACHINE_PATHS,
        "address of a registry": REGISTRIES,
        "left over": UNFINISHED_MARKS,
    }
    return [
        f"{path}:{number}: {label}: {match.group()}"
        for number, line in enumerate(text.splitlines(), 1)
        for label, rule in rules.items()
        if (match := rule.search(line))
    ]

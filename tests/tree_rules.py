"""The house rules for modules together (arrows, cycles, dead ones) and for every tracked text file."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.house_rules import Source, imported

TreeRule = Callable[[list[Source]], list[str]]

LEAVES = frozenset({"models", "errors", "clock", "events", "metrics"})
# Who may import whom, by the first word after `bot.`; each may import its own package. Main may import everything.
ARROWS: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "clock": frozenset(),
    "events": frozenset(),
    "metrics": frozenset(),
    "timeframes": frozenset({"errors"}),
    "models": frozenset({"errors"}),
    "kraken": LEAVES | {"redaction"},  # for what an answer quotes
    "nonce": LEAVES,
    "setting_rules": frozenset(),
    "redaction": frozenset(),
    "logs": frozenset({"clock", "redaction"}),
    "config": frozenset({"errors", "setting_rules", "timeframes", "kraken", "nonce"}),  # what a setting may say
    "settling": frozenset({"models", "errors", "order_life"}),
    "order_life": frozenset({"models"}),
    "journal_schema": frozenset({"order_life"}),
    "journal_file": LEAVES | {"journal_schema", "nonce"},
    "journal_check": frozenset({"models", "order_life"}),
    "report_text": frozenset(),
    "reports": LEAVES | {"journal", "journal_check", "nonce", "order_life", "report_text"},
    "journal": LEAVES | {"journal_file", "order_life"},
    "strategies": frozenset({"models", "errors"}),
    "position": frozenset({"models", "errors"}),
    "exit_steps": frozenset({"models", "errors"}),
    "risk": frozenset({"models", "errors", "kraken"}),  # what a status of Kraken's lets through
    "key_guard": LEAVES | {"kraken", "nonce"},
    "key_budget": LEAVES | {"kraken", "nonce"},
    "settlement": LEAVES | {"settling", "order_life", "journal"},
    "order_desk": LEAVES | {"key_budget", "kraken", "settlement", "order_life", "journal"},
    "market_verbs": LEAVES | {"kraken", "timeframes"},
    "broker_verbs": LEAVES
    | {"market_verbs"}
    | {"order_desk", "settlement", "journal", "key_budget", "kraken", "settling", "timeframes"},
    "broker_standing": LEAVES | {"broker_verbs", "key_budget", "key_guard", "nonce"},
    "broker_manager": LEAVES
    | {
        "broker_standing",
        "order_desk",
        "key_budget",
        "key_guard",
        "kraken",
        "nonce",
        "settling",
        "config",
        "journal",
        "setting_rules",
    },
    "trading": LEAVES
    | {"kraken", "strategies", "position", "risk", "exit_steps", "settling", "timeframes", "journal", "order_life"},
    "trader": LEAVES
    | {
        "broker_manager",
        "journal",
        "trading",
        "strategies",
        "position",
        "risk",
        "exit_steps",
        "settling",
        "timeframes",
    },
    "outbox": LEAVES,
    "alerts": LEAVES | {"outbox", "kraken", "redaction"},  # its way to send with an end to every wait
    "instance": LEAVES,
    "nonce_words": LEAVES | {"broker_manager", "config", "nonce"},
    "nonce_commands": LEAVES
    | {"nonce_words", "broker_manager", "config", "instance", "kraken", "nonce", "setting_rules"},
    "checkup": LEAVES
    | {"nonce_words", "broker_manager", "kraken", "nonce", "strategies", "instance", "config", "timeframes"},
    "command_line": frozenset({"nonce_commands"}),
    "service": LEAVES | {"instance", "runner"},
    "runner": LEAVES
    | {"nonce", "trader", "trading", "broker_manager", "strategies", "risk", "instance", "config", "timeframes"},
    "trading_session": LEAVES
    | {"runner", "trader", "trading", "broker_manager", "nonce", "nonce_words", "strategies", "risk", "config"},
    "status": LEAVES
    | {
        "bot",  # its version
        "broker_manager",
        "config",
        "events",
        "instance",
        "journal",
        "logs",
        "metrics",
        "nonce",
        "nonce_words",
        "redaction",
        "report_text",
        "reports",
        "runner",
        "trader",
        "trading",
        "trading_session",
    },
    "simulator": frozenset({"clock"}),
}
TOP_LEVEL = frozenset(
    ".ci .dockerignore .env.example .github .gitignore .railway Dockerfile LICENSE Makefile README.md bot docs main.py"
    " pyproject.toml render.yaml tests".split()
)


def room(module: str) -> str:
    """Return where a module lives: `nonce` for `bot.nonce.file`, `main` for `main`."""
    parts = module.split(".")
    return parts[1] if parts[0] == "bot" and len(parts) > 1 else parts[0]


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


def cycles(sources: list[Source]) -> list[str]:
    """No module imports itself by way of others."""
    edges = graph(sources)
    reach = {name: set(targets) for name, targets in edges.items()}
    for middle in edges:
        for name in edges:
            if middle in reach[name]:
                reach[name] |= reach[middle]
    circular = sorted(name for name, targets in reach.items() if name in targets)
    return [f"import cycle through {', '.join(circular)}"] if circular else []


def arrows(sources: list[Source]) -> list[str]:
    """Imports point down only, as ARROWS says."""
    problems = []
    for name, targets in sorted(graph(sources).items()):
        here = room(name)
        if here in {"main", "bot"}:
            continue
        if here not in ARROWS:
            problems.append(f"{name} has no place in ARROWS")
            continue
        problems += [f"{name} imports {one}" for one in sorted(targets) if room(one) not in ARROWS[here] | {here}]
    return problems


def dead_modules(sources: list[Source]) -> list[str]:
    """Every module is imported by another one, or is where a program starts."""
    used = {one for targets in graph(sources).values() for one in targets}
    packages = {source.name.rpartition(".")[0] for source in sources}
    starts = {"main", *(source.name for source in sources if source.name.endswith(".__main__"))}
    return [f"nothing imports {source.name}" for source in sources if source.name not in used | packages | starts]


def top_level(paths: list[str]) -> list[str]:
    """The top level of the repository is fixed."""
    return sorted({path.split("/")[0] for path in paths} - TOP_LEVEL)


# Written in pieces, so that this file does not break its own rules.
PICTURES = re.compile("[\u2600-\u27bf\u2b00-\u2bff\ufe0f\U0001f000-\U0001faff]")
MACHINE_PATHS = re.compile(r"(?<![\w.~)}-])/(?:ro" + r"ot|wo" + r"rk|ho" + r"me|Us" + r"ers)/")
REGISTRIES = re.compile(r"pypi\.o" + r"rg|python" + r"hosted|index" + r"-url|npm" + r"js\.(?:o" + r"rg|com)")
LEFT_OVERS = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|HA" + r"CK|XX" + r"X)\b")


def text_problems(path: str, text: str) -> list[str]:
    """A text file has no pictures, no path of one machine, no registry's address, nothing put off."""
    rules = {
        "emoji or tick": PICTURES,
        "path of a machine": MACHINE_PATHS,
        "address of a registry": REGISTRIES,
        "left over": LEFT_OVERS,
    }
    return [
        f"{path}:{number}: {what}: {match.group()}"
        for number, line in enumerate(text.splitlines(), 1)
        for what, rule in rules.items()
        if (match := rule.search(line))
    ]

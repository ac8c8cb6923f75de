"""Reading the pages of the documentation: sections, tables, blocks."""

from __future__ import annotations

import re

from tests.conftest import ROOT

DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / ".github" / "SECURITY.md", *DOCS]


def read_page(name: str) -> str:
    """Return the text of a page."""
    return (ROOT / name).read_text("ascii")


def read_section(name: str, title: str) -> str:
    """Return the text under a title, up to the next title of its level or above."""
    text = read_page(name)
    start = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    assert start is not None, f"{name} has no section {title!r}"
    rest = text[start.end() :]
    end = re.search(rf"^#{{1,{len(start[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def code_blocks(text: str, language: str = "") -> list[str]:
    """Return the fenced blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def rows(text: str) -> list[list[str]]:
    """Return the cells of the table rows, without heads."""
    lines = [line.strip().strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line] for line in lines]
    rules = {number for number, line in enumerate(cells) if set("".join(line)) <= set("-: ")}
    return [line for number, line in enumerate(cells) if number not in rules and number + 1 not in rules]


def backquoted(cell: str) -> list[str]:
    """Return the texts in backquotes."""
    return re.findall(r"`([^`]+)`", cell)


def first_names(text: str) -> list[str]:
    """Return the first backquoted word of each table row."""
    return [backquoted(line[0])[0] for line in rows(text)]

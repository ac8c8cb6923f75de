"""The Dockerfile and .dockerignore, read as Docker reads them."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from dockerfile_parse import DockerfileParser  # type: ignore[import-untyped]

from tests.conftest import ROOT

# The PATH of a container before the image sets anything (Docker's default).
BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Step:
    """An instruction: its word, such as `RUN`, and its arguments."""

    instruction: str
    arguments: str

    def exec_words(self) -> list[str]:
        """Return the words of the exec form. Raises ValueError for the shell form."""
        words = json.loads(self.arguments[self.arguments.index("[") :])
        assert all(isinstance(word, str) for word in words)
        return list(words)


def stages() -> list[list[Step]]:
    """Return the steps of each stage, the first of which is its FROM."""
    found: list[list[Step]] = []
    for entry in _parser().structure:
        if entry["instruction"] == "FROM":
            found.append([])
        if entry["instruction"] != "COMMENT":
            found[-1].append(Step(entry["instruction"], entry["value"]))
    return found


def image_environment() -> dict[str, str]:
    """Return the default environment of a container of the image."""
    return {"PATH": BASE_PATH, **_parser().envs}


def only_step(stage: list[Step], word: str) -> Step:
    """Return the only step with this word."""
    (step,) = [step for step in stage if step.instruction == word]
    return step


def copies(stage: list[Step]) -> list[tuple[list[str], str]]:
    """Return sources and destination of each COPY from the build context."""
    words = [
        shlex.split(step.arguments)
        for step in stage
        if step.instruction == "COPY" and not step.arguments.startswith("--from")
    ]
    return [(line[:-1], line[-1]) for line in words]


def is_in_context(path: str) -> bool:
    """Tell whether .dockerignore lets a path of the repository into the build context."""
    return not is_ignored(path, (ROOT / ".dockerignore").read_text("ascii"))


def is_ignored(path: str, patterns: str) -> bool:
    """Tell whether a .dockerignore with these lines excludes a path: the last line that matches decides.

    A line matches the path that it names and everything inside it (Docker's page "Build context", "Syntax").
    """
    ignored = False
    parts = path.split("/")
    ancestors = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
    for line in patterns.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        pattern = _pattern(line.strip().removeprefix("!"))
        if any(pattern.fullmatch(name) for name in ancestors):
            ignored = not line.startswith("!")
    return ignored


def _pattern(pattern: str) -> re.Pattern[str]:
    # `**/` is any number of folders, also none; `*` and `?` stay within one.
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", pattern.strip("/"))
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(words.get(piece, re.escape(piece)) for piece in pieces))


def build_context() -> Iterator[str]:
    """Yield every file of the working tree that goes into the build context, whether git knows it or not."""
    for folder, folders, files in os.walk(ROOT):
        here = os.path.relpath(folder, ROOT)
        # No line of .dockerignore includes a path inside an excluded folder.
        folders[:] = [name for name in folders if is_in_context(os.path.normpath(f"{here}/{name}"))]
        yield from (path for name in files if is_in_context(path := os.path.normpath(f"{here}/{name}")))


def _parser() -> DockerfileParser:
    return DockerfileParser(path=str(ROOT / "Dockerfile"), parent_env={"PATH": BASE_PATH})

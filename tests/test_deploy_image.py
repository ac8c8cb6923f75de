"""The Dockerfile, the commands of its image, and the files that .dockerignore lets into it."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from tests.conftest import ROOT
from tests.dockerfile import image_environment, is_ignored, is_in_context, only_step, stages
from tests.pages import backquoted, read_page, read_section, rows

USER = 10001


def test_the_image_has_two_stages_on_the_same_slim_python() -> None:
    """The image takes only /app from the first stage, and both stages use the slim Python that the tests run on."""
    build, final = stages()
    base = only_step(final, "FROM").arguments
    assert only_step(build, "FROM").arguments == f"{base} AS build"
    assert re.fullmatch(r"python:3\.1[1-3]-slim", base)
    assert [step.arguments for step in final if step.instruction in {"COPY", "ADD"}] == ["--from=build /app /app"]


def test_the_image_installs_by_the_locks_alone() -> None:
    """Only .ci/setup installs packages, with the drivers of the stores, and it requires every hash."""
    steps = [step.arguments for stage in stages() for step in stage if step.instruction == "RUN"]
    installing = [step for step in steps if re.search(r"\binstall\b(?! --directory)|\.ci/setup|\bapt|curl|wget", step)]
    assert [step.split(" && ")[0] for step in installing] == [".ci/setup stores"]
    installs = re.findall(r"-m pip install.*", read_page(".ci/setup"))
    assert installs
    assert all("--require-hashes" in line for line in installs)


def test_image_commands_use_the_exec_form() -> None:
    """Entry point, command and health check are in the exec form, and SIGTERM stops it."""
    final = stages()[-1]
    assert only_step(final, "ENTRYPOINT").exec_words() == ["/app/.ci/start"]
    assert only_step(final, "CMD").exec_words() == ["python", "main.py"]
    assert only_step(final, "HEALTHCHECK").exec_words()[0] == "python"
    assert only_step(final, "STOPSIGNAL").arguments == "SIGTERM"
    assert read_page(".ci/start").rstrip().endswith('\nexec "$@"')
    assert os.access(ROOT / ".ci/start", os.X_OK)


def test_image_leaves_platform_settings_unset() -> None:
    """There is no VOLUME, which Railway refuses; no STATE_DIR, which would override its volume; no USER, who could
    not take over a disk of root's; and no variable except Python's, the port's and the volume's."""
    words = {step.instruction for stage in stages() for step in stage}
    assert words <= set("FROM WORKDIR COPY RUN ENV EXPOSE STOPSIGNAL HEALTHCHECK ENTRYPOINT CMD".split())
    assert {name for name in image_environment() if not name.startswith("PYTHON")} == {
        "PATH",
        "PORT",
        "RAILWAY_VOLUME_MOUNT_PATH",
    }


@pytest.mark.parametrize(
    ("path", "patterns", "kept_out"),
    [
        ("a/temp1", "*/temp*", True),
        ("a/b/temp1", "*/temp*", False),
        ("a/b/temp1", "*/*/temp*", True),
        ("tempa", "temp?", True),
        ("temp", "temp?", False),
        ("x.go", "**/*.go", True),
        ("a/b/x.go", "**/*.go", True),
        ("README.md", "*.md\n!README.md", False),
        ("README-secret.md", "*.md\n!README*.md\nREADME-secret.md", True),
        ("README-secret.md", "*.md\nREADME-secret.md\n!README*.md", False),
        ("a/b", "# a\n\na", True),
    ],
)
def test_dockerignore_is_read_as_docker_reads_it(path: str, patterns: str, kept_out: bool) -> None:
    """The examples of Docker's own page give its results (docs.docker.com, Build context, .dockerignore files)."""
    assert is_ignored(path, patterns) is kept_out


def test_build_context_is_the_tracked_program() -> None:
    """Of all files in git, only .ci, bot, main.py and the licence are sent to the builder."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    tracked = {path for path in listing.stdout.split("\0") if path}
    wanted = {path for path in tracked if path.split("/")[0] in {".ci", "bot", "main.py", "LICENSE"}}
    assert {path for path in tracked if is_in_context(path)} == wanted


def test_build_context_has_no_secret_and_no_state() -> None:
    """No .env, no history, and no possible file of a state folder is sent to the builder."""
    named = [name for line in rows(read_section("docs/configuration.md", "State")) for name in backquoted(line[0])]
    state = [re.sub(r"<\w+>", "0123abcd", name) for name in named]
    assert "kraken_nonce.txt" in state
    paths = [f"{folder}/{name}" for folder in ("bot", "state") for name in [*state, "bot.json.17", "paper_live.db-wal"]]
    paths += [".env", ".env.production", "bot/.env", ".git/config", ".venv/bin/python", "state/kraken_nonce.txt"]
    assert [path for path in paths if is_in_context(path)] == []


def test_image_runs_as_the_user_it_creates() -> None:
    """The image starts the bot as the user that it creates."""
    final = stages()[-1]
    (step,) = [step.arguments for step in final if step.instruction == "RUN"]
    assert re.findall(r"--[ug]id (\d+)", step) == [str(USER)] * 3
    assert re.findall(r"\d{4,}", read_page(".ci/start").partition("\nset ")[2]) == ["0700", *[str(USER)] * 4]

"""The workflows of GitHub, which cannot run here: their permissions, their commands, and their pinned actions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))
# A commit cannot be changed, and the version beside it is for people and for Dependabot.
PINNED = re.compile(r"uses: (?P<action>[\w.-]+/[\w./-]+)@(?P<commit>[0-9a-f]{40}) # (?P<version>v\d+\.\d+\.\d+)$")
READ = {"contents": "read"}
# Only this workflow may write, and only its findings.
WRITERS = {"codeql.yml": {"contents": "read", "security-events": "write"}}

every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)


def parse_workflow(path: Path) -> dict[str, Any]:
    """Return a workflow; YAML 1.1 reads its key `on` as true."""
    workflow: dict[Any, Any] = yaml.safe_load(path.read_text("utf-8"))
    return {"on" if key is True else key: value for key, value in workflow.items()}


def steps(path: Path) -> list[dict[str, Any]]:
    """Return the steps of all its jobs."""
    return [step for job in parse_workflow(path)["jobs"].values() for step in job["steps"]]


def commands(name: str) -> list[str]:
    """Return the commands of a workflow."""
    return [step["run"] for step in steps(FOLDER / name) if "run" in step]


@every_workflow
def test_workflow_has_read_permission_only(path: Path) -> None:
    """A workflow may read the repository and do nothing else, except upload CodeQL's findings."""
    workflow = parse_workflow(path)
    assert workflow["permissions"] == READ
    for job in workflow["jobs"].values():
        assert job.get("permissions", READ) == WRITERS.get(path.name, READ)


@every_workflow
def test_a_workflow_has_no_secrets(path: Path) -> None:
    """No secret is named, nothing from a stranger runs with the repository's permissions, and the token of the
    checkout is not kept."""
    assert not re.search(r"secrets\s*[.\[]|github\.token|GITHUB_TOKEN", path.read_text("utf-8"))
    assert set(parse_workflow(path)["on"]) <= {"push", "pull_request", "schedule", "workflow_dispatch"}
    fetches = [step for step in steps(path) if step.get("uses", "").startswith("actions/checkout@")]
    assert [step["with"] for step in fetches] == [{"persist-credentials": False}] * len(parse_workflow(path)["jobs"])


@every_workflow
def test_actions_are_pinned(path: Path) -> None:
    """Each action is named by a whole commit, with its version beside it."""
    lines = [line.strip(" -") for line in path.read_text("utf-8").splitlines() if "uses:" in line]
    assert [line for line in lines if not PINNED.fullmatch(line)] == []
    assert len(lines) == sum("uses" in step for step in steps(path))


def test_each_action_has_one_version() -> None:
    """All workflows use one commit of an action, and one of all actions of a repository."""
    used: dict[str, set[tuple[str, str]]] = {}
    for match in re.finditer(PINNED.pattern, "\n".join(map(Path.read_text, WORKFLOWS)), re.MULTILINE):
        repository = "/".join(match["action"].split("/")[:2])
        used.setdefault(repository, set()).add((match["commit"], match["version"]))
    assert set(used) == {"actions/checkout", "actions/setup-python", "github/codeql-action"}
    assert [name for name, versions in used.items() if len(versions) > 1] == []


@every_workflow
def test_commands_contain_no_expressions(path: Path) -> None:
    """No command contains an expression, whose text would be run as a part of the command."""
    assert [step["run"] for step in steps(path) if "${{" in step.get("run", "")] == []


@every_workflow
def test_workflow_has_a_timeout(path: Path) -> None:
    """Every job ends within 30 minutes, on a named image, and a newer run of the same branch ends the older one."""
    workflow = parse_workflow(path)
    assert workflow["concurrency"] == {"group": "${{ github.workflow }}-${{ github.ref }}", "cancel-in-progress": True}
    for job in workflow["jobs"].values():
        assert 0 < job["timeout-minutes"] <= 30
        assert re.fullmatch(r"ubuntu-\d\d\.\d\d", job["runs-on"])


def test_the_tests_run_on_every_python() -> None:
    """The tests run as in any clean clone, on Python 3.11, 3.12 and 3.13, and a failure on one cancels no other."""
    (job,) = parse_workflow(FOLDER / "tests.yml")["jobs"].values()
    assert commands("tests.yml") == [".ci/run"]
    assert job["strategy"] == {"fail-fast": False, "matrix": {"python": ["3.11", "3.12", "3.13"]}}
    (python,) = [step["with"] for step in job["steps"] if "setup-python" in step.get("uses", "")]
    assert python == {"python-version": "${{ matrix.python }}"}


def test_codeql_analyzes_python() -> None:
    """CodeQL analyzes Python, and its last step is reached."""
    used = [step["uses"].partition("@")[0] for step in steps(FOLDER / "codeql.yml")]
    assert used == ["actions/checkout", "github/codeql-action/init", "github/codeql-action/analyze"]
    assert steps(FOLDER / "codeql.yml")[1]["with"]["languages"] == "python"


def test_audit_covers_the_locked_packages() -> None:
    """Every day the locked packages of a running bot are checked for known faults, completely and by their hashes,
    by a program that is locked itself; and the program is audited as on any machine."""
    ran = commands("audit.yml")
    assert "schedule" in parse_workflow(FOLDER / "audit.yml")["on"]
    assert ran[0] == "python -m pip install --require-hashes --only-binary :all: -r .ci/locked/audit.txt"
    looked_up = "python -m pip_audit --strict --require-hashes --disable-pip -r .ci/locked/"
    assert ran[1:] == [f"{looked_up}{name}.txt" for name in ("build", "run", "stores")] + ["make audit"]


def test_dependabot_moves_all_actions_together() -> None:
    """Newer actions come in one change, a week after their publication: CodeQL's must be of one version."""
    (update,) = yaml.safe_load((FOLDER.parent / "dependabot.yml").read_text("utf-8"))["updates"]
    assert update["package-ecosystem"] == "github-actions"
    assert update["groups"] == {"actions": {"patterns": ["*"]}}
    assert update["cooldown"] == {"default-days": 7}

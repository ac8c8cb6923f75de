"""Rolling deploys and rollbacks between this version and the one before its modules moved.

The two share only what lies outside the process: locked files, the record in the store, client order ids.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest

from bot.base.clock import wall_us
from tests.acceptance.instances import Fleet, Instance, check_signals, trading_fleet
from tests.acceptance.script_tools import PAGE, script_environment, write_script
from tests.acceptance.versions import HERE, Version, extract_old_version
from tests.child_process import Child
from tests.conftest import ROOT
from tests.pages import code_blocks

# How much faster than the wall the market is: slow enough that on a busy machine an answer is not seconds late.
SPEED = 60.0
HOUR_US = 3_600_000_000
# Deploys in a row; requests of each version's script, and orders of the bot, in each of them.
DEPLOYS, SCRIPTS, ORDERS = 6, 40, 4
# The signals that end the previous instance, in rotation.
SIGNALS = (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL)

Versions = dict[str, Version]
Start = Callable[[str], Instance]


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Versions:
    """Return the old version and the one under test."""
    return {"old": extract_old_version(tmp_path_factory.mktemp("old")), "new": HERE}


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Open a fleet on a market in which there is something to order in every candle."""
    with trading_fleet(tmp_path, speed=SPEED) as opened:
        yield opened


def write_future_nonce(folder: Path) -> None:
    """Write a nonce an hour ahead of the clock into a state folder: a version that ignores it is refused."""
    folder.mkdir()
    (folder / "kraken_nonce.txt").write_text(str(wall_us() + HOUR_US), "ascii")


@pytest.mark.soak
def test_the_new_version_continues_after_the_old_one(fleet: Fleet, versions: Versions, tmp_path: Path) -> None:
    """On one state folder the new version goes on after the old one: no nonce is refused, no signal traded twice."""
    write_future_nonce(tmp_path / "state")
    for name, version in versions.items():
        instance = fleet.start_version(version, name, STATE_DIR=str(tmp_path / "state"))
        instance.wait_for_request("AddOrder", times=2)
        instance.send(signal.SIGTERM)
        assert instance.wait_and_check() == 0
    check_no_refusal_and_no_double(fleet)


@pytest.mark.soak
def test_versions_alternate_on_one_state_folder(fleet: Fleet, versions: Versions, tmp_path: Path) -> None:
    """On one state folder each version waits for the other's end and goes on where it was, while scripts of both send
    on the key: no nonce is refused, no signal is traded twice, and each finds the journal right at the end.
    """
    state = tmp_path / "state"
    write_future_nonce(state)

    def start(name: str) -> Instance:
        return fleet.start_version(versions[name], name, "run", versions[name].forever, STATE_DIR=str(state))

    alternate_versions(
        fleet, start, lambda: run_scripts_of_both(fleet, versions, tmp_path, dict.fromkeys(versions, state))
    )
    for name, version in versions.items():
        check = fleet.start_version(version, name, "journal", "check", STATE_DIR=str(state))
        assert check.wait_and_check() == 0, check.text
    check_no_refusal_and_no_double(fleet)


@pytest.mark.soak
@pytest.mark.parametrize("address", ["redis_url", "postgres_url"])
def test_versions_alternate_on_one_store(
    fleet: Fleet, versions: Versions, address: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """On one store, each with a disk of its own, each version is a standby while the other leads, while scripts of both
    send on the key: no nonce is refused, no signal is traded twice, and each lease has a higher fencing token.
    """
    store = str(request.getfixturevalue(address))
    states = {name: tmp_path / f"scripts of {name}" for name in versions}
    write_future_nonce(tmp_path / "old")

    def start(name: str) -> Instance:
        return fleet.start_version(versions[name], name, NONCE_STORE=store, LEASE_SECONDS="3")

    alternate_versions(fleet, start, lambda: run_scripts_of_both(fleet, versions, tmp_path, states, store))
    fleet.check_leaders()
    check_no_refusal_and_no_double(fleet)


def alternate_versions(fleet: Fleet, start: Start, run_scripts: Callable[[], None]) -> None:
    """Deploy the new version on the old one, and the old one on the new one, again and again, each time with both there
    for a while; fail where one sends while the other has not ended.
    """
    names = [("old", "new")[number % 2] for number in range(DEPLOYS + 1)]
    current = start(names[0])
    for number, (_, name) in enumerate(pairwise(names)):
        current.wait_for_request("AddOrder")
        following = start(name)
        following.wait_for("^standby |Standby: ")
        seen = len(current.requests("AddOrder"))
        run_scripts()
        current.wait_for_request("AddOrder", times=seen + ORDERS)
        current.send(SIGNALS[number % len(SIGNALS)])
        assert current.wait_and_check() in {0, -signal.SIGKILL}
        current = following
    current.wait_for_request("AddOrder", times=ORDERS)
    current.send(signal.SIGTERM)
    assert current.wait_and_check() == 0
    assert fleet.leader_names() == names


def run_scripts_of_both(
    fleet: Fleet, versions: Versions, folder: Path, states: dict[str, Path], store: str = ""
) -> None:
    """Let a script of either version, as its own page has it, send at the same time again and again."""
    simulator = fleet.kraken.simulator
    before = accepted_balances(fleet)
    with ExitStack() as stack:
        scripts = []
        for name, version in versions.items():
            code = code_blocks((version.folder / PAGE).read_text("utf-8"), "python")[0]
            path = write_script(folder / "mine", code, f"script_{name}")
            # The program of this version before the tests' own.
            path_setting = {"PYTHONPATH": f"{version.folder}:{ROOT}"}
            environment = version.rename_settings(script_environment(simulator, states[name], store)) | path_setting
            child = Child("tests.acceptance.script_child", path, SCRIPTS, cwd=path.parent, environment=environment)
            scripts.append(stack.enter_context(child))
        for script in scripts:
            script.expect_line("ready")
        for script in scripts:
            script.write_line("go")
        for script in scripts:
            script.read_to_end()
    assert accepted_balances(fleet) - before == SCRIPTS * len(scripts)


def accepted_balances(fleet: Fleet) -> int:
    """Return how often a script was answered; the bot asks for its balance by another name."""
    rows = list(fleet.kraken.simulator.request_log)
    return sum(row.method == "Balance" and row.is_nonce_accepted for row in rows)


def check_no_refusal_and_no_double(fleet: Fleet) -> None:
    """Fail where a nonce was refused, to whomever, or a signal was traded twice."""
    assert fleet.kraken.refused_nonces == 0, fleet.describe_disturbances()
    check_signals(fleet.kraken)

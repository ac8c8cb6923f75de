"""Run a user's scripts on the bot's key: the programs of docs/other-programs.md, and others."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import krakenex

from bot.broker_manager import get_kraken_nonce
from bot.simulator.server import Simulator
from tests.acceptance.processes import isolated_settings
from tests.child_process import Child
from tests.conftest import ROOT
from tests.pages import code_blocks, read_section

PAGE = "docs/other-programs.md"
TIMEOUT_SECONDS = 40.0


def example_code(title: str) -> str:
    """Return the program under a title of docs/other-programs.md."""
    [code] = code_blocks(read_section(PAGE, title), "python")
    return code


def script_environment(simulator: Simulator, state_folder: Path, store: str = "") -> dict[str, str]:
    """Return the environment of a script on the key of a simulator."""
    settings = {
        "KRAKEN_API_KEY": simulator.key,
        "KRAKEN_API_SECRET": simulator.secret,
        "KRAKEN_API_URL": simulator.url,
        "STATE_DIR": str(state_folder),
        "NONCE_STORE": store,
    }
    return isolated_settings(settings)


def write_script(folder: Path, code: str, name: str = "my_script") -> Path:
    """Write a script into a folder of its own; return its path."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.py"
    path.write_text(code, "ascii")
    return path


def run_script(path: Path, environment: dict[str, str], program: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a script in its own folder, as docs/other-programs.md says."""
    return subprocess.run(
        [sys.executable, path.name],
        cwd=path.parent,
        env={**os.environ, **environment, "PYTHONPATH": str(program)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def request_errors(simulator: Simulator) -> list[str]:
    """Return the error of each private request, oldest first; "" for none."""
    return [request.error for request in list(simulator.request_log)]


FORKING_SCRIPT = """
import multiprocessing

import krakenex

from bot.broker_manager import get_kraken_nonce, kraken_request_lock
from bot.config import load_settings

settings = load_settings()


def send():
    api = krakenex.API(settings.api_key, settings.api_secret)
    api.uri = settings.api_url
    api._nonce = get_kraken_nonce
    api.query_private("Balance", timeout=(3, 10))


def child():
    with kraken_request_lock():
        send()


children = []
for _ in range(4):
    with kraken_request_lock():
        children.append(multiprocessing.get_context("fork").Process(target=child))
        children[-1].start()
        send()
for process in children:
    process.join()
    assert process.exitcode == 0, process.exitcode
"""

LOCK_HOLDING_SCRIPT = """
import select
import sys

import krakenex

from bot.broker_manager import get_kraken_nonce, kraken_request_lock
from bot.config import load_settings
from bot.nonce import shared_store

shared_store.LOCK_LIFETIME_SECONDS = {seconds}
settings = load_settings()
with kraken_request_lock():
    nonce = get_kraken_nonce()
    print("held", flush=True)
    # Not in one long call: a signal that comes just before it would only be handled after it.
    while not select.select([sys.stdin], [], [], 0.01)[0]:
        pass
    api = krakenex.API(settings.api_key, settings.api_secret)
    api.uri = settings.api_url
    api._nonce = lambda: nonce
    print(api.query_private("Balance")["error"], flush=True)
"""


def start_lock_holder(
    simulator: Simulator, folder: Path, state_folder: Path, store: str, lock_seconds: float = 3600.0
) -> Child:
    """Start a script that holds the request lock until it is told to send; in a store the lock has this lifetime."""
    path = write_script(folder / "mine", LOCK_HOLDING_SCRIPT.format(seconds=lock_seconds))
    return Child(path.stem, cwd=path.parent, environment=script_environment(simulator, state_folder, store))


def run_scripts_concurrently(
    simulator: Simulator, folder: Path, store: str, scripts: list[str], times: int, reads: int
) -> None:
    """Run every script `times` times while two brokers read; with a store each has a state folder of its own."""
    with ExitStack() as stack:
        processes: list[Child] = []
        for number, code in enumerate(scripts):
            environment = script_environment(simulator, folder / (f"host{number}" if store else "state"), store)
            path = write_script(folder / "mine", code, f"script{number}")
            child = Child("tests.acceptance.script_child", path, times, cwd=path.parent, environment=environment)
            processes.append(stack.enter_context(child))
        for process in processes:
            process.expect_line("ready")
        for number in range(2 if reads else 0):
            environment = script_environment(simulator, folder / (f"bot{number}" if store else "state"), store)
            arguments = (simulator.url, simulator.key, simulator.secret, "reads", reads, 2)
            bot = Child("tests.acceptance.broker_child", *arguments, environment=environment)
            processes.append(stack.enter_context(bot))
        for process in processes[: len(scripts)]:
            process.write_line("go")
        for process in processes:
            process.read_to_end()


def open_krakenex(simulator: Simulator) -> krakenex.API:
    """Return krakenex on the key of a simulator, as docs/other-programs.md says, without the settings."""
    api = krakenex.API(simulator.key, simulator.secret)
    api.uri = simulator.url
    api._nonce = lambda: get_kraken_nonce(api_key=simulator.key)
    return api

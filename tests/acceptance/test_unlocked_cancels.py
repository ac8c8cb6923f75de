"""A cancel that goes without the request lock, in a process that is suspended after the cancel's nonce was taken."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from bot.base.clock import boottime_seconds
from bot.kraken.transport import KrakenAPI
from bot.nonce.file_store import FileStore
from bot.simulator.options import SimulatorOptions
from bot.simulator.server import Simulator
from tests.acceptance.broker_tools import wait_for
from tests.acceptance.nonce_tools import BOTH_STORES
from tests.child_process import Child
from tests.server_processes import process_state

# The program allows its nonce half a second.
PAUSE_SECONDS = 0.6


def start_child(simulator: Simulator, folder: Path, store: str = "") -> Child:
    """Return a bot on a host of its own, not entered yet."""
    environment = {"STATE_DIR": str(folder), "NONCE_STORE": store, "SKIP_OVERLAP_WAIT": "1"}
    account = simulator.url, simulator.key, simulator.secret
    return Child("tests.acceptance.unlocked_cancel_child", *account, environment=environment)


@contextmanager
def suspended_cancel(simulator: Simulator, folder: Path, store: str = "") -> Iterator[Child]:
    """Start a bot that is suspended after it has taken the nonce of its cancel."""
    with start_child(simulator, folder, store) as child:
        child.expect_line("ready")
        child.write_line("cancel")
        wait_for(lambda: process_state(child.pid) == "T")
        yield child


def received(simulator: Simulator) -> list[tuple[str, str]]:
    """Return method and error of each request, oldest first."""
    return [(request.method, request.error) for request in list(simulator.request_log)]


@BOTH_STORES
def test_a_cancel_of_a_former_leader_is_not_sent(tmp_path: Path, url: str) -> None:
    """Where another instance leads when the process continues, its cancel is not sent, and no nonce is refused."""
    with (
        Simulator(SimulatorOptions()) as simulator,
        suspended_cancel(simulator, tmp_path / "old", url) as old,
        start_child(simulator, tmp_path / "new", url) as new,
    ):
        new.expect_line("ready")
        old.signal(signal.SIGCONT)
        assert old.read_line() in ("LeaseLostError", "StoreUnavailableError")
    assert received(simulator) == [("AddOrder", ""), ("AddOrder", "")]


def test_a_cancel_whose_nonce_is_old_takes_another(tmp_path: Path) -> None:
    """Where another program has sent a higher nonce while the process was suspended for more than half a second, the
    cancel is sent with a fresh nonce and accepted."""
    with Simulator(SimulatorOptions()) as simulator, suspended_cancel(simulator, tmp_path) as child:
        suspended_seconds = boottime_seconds()
        with closing(KrakenAPI(simulator.key, simulator.secret, simulator.url)) as api:
            nonce = FileStore(str(tmp_path / "kraken_nonce.txt")).next_nonce()
            assert api.send_private("BalanceEx", {}, nonce)["error"] == []
        # The rest of the suspension: what is tested is how long it lasts.
        threading.Event().wait(PAUSE_SECONDS - (boottime_seconds() - suspended_seconds))
        child.signal(signal.SIGCONT)
        assert child.read_line() == "ok"
    assert received(simulator) == [("AddOrder", ""), ("BalanceEx", ""), ("CancelOrder", "")]

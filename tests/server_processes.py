"""Server processes: started so that they end with the test run, and signalled together with their children."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import random
import signal
import socket
import subprocess
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

LIMIT_SECONDS = 30.0

LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
# The kernel kills a server when the thread that started it ends, so one long-lived thread starts them all.
_LAUNCHER = ThreadPoolExecutor(1, "servers")


def launch(command: list[str], account: int | None, log: int) -> subprocess.Popen[bytes]:
    """Start a program as the user `account`, or as the current user, with its output in the file `log`."""
    return _LAUNCHER.submit(_launch, command, account, log).result()


def _launch(command: list[str], account: int | None, log: int) -> subprocess.Popen[bytes]:
    # The preexec_fn runs after the change of the user, which would reset it; a process group of its own keeps Ctrl-C
    # away.
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd="/",
        env={"LC_ALL": "C", "TZ": "UTC"},
        user=account,
        group=None if account is None else pwd.getpwuid(account).pw_gid,
        extra_groups=None if account is None else [],
        process_group=0,
        preexec_fn=lambda: LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),  # noqa: PLW1509 - one system call
    )


def children(pid: int) -> list[int]:
    """Return the live child processes of a process."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def send_signal(number: signal.Signals, processes: Iterable[int]) -> None:
    """Send a signal to each of these processes that still lives."""
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def stop_processes(processes: list[int]) -> None:
    """Stop all of these processes, and wait until they are stopped."""
    send_signal(signal.SIGSTOP, processes)
    _wait_until(processes, "TZ")


def wait_for_end(processes: list[int]) -> None:
    """Wait until all of these processes have ended."""
    _wait_until(processes, "Z")


def process_state(pid: int) -> str:
    """Return the kernel's letter for the state of a process: T for a stopped one, Z for one that has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


def _wait_until(processes: list[int], states: str) -> None:
    pause_event = threading.Event()
    for pid in processes:
        for _ in range(int(LIMIT_SECONDS / 0.002)):
            if process_state(pid) in states:
                break
            pause_event.wait(0.002)
        else:
            raise AssertionError(f"process {pid} is in state {process_state(pid)} instead of {states}")


def free_port() -> int:
    """Return a free port."""
    # Below the kernel's range for outgoing connections, so nothing takes it while its server is down.
    while True:
        port = random.SystemRandom().randrange(15000, 32000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port

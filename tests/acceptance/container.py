"""A container built from Linux namespaces, without a container engine, on a read-only root.

It runs the Dockerfile's ENTRYPOINT and CMD as process 1, with the variables of the image and no others, on a network of
its own. In place of the base image it uses this machine's /usr and /etc, and the Python that runs the tests.
"""

from __future__ import annotations

import functools
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pytest

from tests.acceptance.processes import STOP_TIMEOUT_SECONDS, TIMEOUT_SECONDS
from tests.dockerfile import image_environment, only_step, stages

APP = "/app"


@functools.cache
def unavailable_reason() -> str:
    """Return why no container can be made on this machine, or ""."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "this container needs root, and Linux"
    probe = subprocess.run([*_UNSHARE, "true"], capture_output=True, text=True, check=False)
    return f"namespaces are not available: {probe.stderr.strip()}" if probe.returncode else ""


_UNSHARE = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child"]
# SIOCSIFFLAGS with IFF_UP and IFF_RUNNING (netdevice(7)) is `ip link set lo up` for machines without `ip`.
_LOOPBACK_UP = """
import fcntl, socket, struct
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x41))
"""
_LINKS = ("bin", "lib", "lib64", "sbin")


class Container:
    """Run the image's command. `app` is the content of /app, `python` the prefix of the interpreter.

    `volume` is mounted at `mounted_at`. `user` is the user that the platform names; without one it starts as root.
    """

    def __init__(
        self,
        app: Path,
        root: Path,
        volume: Path,
        mounted_at: str = "/data",
        *arguments: str,
        python: Path,
        packages: Path,
        variables: Mapping[str, str],
        user: int | None = None,
    ) -> None:
        image = stages()[-1]
        self._variables = {**image_environment(), **variables}
        command = arguments or only_step(image, "CMD").exec_words()
        self._command = [*only_step(image, "ENTRYPOINT").exec_words(), *command]
        self._health = only_step(image, "HEALTHCHECK").exec_words()
        # Root has further groups: engines add those of the image's /etc/group.
        user_options = ["--groups=0,1"] if user is None else [f"--userspec={user}:{user}", "--groups="]
        chroot_command = ["chroot", *user_options, str(root)]
        steps = [
            shlex.join([sys.executable, "-c", _LOOPBACK_UP]),
            f"mount -t tmpfs -o mode=755 tmpfs {root}",
            *(_read_only(Path(path), root) for path in ("/usr", "/etc", str(python))),
            *(f"cp -P /{name} {root}/{name}" for name in _LINKS if Path("/", name).is_symlink()),
            _read_only(app, root, APP),
            _read_only(packages, root, f"{APP}/.venv"),
            f"mkdir -p {root}/proc {root}/dev {root}{mounted_at}",
            f"mount -t proc proc {root}/proc",
            f"mount --bind /dev {root}/dev",
            f"mount --bind {volume} {root}{mounted_at}",
            f"mount -o remount,ro {root}",
            f"exec {shlex.join([*chroot_command, *self._environment_command(self._command)])}",
        ]
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [*_UNSHARE, "sh", "-ec", "\n".join(steps)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={"PATH": os.environ["PATH"]},
        )
        self._timer = threading.Timer(TIMEOUT_SECONDS, self._process.kill)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._timer.cancel()
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _environment_command(self, arguments: list[str]) -> list[str]:
        variables = [f"{name}={value}" for name, value in self._variables.items()]
        return ["env", "-i", f"--chdir={APP}", *variables, *arguments]

    @property
    def pid(self) -> int:
        """The process id of its process 1 outside of the container."""
        unshare_pid = self._process.pid
        return int(Path(f"/proc/{unshare_pid}/task/{unshare_pid}/children").read_text("ascii"))

    def kernel_status(self, field: str) -> list[str]:
        """Return a field of the process's /proc status, such as `Uid`."""
        lines = Path(f"/proc/{self.pid}/status").read_text("ascii").splitlines()
        return next(line.split()[1:] for line in lines if line.startswith(f"{field}:"))

    def wait_for(self, text: str) -> None:
        """Read its output until a line contains this text."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line)
            if text in line:
                return
        pytest.fail(f"expected {text!r} in\n{''.join(self.lines)}")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container as root, as `docker exec` does."""
        enter = ["nsenter", "--target", str(self.pid), "--mount", "--pid", "--net", "--root"]
        command = [*enter, *self._environment_command(list(arguments))]
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)

    def health(self) -> subprocess.CompletedProcess[str]:
        """Run the image's health check."""
        return self.run(*self._health)

    def stop(self) -> int:
        """Send SIGTERM to process 1; return its exit code, which must come within the promised time."""
        os.kill(self.pid, signal.SIGTERM)
        return self.wait_for_exit(STOP_TIMEOUT_SECONDS)

    def wait_for_exit(self, limit_seconds: float = TIMEOUT_SECONDS) -> int:
        """Wait for its end; return the exit code."""
        try:
            rest, _ = self._process.communicate(timeout=limit_seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it did not end in time; its output was\n{''.join(self.lines)}")
        self.lines += rest.splitlines(keepends=True)
        return self._process.returncode

    def log_records(self) -> list[dict[str, Any]]:
        """Return its output, which must be one JSON object a line."""
        return [json.loads(line) for line in self.lines]


def _read_only(path: Path, root: Path, mount_point: str = "") -> str:
    target = f"{root}{mount_point or path}"
    return f"mkdir -p {target}; mount --bind {path} {target}; mount -o remount,bind,ro {target}"

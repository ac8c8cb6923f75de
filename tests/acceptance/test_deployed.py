"""The image of the Dockerfile at run time: without a container engine, with its steps, variables and command.

`make test` uses the packages of this checkout; `make soak` installs them with the Dockerfile's own steps.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.container import APP, Container, unavailable_reason
from tests.conftest import ROOT
from tests.dockerfile import build_context, copies, only_step, stages

pytestmark = pytest.mark.skipif(bool(unavailable_reason()), reason=unavailable_reason())

USER = 10001


@dataclass(frozen=True)
class Image:
    """The parts of the image that this test builds."""

    app: Path
    packages: Path
    python: Path


@pytest.fixture(scope="module")
def image(full_size: bool, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Copy the files that the Dockerfile copies and run its first stage; install packages at full size only."""
    app = tmp_path_factory.mktemp("app")
    build = stages()[0]
    assert only_step(build, "WORKDIR").arguments == APP
    context = list(build_context())
    for sources, destination in copies(build):
        for path in context:
            if path.split("/")[0] in sources:
                target = app / destination / Path(path).name if destination.endswith("/") else app / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / path, target)
    if not full_size:
        (app / ".venv").symlink_to(sys.prefix)
    for step in [step.arguments for step in build if step.instruction == "RUN"]:
        if full_size or not step.startswith(".ci/setup"):
            subprocess.run(["sh", "-ec", step], cwd=app, check=True)
    if not full_size:
        (app / ".venv").unlink()
        (app / ".venv").mkdir()
        return Image(app, Path(sys.prefix), Path(sys.base_prefix))
    command = [str(app / ".venv/bin/python"), "-c", "import sys; print(sys.base_prefix)"]
    base = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return Image(app, app / ".venv", Path(base))


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Return a disk as Railway and Render mount it: owned by root, with a file that root has left there."""
    folder = tmp_path / "volume"
    folder.mkdir(mode=0o755)
    (folder / "kraken_nonce.txt").write_text("1000000000000000", "ascii")
    (folder / "kraken_nonce.txt").chmod(0o600)
    return folder


Start = Callable[..., Container]


@pytest.fixture
def start(image: Image, tmp_path: Path, volume: Path) -> Start:
    """Return a factory of containers of the image with the volume."""
    root = tmp_path / "root"
    root.mkdir()

    def make(mounted_at: str, *arguments: str, user: int | None = None, **variables: str) -> Container:
        return Container(
            image.app,
            root,
            volume,
            mounted_at,
            *arguments,
            python=image.python,
            packages=image.packages,
            variables={"PRICE_SOURCE": "synthetic", "KRAKEN_TIER": "pro", **variables},
            user=user,
        )

    return make


def owners_and_modes(folder: Path) -> set[tuple[int, int]]:
    """Return the owners and modes of a folder and of the files in it."""
    stats = [folder.stat(), *(path.stat() for path in folder.iterdir())]
    return {(stat.st_uid, stat.st_mode & 0o777) for stat in stats}


def test_container_drops_root_and_stops_cleanly(start: Start, volume: Path) -> None:
    """With a disk of root at any mount point the image's command drops root, owns the disk, is healthy, ends on SIGTERM
    as process 1 with exit code 0, and its journal agrees with its account.
    """
    # As Railway does it: it sets the port and the mount point of the volume, and no user.
    railway = {"PORT": "9000", "RAILWAY_VOLUME_MOUNT_PATH": "/elsewhere"}
    with start("/elsewhere", **railway) as container:
        container.wait_for("filled: ")
        assert set(container.kernel_status("Uid")) == set(container.kernel_status("Gid")) == {str(USER)}
        assert container.kernel_status("Groups") == []
        assert {int(container.kernel_status(kind)[0], 16) for kind in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {0}
        assert container.kernel_status("NoNewPrivs") == ["1"]
        assert container.kernel_status("NSpid")[-1] == "1"
        assert container.health().returncode == 0
        orders = container.run(f"{APP}/.ci/start", "python", "main.py", "orders")
        assert orders.returncode == 0, orders.stderr
        assert "BTC/USD" in orders.stdout
        assert container.stop() == 0
    assert {line["level"] for line in container.log_records()} == {"info"}
    assert any(line["message"] == "Ended: stopped." for line in container.log_records())
    assert int((volume / "kraken_nonce.txt").read_text("ascii")) > 1_000_000_000_000_000
    assert owners_and_modes(volume) == {(USER, 0o600), (USER, 0o700)}
    with start("/elsewhere", "python", "main.py", "journal", "check", **railway) as check:
        assert check.wait_for_exit() == 0, "".join(check.lines)


def test_container_runs_as_a_non_root_user(start: Start, volume: Path) -> None:
    """As user 10001 from the start, on a disk that its group can write, the image's command is healthy and stops
    cleanly."""
    # As Kubernetes does it: root owns the disk, and the group of the pod gets access.
    os.chown(volume, 0, USER)
    volume.chmod(0o2775)
    (volume / "kraken_nonce.txt").unlink()
    with start("/data", user=USER, STATE_DIR="/data") as container:
        container.wait_for("filled: ")
        assert container.kernel_status("Uid") == [str(USER)] * 4
        assert container.health().returncode == 0
        assert container.stop() == 0
    assert {line["level"] for line in container.log_records()} == {"info"}
    assert {path.stat().st_uid for path in volume.iterdir()} == {USER}


def test_health_check_fails_without_the_bot(start: Start) -> None:
    """The image's health check fails if nothing listens on the port, and if another server does."""
    with start("/data", "sh", "-c", "echo here; exec sleep 60") as container:
        container.wait_for("here")
        health = container.health()
        assert health.returncode == 1
        assert "ConnectionRefusedError" in health.stderr
    with start("/data", "python", "-m", "http.server", "8080") as container:
        container.wait_for("Serving HTTP")
        health = container.health()
        assert (health.returncode, health.stderr) == (1, "")


def test_unwritable_disk_is_reported_at_start(start: Start, volume: Path) -> None:
    """As a user who does not own the disk the image's command ends with exit code 2 and names the folder."""
    with start("/data", user=USER) as container:
        assert container.wait_for_exit() == 2
    assert any("STATE_DIR is /data" in line for line in container.lines)

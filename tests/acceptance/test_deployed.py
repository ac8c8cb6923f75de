"""What the Dockerfile builds, as it runs: without an engine, but with its steps, its variables and its command.

`make test` takes the packages of this checkout; `make soak` installs them by the Dockerfile's own steps.
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

from tests.acceptance.container import APP, Container, why_not
from tests.conftest import ROOT
from tests.dockerfile import build_context, copies, one, stages

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

USER = 10001


@dataclass(frozen=True)
class Image:
    """What is in the image, as far as it is made here."""

    app: Path
    packages: Path
    python: Path


@pytest.fixture(scope="module")
def image(full_size: bool, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Copy what the Dockerfile copies and run the steps of its first stage; but the installation at full size only."""
    app = tmp_path_factory.mktemp("app")
    build = stages()[0]
    assert one(build, "WORKDIR").text == APP
    context = list(build_context())
    for sources, destination in copies(build):
        for path in context:
            if path.split("/")[0] in sources:
                target = app / destination / Path(path).name if destination.endswith("/") else app / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / path, target)
    if not full_size:
        (app / ".venv").symlink_to(sys.prefix)
    for step in [step.text for step in build if step.word == "RUN"]:
        if full_size or not step.startswith(".ci/setup"):
            subprocess.run(["sh", "-ec", step], cwd=app, check=True)
    if not full_size:
        (app / ".venv").unlink()
        (app / ".venv").mkdir()
        return Image(app, Path(sys.prefix), Path(sys.base_prefix))
    ask = [str(app / ".venv/bin/python"), "-c", "import sys; print(sys.base_prefix)"]
    base = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    return Image(app, app / ".venv", Path(base))


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Return a disk as Railway and Render mount it, root's, with a file that a command of root's has left there."""
    folder = tmp_path / "volume"
    folder.mkdir(mode=0o755)
    (folder / "kraken_nonce.txt").write_text("1000000000000000", "ascii")
    (folder / "kraken_nonce.txt").chmod(0o600)
    return folder


Start = Callable[..., Container]


@pytest.fixture
def start(image: Image, tmp_path: Path, volume: Path) -> Start:
    """Return what makes a container of the image with the volume."""
    root = tmp_path / "root"
    root.mkdir()

    def make(mounted_at: str, *words: str, user: int | None = None, **variables: str) -> Container:
        return Container(
            image.app,
            root,
            volume,
            mounted_at,
            *words,
            python=image.python,
            packages=image.packages,
            variables={"PRICES": "synthetic", "KRAKEN_TIER": "pro", **variables},
            user=user,
        )

    return make


def owners(folder: Path) -> set[tuple[int, int]]:
    """Return owner and mode of a folder and of all that is in it."""
    found = [folder.stat(), *(path.stat() for path in folder.iterdir())]
    return {(one.st_uid, one.st_mode & 0o777) for one in found}


def test_on_a_disk_of_roots_it_runs_as_a_user_without_rights_and_stops_in_order(start: Start, volume: Path) -> None:
    """With a disk of root's, mounted anywhere, the image's command gives up root, owns the disk, is healthy, writes
    nothing elsewhere, ends on SIGTERM as process 1 with exit code 0, and its journal agrees with its account then.
    """
    # As Railway does it: the port and the place of the volume are told, and no user is.
    railway = {"PORT": "9000", "RAILWAY_VOLUME_MOUNT_PATH": "/elsewhere"}
    with start("/elsewhere", **railway) as container:
        container.wait_for("filled: ")
        assert set(container.status("Uid")) == set(container.status("Gid")) == {str(USER)}
        assert container.status("Groups") == []
        assert {int(container.status(kind)[0], 16) for kind in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {0}
        assert container.status("NoNewPrivs") == ["1"]
        assert container.status("NSpid")[-1] == "1"
        assert container.health().returncode == 0
        orders = container.run(f"{APP}/.ci/start", "python", "main.py", "orders")
        assert orders.returncode == 0, orders.stderr
        assert "BTC/USD" in orders.stdout
        assert container.stop() == 0
    assert {line["level"] for line in container.said()} == {"info"}
    assert any(line["message"] == "Ended: stopped." for line in container.said())
    assert int((volume / "kraken_nonce.txt").read_text("ascii")) > 1_000_000_000_000_000
    assert owners(volume) == {(USER, 0o600), (USER, 0o700)}
    with start("/elsewhere", "python", "main.py", "journal", "check", **railway) as check:
        assert check.end() == 0, "".join(check.lines)


def test_as_the_user_that_the_platform_names_it_needs_no_root(start: Start, volume: Path) -> None:
    """As user 10001 from the start, on a disk that its group can write, the image's command is healthy and stops."""
    # As Kubernetes does it: the disk stays root's and is given to the group of the pod.
    os.chown(volume, 0, USER)
    volume.chmod(0o2775)
    (volume / "kraken_nonce.txt").unlink()
    with start("/data", user=USER, STATE_DIR="/data") as container:
        container.wait_for("filled: ")
        assert container.status("Uid") == [str(USER)] * 4
        assert container.health().returncode == 0
        assert container.stop() == 0
    assert {line["level"] for line in container.said()} == {"info"}
    assert {path.stat().st_uid for path in volume.iterdir()} == {USER}


def test_the_health_check_is_red_where_the_bot_does_not_answer(start: Start) -> None:
    """The image's health check fails where nobody listens, and where somebody does who has no such page."""
    with start("/data", "sh", "-c", "echo here; exec sleep 60") as container:
        container.wait_for("here")
        health = container.health()
        assert health.returncode == 1
        assert "ConnectionRefusedError" in health.stderr
    with start("/data", "python", "-m", "http.server", "8080") as container:
        container.wait_for("Serving HTTP")
        health = container.health()
        assert (health.returncode, health.stderr) == (1, "")


def test_what_cannot_be_written_is_said_at_once(start: Start, volume: Path) -> None:
    """As a user to whom the disk does not belong, the image's command ends with exit code 2 and names the folder."""
    with start("/data", user=USER) as container:
        assert container.end() == 2
    assert any("STATE_DIR is /data" in line for line in container.lines)

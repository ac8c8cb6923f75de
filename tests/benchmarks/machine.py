"""Description of the machine of a measurement, so that figures of two machines are not compared by mistake."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path


def cpu() -> str:
    """Return the name and the number of the processors."""
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
    except OSError:
        found = None
    name = found[1] if found else platform.processor() or platform.machine()
    return f"{os.cpu_count()} x {name}"


def filesystem(path: Path) -> str:
    """Return the type of the file system that contains a path, or "unknown"."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text("utf-8").splitlines()]
    except OSError:
        return "unknown"
    real = f"{path.resolve()}/"
    containing = [(point, kind) for point, kind in mounts if real.startswith(f"{point.rstrip('/')}/")]
    return max(containing, key=lambda mount: len(mount[0]))[1] if containing else "unknown"


def describe(path: Path) -> str:
    """Return one line that describes this machine and the file system of `path`."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{platform.node()}, {cpu()}, {platform.system()} {platform.release()}, {python}, {filesystem(path)}"

"""A test run that is killed while its servers run and one of them is paused: `python -m tests.server_child FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.server_processes import children
from tests.servers import open_postgres, open_redis


def main(folder: Path) -> None:
    """Start the servers, print their process ids, and wait to be killed."""
    with open_redis(folder) as running, open_postgres(folder) as paused:
        paused.pause()
        print(running.pid, paused.pid, *children(paused.pid), flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Child processes that use an HttpConnection: `python -m tests.acceptance.http_child COMMAND URL`."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from bot.base.errors import NoAnswerError
from bot.kraken.http_connection import HttpConnection

BODY_BYTES_MAX = 1024 * 1024


def peak_mib() -> int:
    """Return the most memory that this process has had; the figure of getrusage would include its parent's."""
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))[0]) // 1024


def measure(connection: HttpConnection, count: int) -> None:
    """Request `count` answers that are too long; print by how many MiB the process has grown at most."""
    before_mib = peak_mib()
    for _ in range(count):
        try:
            connection.request("GET", "/", {})
        except NoAnswerError as error:
            print(error, flush=True)
    print(peak_mib() - before_mib, flush=True)


def fork(connection: HttpConnection) -> None:
    """Print the answers of this process, of a forked child that drops and uses the connection, and of this one."""
    print(connection.request("GET", "/parent", {}).body.decode(), flush=True)
    if os.fork() == 0:
        print(connection.request("GET", "/child", {}).body.decode(), flush=True)
        del connection
        sys.exit()
    os.wait()
    print(connection.request("GET", "/parent", {}).body.decode(), flush=True)


def main() -> None:
    """Run one command. The connection is left open: the interpreter closes it."""
    command, url, *arguments = sys.argv[1:]
    connection = HttpConnection(url, body_bytes_max=BODY_BYTES_MAX)
    if command == "measure":
        measure(connection, int(arguments[0]))
    elif command == "fork":
        fork(connection)


if __name__ == "__main__":
    main()

"""Readers of a dashboard, as a process of their own: `python -m tests.dashboard_readers PORT TOKEN`.

For each line `RATE SECONDS PATHS...` on standard input it sends that many requests a second, with the paths in
rotation, and answers with one line of JSON (`LoadResult`). The loop is open: the time of a request does not depend on
earlier answers.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
from collections import Counter
from dataclasses import asdict, dataclass

from bot.base.clock import boottime_seconds, sleep
from tests.child_process import Child

CONNECTIONS = 8
TIMEOUT_SECONDS = 20.0


@dataclass(frozen=True)
class LoadResult:
    """The answers to the requests: `statuses` counts "PATH STATUS", `latencies_ms` starts at each request's
    scheduled time."""

    statuses: dict[str, int]
    latencies_ms: list[float]

    def count(self, path: str, status: int) -> int:
        """Return how many requests of a path had this status."""
        return self.statuses.get(f"{path} {status}", 0)


class LoadGenerator:
    """A number of kept-alive connections, each of which takes the next request when it is free."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._headers = {"Authorization": f"Bearer {token}"}

    def run(self, rate: float, seconds: float, paths: list[str]) -> LoadResult:
        """Send `rate` requests a second, for this time."""
        request_numbers = iter(range(int(rate * seconds)))
        lock, statuses, latencies_ms = threading.Lock(), Counter[str](), list[float]()
        start = boottime_seconds()

        def worker() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_SECONDS)
            while True:
                with lock:
                    number = next(request_numbers, None)
                if number is None:
                    break
                path, due_seconds = paths[number % len(paths)], start + number / rate
                sleep(max(0.0, due_seconds - boottime_seconds()))
                outcome = self._request(connection, path)
                with lock:
                    statuses[f"{path} {outcome}"] += 1
                    latencies_ms.append((boottime_seconds() - due_seconds) * 1000)
            connection.close()

        threads = [threading.Thread(target=worker) for _ in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return LoadResult(dict(statuses), latencies_ms)

    def _request(self, connection: http.client.HTTPConnection, path: str) -> str:
        try:
            connection.request("GET", path, headers=self._headers)
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return repr(error)
        return str(response.status)


def start_load(child: Child, rate: float, seconds: float, *paths: str) -> None:
    """Start the load in a reader process."""
    child.write_line(" ".join((str(rate), str(seconds), *paths)))


def finish_load(child: Child) -> LoadResult:
    """Wait until the load has ended; return its result."""
    return LoadResult(**json.loads(child.read_line()))


def main(port: str, token: str) -> None:
    """Run a load whenever the parent sends a line."""
    generator = LoadGenerator(int(port), token)
    for line in sys.stdin:
        rate, seconds, *paths = line.split()
        result = generator.run(float(rate), float(seconds), paths)
        sys.stdout.write(json.dumps(asdict(result)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])

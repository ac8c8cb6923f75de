"""Readers of a status page, as a process of their own: `python -m tests.dashboard_readers PORT TOKEN`.

For each line `RATE SECONDS PATHS...` on standard input it sends so many requests a second, the paths in turn, and
answers with one line of JSON (`Readings`). The loop is open: a request's time does not depend on earlier answers.
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
class Readings:
    """How the requests were answered: `statuses` counts "PATH STATUS", `latencies_ms` is from each one's own time."""

    statuses: dict[str, int]
    latencies_ms: list[float]

    def count(self, path: str, status: int) -> int:
        """Return how many requests of a path had this status."""
        return self.statuses.get(f"{path} {status}", 0)


class Readers:
    """Some connections that are kept, each of which takes the next request when it is free."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._headers = {"Authorization": f"Bearer {token}"}

    def read(self, rate: float, seconds: float, paths: list[str]) -> Readings:
        """Send `rate` requests a second, for so long."""
        numbers = iter(range(int(rate * seconds)))
        lock, statuses, latencies_ms = threading.Lock(), Counter[str](), list[float]()
        start = boottime_seconds()

        def work() -> None:
            link = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_SECONDS)
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    break
                path, due = paths[number % len(paths)], start + number / rate
                sleep(max(0.0, due - boottime_seconds()))
                outcome = self._ask(link, path)
                with lock:
                    statuses[f"{path} {outcome}"] += 1
                    latencies_ms.append((boottime_seconds() - due) * 1000)
            link.close()

        threads = [threading.Thread(target=work) for _ in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return Readings(dict(statuses), latencies_ms)

    def _ask(self, link: http.client.HTTPConnection, path: str) -> str:
        try:
            link.request("GET", path, headers=self._headers)
            answer = link.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            link.close()
            return repr(error)
        return str(answer.status)


def begin(child: Child, rate: float, seconds: float, *paths: str) -> None:
    """Let the readers in a process begin."""
    child.tell(" ".join((str(rate), str(seconds), *paths)))


def end(child: Child) -> Readings:
    """Wait until they are through."""
    return Readings(**json.loads(child.line()))


def main(port: str, token: str) -> None:
    """Read whenever the parent says so."""
    readers = Readers(int(port), token)
    for line in sys.stdin:
        rate, seconds, *paths = line.split()
        readings = readers.read(float(rate), float(seconds), paths)
        sys.stdout.write(json.dumps(asdict(readings)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A process with a broker of its own: `broker_child.py URL KEY SECRET COMMAND [COUNT [THREADS]]`.

    reads COUNT THREADS   COUNT reads in each of THREADS threads
    one                   one read
    order                 one order
    patient               one read; SIGTERM stops the broker while the read waits

Each call prints "ok", or the name of the error that it raised; "ready" comes first.
"""

from __future__ import annotations

import signal
import sys
import threading
import time

from bot.base.clock import MarketClock
from bot.base.errors import BotError
from bot.broker_manager import KrakenBroker
from bot.kraken.rate_counters import UNLIMITED

ORDER = {"pair": "XBTUSD", "type": "buy", "ordertype": "limit", "volume": "0.001", "price": "1000"}
SPEED = 1000.0


def print_call_outcome(broker: KrakenBroker, method: str = "BalanceEx", params: dict[str, str] | None = None) -> None:
    """Make one call and print its outcome."""
    try:
        broker.private_call(method, params)
        outcome = "ok"
    except BotError as error:
        outcome = type(error).__name__
    sys.stdout.write(f"{outcome}\n")
    sys.stdout.flush()


def run_reads(broker: KrakenBroker, count: int, threads: int) -> None:
    """Make reads in threads."""

    def work() -> None:
        for _ in range(count):
            print_call_outcome(broker)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def read_until_sigterm(broker: KrakenBroker) -> None:
    """Make one read in a thread; stop the broker on SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    worker = threading.Thread(target=print_call_outcome, args=(broker,))
    worker.start()
    stop.wait()
    broker.stop()
    worker.join()


def main(arguments: list[str]) -> None:
    """Run the command of the command line."""
    url, key, secret, command, *rest = arguments
    market_clock = MarketClock(time.time(), SPEED if command != "order" else 1.0)
    broker = KrakenBroker(key, secret, api_url=url, tier=UNLIMITED, market_clock=market_clock)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    if command == "reads":
        run_reads(broker, int(rest[0]), int(rest[1]))
    elif command == "patient":
        read_until_sigterm(broker)
    elif command == "order":
        print_call_outcome(broker, "AddOrder", ORDER)
    else:
        print_call_outcome(broker)


if __name__ == "__main__":
    main(sys.argv[1:])

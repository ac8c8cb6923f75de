"""The process whose fsyncs are counted. Arguments: LOG URL KEY SECRET NONCE_FILE ORDERS."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bot.base.clock import boottime_seconds
from tests.benchmarks.bench_broker import ExchangeProcess
from tests.benchmarks.bench_orders import place_orders

MODULE = "tests.benchmarks.order_child"


def main(arguments: list[str]) -> None:
    """Restart this process under strace; in the traced process, place the orders and print the seconds they took."""
    if arguments[0] != "traced":
        log, *rest = arguments
        trace = ["strace", "-f", "-qq", "-y", "-e", "trace=fsync,fdatasync", "-e", "signal=none", "-o", log]
        os.execvp("strace", [*trace, sys.executable, "-m", MODULE, "traced", *rest])  # noqa: S606 - this program again
    _, url, key, secret, nonce_path, orders = arguments
    start_seconds = boottime_seconds()
    place_orders(ExchangeProcess(url, key, secret), Path(nonce_path), int(orders))
    print(boottime_seconds() - start_seconds)


if __name__ == "__main__":
    main(sys.argv[1:])

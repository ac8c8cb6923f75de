"""A process with a broker and a wall clock that its parent steps: `clock_child.py URL KEY SECRET`.

It reads commands from standard input, one a line, and answers each with one line:

    step SECONDS   step the wall clock, and nothing else of the machine
    cycle          read the system status, as the trader does in each cycle
    read           make one private read; the answer is "ok" or the name of the error
    now            Kraken's time as the broker has it, in Unix seconds
    nonce          one nonce of `get_kraken_nonce`
"""

from __future__ import annotations

import sys
import time

from bot.base.errors import BotError
from bot.broker_manager import KrakenBroker, get_kraken_nonce
from bot.kraken.rate_counters import UNLIMITED


class SteppedClock:
    """The wall clock of this process."""

    def __init__(self) -> None:
        self.offset_ns = 0
        self._time_ns = time.time_ns

    def time_ns(self) -> int:
        """Return what `time.time_ns` returns after the steps."""
        return self._time_ns() + self.offset_ns

    def time(self) -> float:
        """Return what `time.time` returns after the steps."""
        return self.time_ns() / 1e9


def answer(broker: KrakenBroker, wall: SteppedClock, command: str, argument: str) -> str:
    """Run one command; return its answer."""
    match command:
        case "step":
            wall.offset_ns += int(argument) * 1_000_000_000
        case "cycle":
            broker.system_status()
        case "read":
            broker.private_call("BalanceEx")
        case "now":
            return str(broker.now())
        case "nonce":
            return str(get_kraken_nonce())
    return "ok"


def main(url: str, key: str, secret: str) -> None:
    """Run the commands of the parent."""
    wall = SteppedClock()
    # As libfaketime would: the boot clock is not moved.
    time.time_ns, time.time = wall.time_ns, wall.time
    broker = KrakenBroker(key, secret, api_url=url, tier=UNLIMITED)
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        try:
            text = answer(broker, wall, command, argument)
        except BotError as error:
            text = type(error).__name__
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])

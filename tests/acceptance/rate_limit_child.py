"""A process that reads as fast as allowed: `rate_limit_child.py URL KEY SECRET START BOOT SPEED COUNT LIMITER`.

START is the market time at time BOOT of the boot clock. LIMITER is "shared", or the file of a rate limiter of its own.
Each of COUNT reads prints "ok", or the name of the error that it raised; "ready" comes first.
"""

from __future__ import annotations

import sys

from bot.base.clock import MarketClock, boottime_seconds
from bot.base.errors import BotError
from bot.broker_manager import KrakenBroker
from bot.kraken.rate_counters import STARTER
from bot.kraken.rate_limiter import RateLimiter


def main(arguments: list[str]) -> None:
    """Make the reads that the command line asks for."""
    url, key, secret, start, boot, speed, count, limiter_path = arguments
    now = float(start) + (boottime_seconds() - float(boot)) * float(speed)
    broker = KrakenBroker(key, secret, api_url=url, tier=STARTER, market_clock=MarketClock(now, float(speed)))
    if limiter_path != "shared":
        broker._client._rate_limiter = RateLimiter(limiter_path, STARTER)
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(int(count)):
        try:
            broker.private_call("BalanceEx")
            print("ok", flush=True)
        except BotError as error:
            print(type(error).__name__, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

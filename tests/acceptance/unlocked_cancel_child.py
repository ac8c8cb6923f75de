"""A bot that is suspended while it cancels without the request lock: `unlocked_cancel_child.py URL KEY SECRET`.

With NONCE_STORE it leads first. It places an order and prints "ready". After a line it cancels the order while one of
its threads holds the request lock, and stops itself right after it has taken the nonce of the cancel. Then it prints
the outcome: "ok" or the name of the error.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from bot import broker_manager
from bot.base.errors import BotError
from bot.broker_manager import KrakenBroker
from bot.kraken.rate_counters import UNLIMITED
from bot.nonce.leader_election import LeaderElection
from bot.nonce.local_lock import Priority
from tests.acceptance.broker_tools import ORDER

LEASE_SECONDS = 2.0


def stop_after_next_nonce(broker: KrakenBroker) -> None:
    """Stop this process right after the next nonce was taken."""
    next_nonce = broker._next_nonce

    def take_and_stop(at_least_us: int = 0) -> int:
        broker._next_nonce = next_nonce  # type: ignore[method-assign]
        nonce = next_nonce(at_least_us)
        os.kill(os.getpid(), signal.SIGSTOP)
        return nonce

    broker._next_nonce = take_and_stop  # type: ignore[method-assign]


def main(url: str, key: str, secret: str) -> None:
    """Lead, order, cancel."""
    broker = KrakenBroker(key, secret, api_url=url, tier=UNLIMITED)
    if broker.shared_store is not None:
        LeaderElection(broker.shared_store, LEASE_SECONDS).wait_for_leadership(threading.Event(), lambda _reason: None)
    txid = broker.private_call("AddOrder", ORDER)["txid"][0]
    print("ready", flush=True)
    sys.stdin.readline()
    broker_manager.STOPPING_CANCEL_TIMEOUT_SECONDS = 0.0
    is_held, is_done = threading.Event(), threading.Event()

    def hold_request_lock() -> None:
        with broker._request_lock.hold(Priority.READ):
            is_held.set()
            is_done.wait()

    threading.Thread(target=hold_request_lock).start()
    is_held.wait()
    broker.stop()
    stop_after_next_nonce(broker)
    try:
        broker.cancel_order(txid, "BTC/USD")
        outcome = "ok"
    except BotError as error:
        outcome = type(error).__name__
    is_done.set()
    print(outcome, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

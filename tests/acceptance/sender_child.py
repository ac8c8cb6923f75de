"""One of many senders on a key, on a host of its own: `sender_child.py PLAN`, a `SenderPlan` as JSON.

Prints "ready", waits for a line, makes its calls one right after the other, and then prints the outcome of each: "ok"
and its nonce, or the name of the error that it raised. STATE_DIR is the host's own.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from bot import broker_manager
from bot.base.clock import MarketClock, boottime_seconds
from bot.base.errors import BotError, OrderBlockedError, OrderOutcomeUnknownError
from bot.broker_manager import KrakenBroker
from bot.kraken.rate_counters import UNLIMITED
from bot.nonce import shared_store

ORDER = {"pair": "XBTUSD", "type": "buy", "ordertype": "limit", "volume": "0.001", "price": "1000"}


@dataclass(frozen=True)
class SenderPlan:
    """The key, the store, the error of the host's clock, and the calls.

    Market time is `market_seconds` at time `boot_seconds` of the boot clock. `lock_seconds` 0 leaves the request lock's
    lifetime unchanged. Without `uses_shared_lock` nonces come from the store, but the request lock is the host's alone.
    In call number `stop_at_call` the process stops itself after it has its nonce and before the first byte leaves.
    `is_order`: that call is an order, which is then reconciled.
    """

    url: str
    key: str
    secret: str
    store: str
    market_seconds: float
    boot_seconds: float
    speed: float
    calls: int
    clock_offset_seconds: float = 0.0
    lock_seconds: float = 0.0
    uses_shared_lock: bool = True
    stop_at_call: int = -1
    is_order: bool = False

    def to_json(self) -> str:
        """Return it as the child reads it."""
        return json.dumps(asdict(self))


def set_clock(offset_seconds: float) -> None:
    """Shift this process's wall clock, as on a host without time synchronisation."""
    real_ns = time.time_ns
    offset_ns = round(offset_seconds * 1e9)
    time.time_ns = lambda: real_ns() + offset_ns
    time.time = lambda: time.time_ns() / 1e9


def open_broker(plan: SenderPlan) -> KrakenBroker:
    """Return a broker that shares the key with other hosts."""
    broker_manager.NONCE_STORE = plan.store
    if plan.lock_seconds:
        shared_store.LOCK_LIFETIME_SECONDS, shared_store.SEND_WINDOW_SECONDS = plan.lock_seconds, plan.lock_seconds / 2
    now = plan.market_seconds + (boottime_seconds() - plan.boot_seconds) * plan.speed
    market_clock = MarketClock(now, plan.speed)
    broker = KrakenBroker(plan.key, plan.secret, api_url=plan.url, tier=UNLIMITED, market_clock=market_clock)
    if not plan.uses_shared_lock:
        broker._request_lock = broker._request_lock._local  # type: ignore[union-attr]
    return broker


def stop_before_next_request(broker: KrakenBroker) -> None:
    """Stop this process right before the next request leaves."""
    connection, send = broker.api._private, broker.api._private.request

    def stop_and_send(*arguments: Any, **options: Any) -> Any:
        connection.request = send  # type: ignore[method-assign]
        os.kill(os.getpid(), signal.SIGSTOP)
        return send(*arguments, **options)

    connection.request = stop_and_send  # type: ignore[method-assign]


def call_outcome(broker: KrakenBroker, call: Callable[[], object]) -> str:
    """Make a call; return its outcome."""
    try:
        call()
    except BotError as error:
        return type(error).__name__
    return f"ok {broker._last_nonce}"


def order_and_reconcile(broker: KrakenBroker) -> Iterator[str]:
    """Send an order, reconcile it if its outcome is unknown, and place it again with the same client order id."""
    try:
        broker.private_call("AddOrder", ORDER)
    except OrderOutcomeUnknownError as unknown:
        cl_ord_id = unknown.cl_ord_id
        yield "unknown"
        while broker.unknown_orders():
            broker._market_clock.wait(broker.next_query_seconds() or 0.0, threading.Event())
            broker.reconcile_unknown_orders()
        intent = broker.journal.get_intent(cl_ord_id)
        yield str(intent.state) if intent else "no intent"
        try:
            broker.private_call("AddOrder", {**ORDER, "cl_ord_id": cl_ord_id})
        except OrderBlockedError:
            yield "not sent again"


def main(plan: SenderPlan) -> None:
    """Make the calls of the plan."""
    set_clock(plan.clock_offset_seconds)
    broker = open_broker(plan)
    # A host's first call creates its files and connections.
    lines = [call_outcome(broker, lambda: broker.private_call("BalanceEx"))]
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(plan.calls):
        if number == plan.stop_at_call:
            stop_before_next_request(broker)
            if plan.is_order:
                lines += order_and_reconcile(broker)
                continue
        lines.append(call_outcome(broker, lambda: broker.private_call("BalanceEx")))
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main(SenderPlan(**json.loads(sys.argv[1])))

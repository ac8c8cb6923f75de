"""The options of the simulator. Every fault is off by default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SimulatorOptions:
    """`balances` are by asset id (ZUSD), for a new account only. Empty `key` and `secret` are created once and kept.

    `latency_seconds` is a range; each request waits so long before it is processed. `fault_rates` are in faults.py.
    `redirect_url` is the target of the fault redirect_307, `slow_seconds` the delay of a slow answer. Those are real
    seconds; all that follow are market seconds:

    - `delay_seconds`: the delay of a request's copy when planned; by chance it is anything up to that.
    - `queue_seconds`: how long a queued order waits for the engine.
    - `open_lag_seconds`, `closed_lag_seconds`: the maximum time for which OpenOrders misses an accepted order, and
      ClosedOrders a closed one; each order has its own lag. QueryOrders, trades and balances have none.
    - `enforce_deadline` False: a broken exchange, which accepts orders after their deadline. `deadline_checked_at`:
      "engine", where a queued order is refused if its deadline passed meanwhile, or "gateway", where it is not.
    - `clock_offset_seconds`: how far Time, and the clock of the deadlines, is ahead of the market's.

    `nonce_window` is that of the account's own key; `allow_nonce_repeats`: the same nonce may be used twice within it
    (Kraken does not say whether it may). `request_log_size` is the number of private requests that are kept for tests.
    """

    pairs: tuple[str, ...] = ("BTC/USD", "ETH/USD", "SOL/USD")
    balances: Mapping[str, str] = field(default_factory=lambda: {"ZUSD": "10000"})
    tier: str = "unlimited"
    seed: int = 1
    state_path: Path | None = None
    port: int = 0
    key: str = ""
    secret: str = ""
    latency_seconds: tuple[float, float] = (0.0, 0.0)
    fault_rates: Mapping[str, float] = field(default_factory=dict)
    redirect_url: str = "http://127.0.0.1:9"
    slow_seconds: float = 15.0
    lockout_after: int = 0
    delay_seconds: float = 2.0
    queue_seconds: float = 2.0
    open_lag_seconds: float = 0.0
    closed_lag_seconds: float = 0.0
    enforce_deadline: bool = True
    deadline_checked_at: str = "engine"
    clock_offset_seconds: float = 0.0
    nonce_window: int = 0
    allow_nonce_repeats: bool = False
    request_log_size: int = 10_000

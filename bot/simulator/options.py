"""What a simulator can be told. Every fault is off by default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SimulatorOptions:
    """`balances` are by asset id (ZUSD), for a new account only. `key` and `secret` empty: made once and kept.

    `latency_seconds` is a range; each request waits so long before it is processed. `fault_rates` are in faults.py.
    `redirect_url` is where the fault redirect_307 leads, `slow_seconds` how late a slow answer is. Those are real
    seconds; all that follows are market seconds:

    - `delay_seconds`: how late the copy of a request arrives, when planned; by chance it is anything up to that.
    - `queue_seconds`: how long a queued order waits for the engine.
    - `open_lag_seconds`, `closed_lag_seconds`: until then at most, OpenOrders misses an order that was accepted, and
      ClosedOrders one that has closed; each order has its own lag. QueryOrders, trades and balances have none.
    - `enforce_deadline` False: a broken exchange, which accepts orders after their deadline. `deadline_checked_at`: "engine",
      where a queued order is refused if its deadline passed meanwhile, or "gateway", where it is not.
    - `clock_offset_seconds`: how far Time, and the clock of the deadlines, is ahead of the market's.

    `nonce_window` is that of the account's own key; `allow_nonce_repeats`: the same nonce may come twice within it
    (Kraken does not say whether it may). `request_log_size` is how many private requests are remembered, for tests.
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

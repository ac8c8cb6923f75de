"""What a simulator can be told. Every fault is off by default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SimulatorOptions:
    """`balances` are by asset id (ZUSD), for a new account only. `key` and `secret` empty: made once and kept.

    `latency_seconds` is a range; each request waits so long before it is processed. `fault_rates` are in faults.py.
    `redirect_url` is where the fault redirect_307 leads, `slow_seconds` how late a slow answer is.
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

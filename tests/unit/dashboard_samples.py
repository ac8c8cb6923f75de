"""Sample answers of /api/status for tests of the dashboard: one with every field, and one just after the start."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

NOW = 1_795_414_800
STEP_SECONDS = 3600


def random_walk(seed: int, count: int, start: Decimal, step: Decimal) -> list[Decimal]:
    """Return a random walk of prices."""
    random_numbers = random.Random(seed)
    values = [start]
    while len(values) < count:
        values.append(values[-1] + step * random_numbers.randint(-10, 10))
    return values


def candle_rows(seed: int, count: int = 120, start: str = "64000") -> list[list[Any]]:
    """Return closed candles, oldest first."""
    step = Decimal(start) / 2000
    closes = random_walk(seed, count + 1, Decimal(start), step)
    rows = []
    for index in range(count):
        opened, close = closes[index], closes[index + 1]
        high, low = max(opened, close) + 2 * step, min(opened, close) - 3 * step
        rows.append([NOW - (count - index) * STEP_SECONDS, str(opened), str(high), str(low), str(close)])
    return rows


def pair_status(symbol: str, seed: int, start: str, quantity: str = "0.00000000") -> dict[str, Any]:
    """Return a pair with 120 candles and five fills."""
    rows = candle_rows(seed, start=start)
    fills = [
        {
            "time_seconds": rows[index][0] + 60,
            "side": ("buy", "sell")[index % 2],
            "price": rows[index][1],
            "volume": "0.01",
        }
        for index in (7, 30, 55, 80, 111)
    ]
    position = {"quantity": quantity, "average_entry": rows[111][1] if Decimal(quantity) else None}
    return {"symbol": symbol, "price": rows[-1][4], **position, "candles": rows, "fills": fills}


def order_row(**changes: Any) -> dict[str, Any]:
    """Return an open order as /api/status lists it."""
    return {
        "time": "2026-11-23T06:00:01Z",
        "pair": "BTC/USD",
        "side": "buy",
        "type": "limit",
        "volume": "0.00388000",
        "price": "64321.1",
        "state": "open",
        "executed": "0.00100000",
        "average": "0",
        "fee": "0",
        "cl_ord_id": "kb-7d31f2aa90",
        "txid": "OABCDE-FGHIJ-KLMNOP",
        "unknown_seconds": None,
        "reason": "",
    } | changes


def fill_row(**changes: Any) -> dict[str, Any]:
    """Return a fill as /api/status lists it."""
    return {
        "time": "2026-11-22T17:00:12Z",
        "pair": "BTC/USD",
        "side": "sell",
        "volume": "0.00388000",
        "price": "64870.4",
        "cost": "251.697152",
        "fee": "0.62924288",
        "order_txid": "OABCDE-FGHIJ-KLMNOP",
        "trade_id": "TABCDE-FGHIJ-KLMNOP",
    } | changes


def full_status(**changes: Any) -> dict[str, Any]:
    """Return the status of a paper bot that has traded for days, with every list at its maximum length."""
    equity = random_walk(7, 300, Decimal(10000), Decimal("1.37"))
    return {
        "version": "0.1.0",
        "time": "2026-11-23T06:20:00Z",
        "mode": "paper",
        "state": "trading",
        "reason": "",
        "ready": True,
        "bot_id": "b7d31f2a",
        "strategy": "moving_average",
        "timeframe": "1h",
        "price_source": "Kraken's public prices",
        "uptime_seconds": 93784.2,
        "last_cycle_age_seconds": 3.4,
        "entries": "open",
        "account": {"quote": "USD", "equity": "10012.34567", "realised_pnl": "12.3456", "realised_loss_today": "0"},
        "equity_curve": [[NOW - (300 - at) * STEP_SECONDS, str(value)] for at, value in enumerate(equity)],
        "pairs": [pair_status("BTC/USD", 1, "64000", "0.00388"), pair_status("ETH/USD", 2, "3120")],
        "balances": [
            {"asset": "USD", "total": "9761.88123456", "free": "9511.88123456"},
            {"asset": "BTC", "total": "0.00388", "free": "0"},
        ],
        "open_orders": [
            order_row(),
            order_row(side="sell", type="stop-loss", price="62100", executed="0", txid="OSTOP-FGHIJ-KLMNOP"),
        ],
        "unknown_orders": [],
        "fills": [fill_row(side=("sell", "buy")[at % 2], time=f"2026-11-22T{23 - at:02}:00:12Z") for at in range(20)],
        "limits": {
            "order_value": "250",
            "max_order_value": "250",
            "max_position_value": "500",
            "max_daily_loss": "50",
            "cooldown_seconds": 3600,
            "max_slippage_percent": "1",
            "stop_loss_percent": "0",
        },
        "refusals": [
            {
                "time": f"2026-11-22T{23 - at:02}:00:00Z",
                "pair": "BTC/USD",
                "kind": "entry",
                "rule": "position value",
                "reason": "it would make the position 512.20 USD, and 500 is the largest",
            }
            for at in range(20)
        ],
        "nonce": {
            "last": "1795414800123456",
            "unit": "microseconds",
            "ahead_seconds": -0.4,
            "location": "/state/kraken_nonce.txt",
            "issued": 4711,
            "refused": 2,
            "refused_today": 0,
            "request_lock_wait_seconds": 0.0012,
            "circuit_breaker": "closed",
            "circuit_breaker_reason": "",
            "circuit_breaker_until": None,
        },
        "lease": {"role": "standalone", "leader": None, "fencing_token": None},
        "rate_limits": {"rest": {"level": 3.4, "maximum": 20}},
        "log": [
            f"2026-11-23T06:{at // 60:02}:{at % 60:02}Z  BTC/USD  64321.1: the average of 10 is above the average of"
            f" 30; nothing to do, line {at}"
            for at in range(200)
        ],
    } | changes


def starting_status(**changes: Any) -> dict[str, Any]:
    """Return the status of a bot that has just started and has no data yet."""
    unknown: dict[str, Any] = {
        "equity_curve": [],
        "balances": [],
        "open_orders": [],
        "fills": [],
        "refusals": [],
        "log": [],
    }
    pair: dict[str, Any] = {
        "symbol": "BTC/USD",
        "price": None,
        "quantity": "0",
        "average_entry": None,
        "candles": [],
        "fills": [],
    }
    nonce = dict.fromkeys(full_status()["nonce"]) | {
        "unit": "microseconds",
        "issued": 0,
        "refused": 0,
        "refused_today": 0,
    }
    return (
        full_status(
            state="starting", ready=False, uptime_seconds=0.8, last_cycle_age_seconds=None, account=None, pairs=[pair]
        )
        | unknown
        | {"nonce": nonce | {"circuit_breaker": "closed"}, "rate_limits": {"rest": None}}
        | changes
    )

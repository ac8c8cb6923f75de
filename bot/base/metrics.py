"""Counters and timings of this process, and gauges for the bot's status, for Prometheus (docs/operating.md).

Every process counts for itself, from zero. A forked child starts with new counters, because a thread that the child
does not have may hold a lock of its parent's.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from decimal import Decimal
from typing import Any

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

STATES = ("starting", "standby", "trading", "waiting", "stopping")
OUTCOMES = ("accepted", "refused", "unknown", "not_sent")
RECONCILED_OUTCOMES = ("placed", "not_placed")
# The methods that the bot itself calls. Every other method is counted as "other": each name costs a dozen series.
METHODS = frozenset(
    {
        "AddOrder",
        "AssetPairs",
        "Assets",
        "BalanceEx",
        "CancelAllOrdersAfter",
        "CancelOrder",
        "ClosedOrders",
        "GetApiKeyInfo",
        "OHLC",
        "OpenOrders",
        "SystemStatus",
        "Ticker",
        "Time",
        "TradesHistory",
    }
)
# Up to the longest wait for a request lock, the longest request, and the time-outs of the stores.
_LOCK_WAIT_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)
_REQUEST_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0)
_STORE_BUCKETS = (0.00001, 0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_RECENT_WAITS_MAX = 100


class _Metrics:
    """The counters and histograms of this process, and the last status."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Count from zero."""
        self.registry = registry = CollectorRegistry()
        self.status: Mapping[str, Any] = {}
        self.request_lock_waits: deque[float] = deque(maxlen=_RECENT_WAITS_MAX)
        self.issued = Counter("kraken_bot_nonces_issued_total", "Nonces issued for requests.", registry=registry)
        self.refused = Counter("kraken_bot_nonces_refused_total", "Nonces that Kraken refused.", registry=registry)
        self.request_lock_wait = Histogram(
            "kraken_bot_request_lock_wait_seconds",
            "Time from requesting the key's request lock to holding it.",
            buckets=_LOCK_WAIT_BUCKETS,
            registry=registry,
        )
        self.request_duration = Histogram(
            "kraken_bot_request_duration_seconds",
            "Time from issuing the nonce to having read Kraken's response.",
            ("method", "outcome"),
            buckets=_REQUEST_BUCKETS,
            registry=registry,
        )
        self.store_duration = Histogram(
            "kraken_bot_nonce_store_duration_seconds",
            "Duration of an operation on the nonce store: the file or a shared store.",
            ("operation",),
            buckets=_STORE_BUCKETS,
            registry=registry,
        )
        self.orders = Counter("kraken_bot_orders_total", "Orders by outcome.", ("outcome",), registry=registry)
        self.reconciled = Counter(
            "kraken_bot_orders_reconciled_total",
            "Unknown orders by their outcome after reconciliation.",
            ("outcome",),
            registry=registry,
        )
        # Without this, a series that does not exist yet looks like a lost one.
        for outcome in OUTCOMES:
            self.orders.labels(outcome)
        for outcome_name in RECONCILED_OUTCOMES:
            self.reconciled.labels(outcome_name)


_metrics = _Metrics()
os.register_at_fork(after_in_child=_metrics.reset)


# Recording: called where it happens, while the request lock is held; each call costs a few microseconds


def record_nonce_issued() -> None:
    """Count a nonce that was issued for a request."""
    _metrics.issued.inc()


def record_nonce_refused() -> None:
    """Count a nonce that Kraken refused."""
    _metrics.refused.inc()


def record_request_lock_wait(wait_seconds: float) -> None:
    """Record the wait for a key's request lock."""
    _metrics.request_lock_waits.append(wait_seconds)
    _metrics.request_lock_wait.observe(wait_seconds)


def record_request(method: str, outcome: str, duration_seconds: float) -> None:
    """Record a call to Kraken: "ok", "error" where Kraken answered with one, "no_response" for everything else."""
    _metrics.request_duration.labels(method if method in METHODS else "other", outcome).observe(duration_seconds)


def time_store_operation(operation: str) -> AbstractContextManager[Any]:
    """Time a `with` block as an operation of the nonce store."""
    return _metrics.store_duration.labels(operation).time()


def record_order(outcome: str) -> None:
    """Count an order by its outcome when it left the order gateway; `outcome` is one of OUTCOMES."""
    _metrics.orders.labels(outcome).inc()


def record_reconciliation(outcome: str) -> None:
    """Count an unknown order by its reconciled outcome; `outcome` is one of RECONCILED_OUTCOMES."""
    _metrics.reconciled.labels(outcome).inc()


# Reading


def issued_total() -> int:
    """Return the number of nonces that this process has issued."""
    return _counter_value(_metrics.issued)


def refused_total() -> int:
    """Return the number of nonces of this process that Kraken has refused."""
    return _counter_value(_metrics.refused)


def mean_request_lock_wait_seconds() -> float | None:
    """Return the mean wait for the last hundred request locks; None before the first."""
    waits = tuple(_metrics.request_lock_waits)
    return sum(waits) / len(waits) if waits else None


def update_gauges(status: Mapping[str, Any]) -> None:
    """Take the gauges from the status snapshot; a value that is None or missing there has no series."""
    _metrics.status = status


def render() -> bytes:
    """Return all metrics in Prometheus's text format."""
    return generate_latest(_Collector())


def _counter_value(counter: Counter) -> int:
    return int(next(iter(counter.collect())).samples[0].value)


class _Collector:
    def collect(self) -> Iterable[Metric]:
        for metric in _metrics.registry.collect():
            # Nobody here needs the creation time of a series, and it nearly doubles the series of the counters.
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric
        yield from _gauges(_metrics.status)


def _gauges(status: Mapping[str, Any]) -> Iterator[Metric]:
    if not status:
        return
    nonce, account, rate_limits = status["nonce"], status["account"] or {}, status["rate_limits"]
    rest_counter = rate_limits["rest"] or {}
    build = [status["version"], status["mode"]]
    role = status["lease"]["role"]
    yield _gauge("info", "The program, and whether it trades for real.", [(build, 1)], "version", "mode")
    state_samples = [([state], state == status["state"]) for state in STATES]
    yield _gauge("state", "State of the bot: 1 for the current state.", state_samples, "state")
    yield from _unlabelled_gauge("ready", "Whether trading cycles complete.", status["ready"])
    yield from _unlabelled_gauge(
        "leader", "Whether this instance may trade: it is standalone, or the leader.", role != "standby"
    )
    yield from _unlabelled_gauge("uptime_seconds", "Time since the program started.", status["uptime_seconds"])
    yield from _unlabelled_gauge(
        "last_cycle_age_seconds", "Time since the last cycle ended.", status["last_cycle_age_seconds"]
    )
    yield from _unlabelled_gauge(
        "nonce_ahead_seconds", "How far the last nonce is ahead of the clock.", nonce["ahead_seconds"]
    )
    is_open = None if nonce["circuit_breaker"] is None else nonce["circuit_breaker"] == "open"
    yield from _unlabelled_gauge("circuit_breaker_open", "Whether the circuit breaker of the key is open.", is_open)
    yield from _unlabelled_gauge("rest_counter_points", "Points on the key's REST counter.", rest_counter.get("level"))
    yield from _unlabelled_gauge(
        "rest_counter_maximum_points", "Kraken's limit for the REST counter.", rest_counter.get("maximum")
    )
    points_by_pair = [([pair], level) for pair, level in (rate_limits.get("matching_engine") or {}).items()]
    yield _gauge(
        "matching_engine_counter_points", "Points on the matching engine's counter of a pair.", points_by_pair, "pair"
    )
    equity = account.get("equity")
    equity_samples = [] if equity is None else [([account["quote"]], Decimal(equity))]
    yield _gauge("equity", "Value of the account.", equity_samples, "quote")


def _unlabelled_gauge(name: str, documentation: str, value: Any) -> Iterator[Metric]:
    if value is not None:
        yield _gauge(name, documentation, [([], value)])


def _gauge(name: str, documentation: str, samples: list[tuple[list[str], Any]], *labels: str) -> Metric:
    metric = GaugeMetricFamily(f"kraken_bot_{name}", documentation, labels=labels)
    for values, value in samples:
        metric.add_metric(values, value)
    return metric

"""The metrics of this process and the status snapshot in Prometheus's text format (docs/operating.md)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from bot.base.metrics import Histogram, process_metrics

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
STATES = ("starting", "standby", "trading", "waiting", "stopping")


def render(status: Mapping[str, Any]) -> bytes:
    """Return all metrics; the gauges come from the status snapshot, and a value that is None there has no series."""
    return generate_latest(_Collector(status))


@dataclass(frozen=True, slots=True)
class _Collector:
    status: Mapping[str, Any]

    def collect(self) -> Iterable[Metric]:
        numbers = process_metrics
        yield _counter("nonces_issued", "Nonces issued for requests.", {(): numbers.nonces["issued"]})
        yield _counter("nonces_refused", "Nonces that Kraken refused.", {(): numbers.nonces["refused"]})
        yield _histogram(
            "request_lock_wait_seconds",
            "Time from requesting the key's request lock to holding it.",
            {(): numbers.request_lock_wait},
        )
        yield _histogram(
            "request_duration_seconds",
            "Time from sending a request to having read Kraken's response.",
            numbers.request_duration,
            "method",
            "outcome",
        )
        yield _histogram(
            "nonce_store_duration_seconds",
            "Duration of an operation on the nonce store: the file or a shared store.",
            {(operation,): histogram for operation, histogram in tuple(numbers.store_duration.items())},
            "operation",
        )
        orders: dict[tuple[str, ...], int] = {(outcome,): count for outcome, count in numbers.orders.items()}
        yield _counter("orders", "Orders by outcome.", orders, "outcome")
        yield _counter(
            "orders_reconciled",
            "Unknown orders by their outcome after reconciliation.",
            {(name,): count for name, count in numbers.reconciled.items()},
            "outcome",
        )
        yield from _gauges(self.status)


def _counter(name: str, documentation: str, counts: Mapping[tuple[str, ...], int], *labels: str) -> Metric:
    metric = CounterMetricFamily(f"kraken_bot_{name}", documentation, labels=labels)
    for values, count in counts.items():
        metric.add_metric(values, count)
    return metric


def _histogram(name: str, documentation: str, histograms: Mapping[tuple[str, ...], Histogram], *labels: str) -> Metric:
    metric = HistogramMetricFamily(f"kraken_bot_{name}", documentation, labels=labels)
    for values, histogram in tuple(histograms.items()):
        buckets = [("+Inf" if math.isinf(bound) else str(bound), count) for bound, count in histogram.buckets()]
        metric.add_metric(values, buckets, histogram.total_seconds)
    return metric


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

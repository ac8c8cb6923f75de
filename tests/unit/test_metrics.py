"""The metrics: names and values as Prometheus's own parser reads them, and counting in threads and forks."""

from __future__ import annotations

import re
import threading
from functools import partial
from typing import Any

import pytest

from bot.base import metrics
from bot.dashboard import prometheus
from tests.child_process import Child
from tests.metric_text import metric_families, metric_values
from tests.pages import backquoted, read_section, rows

STATUS: dict[str, Any] = {
    "version": "1.2.3",
    "mode": "live",
    "state": "trading",
    "ready": True,
    "uptime_seconds": 86_400,
    "last_cycle_age_seconds": 4.5,
    "account": {"quote": "EUR", "equity": "10250.75"},
    "nonce": {"ahead_seconds": 60.25, "circuit_breaker": "open"},
    "lease": {"role": "leader"},
    "rate_limits": {"rest": {"level": 7.5, "maximum": 20}, "matching_engine": {"BTC/USD": 12, "ETH/USD": 1}},
}
UNKNOWN_STATUS: dict[str, Any] = {
    "version": "1.2.3",
    "mode": "paper",
    "state": "starting",
    "ready": False,
    "uptime_seconds": 0,
    "last_cycle_age_seconds": None,
    "account": None,
    "nonce": {"ahead_seconds": None, "circuit_breaker": None},
    "lease": {"role": "standby"},
    "rate_limits": {"rest": None},
}


@pytest.fixture(autouse=True)
def fresh_metrics() -> None:
    """Count from zero."""
    metrics.process_metrics.reset()


def record_one_of_each() -> None:
    """Record one observation in every metric."""
    metrics.record_nonce_issued()
    metrics.record_nonce_refused()
    metrics.record_request_lock_wait(0.02)
    metrics.record_request("OpenOrders", "ok", 0.2)
    with metrics.time_store_operation("next_nonce"):
        metrics.record_order("accepted")
    metrics.record_reconciliation("placed")


# Prometheus: metric and label naming; metric types
METRIC_NAME = re.compile(r"kraken_bot(_[a-z]+)+")
BASE_UNITS = ("seconds", "total", "points", "info")
UNITLESS = ("state", "ready", "leader", "open", "equity")


def test_names_follow_prometheus_conventions() -> None:
    """Names are lower case with the program's prefix; only counters end in _total, histograms are in seconds, all have
    help."""
    record_one_of_each()
    for name, family in metric_families(STATUS).items():
        assert METRIC_NAME.fullmatch(name), name
        # The parser removes _total from a counter's name, as OpenMetrics does.
        assert all(sample.name == f"{name}_total" for sample in family.samples) == (family.type == "counter"), name
        assert family.type != "histogram" or name.endswith("_seconds"), name
        assert family.type == "counter" or name.endswith((*BASE_UNITS, *UNITLESS)), name
        assert family.documentation.endswith("."), name
        assert family.type in {"counter", "gauge", "histogram"}, name


def test_every_series_is_unique() -> None:
    """No two lines have the same name and labels."""
    record_one_of_each()
    series = [
        (one.name, *sorted(one.labels.items())) for family in metric_families(STATUS).values() for one in family.samples
    ]
    assert len(series) == len(set(series))


def test_docs_list_every_metric() -> None:
    """docs/operating.md lists the name, type and labels of exactly these metrics."""
    record_one_of_each()
    table = [line for line in rows(read_section("docs/operating.md", "Metrics")) if len(line) == 4]
    documented = {backquoted(name)[0]: (kind, set(backquoted(labels))) for name, kind, labels, _ in table}
    exported = {
        name + ("_total" if family.type == "counter" else ""): (family.type, family.samples[0].labels.keys() - {"le"})
        for name, family in metric_families(STATUS).items()
    }
    assert documented == exported


def test_status_becomes_gauges() -> None:
    """The status snapshot is exported as numbers: money, ages, levels, and 1 for true."""
    values = partial(metric_values, status=STATUS)
    assert values("info") == {("live", "1.2.3"): 1}
    assert values("equity") == {("EUR",): 10250.75}
    assert {name for (name,), value in values("state").items() if value} == {"trading"}
    assert values("matching_engine_counter_points") == {("BTC/USD",): 12, ("ETH/USD",): 1}
    single = {name: values(name)[()] for name in ("ready", "leader", "circuit_breaker_open", "uptime_seconds")}
    assert single == {"ready": 1, "leader": 1, "circuit_breaker_open": 1, "uptime_seconds": 86_400}
    assert values("nonce_ahead_seconds")[()] == 60.25
    assert values("last_cycle_age_seconds")[()] == 4.5
    assert values("rest_counter_points")[()] == 7.5
    assert values("rest_counter_maximum_points")[()] == 20


def test_unknown_values_have_no_series() -> None:
    """An unknown value has no line, and is never 0; false is 0."""
    lines = prometheus.render(UNKNOWN_STATUS).decode().splitlines()
    exported = {line.partition(" ")[0].partition("{")[0] for line in lines if not line.startswith("#")}
    unknown_gauges = (
        "equity nonce_ahead_seconds last_cycle_age_seconds rest_counter_points rest_counter_maximum_points".split()
    )
    assert not exported & {
        f"kraken_bot_{name}" for name in [*unknown_gauges, "matching_engine_counter_points", "circuit_breaker_open"]
    }
    assert [metric_values(name, status=UNKNOWN_STATUS)[()] for name in ("ready", "leader", "uptime_seconds")] == [0] * 3


def test_only_counters_exist_before_the_first_status() -> None:
    """Before the first status there are no gauges; counters without labels, or with known ones, are 0."""
    found = metric_families()
    assert {family.type for family in found.values()} == {"counter", "histogram"}
    counts = [one.value for family in found.values() if family.type == "counter" for one in family.samples]
    assert counts == [0] * 8


def test_unknown_methods_share_a_series() -> None:
    """A thousand unknown methods share one series named other."""
    for number in range(1000):
        metrics.record_request(f"Method{number}", "ok", 0.1)
    assert metric_values("request_duration_seconds", "_count") == {("other", "ok"): 1000}


def test_histogram_buckets_are_cumulative() -> None:
    """Of waits of 0.5, 1 and 30 s none is within 0.25 s, one within 0.5 s and two within 20 s; the sum is 31.5 s."""
    for seconds in (0.5, 1.0, 30.0):
        metrics.record_request_lock_wait(seconds)
    buckets = metric_values("request_lock_wait_seconds", "_bucket")
    assert [buckets[bound,] for bound in ("0.25", "0.5", "20.0", "+Inf")] == [0, 1, 2, 3]
    assert metric_values("request_lock_wait_seconds", "_sum") == {(): 31.5}


def test_mean_wait_covers_the_last_hundred() -> None:
    """There is no mean before the first wait; afterwards it is that of the last hundred."""
    assert metrics.mean_request_lock_wait_seconds() is None
    for seconds in [1000.0] * 50 + [1.0, 2.0] * 50:
        metrics.record_request_lock_wait(seconds)
    assert metrics.mean_request_lock_wait_seconds() == 1.5


def test_concurrent_counting_loses_nothing() -> None:
    """Eight threads that count a thousand each at the same time count eight thousand."""
    barrier = threading.Barrier(8)

    def count() -> None:
        barrier.wait()
        for _ in range(1000):
            metrics.record_nonce_issued()
            metrics.record_nonce_refused()

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (metrics.issued_total(), metrics.refused_total()) == (8000, 8000)


def test_forked_child_counts_while_parent_holds_a_lock() -> None:
    """A child that is forked while another thread counts starts from zero and does not hang."""
    with Child("tests.unit.metrics_child", limit_seconds=20) as process:
        assert process.read_to_end() == [
            "in the child: 1 nonces; kraken_bot_request_lock_wait_seconds_sum 1.0",
            "in the parent: 2 nonces",
        ]

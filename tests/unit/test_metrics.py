"""The metrics: their names and values in Prometheus's text, as its own parser reads it, and who may count when."""

from __future__ import annotations

import re
import threading
from typing import Any

import pytest

from bot.base import metrics
from tests.child_process import Child
from tests.metric_text import families, values
from tests.pages import quoted, rows, section

FACTS: dict[str, Any] = {
    "version": "1.2.3",
    "mode": "live",
    "state": "trading",
    "ready": True,
    "uptime_seconds": 86_400,
    "last_tick_seconds": 4.5,
    "account": {"quote": "EUR", "equity": "10250.75"},
    "nonce": {"lead_seconds": 60.25, "breaker": "open"},
    "lease": {"role": "leader"},
    "rate_limits": {"rest": {"level": 7.5, "maximum": 20}, "engine": {"BTC/USD": 12, "ETH/USD": 1}},
}
UNKNOWN: dict[str, Any] = {
    "version": "1.2.3",
    "mode": "paper",
    "state": "starting",
    "ready": False,
    "uptime_seconds": 0,
    "last_tick_seconds": None,
    "account": None,
    "nonce": {"lead_seconds": None, "breaker": None},
    "lease": {"role": "standby"},
    "rate_limits": {"rest": None},
}


@pytest.fixture(autouse=True)
def from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count from zero, and leave the counters of this test process alone."""
    monkeypatch.setattr(metrics, "_meters", metrics._Meters())


def count_one_of_each() -> None:
    """Have a series in every metric."""
    metrics.show(FACTS)
    metrics.nonce_issued()
    metrics.nonce_refused()
    metrics.turn_taken(0.02)
    metrics.call_ended("OpenOrders", "ok", 0.2)
    with metrics.timed_step("draw"):
        metrics.order_ended("accepted")
    metrics.order_settled("placed")


# Prometheus: metric and label naming; metric types
NAME = re.compile(r"kraken_bot(_[a-z]+)+")
BASE_UNITS = ("seconds", "total", "points", "info")
PLAIN = ("state", "ready", "leader", "open", "equity")


def test_names_follow_the_field() -> None:
    """Names are the program's and lower case; counters alone end in _total, histograms are in seconds, all are told."""
    count_one_of_each()
    for name, family in families().items():
        assert NAME.fullmatch(name), name
        # The parser takes _total off a counter's name, as OpenMetrics does.
        assert all(sample.name == f"{name}_total" for sample in family.samples) == (family.type == "counter"), name
        assert family.type != "histogram" or name.endswith("_seconds"), name
        assert family.type == "counter" or name.endswith((*BASE_UNITS, *PLAIN)), name
        assert family.documentation.endswith("."), name
        assert family.type in {"counter", "gauge", "histogram"}, name


def test_every_series_is_there_once() -> None:
    """No two lines have the same name and labels."""
    count_one_of_each()
    series = [(one.name, *sorted(one.labels.items())) for family in families().values() for one in family.samples]
    assert len(series) == len(set(series))


def test_the_page_names_every_metric() -> None:
    """docs/operating.md has the name, type and labels of every metric, and of no other."""
    count_one_of_each()
    table = [line for line in rows(section("docs/operating.md", "Metrics")) if len(line) == 4]
    told = {quoted(name)[0]: (kind, set(quoted(labels))) for name, kind, labels, _ in table}
    ours = {
        name + ("_total" if family.type == "counter" else ""): (family.type, family.samples[0].labels.keys() - {"le"})
        for name, family in families().items()
    }
    assert told == ours


def test_facts_become_gauges() -> None:
    """What the status page knows is told in numbers: money, ages, levels, and 1 for what is so."""
    metrics.show(FACTS)
    assert values("info") == {("live", "1.2.3"): 1}
    assert values("equity") == {("EUR",): 10250.75}
    assert {name for (name,), value in values("state").items() if value} == {"trading"}
    assert values("engine_counter_points") == {("BTC/USD",): 12, ("ETH/USD",): 1}
    single = {name: values(name)[()] for name in ("ready", "leader", "breaker_open", "up_seconds")}
    assert single == {"ready": 1, "leader": 1, "breaker_open": 1, "up_seconds": 86_400}
    assert values("nonce_lead_seconds")[()] == 60.25
    assert values("last_pass_age_seconds")[()] == 4.5
    assert values("rest_counter_points")[()] == 7.5
    assert values("rest_counter_maximum_points")[()] == 20


def test_what_is_not_known_is_not_told() -> None:
    """A value that is not known has no line at all, and is never 0; what is not so is 0."""
    metrics.show(UNKNOWN)
    lines = metrics.text().decode().splitlines()
    told = {line.partition(" ")[0].partition("{")[0] for line in lines if not line.startswith("#")}
    gone = "equity nonce_lead_seconds last_pass_age_seconds rest_counter_points rest_counter_maximum_points".split()
    assert not told & {f"kraken_bot_{name}" for name in [*gone, "engine_counter_points", "breaker_open"]}
    assert [values(name)[()] for name in ("ready", "leader", "up_seconds")] == [0] * 3


def test_before_the_first_facts_only_counters_are_told() -> None:
    """Without facts there are no gauges, and the counters that have no labels, or known ones, stand at 0."""
    told = families()
    assert {family.type for family in told.values()} == {"counter", "histogram"}
    counted = [one.value for family in told.values() if family.type == "counter" for one in family.samples]
    assert counted == [0] * 8


def test_strange_methods_share_a_series() -> None:
    """A thousand methods that are none of the bot's are one series, called other."""
    for number in range(1000):
        metrics.call_ended(f"Method{number}", "ok", 0.1)
    assert values("call_seconds", "_count") == {("other", "ok"): 1000}


def test_a_histogram_counts_up_to_its_bounds() -> None:
    """Waits of 0.5, 1 and 30 s: none is within 0.25 s, one within 0.5 s, two within 20 s; all are 31.5 s."""
    for seconds in (0.5, 1.0, 30.0):
        metrics.turn_taken(seconds)
    buckets = values("turn_wait_seconds", "_bucket")
    assert [buckets[bound,] for bound in ("0.25", "0.5", "20.0", "+Inf")] == [0, 1, 2, 3]
    assert values("turn_wait_seconds", "_sum") == {(): 31.5}


def test_the_mean_wait_is_that_of_the_last_hundred() -> None:
    """There is no mean before the first wait; then it is that of the last hundred."""
    assert metrics.turn_wait_mean_seconds() is None
    for seconds in [1000.0] * 50 + [1.0, 2.0] * 50:
        metrics.turn_taken(seconds)
    assert metrics.turn_wait_mean_seconds() == 1.5


def test_threads_lose_no_count() -> None:
    """Eight threads that count a thousand each at once count eight thousand."""
    gate = threading.Barrier(8)

    def work() -> None:
        gate.wait()
        for _ in range(1000):
            metrics.nonce_issued()
            metrics.nonce_refused()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (metrics.issued(), metrics.refused()) == (8000, 8000)


def test_a_forked_child_counts_though_the_parent_was_counting() -> None:
    """Forked while another thread is in the middle of counting, a child counts from zero and does not hang."""
    with Child("tests.unit.metrics_child", limit_seconds=20) as process:
        assert process.rest() == [
            "in the child: 1 nonces; kraken_bot_turn_wait_seconds_sum 1.0",
            "in the parent: 2 nonces",
        ]

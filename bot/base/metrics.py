"""What this process counts and times, and what is known of the bot, in Prometheus's words (docs/operating.md).

Every process counts for itself, from zero. A forked child lays its parent's counters aside, because a lock of theirs
may be held by a thread that the child does not have.
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
FATES = ("placed", "not_placed")
# What the bot itself calls. Whatever else is called is counted as "other": each name is a dozen series.
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
# Up to the longest wait for a turn, the longest turn, and the time-outs of the stores.
_TURN_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)
_CALL_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0)
_STORE_BUCKETS = (0.00001, 0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_WAITS_KEPT = 100


class _Meters:
    """The counters and histograms of this process, and what `show` was told last."""

    def __init__(self) -> None:
        self.start_anew()

    def start_anew(self) -> None:
        """Count from zero."""
        self.registry = registry = CollectorRegistry()
        self.facts: Mapping[str, Any] = {}
        self.waits: deque[float] = deque(maxlen=_WAITS_KEPT)
        self.issued = Counter("kraken_bot_nonces_issued_total", "Nonces drawn for requests.", registry=registry)
        self.refused = Counter("kraken_bot_nonces_refused_total", "Nonces that Kraken refused.", registry=registry)
        self.turn_wait = Histogram(
            "kraken_bot_turn_wait_seconds",
            "From asking for the key's turn to having it.",
            buckets=_TURN_BUCKETS,
            registry=registry,
        )
        self.call = Histogram(
            "kraken_bot_call_seconds",
            "From drawing the nonce to having read Kraken's answer.",
            ("method", "outcome"),
            buckets=_CALL_BUCKETS,
            registry=registry,
        )
        self.store = Histogram(
            "kraken_bot_store_seconds",
            "How long a step takes of what holds the nonces: the file or the shared store.",
            ("step",),
            buckets=_STORE_BUCKETS,
            registry=registry,
        )
        self.orders = Counter("kraken_bot_orders_total", "Orders by outcome.", ("outcome",), registry=registry)
        self.settled = Counter(
            "kraken_bot_orders_settled_total", "Unknown orders by what became of them.", ("fate",), registry=registry
        )
        # A series that is not there until something happens cannot be told from one that is lost.
        for outcome in OUTCOMES:
            self.orders.labels(outcome)
        for fate in FATES:
            self.settled.labels(fate)


_meters = _Meters()
os.register_at_fork(after_in_child=_meters.start_anew)


# Counting: called where it happens, inside a key's turn; each costs a few microseconds


def nonce_issued() -> None:
    """A nonce was drawn for a request."""
    _meters.issued.inc()


def nonce_refused() -> None:
    """Kraken has refused a nonce."""
    _meters.refused.inc()


def turn_taken(waited_seconds: float) -> None:
    """A key's turn was given after so long."""
    _meters.waits.append(waited_seconds)
    _meters.turn_wait.observe(waited_seconds)


def call_ended(method: str, outcome: str, seconds: float) -> None:
    """A call to Kraken has ended: "ok", "error" where Kraken answered with one, "no_answer" for everything else."""
    _meters.call.labels(method if method in METHODS else "other", outcome).observe(seconds)


def timed_step(step: str) -> AbstractContextManager[Any]:
    """Time a `with` block as a step of what holds the nonces."""
    return _meters.store.labels(step).time()


def order_ended(outcome: str) -> None:
    """An order was given out of hand; `outcome` is one of OUTCOMES."""
    _meters.orders.labels(outcome).inc()


def order_settled(fate: str) -> None:
    """What became of an order whose outcome was unknown is known; `fate` is one of FATES."""
    _meters.settled.labels(fate).inc()


# Reading


def issued() -> int:
    """Return how many nonces this process has drawn."""
    return _count(_meters.issued)


def refused() -> int:
    """Return how many nonces of this process Kraken has refused."""
    return _count(_meters.refused)


def turn_wait_mean_seconds() -> float | None:
    """Return how long the last hundred turns were waited for on average; None before the first."""
    waits = tuple(_meters.waits)
    return sum(waits) / len(waits) if waits else None


def show(facts: Mapping[str, Any]) -> None:
    """Take what the gauges tell from the facts of the status page; what is None or missing there has no series."""
    _meters.facts = facts


def text() -> bytes:
    """Return everything, as Prometheus's text format."""
    return generate_latest(_Everything())


def _count(counter: Counter) -> int:
    return int(next(iter(counter.collect())).samples[0].value)


class _Everything:
    def collect(self) -> Iterable[Metric]:
        for metric in _meters.registry.collect():
            # When a series began is of no use to anybody here, and nearly doubles the series of the counters.
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric
        yield from _gauges(_meters.facts)


def _gauges(facts: Mapping[str, Any]) -> Iterator[Metric]:
    if not facts:
        return
    nonce, account, rates = facts["nonce"], facts["account"] or {}, facts["rate_limits"]
    rest = rates["rest"] or {}
    build = [facts["version"], facts["mode"]]
    role = facts["lease"]["role"]
    yield _gauge("info", "The program, and whether it trades for real.", [(build, 1)], "version", "mode")
    states = [([state], state == facts["state"]) for state in STATES]
    yield _gauge("state", "What the bot is doing: 1 for the state that it is in.", states, "state")
    yield from _single("ready", "Whether its passes go through.", facts["ready"])
    yield from _single("leader", "Whether this instance may trade: it is alone, or leads.", role != "standby")
    yield from _single("up_seconds", "How long it has been running.", facts["uptime_seconds"])
    yield from _single("last_pass_age_seconds", "How long ago its last pass ended.", facts["last_tick_seconds"])
    yield from _single("nonce_lead_seconds", "How far the last nonce is ahead of the clock.", nonce["lead_seconds"])
    is_open = None if nonce["breaker"] is None else nonce["breaker"] == "open"
    yield from _single("breaker_open", "Whether the key is silent after refusals.", is_open)
    yield from _single("rest_counter_points", "Points on the key's REST counter.", rest.get("level"))
    yield from _single("rest_counter_maximum_points", "Kraken's limit for the REST counter.", rest.get("maximum"))
    points = [([pair], level) for pair, level in (rates.get("engine") or {}).items()]
    yield _gauge("engine_counter_points", "Points on the matching engine's counter of a pair.", points, "pair")
    equity = account.get("equity")
    worth = [] if equity is None else [([account["quote"]], Decimal(equity))]
    yield _gauge("equity", "What the account is worth.", worth, "quote")


def _single(name: str, meaning: str, value: Any) -> Iterator[Metric]:
    if value is not None:
        yield _gauge(name, meaning, [([], value)])


def _gauge(name: str, meaning: str, rows: list[tuple[list[str], Any]], *labels: str) -> Metric:
    family = GaugeMetricFamily(f"kraken_bot_{name}", meaning, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family

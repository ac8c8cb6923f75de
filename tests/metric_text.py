"""Metrics as Prometheus parses them."""

from __future__ import annotations

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from bot.base import metrics


def metric_families() -> dict[str, Metric]:
    """Return the metrics by name; a counter's name is without its _total, as in OpenMetrics."""
    return {family.name: family for family in text_string_to_metric_families(metrics.render().decode())}


def metric_values(name: str, suffix: str = "") -> dict[tuple[str, ...], float]:
    """Return the values of a metric's lines that end in `suffix`, such as _total or _count, by their label values."""
    found = metric_families()[f"kraken_bot_{name}"].samples
    return {tuple(one.labels.values()): one.value for one in found if one.name == f"kraken_bot_{name}{suffix}"}

"""Metrics as Prometheus parses them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from bot.dashboard import prometheus


def metric_families(status: Mapping[str, Any] | None = None) -> dict[str, Metric]:
    """Return the metrics by name, with the gauges of a status; a counter's name is without its _total, as in
    OpenMetrics."""
    text = prometheus.render(status or {}).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def metric_values(name: str, suffix: str = "", status: Mapping[str, Any] | None = None) -> dict[tuple[str, ...], float]:
    """Return the values of a metric's lines that end in `suffix`, such as _total or _count, by their label values."""
    found = metric_families(status)[f"kraken_bot_{name}"].samples
    return {tuple(one.labels.values()): one.value for one in found if one.name == f"kraken_bot_{name}{suffix}"}

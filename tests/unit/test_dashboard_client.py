"""The text that `python main.py status` prints for a status."""

from __future__ import annotations

import json

import pytest

from bot.base.redaction import redact
from bot.dashboard.client import format_summary
from tests.unit.dashboard_samples import full_status, starting_status


@pytest.mark.parametrize(
    ("status", "expected_line"),
    [
        (full_status(), "orders   2 open, 0 unknown"),
        (starting_status(), "orders   not known"),
        (full_status(open_orders=[], journal_problem="the disk is full"), "orders   not known"),
    ],
)
def test_order_counts_are_unknown_until_read(status: dict[str, object], expected_line: str) -> None:
    """Open and unknown orders are counted once they are known; before that, or without a readable journal, they are
    unknown."""
    assert expected_line in format_summary(status).splitlines()


def test_unknown_circuit_breaker_is_reported_as_unknown() -> None:
    """The circuit breaker is unknown as long as the status does not contain it."""
    assert (
        "         circuit breaker unknown"
        in format_summary(starting_status(nonce=full_status()["nonce"] | {"circuit_breaker": None})).splitlines()
    )


@pytest.mark.parametrize("fencing_token", [None, 4])
def test_redaction_leaves_the_status_unchanged(fencing_token: int | None) -> None:
    """`status --json` is printed through the redactor, which must leave every key and value of a status unchanged."""
    status = full_status(lease={"role": "leader", "leader": "host:17", "fencing_token": fencing_token})
    assert json.loads(redact(json.dumps(status, indent=1))) == status

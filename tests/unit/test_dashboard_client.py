"""What `python main.py status` writes of what a bot tells."""

from __future__ import annotations

import pytest

from bot.dashboard.client import summary
from tests.unit.dashboard_samples import begun, full


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (full(), "orders   2 open, 0 unknown"),
        (begun(), "orders   not known"),
        (full(open_orders=[], journal_problem="the disk is full"), "orders   not known"),
    ],
)
def test_orders_that_nobody_has_looked_for_are_not_counted(status: dict[str, object], words: str) -> None:
    """Open and unknown orders are counted once they are known; before that, or where the journal cannot be read, they
    are not known."""
    assert words in summary(status).splitlines()


def test_a_breaker_that_is_not_known_is_said_to_be_unknown() -> None:
    """Whether the key is silent is unknown as long as the status does not tell."""
    assert "breaker  unknown" in summary(begun(nonce=full()["nonce"] | {"breaker": None})).splitlines()

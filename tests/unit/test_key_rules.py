"""Which keys may trade."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bot.base.errors import KeyRuleError
from bot.base.models import KeyInfo
from bot.kraken.key_rules import check_key, describe_limits

REQUIRED_PERMISSIONS = frozenset({"query-funds", "query-open-trades", "query-closed-trades", "modify-trades"})


def make_key_info(permissions: frozenset[str] = REQUIRED_PERMISSIONS, nonce_window: int = 0) -> KeyInfo:
    """Return the key information of Kraken."""
    return KeyInfo("bot", 1, nonce_window, permissions)


def refusal_message(info: KeyInfo, allow_withdraw: bool = False) -> str:
    """Return the reasons why a key may not be used."""
    with pytest.raises(KeyRuleError) as caught:
        check_key(info, allow_withdraw)
    return str(caught.value)


def test_key_with_required_permissions_may_trade() -> None:
    """A key with the four permissions and no nonce window is accepted, also with more permissions."""
    check_key(make_key_info(), allow_withdraw=False)
    check_key(make_key_info(REQUIRED_PERMISSIONS | {"close-trades", "query-ledger"}), allow_withdraw=False)


@pytest.mark.parametrize("window", [1, 5000, 10_000_000])
def test_a_nonce_window_is_refused(window: int) -> None:
    """Any nonce window above 0 is refused, and the message names it."""
    assert f"nonce window of {window}" in refusal_message(make_key_info(nonce_window=window))


@pytest.mark.parametrize("missing", sorted(REQUIRED_PERMISSIONS))
def test_a_missing_permission_is_refused(missing: str) -> None:
    """Each of the four permissions is needed."""
    assert "lacks" in refusal_message(make_key_info(REQUIRED_PERMISSIONS - {missing}))


def test_withdrawal_permission_must_be_allowed() -> None:
    """A key that may withdraw is refused unless that is allowed."""
    info = make_key_info(REQUIRED_PERMISSIONS | {"withdraw-funds"})
    assert "ALLOW_WITHDRAW_KEY=1" in refusal_message(info)
    check_key(info, allow_withdraw=True)


@pytest.mark.parametrize("field", ["query_from_seconds", "query_to_seconds"])
def test_a_query_window_is_refused(field: str) -> None:
    """A key that sees its orders from or to a time only is refused, and the message names the time."""
    info = replace(make_key_info(), **{field: 1_790_000_000.0})  # type: ignore[arg-type]  # the field is a time
    assert "2026-09-21T14:13:20Z" in refusal_message(info)


def test_the_limits_of_a_key_are_described() -> None:
    """Expiry and allowed addresses are named; a key without them has no clause."""
    info = replace(make_key_info(), valid_until_seconds=1_790_000_000.0, ip_allowlist=("192.0.2.1", "192.0.2.7"))
    assert describe_limits(info) == ["valid until 2026-09-21T14:13:20Z", "accepted from 192.0.2.1, 192.0.2.7 only"]
    assert describe_limits(make_key_info()) == []


def test_all_reasons_are_reported_together() -> None:
    """A key with three problems is refused with all three reasons."""
    message = refusal_message(make_key_info(frozenset({"withdraw-funds"}), nonce_window=9))
    assert all(part in message for part in ("window of 9", "Query open orders", "Create & modify", "withdraw"))

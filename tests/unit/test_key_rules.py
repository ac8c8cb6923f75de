"""Which keys may trade."""

from __future__ import annotations

import pytest

from bot.base.errors import KeyRuleError
from bot.base.models import KeyInfo
from bot.kraken.key_rules import check_key

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


def test_all_reasons_are_reported_together() -> None:
    """A key with three problems is refused with all three reasons."""
    message = refusal_message(make_key_info(frozenset({"withdraw-funds"}), nonce_window=9))
    assert all(part in message for part in ("window of 9", "Query open orders", "Create & modify", "withdraw"))

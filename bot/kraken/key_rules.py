"""The requirements that an API key must meet before it may trade. Pure."""

from __future__ import annotations

from bot.base.errors import KeyRuleError
from bot.base.models import KeyInfo

# Permission names of GetApiKeyInfo (Kraken: get-api-key-info page), and the words on Kraken's key page.
_REQUIRED_PERMISSIONS = {
    "query-funds": "Funds: Query",
    "query-open-trades": "Orders and trades: Query open orders & trades",
    "query-closed-trades": "Orders and trades: Query closed orders & trades",
    "modify-trades": "Orders and trades: Create & modify orders",
}
_WITHDRAW_PERMISSION = "withdraw-funds"


def check_key(info: KeyInfo, allow_withdraw: bool) -> None:
    """Raise KeyRuleError with every reason why this key may not be used."""
    problems = []
    if info.nonce_window > 0:
        problems.append(
            f"it has a nonce window of {info.nonce_window}: one duplicated packet could double an order. "
            "Set the window of the key to 0"
        )
    missing = [label for name, label in _REQUIRED_PERMISSIONS.items() if name not in info.permissions]
    if missing:
        problems.append(f"it lacks {', '.join(missing)}. Add what is missing on Kraken's key page")
    if _WITHDRAW_PERMISSION in info.permissions and not allow_withdraw:
        problems.append(
            "it may withdraw funds, which a trading bot never needs. Take the permission away, or set "
            "ALLOW_WITHDRAW_KEY=1"
        )
    if problems:
        raise KeyRuleError("This API key is not used: " + "; ".join(problems) + ".")

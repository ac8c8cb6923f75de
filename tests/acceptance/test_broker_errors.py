"""Every error string of Kraken, over HTTP: its exception class, and its meaning for an order."""

from __future__ import annotations

from typing import Any

import pytest

from bot import broker_manager
from bot.base.errors import (
    BotError,
    CredentialsError,
    InvalidNonceError,
    LockoutError,
    OrderBlockedError,
    OrderOutcomeUnknownError,
    OrderRefusedError,
    PermissionDeniedError,
    RateLimitError,
    RequestError,
    ServiceError,
    UnknownKrakenError,
)
from bot.kraken.error_table import ERROR_TABLE
from bot.kraken.rate_counters import STARTER
from tests.acceptance.broker_tools import ORDER, BrokerSetup, open_broker_setup

pytestmark = pytest.mark.usefixtures("nonce_file")

NONCE_REFUSED = "EAPI:Invalid nonce"

EXPECTED: dict[type[BotError], str] = {
    CredentialsError: """
        EAPI:Invalid key|EAPI:Invalid signature|EAuth:Account temporary disabled|EAuth:Account unconfirmed|EAuth:Failed
        ETrade:Locked|ETrade:User Locked|EAPI:Invalid token|ESession:Invalid session""",
    InvalidNonceError: "EAPI:Invalid nonce",
    LockoutError: "EGeneral:Temporary lockout",
    PermissionDeniedError: """
        EGeneral:Permission denied|EAPI:Permission denied|EAccount:Invalid permissions|EBM:limit exceeded:CAL""",
    RateLimitError: """
        EAuth:Rate limit exceeded|EAuth:Too many requests|EAPI:Rate limit exceeded|EGeneral:Too many requests
        EService:Throttled""",
    ServiceError: """
        EService:Unavailable|EService:Busy|EService:Timeout|EService:Deadline elapsed|EGeneral:Internal error
        EDatabase:Internal error|EService:Market in cancel_only mode|EService:Market in post_only mode
        EService:Market in limit_only mode""",
    RequestError: """
        EAPI:Bad request|EAPI:Feature disabled|EGeneral:Unknown method|EGeneral:Invalid arguments
        EGeneral:Invalid arguments:volume minimum not met|EGeneral:Invalid arguments:Index unavailable
        EGeneral:Invalid timeout argument|EQuery:Unknown asset pair|EQuery:Invalid asset pair|EQuery:Unknown asset
        ETrade:Invalid request|Limit_price(s) not found|Price(s) not found|Symbol(s) not found|EFunding:""",
    UnknownKrakenError: "EOrder:Reduce only:Position is closed",
}
FINAL = """EGeneral:Unknown method|EGeneral:Invalid arguments|EGeneral:Invalid arguments:volume minimum not met
    EGeneral:Invalid timeout argument|EQuery:Unknown asset pair|EQuery:Invalid asset pair|EQuery:Unknown asset
    ETrade:Invalid request"""
STRINGS = [row.prefix for row in ERROR_TABLE] + [
    "EService: Throttled: 1741500000",
    "EOrder:Something that Kraken invents tomorrow",
    "EOrder:Duplicate order",
    "EGeneral:Something that Kraken invents tomorrow",
]


def listed_strings(text: str) -> set[str]:
    """Return the strings of one of the lists above."""
    return {part.strip() for line in text.splitlines() for part in line.split("|") if part.strip()}


def expected_class(string: str) -> type[BotError]:
    """Return the expected class of a string."""
    for kind, listed in EXPECTED.items():
        if string.replace(": ", ":").replace(":1741500000", "") in listed_strings(listed):
            return kind
    is_order_refusal = string.startswith("EOrder:") and "Duplicate" not in string
    return OrderRefusedError if is_order_refusal else UnknownKrakenError


def is_final(string: str) -> bool:
    """Return whether a string is a final refusal of an order."""
    return string in listed_strings(FINAL) or expected_class(string) is OrderRefusedError


@pytest.fixture(scope="module")
def shared_setup(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Open one simulator for all strings; each test uses a key of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(broker_manager, "NONCE_FILE", str(tmp_path_factory.mktemp("nonce") / "kraken_nonce.txt"))
        with open_broker_setup() as setup:
            yield setup


@pytest.mark.parametrize("string", STRINGS)
def test_each_error_string_raises_its_class(shared_setup: BrokerSetup, string: str) -> None:
    """A private call that is answered with the string raises the expected class, with Kraken's string."""
    key = shared_setup.simulator.add_key()
    broker = shared_setup.open_broker(key)
    broker.private_call("BalanceEx")
    shared_setup.simulator.faults.raise_next("TradeVolume", string, times=3 if string == NONCE_REFUSED else 1)
    with pytest.raises(expected_class(string)) as caught:
        broker.private_call("TradeVolume")
    broker.close()
    assert caught.value.error_strings == [string]  # type: ignore[attr-defined]


@pytest.mark.parametrize("string", STRINGS)
def test_each_error_string_resolves_an_order_or_leaves_it_unknown(shared_setup: BrokerSetup, string: str) -> None:
    """An AddOrder answered with a final string is refused and its pair free; with any other it is unknown and its pair
    blocked."""
    broker = shared_setup.open_broker(shared_setup.simulator.add_key(), tier=STARTER)
    broker.private_call("BalanceEx")
    shared_setup.simulator.faults.raise_next("AddOrder", string)
    with pytest.raises(OrderRefusedError if is_final(string) else OrderOutcomeUnknownError):
        broker.private_call("AddOrder", ORDER)
    if is_final(string):
        assert broker.unknown_orders() == []
        broker.private_call("AddOrder", ORDER)
    else:
        with pytest.raises(OrderBlockedError):
            broker.private_call("AddOrder", ORDER)
    broker.close()

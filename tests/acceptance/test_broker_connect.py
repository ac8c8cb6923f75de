"""The checks of connect(): the key, the nonce file, the clock."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from freezegun import freeze_time

from bot.base.clock import MarketClock, nonce_clock, wall_seconds, wall_us
from bot.base.errors import CredentialsError, KeyRuleError, NonceAheadError
from bot.base.models import Position
from bot.simulator.keys import TRADING_PERMISSIONS
from bot.simulator.options import SimulatorOptions
from tests.acceptance.broker_tools import ORDER, advance_time, open_broker_setup

pytestmark = pytest.mark.usefixtures("nonce_file")


def test_the_first_private_call_of_connect_is_getapikeyinfo() -> None:
    """connect() with a suitable key calls GetApiKeyInfo first, and then reads the account."""
    with open_broker_setup() as setup:
        setup.broker.connect()
        assert setup.request_methods() == ["GetApiKeyInfo", "BalanceEx"]


@pytest.mark.parametrize(
    ("fields", "error_text"),
    [
        ({"nonce_window": 1}, "nonce window of 1"),
        ({"permissions": (*TRADING_PERMISSIONS, "withdraw-funds")}, "may withdraw"),
        ({"permissions": ("query-funds", "query-closed-trades", "modify-trades")}, "Query open orders"),
        ({"permissions": ("query-funds", "query-open-trades", "modify-trades")}, "Query closed orders"),
        ({"permissions": ("query-funds", "query-open-trades", "query-closed-trades")}, "Create & modify"),
        ({"permissions": ("query-open-trades", "query-closed-trades", "modify-trades")}, "Funds: Query"),
    ],
)
def test_connect_refuses_an_unsuitable_key(fields: dict[str, Any], error_text: str) -> None:
    """connect() raises KeyRuleError with the reason, after GetApiKeyInfo and no other request."""
    with open_broker_setup() as setup:
        key = setup.simulator.add_key(**fields)
        broker = setup.open_broker(key)
        with pytest.raises(KeyRuleError, match=error_text):
            broker.connect()
        broker.close()
        assert setup.request_methods(key[0]) == ["GetApiKeyInfo"]


def test_withdrawal_permission_can_be_allowed() -> None:
    """With ALLOW_WITHDRAW_KEY a key that may withdraw connects."""
    with open_broker_setup() as setup:
        key = setup.simulator.add_key(permissions=(*TRADING_PERMISSIONS, "withdraw-funds"))
        broker = setup.open_broker(key, allow_withdraw_key=True)
        broker.connect()
        broker.close()
        assert setup.request_methods(key[0]) == ["GetApiKeyInfo", "BalanceEx"]


def test_connect_continues_without_getapikeyinfo(caplog: pytest.LogCaptureFixture) -> None:
    """If Kraken does not know GetApiKeyInfo, connect() warns and continues."""
    with open_broker_setup() as setup:
        setup.simulator.faults.raise_next("GetApiKeyInfo", "EGeneral:Unknown method")
        setup.broker.connect()
        assert "could not be checked" in caplog.text
        assert setup.request_methods() == ["GetApiKeyInfo", "BalanceEx"]


@pytest.mark.parametrize("wrong", ["key", "secret"])
def test_a_wrong_key_or_secret_costs_one_request(wrong: str) -> None:
    """A wrong key or secret raises CredentialsError at connect, after one private request."""
    with open_broker_setup() as setup:
        key, secret = setup.simulator.key, setup.simulator.secret
        pair = ("unknown", secret) if wrong == "key" else (key, "d3Jvbmc=")
        broker = setup.open_broker(pair)
        with pytest.raises(CredentialsError):
            broker.connect()
        broker.close()
        assert setup.request_methods(pair[0]) == ["GetApiKeyInfo"]


def test_a_nonce_file_far_ahead_stops_connect(nonce_file: Path) -> None:
    """A nonce file two days ahead of the clock stops connect() before any private call, and does not change."""
    with open_broker_setup() as setup:
        ahead = str(wall_us() + 2 * 86_400_000_000)
        nonce_file.write_text(ahead)
        with pytest.raises(NonceAheadError, match="days ahead"):
            setup.broker.connect()
        assert setup.request_methods() == []
        assert nonce_file.read_text() == ahead


def test_a_broker_can_be_made_on_a_nonce_file_far_ahead(nonce_file: Path) -> None:
    """A broker on a nonce file two days ahead can be created, so that connect() can report the problem."""
    with open_broker_setup() as setup:
        nonce_file.write_text(str(wall_us() + 2 * 86_400_000_000))
        broker = setup.open_broker()
        with pytest.raises(NonceAheadError, match="days ahead"):
            broker.connect()
        broker.close()
        assert setup.request_methods() == []


# Balances


def test_positions_name_coins_and_their_pairs() -> None:
    """Positions are coins with their pair, or without one if they cannot be traded; fiat money is not included."""
    balances = {"ZUSD": "1000", "USD.M": "5", "XXBT": "1", "XBT.F": "2", "KFEE": "7", "SOL": "0"}
    with open_broker_setup(SimulatorOptions(balances=balances)) as setup:
        assert setup.broker.get_positions() == [
            Position("BTC/USD", "BTC", Decimal(1)),
            Position("", "BTC.F", Decimal(2)),
            Position("", "KFEE", Decimal(7)),
        ]


# A wrong clock


def test_server_time_is_requested_once_an_hour() -> None:
    """Reading the system status requests Kraken's Time the first time and an hour later, and not in between."""
    with open_broker_setup() as setup:
        time_requests: list[float] = []
        methods = setup.simulator.api._public_endpoints.methods
        handle_time, start = methods["Time"], setup.clock.now()

        def record_and_answer(params: Mapping[str, str], now: float) -> dict[str, Any]:
            time_requests.append(now)
            return handle_time(params, now)

        methods["Time"] = record_and_answer
        for seconds in (0, 3599, 1, 3599, 1):
            advance_time(setup.clock, seconds)
            setup.broker.system_status()
        assert [round(now - start) for now in time_requests] == [0, 3600, 7200]


@pytest.mark.parametrize(("offset_seconds", "side"), [(-3600, "behind"), (3600, "ahead of")])
def test_wrong_clock_is_logged_and_nonces_follow_kraken(
    offset_seconds: int, side: str, caplog: pytest.LogCaptureFixture
) -> None:
    """If the machine's clock is an hour off, a warning says so, and new nonces are at Kraken's time or above."""
    kraken_clock = MarketClock(wall_seconds())
    with open_broker_setup(clock=kraken_clock) as setup:
        with freeze_time(datetime.fromtimestamp(wall_seconds() + offset_seconds, UTC)):
            broker = setup.open_broker(market_clock=MarketClock())
            broker.connect()
            broker.close()
        assert f" s {side} Kraken's: nonces follow Kraken's time" in caplog.text
        assert nonce_clock.kraken_offset_us is not None
        assert int(setup.requests()[0].nonce) >= int(kraken_clock.now() - 60) * 1_000_000
        assert setup.refused_nonce_count() == 0
        assert int(setup.requests()[0].nonce) < (kraken_clock.now() + max(0, offset_seconds) + 60) * 1_000_000


def test_clock_within_ten_seconds_is_trusted() -> None:
    """Nonces follow the machine's clock while it is less than ten seconds from Kraken's."""
    with open_broker_setup() as setup:
        broker = setup.open_broker(market_clock=MarketClock(setup.clock.now() - 9))
        broker.connect()
        broker.close()
        assert nonce_clock.kraken_offset_us is None


def test_slow_time_response_does_not_break_deadlines() -> None:
    """With responses to Time that are nine seconds late an order is placed; Time is requested until one is prompt."""
    # `slow_seconds` is nine seconds of market time.
    market_clock = MarketClock(wall_seconds(), 10.0)
    with open_broker_setup(SimulatorOptions(slow_seconds=0.9), clock=market_clock) as setup:
        setup.simulator.faults.fire_next("slow", "Time")
        setup.broker.connect()
        setup.simulator.faults.fire_next("slow", "Time")
        assert setup.broker.private_call("AddOrder", ORDER)["txid"]
        assert setup.simulator.faults.fired_counts["slow"] == 2
        setup.simulator.faults.fire_next("slow", "Time")
        setup.broker.system_status()
        assert setup.simulator.faults.fired_counts["slow"] == 2

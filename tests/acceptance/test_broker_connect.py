"""What connect() looks at: the key, the nonce file, the clock."""

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
from bot.simulator.keys import ALL_TRADING
from bot.simulator.options import SimulatorOptions
from tests.acceptance.broker_tools import ORDER, open_desk, pass_time

pytestmark = pytest.mark.usefixtures("nonce_file")


def test_the_first_private_call_of_connect_is_getapikeyinfo() -> None:
    """connect() of a fit key asks GetApiKeyInfo first, and then reads the account."""
    with open_desk() as desk:
        desk.broker.connect()
        assert desk.methods() == ["GetApiKeyInfo", "BalanceEx"]


@pytest.mark.parametrize(
    ("fields", "words_of_error"),
    [
        ({"nonce_window": 1}, "nonce window of 1"),
        ({"permissions": (*ALL_TRADING, "withdraw-funds")}, "may withdraw"),
        ({"permissions": ("query-funds", "query-closed-trades", "modify-trades")}, "Query open orders"),
        ({"permissions": ("query-funds", "query-open-trades", "modify-trades")}, "Query closed orders"),
        ({"permissions": ("query-funds", "query-open-trades", "query-closed-trades")}, "Create & modify"),
        ({"permissions": ("query-open-trades", "query-closed-trades", "modify-trades")}, "Funds: Query"),
    ],
)
def test_connect_refuses_a_key_that_is_not_fit(fields: dict[str, Any], words_of_error: str) -> None:
    """connect() raises KeyRuleError with the reason, after GetApiKeyInfo and nothing else."""
    with open_desk() as desk:
        key = desk.simulator.add_key(**fields)
        broker = desk.open_broker(key)
        with pytest.raises(KeyRuleError, match=words_of_error):
            broker.connect()
        broker.close()
        assert desk.methods(key[0]) == ["GetApiKeyInfo"]


def test_a_key_that_may_withdraw_can_be_allowed() -> None:
    """With ALLOW_WITHDRAW_KEY a key that may withdraw connects."""
    with open_desk() as desk:
        key = desk.simulator.add_key(permissions=(*ALL_TRADING, "withdraw-funds"))
        broker = desk.open_broker(key, allow_withdraw_key=True)
        broker.connect()
        broker.close()
        assert desk.methods(key[0]) == ["GetApiKeyInfo", "BalanceEx"]


def test_connect_goes_on_without_getapikeyinfo(caplog: pytest.LogCaptureFixture) -> None:
    """Where Kraken does not know GetApiKeyInfo, connect() warns and goes on."""
    with open_desk() as desk:
        desk.simulator.faults.raise_next("GetApiKeyInfo", "EGeneral:Unknown method")
        desk.broker.connect()
        assert "could not be checked" in caplog.text
        assert desk.methods() == ["GetApiKeyInfo", "BalanceEx"]


@pytest.mark.parametrize("wrong", ["key", "secret"])
def test_a_wrong_key_or_secret_costs_one_request(wrong: str) -> None:
    """A wrong key or secret raises CredentialsError at connect, after one private request."""
    with open_desk() as desk:
        key, secret = desk.simulator.key, desk.simulator.secret
        pair = ("unknown", secret) if wrong == "key" else (key, "d3Jvbmc=")
        broker = desk.open_broker(pair)
        with pytest.raises(CredentialsError):
            broker.connect()
        broker.close()
        assert desk.methods(pair[0]) == ["GetApiKeyInfo"]


def test_a_nonce_file_far_ahead_stops_connect(nonce_file: Path) -> None:
    """A nonce file two days ahead of the clock stops connect() before any private call, and stays as it was."""
    with open_desk() as desk:
        ahead = str(wall_us() + 2 * 86_400_000_000)
        nonce_file.write_text(ahead)
        with pytest.raises(NonceAheadError, match="days ahead"):
            desk.broker.connect()
        assert desk.methods() == []
        assert nonce_file.read_text() == ahead


def test_a_broker_can_be_made_on_a_nonce_file_far_ahead(nonce_file: Path) -> None:
    """A new broker on a nonce file two days ahead can be made, so that connect() can say what is wrong."""
    with open_desk() as desk:
        nonce_file.write_text(str(wall_us() + 2 * 86_400_000_000))
        broker = desk.open_broker()
        with pytest.raises(NonceAheadError, match="days ahead"):
            broker.connect()
        broker.close()
        assert desk.methods() == []


# What the account holds


def test_positions_are_coins_and_the_pairs_that_trade_them() -> None:
    """Coins come with their pair, coins that cannot be traded come without one, and fiat money does not come."""
    held = {"ZUSD": "1000", "USD.M": "5", "XXBT": "1", "XBT.F": "2", "KFEE": "7", "SOL": "0"}
    with open_desk(SimulatorOptions(balances=held)) as desk:
        assert desk.broker.get_positions() == [
            Position("BTC/USD", "BTC", Decimal(1)),
            Position("", "BTC.F", Decimal(2)),
            Position("", "KFEE", Decimal(7)),
        ]


# A clock that is wrong


def test_krakens_time_is_asked_for_once_an_hour() -> None:
    """Of looks at the system status, the first and one an hour later ask for Kraken's Time, and none in between."""
    with open_desk() as desk:
        asked: list[float] = []
        methods = desk.simulator.api._market.methods
        answer, start = methods["Time"], desk.clock.now()

        def seen(params: Mapping[str, str], now: float) -> dict[str, Any]:
            asked.append(now)
            return answer(params, now)

        methods["Time"] = seen
        for seconds in (0, 3599, 1, 3599, 1):
            pass_time(desk.clock, seconds)
            desk.broker.system_status()
        assert [round(now - start) for now in asked] == [0, 3600, 7200]


@pytest.mark.parametrize(("offset_seconds", "side"), [(-3600, "behind"), (3600, "ahead of")])
def test_a_wrong_clock_is_told_and_nonces_follow_kraken(
    offset_seconds: int, side: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the machine's clock is an hour off, a warning says so, and new nonces are at Kraken's time or above."""
    kraken = MarketClock(wall_seconds())
    with open_desk(clock=kraken) as desk:
        with freeze_time(datetime.fromtimestamp(wall_seconds() + offset_seconds, UTC)):
            broker = desk.open_broker(market=MarketClock())
            broker.connect()
            broker.close()
        assert f" s {side} Kraken's: nonces follow Kraken's time" in caplog.text
        assert nonce_clock.follows_kraken
        assert int(desk.rows()[0].nonce) >= int(kraken.now() - 60) * 1_000_000
        assert desk.refused() == 0
        assert int(desk.rows()[0].nonce) < (kraken.now() + max(0, offset_seconds) + 60) * 1_000_000


def test_a_clock_within_ten_seconds_is_kept() -> None:
    """A clock that is less than ten seconds from Kraken's stays the clock of the nonces."""
    with open_desk() as desk:
        broker = desk.open_broker(market=MarketClock(desk.clock.now() - 9))
        broker.connect()
        broker.close()
        assert not nonce_clock.follows_kraken


def test_a_late_answer_to_time_does_not_spoil_deadlines() -> None:
    """With answers to Time that are nine seconds old an order is placed; Time is asked again until it is prompt."""
    # Nine seconds of the market's.
    market = MarketClock(wall_seconds(), 10.0)
    with open_desk(SimulatorOptions(slow_seconds=0.9), clock=market) as desk:
        desk.simulator.faults.fire_next("slow", "Time")
        desk.broker.connect()
        desk.simulator.faults.fire_next("slow", "Time")
        assert desk.broker.private_call("AddOrder", ORDER)["txid"]
        assert desk.simulator.faults.fired["slow"] == 2
        desk.simulator.faults.fire_next("slow", "Time")
        desk.broker.system_status()
        assert desk.simulator.faults.fired["slow"] == 2

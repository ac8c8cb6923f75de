"""Refused nonces and lockouts, counted in requests by the simulator's own log."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from bot import broker_manager
from bot.base.clock import wall_seconds, wall_us
from bot.base.errors import BotError, InvalidNonceError, LockoutError, OrderUnknownError, SilenceError
from bot.base.paths import key_file
from tests.acceptance.broker_tools import ORDER, Desk, child, open_desk

pytestmark = pytest.mark.usefixtures("nonce_file")

Key = tuple[str, str]
NONCE_REFUSED = "EAPI:Invalid nonce"


def silence_path(key: str) -> Path:
    """Return where the silence of a key is kept."""
    return Path(key_file(broker_manager.NONCE_FILE, key, "silence"))


def silence_of(key: str) -> dict[str, Any]:
    """Return the silence of a key, as it is kept."""
    kept: dict[str, Any] = json.loads(silence_path(key).read_text())
    return kept


def end_silence(key: str) -> None:
    """Let the time of the silence be over."""
    kept = silence_of(key)
    silence_path(key).write_text(json.dumps(kept | {"until_seconds": wall_seconds() - 1}))


def burnt_key(desk: Desk, ahead_us: int) -> Key:
    """Return a key whose last accepted nonce is so far ahead of the clock."""
    return desk.simulator.add_key(floor=wall_us() + ahead_us)


def raises_on_read(desk: Desk, key: Key, **settings: Any) -> BotError | None:
    """Make one read by a new broker; return what it raised."""
    broker = desk.open_broker(key, **settings)
    try:
        broker.private_call("BalanceEx")
    except BotError as error:
        return error
    finally:
        broker.close()
    return None


# A floor above the clock


@pytest.mark.parametrize(("ahead_seconds", "refusals"), [(30, 3), (595, 4)])
def test_a_floor_ahead_of_the_clock_is_climbed_over(ahead_seconds: int, refusals: int) -> None:
    """A key whose floor is ahead costs its exact number of refusals, and then works."""
    with open_desk() as desk:
        key = burnt_key(desk, ahead_seconds * 1_000_000)
        broker = desk.open_broker(key)
        for _ in range(3):
            broker.private_call("BalanceEx")
        broker.close()
        assert [row.error for row in desk.rows(key[0])] == [NONCE_REFUSED] * refusals + [""] * 3


def test_a_floor_eleven_minutes_ahead_is_not_climbed_over() -> None:
    """A key whose floor is 11 minutes ahead costs five refusals, of nonces that are 10 minutes ahead at most."""
    with open_desk() as desk:
        key = burnt_key(desk, 660_000_000)
        assert isinstance(raises_on_read(desk, key), InvalidNonceError)
        assert [row.error for row in desk.rows(key[0])] == [NONCE_REFUSED] * 5
        ahead_us = [int(row.nonce) - wall_us() for row in desk.rows(key[0])]
        assert 590_000_000 < max(ahead_us) <= 600_000_000
        assert 50_000_000 < ahead_us[3] <= 60_000_000


def nanosecond_key(desk: Desk) -> Key:
    """Return a key that another tool has used with nanoseconds."""
    return desk.simulator.add_key(floor=wall_us() * 1000)


def test_a_key_burnt_in_nanoseconds_is_silent_after_five_refusals(tmp_path: Path) -> None:
    """A key burnt in nanoseconds costs 5 refusals; then no request arrives, also after a restart, in any process."""
    with open_desk() as desk:
        key = nanosecond_key(desk)
        first = raises_on_read(desk, key)
        assert isinstance(first, InvalidNonceError)
        assert "NONCE_UNIT=ns" in str(first)
        assert isinstance(raises_on_read(desk, key), SilenceError)
        with child(tmp_path, desk, "one", key=key) as process:
            assert process.rest() == ["ready", "SilenceError"]
        with pytest.raises(SilenceError):
            desk.open_broker(key).private_call("AddOrder", ORDER)
        assert [row.error for row in desk.rows(key[0])] == [NONCE_REFUSED] * 5
        assert 890 < silence_of(key[0])["until_seconds"] - wall_seconds() <= 900


def test_the_unit_of_nanoseconds_works_on_a_key_burnt_in_them(nonce_file: Path) -> None:
    """With NONCE_UNIT=ns a key burnt in nanoseconds works without a refusal, and the common file keeps 16 digits."""
    with open_desk() as desk:
        key = nanosecond_key(desk)
        broker = desk.open_broker(key, nonce_unit="ns")
        for _ in range(3):
            broker.private_call("BalanceEx")
        broker.close()
        assert [(row.error, len(row.nonce)) for row in desk.rows(key[0])] == [("", 19)] * 3
        assert len(nonce_file.read_text()) == 16
        assert Path(key_file(nonce_file, key[0], "txt")).read_text() == desk.rows(key[0])[-1].nonce


def test_one_probe_after_the_silence_and_a_longer_silence_if_it_is_refused() -> None:
    """When the silence is over exactly one GetApiKeyInfo goes; refused, the silence is doubled up to 15 minutes."""
    with open_desk() as desk:
        key = nanosecond_key(desk)
        raises_on_read(desk, key)
        kept = silence_of(key[0])
        lengths = []
        silence_path(key[0]).write_text(json.dumps(kept | {"until_seconds": 0, "seconds": 100.0}))
        for _ in range(5):
            assert isinstance(raises_on_read(desk, key), SilenceError)
            lengths.append(silence_of(key[0])["seconds"])
            assert isinstance(raises_on_read(desk, key), SilenceError)
            end_silence(key[0])
        assert lengths == [200, 400, 800, 900, 900]
        assert desk.methods(key[0])[5:] == ["GetApiKeyInfo"] * 5


def test_an_accepted_probe_ends_the_silence() -> None:
    """After the silence one accepted GetApiKeyInfo is enough: the call itself follows, and no more probes."""
    with open_desk() as desk:
        key = nanosecond_key(desk)
        raises_on_read(desk, key)
        desk.simulator.keys.keys[key[0]].floor = 0
        end_silence(key[0])
        assert [raises_on_read(desk, key) for _ in range(2)] == [None, None]
        assert desk.methods(key[0])[5:] == ["GetApiKeyInfo", "BalanceEx", "BalanceEx"]


@pytest.mark.parametrize("fault", ["answer_502", "EService:Unavailable"])
def test_an_order_whose_probe_is_not_answered_was_not_sent(fault: str) -> None:
    """When the probe in front of an order is not answered, nothing of the order was sent, and nothing is unknown."""
    with open_desk() as desk:
        broker = desk.broker
        broker.private_call("AddOrder", ORDER)
        broker._guard.locked_out()
        end_silence(desk.simulator.key)
        if fault == "answer_502":
            desk.simulator.faults.fire_next(fault, "GetApiKeyInfo")
        else:
            desk.simulator.faults.raise_next("GetApiKeyInfo", fault)
        with pytest.raises(SilenceError):
            broker.private_call("AddOrder", ORDER)
        assert broker.unknown_orders() == []
        broker.private_call("AddOrder", ORDER)
        assert desk.orders_placed() == 2


def test_a_silence_can_end_where_there_is_no_getapikeyinfo() -> None:
    """Where Kraken does not know GetApiKeyInfo, the probe's answer ends the silence all the same."""
    with open_desk() as desk:
        desk.broker.private_call("BalanceEx")
        desk.broker._guard.locked_out()
        end_silence(desk.simulator.key)
        desk.simulator.faults.raise_next("GetApiKeyInfo", "EGeneral:Unknown method")
        desk.broker.private_call("BalanceEx")
        assert desk.methods() == ["BalanceEx", "GetApiKeyInfo", "BalanceEx"]


# Another sender


def test_a_foreign_sender_makes_the_key_stand_by_and_never_jump(
    nonce_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In sync, three refusals bring 100 s of silence and no jump; after the probe the log names the other sender."""
    caplog.set_level(logging.WARNING)
    with open_desk() as desk:
        broker = desk.broker
        broker.private_call("BalanceEx")
        desk.simulator.faults.fire_next("foreign_nonce", "BalanceEx", times=3)
        with pytest.raises(InvalidNonceError, match="another program"):
            broker.private_call("BalanceEx")
        with pytest.raises(SilenceError, match="another sender"):
            broker.private_call("BalanceEx")
        assert [row.error for row in desk.rows()] == [""] + [NONCE_REFUSED] * 3
        assert int(nonce_file.read_text()) <= wall_us()
        assert 90 < silence_of(desk.simulator.key)["until_seconds"] - wall_seconds() <= 100
        end_silence(desk.simulator.key)
        caplog.clear()
        broker.private_call("BalanceEx")
        assert "another sender" in caplog.text
        assert desk.methods()[4:] == ["GetApiKeyInfo", "BalanceEx"]
        assert int(nonce_file.read_text()) <= wall_us()


def test_three_refusals_within_a_minute_are_a_foreign_sender() -> None:
    """Three refusals within 60 s bring the silence, even with accepted nonces in between."""
    with open_desk() as desk:
        broker = desk.broker
        broker.private_call("BalanceEx")
        for _ in range(2):
            desk.simulator.faults.fire_next("foreign_nonce", "BalanceEx")
            broker.private_call("BalanceEx")
        desk.simulator.faults.fire_next("foreign_nonce", "BalanceEx")
        with pytest.raises(InvalidNonceError):
            broker.private_call("BalanceEx")
        with pytest.raises(SilenceError):
            broker.private_call("BalanceEx")
        assert (len(desk.rows()), desk.refused()) == (6, 3)


def test_a_spurious_refusal_costs_one_request() -> None:
    """A single refusal without a reason costs one more request, and the call works."""
    with open_desk() as desk:
        desk.broker.private_call("BalanceEx")
        desk.simulator.faults.fire_next("spurious_nonce", "BalanceEx")
        desk.broker.private_call("BalanceEx")
        assert [row.error for row in desk.rows()] == ["", NONCE_REFUSED, ""]


def test_a_lockout_is_answered_with_silence(tmp_path: Path) -> None:
    """A lockout costs one request; then there are 15 minutes without one, in other processes too."""
    with open_desk() as desk:
        desk.simulator.faults.raise_next("BalanceEx", "EGeneral:Temporary lockout")
        with pytest.raises(LockoutError):
            desk.broker.private_call("BalanceEx")
        with pytest.raises(SilenceError):
            desk.broker.private_call("BalanceEx")
        with pytest.raises(SilenceError):
            desk.broker.cancel_order("OAAAAA-BBBBB-CCCCCC", "BTC/USD")
        with child(tmp_path, desk, "one") as process:
            assert process.rest() == ["ready", "SilenceError"]
        assert desk.methods() == ["BalanceEx"]
        assert 890 < silence_of(desk.simulator.key)["until_seconds"] - wall_seconds() <= 900


@pytest.mark.parametrize("fault", ["spurious_nonce", "foreign_nonce"])
def test_an_orders_invalid_nonce_is_never_repeated(fault: str) -> None:
    """An order that is refused for its nonce is sent once, and its outcome is unknown."""
    with open_desk() as desk:
        desk.broker.private_call("BalanceEx")
        desk.simulator.faults.fire_next(fault, "AddOrder")
        with pytest.raises(OrderUnknownError):
            desk.broker.private_call("AddOrder", ORDER)
        assert desk.methods().count("AddOrder") == 1
        assert len(desk.broker.unknown_orders()) == 1


def test_a_refused_cancel_is_repeated() -> None:
    """A cancel whose nonce is refused is sent again, and cancels."""
    with open_desk() as desk:
        txid = desk.broker.private_call("AddOrder", ORDER)["txid"][0]
        desk.simulator.faults.fire_next("spurious_nonce", "CancelOrder")
        assert desk.broker.cancel_order(txid, "BTC/USD")
        assert desk.methods()[-2:] == ["CancelOrder", "CancelOrder"]

"""Refused nonces and lockouts, counted in requests in the simulator's log."""

from __future__ import annotations

import contextlib
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bot import broker_manager
from bot.base.clock import wall_seconds, wall_us
from bot.base.errors import BotError, CircuitOpenError, InvalidNonceError, LockoutError, OrderOutcomeUnknownError
from bot.base.event_catalog import Event
from bot.base.paths import key_file_path
from bot.kraken.nonce_recovery import EXTERNAL_SENDER
from bot.kraken.transport import KrakenAPI
from bot.nonce.local_lock import Priority
from bot.simulator import private
from bot.simulator.serializers import serialize_key
from tests.acceptance.broker_tools import ORDER, BrokerSetup, open_broker_setup, start_broker_child
from tests.event_log import EventLog

pytestmark = pytest.mark.usefixtures("nonce_file")

Key = tuple[str, str]
NONCE_REFUSED = "EAPI:Invalid nonce"


def breaker_path(key: str) -> Path:
    """Return the path of the circuit breaker file of a key."""
    return Path(key_file_path(broker_manager.NONCE_FILE, key, "silence"))


def read_breaker(key: str) -> dict[str, Any]:
    """Return the stored circuit breaker of a key."""
    state: dict[str, Any] = json.loads(breaker_path(key).read_text())
    return state


def expire_breaker(key: str) -> None:
    """Let the time of the open breaker be over."""
    state = read_breaker(key)
    breaker_path(key).write_text(json.dumps(state | {"until_seconds": wall_seconds() - 1}))


def make_key_with_higher_floor(setup: BrokerSetup, ahead_us: int) -> Key:
    """Return a key whose last accepted nonce is `ahead_us` ahead of the clock."""
    return setup.simulator.add_key(floor=wall_us() + ahead_us)


def error_on_read(setup: BrokerSetup, key: Key, **settings: Any) -> BotError | None:
    """Make one read with a new broker; return the error."""
    broker = setup.open_broker(key, **settings)
    try:
        broker.private_call("BalanceEx")
    except BotError as error:
        return error
    finally:
        broker.close()
    return None


# A floor above the clock


@pytest.mark.parametrize(("ahead_seconds", "refusals"), [(30, 3), (595, 4)])
def test_floor_ahead_of_the_clock_is_passed_by_nonce_jumps(ahead_seconds: int, refusals: int) -> None:
    """A key whose floor is ahead costs an exact number of refusals, and then works."""
    with open_broker_setup() as setup:
        key = make_key_with_higher_floor(setup, ahead_seconds * 1_000_000)
        broker = setup.open_broker(key)
        for _ in range(3):
            broker.private_call("BalanceEx")
        broker.close()
        assert [request.error for request in setup.requests(key[0])] == [NONCE_REFUSED] * refusals + [""] * 3


def test_floor_eleven_minutes_ahead_is_not_jumped_over() -> None:
    """A key whose floor is 11 minutes ahead costs five refusals, of nonces that are 10 minutes ahead at most."""
    with open_broker_setup() as setup:
        key = make_key_with_higher_floor(setup, 660_000_000)
        assert isinstance(error_on_read(setup, key), InvalidNonceError)
        assert [request.error for request in setup.requests(key[0])] == [NONCE_REFUSED] * 5
        ahead_us = [int(request.nonce) - wall_us() for request in setup.requests(key[0])]
        assert 590_000_000 < max(ahead_us) <= 600_000_000
        assert 50_000_000 < ahead_us[3] <= 60_000_000


def make_nanosecond_key(setup: BrokerSetup) -> Key:
    """Return a key that another tool has used with nanoseconds."""
    return setup.simulator.add_key(floor=wall_us() * 1000)


def test_nanosecond_key_opens_breaker_after_five_refusals(tmp_path: Path) -> None:
    """A key with a nanosecond floor costs 5 refusals; then no process sends anything, after a restart either."""
    with open_broker_setup() as setup:
        key = make_nanosecond_key(setup)
        first_error = error_on_read(setup, key)
        assert isinstance(first_error, InvalidNonceError)
        assert "NONCE_UNIT=ns" in str(first_error)
        assert isinstance(error_on_read(setup, key), CircuitOpenError)
        with start_broker_child(tmp_path, setup, "one", key=key) as process:
            assert process.read_to_end() == ["ready", "CircuitOpenError"]
        with pytest.raises(CircuitOpenError):
            setup.open_broker(key).private_call("AddOrder", ORDER)
        assert [request.error for request in setup.requests(key[0])] == [NONCE_REFUSED] * 5
        assert 890 < read_breaker(key[0])["until_seconds"] - wall_seconds() <= 900


def test_nanosecond_unit_works_on_a_nanosecond_key(nonce_file: Path) -> None:
    """With NONCE_UNIT=ns a key with a nanosecond floor works without a refusal, and the common file keeps 16
    digits."""
    with open_broker_setup() as setup:
        key = make_nanosecond_key(setup)
        broker = setup.open_broker(key, nonce_unit="ns")
        for _ in range(3):
            broker.private_call("BalanceEx")
        broker.close()
        assert [(request.error, len(request.nonce)) for request in setup.requests(key[0])] == [("", 19)] * 3
        assert len(nonce_file.read_text()) == 16
        assert Path(key_file_path(nonce_file, key[0], "txt")).read_text() == setup.requests(key[0])[-1].nonce


def test_breaker_probes_once_and_reopens_longer_if_refused() -> None:
    """When the breaker's time is over, exactly one GetApiKeyInfo is sent; if refused, the time doubles up to 15
    minutes."""
    with open_broker_setup() as setup:
        key = make_nanosecond_key(setup)
        error_on_read(setup, key)
        state = read_breaker(key[0])
        open_seconds = []
        breaker_path(key[0]).write_text(json.dumps(state | {"until_seconds": 0, "seconds": 100.0}))
        for _ in range(5):
            assert isinstance(error_on_read(setup, key), CircuitOpenError)
            open_seconds.append(read_breaker(key[0])["seconds"])
            assert isinstance(error_on_read(setup, key), CircuitOpenError)
            expire_breaker(key[0])
        assert open_seconds == [200, 400, 800, 900, 900]
        assert setup.request_methods(key[0])[5:] == ["GetApiKeyInfo"] * 5


def test_accepted_probe_closes_the_breaker() -> None:
    """After the breaker's time one accepted GetApiKeyInfo is enough: the call itself follows, and no more probes."""
    with open_broker_setup() as setup:
        key = make_nanosecond_key(setup)
        error_on_read(setup, key)
        setup.simulator.keys.keys[key[0]].floor = 0
        expire_breaker(key[0])
        assert [error_on_read(setup, key) for _ in range(2)] == [None, None]
        assert setup.request_methods(key[0])[5:] == ["GetApiKeyInfo", "BalanceEx", "BalanceEx"]


@pytest.mark.parametrize("fault", ["answer_502", "EService:Unavailable"])
def test_order_with_unanswered_probe_is_not_sent(fault: str) -> None:
    """When the probe before an order is not answered, the order is not sent and not unknown."""
    with open_broker_setup() as setup:
        broker = setup.broker
        broker.private_call("AddOrder", ORDER)
        broker._circuit_breaker.handle_lockout()
        expire_breaker(setup.simulator.key)
        if fault == "answer_502":
            setup.simulator.faults.fire_next(fault, "GetApiKeyInfo")
        else:
            setup.simulator.faults.raise_next("GetApiKeyInfo", fault)
        with pytest.raises(CircuitOpenError):
            broker.private_call("AddOrder", ORDER)
        assert broker.unknown_orders() == []
        broker.private_call("AddOrder", ORDER)
        assert setup.placed_order_count() == 2


def test_breaker_can_close_without_getapikeyinfo() -> None:
    """If Kraken does not know GetApiKeyInfo, the response to the probe closes the breaker nevertheless."""
    with open_broker_setup() as setup:
        setup.broker.private_call("BalanceEx")
        setup.broker._circuit_breaker.handle_lockout()
        expire_breaker(setup.simulator.key)
        setup.simulator.faults.raise_next("GetApiKeyInfo", "EGeneral:Unknown method")
        setup.broker.private_call("BalanceEx")
        assert setup.request_methods() == ["BalanceEx", "GetApiKeyInfo", "BalanceEx"]


# Another sender


def test_external_sender_opens_breaker_without_nonce_jump(nonce_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After an accepted nonce three refusals open the breaker for 100 s without a nonce jump, and after the probe the
    log names the other sender."""
    caplog.set_level(logging.WARNING)
    with open_broker_setup() as setup:
        broker = setup.broker
        broker.private_call("BalanceEx")
        setup.simulator.faults.fire_next("foreign_nonce", "BalanceEx", times=3)
        with pytest.raises(InvalidNonceError, match="another program"):
            broker.private_call("BalanceEx")
        with pytest.raises(CircuitOpenError, match="another sender"):
            broker.private_call("BalanceEx")
        assert [request.error for request in setup.requests()] == [""] + [NONCE_REFUSED] * 3
        assert int(nonce_file.read_text()) <= wall_us()
        assert 90 < read_breaker(setup.simulator.key)["until_seconds"] - wall_seconds() <= 100
        expire_breaker(setup.simulator.key)
        caplog.clear()
        broker.private_call("BalanceEx")
        assert "another sender" in caplog.text
        assert setup.request_methods()[4:] == ["GetApiKeyInfo", "BalanceEx"]
        assert int(nonce_file.read_text()) <= wall_us()


def send_external_nonce(setup: BrokerSetup, nonce: int, key: Key | None = None) -> None:
    """Have one call of another program accepted."""
    with closing(KrakenAPI(*(key or (setup.simulator.key, setup.simulator.secret)), setup.simulator.url)) as api:
        assert api.send_private("TradeBalance", {}, nonce)["error"] == []


def open_breaker_in_mid_run(setup: BrokerSetup, external_nonce: int) -> None:
    """Let another program send one call between two of the broker's, and the breaker's time be over."""
    setup.broker.private_call("BalanceEx")
    send_external_nonce(setup, external_nonce)
    with pytest.raises(InvalidNonceError, match="another program"):
        setup.broker.private_call("BalanceEx")
    expire_breaker(setup.simulator.key)


def test_one_nanosecond_call_in_mid_run_is_recognized_by_the_first_probe(event_log: EventLog) -> None:
    """After one call in nanoseconds by another program the first probe is followed by one 10 minutes ahead, and then
    every error names nanoseconds and both ways out; the breaker is open for 15 minutes, then one probe is sent."""
    with open_broker_setup() as setup:
        open_breaker_in_mid_run(setup, wall_us() * 1000)
        for _ in range(2):
            with pytest.raises(CircuitOpenError) as caught:
                setup.broker.private_call("BalanceEx")
            for part in ("nanoseconds", "new API key", "nonce adopt"):
                assert part in str(caught.value)
            assert "another sender" not in str(caught.value)
        assert 890 < read_breaker(setup.simulator.key)["until_seconds"] - wall_seconds() <= 900
        assert "NONCE_UNIT=ns" in event_log.of(Event.CIRCUIT_BREAKER_OPENED)[-1].text
        assert setup.request_methods()[5:] == ["GetApiKeyInfo"] * 2
        probe_ahead_us = int(setup.requests()[-1].nonce) - wall_us()
        assert 590_000_000 < probe_ahead_us <= 600_000_000
        expire_breaker(setup.simulator.key)
        with pytest.raises(CircuitOpenError):
            setup.broker.private_call("BalanceEx")
        assert setup.request_methods()[7:] == ["GetApiKeyInfo"]


def test_a_floor_minutes_ahead_in_mid_run_is_passed_and_named(
    monkeypatch: pytest.MonkeyPatch, event_log: EventLog
) -> None:
    """After one call by another program whose clock is five minutes ahead the second probe is accepted: the call goes
    on, and where Kraken reports the nonce before the probe's the warning names it and its unit."""
    with open_broker_setup() as setup:
        external_nonce = wall_us() + 300_000_000
        open_breaker_in_mid_run(setup, external_nonce)
        reported = {"nonce": str(external_nonce)}
        monkeypatch.setattr(private, "serialize_key", lambda key: serialize_key(key) | reported)
        setup.broker.private_call("BalanceEx")
        assert [(request.method, request.error) for request in setup.requests()[5:]] == [
            ("GetApiKeyInfo", NONCE_REFUSED),
            ("GetApiKeyInfo", ""),
            ("BalanceEx", ""),
        ]
        assert event_log.of(Event.EXTERNAL_NONCE_REPORTED).values("reported_nonce", "reported_unit") == [
            (str(external_nonce), "microseconds")
        ]


def test_two_programs_that_probe_ahead_stay_within_ten_minutes() -> None:
    """However often another program answers a probe with a higher nonce, the probes stay within ten minutes of the
    clock."""
    with open_broker_setup() as setup:
        open_breaker_in_mid_run(setup, wall_us() + 300_000_000)
        outcomes = []
        for _ in range(5):
            with contextlib.suppress(BotError):
                setup.broker.private_call("BalanceEx")
            external_nonce = max(int(request.nonce) for request in setup.requests()) + 1_000_000
            send_external_nonce(setup, external_nonce)
            with pytest.raises(BotError) as caught:
                setup.broker.private_call("BalanceEx")
            outcomes.append(type(caught.value))
            breaker_path(setup.simulator.key).write_text(
                json.dumps(read_breaker(setup.simulator.key) | {"until_seconds": 0, "reason": EXTERNAL_SENDER})
            )
        assert outcomes == [InvalidNonceError] + [CircuitOpenError] * 4
        ours = [int(request.nonce) for request in setup.requests() if request.method == "GetApiKeyInfo"]
        assert len(ours) == 10
        assert max(ours) < wall_us() + 606_000_000


def test_a_wrong_clock_of_another_program_in_nanoseconds_has_no_setting() -> None:
    """On a key in nanoseconds whose floor rises by a day in mid-run, the error names a new API key and no setting."""
    with open_broker_setup(nonce_unit="ns") as setup:
        open_breaker_in_mid_run(setup, (wall_us() + 86_400_000_000) * 1000)
        for _ in range(2):
            with pytest.raises(CircuitOpenError, match="new API key") as caught:
                setup.broker.private_call("BalanceEx")
            assert "adopt" not in str(caught.value)
            assert "NONCE_UNIT" not in str(caught.value)


def test_three_refusals_within_a_minute_mean_an_external_sender() -> None:
    """Three refusals within 60 s open the breaker, even with accepted nonces in between."""
    with open_broker_setup() as setup:
        broker = setup.broker
        broker.private_call("BalanceEx")
        for _ in range(2):
            setup.simulator.faults.fire_next("foreign_nonce", "BalanceEx")
            broker.private_call("BalanceEx")
        setup.simulator.faults.fire_next("foreign_nonce", "BalanceEx")
        with pytest.raises(InvalidNonceError):
            broker.private_call("BalanceEx")
        with pytest.raises(CircuitOpenError):
            broker.private_call("BalanceEx")
        assert (len(setup.requests()), setup.refused_nonce_count()) == (6, 3)


def test_spurious_refusal_costs_one_request() -> None:
    """A single spurious refusal costs one more request, and the call succeeds."""
    with open_broker_setup() as setup:
        setup.broker.private_call("BalanceEx")
        setup.simulator.faults.fire_next("spurious_nonce", "BalanceEx")
        setup.broker.private_call("BalanceEx")
        assert [request.error for request in setup.requests()] == ["", NONCE_REFUSED, ""]


def test_lockout_opens_the_breaker(tmp_path: Path) -> None:
    """A lockout costs one request; then no process sends one for 15 minutes."""
    with open_broker_setup() as setup:
        setup.simulator.faults.raise_next("BalanceEx", "EGeneral:Temporary lockout")
        with pytest.raises(LockoutError):
            setup.broker.private_call("BalanceEx")
        with pytest.raises(CircuitOpenError):
            setup.broker.private_call("BalanceEx")
        with pytest.raises(CircuitOpenError):
            setup.broker.cancel_order("OAAAAA-BBBBB-CCCCCC", "BTC/USD")
        with start_broker_child(tmp_path, setup, "one") as process:
            assert process.read_to_end() == ["ready", "CircuitOpenError"]
        assert setup.request_methods() == ["BalanceEx"]
        assert 890 < read_breaker(setup.simulator.key)["until_seconds"] - wall_seconds() <= 900


@pytest.mark.parametrize("fault", ["spurious_nonce", "foreign_nonce"])
def test_order_refused_for_its_nonce_is_never_resent(fault: str) -> None:
    """An order that is refused for its nonce is sent once, and its outcome is unknown."""
    with open_broker_setup() as setup:
        setup.broker.private_call("BalanceEx")
        setup.simulator.faults.fire_next(fault, "AddOrder")
        with pytest.raises(OrderOutcomeUnknownError):
            setup.broker.private_call("AddOrder", ORDER)
        assert setup.request_methods().count("AddOrder") == 1
        assert len(setup.broker.unknown_orders()) == 1


def test_a_refused_cancel_is_repeated() -> None:
    """A cancel whose nonce is refused is sent again and succeeds."""
    with open_broker_setup() as setup:
        txid = setup.broker.private_call("AddOrder", ORDER)["txid"][0]
        setup.simulator.faults.fire_next("spurious_nonce", "CancelOrder")
        assert setup.broker.cancel_order(txid, "BTC/USD")
        assert setup.request_methods()[-2:] == ["CancelOrder", "CancelOrder"]


# A cancel that goes without the request lock


def cancel_after_next_nonce(setup: BrokerSetup, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have an order canceled, without the request lock, as soon as the next request has taken its nonce.

    Return where the nonces are recorded in the order in which they are taken.
    """
    broker = setup.broker
    txid = broker.private_call("AddOrder", ORDER)["txid"][0]
    next_nonce, nonces = broker._next_nonce, list[int]()

    def overtaken(at_least_us: int = 0) -> int:
        nonces.append(nonce := next_nonce(at_least_us))
        if len(nonces) == 1:
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(broker.cancel_order, txid).result()
        return nonce

    monkeypatch.setattr(broker_manager, "LOCK_TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(broker, "_next_nonce", overtaken)
    return nonces


def test_the_refused_nonce_is_reported_not_the_newest(monkeypatch: pytest.MonkeyPatch, event_log: EventLog) -> None:
    """A read that a cancel without the request lock overtakes is refused; the report names the read's nonce, and the
    read is repeated."""
    with open_broker_setup() as setup:
        nonces = cancel_after_next_nonce(setup, monkeypatch)
        setup.broker.private_call("BalanceEx")
        assert [(row.method, row.error) for row in setup.requests()[1:]] == [
            ("CancelOrder", ""),
            ("BalanceEx", NONCE_REFUSED),
            ("BalanceEx", ""),
        ]
        assert event_log.of(Event.NONCE_REFUSED).values("nonce") == [str(nonces[0])]
        assert nonces[0] < nonces[1]


def test_the_refused_nonce_of_a_cancel_without_the_lock_is_reported(
    monkeypatch: pytest.MonkeyPatch, event_log: EventLog
) -> None:
    """Where a cancel without the request lock is overtaken on its way, the circuit breaker is told the cancel's nonce,
    not the newer one, and the cancel is repeated."""
    with open_broker_setup() as setup:
        broker = setup.broker
        txid = broker.private_call("AddOrder", ORDER)["txid"][0]
        send_private = KrakenAPI.send_private

        def overtake(api: KrakenAPI, method: str, params: dict[str, Any], nonce: int | str) -> Any:
            monkeypatch.setattr(KrakenAPI, "send_private", send_private)
            with closing(broker._open_api()) as other:
                other.send_private("BalanceEx", {}, broker._nonce_monotonic())
            return send_private(api, method, params, nonce)

        monkeypatch.setattr(broker_manager, "LOCK_TIMEOUT_SECONDS", 0.05)
        monkeypatch.setattr(KrakenAPI, "send_private", overtake)
        with broker._request_lock.hold(Priority.READ), ThreadPoolExecutor(1) as pool:
            assert pool.submit(broker.cancel_order, txid).result()
        assert [(row.method, row.error) for row in setup.requests()[1:]] == [
            ("BalanceEx", ""),
            ("CancelOrder", NONCE_REFUSED),
            ("CancelOrder", ""),
        ]
        assert event_log.of(Event.NONCE_REFUSED).values("nonce") == [setup.requests()[2].nonce]


def test_a_cancel_beside_the_probe_is_no_external_sender(monkeypatch: pytest.MonkeyPatch, event_log: EventLog) -> None:
    """Kraken reports the nonce of our own cancel, which went without the request lock just before the probe: nobody
    else is suspected."""
    with open_broker_setup() as setup:
        broker = setup.broker
        txid = broker.private_call("AddOrder", ORDER)["txid"][0]
        broker._circuit_breaker.handle_lockout()
        expire_breaker(setup.simulator.key)
        next_nonce = broker._next_nonce

        def preceded(at_least_us: int = 0) -> int:
            monkeypatch.setattr(broker, "_next_nonce", next_nonce)
            with closing(broker._open_api()) as api:
                assert not api.query_private("CancelOrder", {"txid": txid})["error"]
            reported = {"nonce": str(broker._last_nonce)}
            monkeypatch.setattr(private, "serialize_key", lambda key: serialize_key(key) | reported)
            return next_nonce(at_least_us)

        monkeypatch.setattr(broker, "_next_nonce", preceded)
        broker.private_call("BalanceEx")
        assert setup.request_methods()[1:] == ["CancelOrder", "GetApiKeyInfo", "BalanceEx"]
        assert event_log.of(Event.CIRCUIT_BREAKER_CLOSED) != []
        assert event_log.of(Event.EXTERNAL_NONCE_REPORTED) == []

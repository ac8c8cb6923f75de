"""The alerts that a real broker, a real store and a real bot send to a webhook when something goes wrong."""

from __future__ import annotations

import json
import queue
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bot import broker_manager
from bot.app import alert_queue
from bot.app.alerts import Alerts
from bot.app.control_files import ENTRIES_PAUSED_FILE_NAME, ControlFiles, create_control_file
from bot.base.errors import BotError, OrderOutcomeUnknownError
from bot.base.event_catalog import Event
from bot.base.events import Fields, subscribe
from bot.kraken import nonce_recovery
from bot.nonce import leader_election
from bot.nonce.leader_election import LeaderElection
from bot.nonce.shared_store import SharedStore
from tests.acceptance.broker_tools import ORDER, BrokerSetup, open_broker_setup
from tests.acceptance.local_kraken import local_kraken
from tests.acceptance.processes import running
from tests.acceptance.test_broker_refusals import expire_breaker, make_key_with_higher_floor
from tests.event_log import Emitted
from tests.webhook import LIMIT_SECONDS, TOKEN, Webhook

EmittedEvents = queue.Queue[Emitted]


@pytest.fixture
def event_queue() -> Iterator[EmittedEvents]:
    """Return a queue of the alerts emitted from now on."""
    emitted: EmittedEvents = queue.Queue()

    def listener(event: Event, fields: Fields, text: str) -> None:
        if event.alert:
            emitted.put(Emitted(event, fields, text))

    unsubscribe = subscribe(listener)
    yield emitted
    unsubscribe()


def drain_events(event_queue: EmittedEvents) -> list[Emitted]:
    """Remove and return the alerts emitted so far."""
    return [event_queue.get_nowait() for _ in range(event_queue.qsize())]


def expect_bot_error(call: Callable[[], object]) -> None:
    """Make a call that must raise BotError."""
    with pytest.raises(BotError):
        call()


# The nonce


@pytest.mark.usefixtures("nonce_file")
def test_external_sender_reaches_the_webhook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another sender on the key is reported to the webhook as refused nonces, an external sender and an open circuit
    breaker, each in one message."""
    monkeypatch.setattr(alert_queue, "EVENT_INTERVAL_SECONDS", 0.0)
    with Webhook() as hook, open_broker_setup() as setup:
        alerts = Alerts(hook.url, name="bot")
        alerts.start()
        setup.broker.private_call("BalanceEx")
        setup.simulator.faults.fire_next("foreign_nonce", "BalanceEx", times=3)
        expect_bot_error(lambda: setup.broker.private_call("BalanceEx"))
        alerts.close(LIMIT_SECONDS)
        bodies = [hook.next_request().body for _ in range(hook.requests.qsize())]
    counts: dict[str, int] = {}
    for body in bodies:
        counts[body["event"]] = counts.get(body["event"], 0) + body["count"]
    assert counts == {"refused_nonce": 3, "external_sender": 1, "circuit_breaker": 1}
    texts = {body["event"]: body["text"] for body in bodies}
    assert "Give every program a key of its own" in texts["external_sender"]
    assert texts["circuit_breaker"].endswith(
        "\nNothing is sent on this key for 100 s: another sender is using this key."
    )


@pytest.mark.usefixtures("nonce_file")
def test_external_sender_is_reported_by_a_probe(event_queue: EmittedEvents, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe whose response shows a nonce between the last one and its own emits EXTERNAL_SENDER."""
    with open_broker_setup() as setup:
        handle = setup.simulator.api.handle

        def with_external_nonce(method: str, target: str, *arguments: Any) -> tuple[int, bytes]:
            status, response = handle(method, target, *arguments)
            if target.endswith("GetApiKeyInfo"):
                content = json.loads(response)
                content["result"]["nonce"] = str(int(content["result"]["nonce"]) - 1)
                response = json.dumps(content).encode()
            return status, response

        monkeypatch.setattr(setup.simulator.api, "handle", with_external_nonce)
        setup.broker.private_call("BalanceEx")
        setup.broker._circuit_breaker.handle_lockout()
        expire_breaker(setup.simulator.key)
        drain_events(event_queue)
        setup.broker.private_call("BalanceEx")
    (emitted,) = drain_events(event_queue)
    assert emitted.event is Event.EXTERNAL_NONCE_REPORTED
    assert int(emitted["nonce"]) < int(emitted["reported_nonce"])
    assert "another sender is on this key" in emitted.text


@pytest.mark.usefixtures("nonce_file")
def test_lockout_emits_circuit_breaker_event(event_queue: EmittedEvents) -> None:
    """A lockout emits CIRCUIT_BREAKER: nothing is sent for 15 minutes."""
    with open_broker_setup() as setup:
        setup.simulator.faults.raise_next("BalanceEx", "EGeneral:Temporary lockout")
        expect_bot_error(lambda: setup.broker.private_call("BalanceEx"))
    expected = f"Nothing is sent on this key for 900 s: {nonce_recovery.LOCKED_OUT}."
    assert [(emitted.event, emitted.text) for emitted in drain_events(event_queue)] == [
        (Event.CIRCUIT_BREAKER_OPENED, expected)
    ]


@pytest.mark.usefixtures("nonce_file")
def test_key_with_higher_nonce_floor_is_reported_with_advice(event_queue: EmittedEvents) -> None:
    """A key with a higher nonce floor emits five refused nonces and an open circuit breaker, with advice."""
    with open_broker_setup() as setup:
        broker = setup.open_broker(make_key_with_higher_floor(setup, 660_000_000))
        expect_bot_error(lambda: broker.private_call("BalanceEx"))
        broker.close()
    emitted = drain_events(event_queue)
    assert [one.event for one in emitted] == [Event.NONCE_REFUSED] * 5 + [Event.CIRCUIT_BREAKER_OPENED]
    assert [one["refused_nonces"] for one in emitted[:5]] == [1, 2, 3, 4, 5]
    assert "NONCE_UNIT=ns" in emitted[-1]["advice"]


# Orders


def lose_order(setup: BrokerSetup) -> str:
    """Lose the response to an order; return the client order id."""
    setup.simulator.faults.fire_next("answer_502", "AddOrder")
    with pytest.raises(OrderOutcomeUnknownError) as caught:
        setup.broker.private_call("AddOrder", ORDER)
    return caught.value.cl_ord_id


@pytest.mark.usefixtures("nonce_file")
def test_unknown_order_is_reported_once_per_run(event_queue: EmittedEvents) -> None:
    """An order whose response was lost is reported once by the run that sent it, however often it is queried, and once
    by the next run that finds it unresolved."""
    with open_broker_setup() as setup:
        lost_cl_ord_id = lose_order(setup)
        setup.broker.unknown_orders()
        (emitted,) = drain_events(event_queue)
        assert (emitted.event, emitted["cl_ord_id"]) == (Event.ORDER_UNKNOWN, lost_cl_ord_id)
        assert lost_cl_ord_id in emitted.text
        assert "It is not sent again" in emitted.text
        restarted_broker = setup.open_broker()
        for _ in range(2):
            assert len(restarted_broker.unknown_orders()) == 1
        (emitted,) = drain_events(event_queue)
        assert (emitted.event, emitted["cl_ord_id"]) == (Event.UNKNOWN_ORDER_FOUND, lost_cl_ord_id)
        assert lost_cl_ord_id in emitted.text
        assert emitted.text.startswith("An earlier run, or another process, has left the order")
        restarted_broker.close()


# Leader election


def test_leader_change_is_reported(
    redis_url: str, nonce_file: Path, event_queue: EmittedEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An instance reports when it becomes leader and when it loses the lease, but not when it releases the lease."""
    monkeypatch.setattr(broker_manager, "NONCE_STORE", redis_url)
    monkeypatch.setattr(leader_election, "RENEW_FRACTION", 0.0001)
    with open_broker_setup() as setup:
        store = setup.broker.shared_store
        assert isinstance(store, SharedStore)
        election = LeaderElection(store, 300.0)
        election.wait_for_leadership(threading.Event(), print)
        acquired = event_queue.get(timeout=LIMIT_SECONDS)
        assert acquired.event is Event.LEADERSHIP_ACQUIRED
        assert (acquired["owner"], acquired["fencing_token"]) == (store.owner, election.fencing_token)
        assert acquired.text.startswith(f"{store.owner} leads with fencing token {election.fencing_token} in ")
        # As another instance would do if it considered this one dead.
        store.backend.release_lease(election.fencing_token, False)
        lost = event_queue.get(timeout=LIMIT_SECONDS)
        assert lost.event is Event.LEADERSHIP_LOST
        assert lost.text.startswith(f"{store.owner} no longer leads: ")
        election.wait_for_leadership(threading.Event(), print)
        drain_events(event_queue)
        election.release(is_reconciled=True)
        assert drain_events(event_queue) == []


# The whole program


def test_running_bot_sends_alerts_and_heartbeats(state: Path) -> None:
    """A bot that starts halted alerts its webhook, requests the heartbeat URL, ends in time on a signal
    although the webhook hangs, and prints neither URL."""
    with Webhook() as hook, Webhook() as heartbeat_hook, local_kraken(state) as kraken:
        state.mkdir()
        (state / "halt").touch()
        settings = kraken.settings(ALERT_WEBHOOK_URL=hook.telegram_url, HEARTBEAT_URL=heartbeat_hook.url)
        with running(settings=settings, until="nothing to do") as bot:
            text = hook.next_request().body["text"]
            assert re.match(r"\[live bot .*\] halted at .*\nHalted: ", text)
            assert heartbeat_hook.next_request().method == "GET"
            hook.responses = [hook.hang]
            kraken.simulator.faults.fire_next("spurious_nonce", "BalanceEx")
            assert bot.stop() == 0
            assert "refused nonce" in hook.next_request().body["text"]
        assert TOKEN not in bot.text


def test_supervised_bot_reports_why_it_does_not_trade(state: Path) -> None:
    """A service whose key Kraken does not know reports that to its webhook."""
    with Webhook() as hook, local_kraken(state) as kraken:
        settings = kraken.settings(ALERT_WEBHOOK_URL=hook.url, KRAKEN_API_KEY="c29tZWtleQ==")
        with running("run", "--forever", settings=settings, until="^Waiting: "):
            body = hook.next_request().body
    assert body["event"] == "trading_interrupted"
    assert "EAPI:Invalid key" in body["text"]


def test_paused_entries_are_reported(event_queue: EmittedEvents, tmp_path: Path) -> None:
    """Pausing entries emits ENTRIES_PAUSED, once and as an alert."""
    control_files = ControlFiles(tmp_path)
    create_control_file(tmp_path, ENTRIES_PAUSED_FILE_NAME)
    assert [control_files.entries_paused() for _ in range(2)] == [True, True]
    (emitted,) = drain_events(event_queue)
    assert emitted.event is Event.ENTRIES_PAUSED
    assert emitted.event.alert
    assert "python main.py resume" in emitted.text

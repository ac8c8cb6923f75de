"""What a person is told when a real broker, a real store and a real bot meet trouble, as it arrives at a webhook."""

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
from bot.base.errors import BotError, OrderUnknownError
from bot.base.events import Event, listen
from bot.dashboard.server import stop_entries
from bot.kraken import nonce_recovery
from bot.nonce import leader_election
from bot.nonce.leader_election import Leadership
from bot.nonce.shared_store import SharedStore
from tests.acceptance.broker_tools import ORDER, Desk, open_desk
from tests.acceptance.local_kraken import local_kraken
from tests.acceptance.processes import running
from tests.acceptance.test_broker_refusals import burnt_key, end_silence
from tests.webhook import LIMIT_SECONDS, TOKEN, Webhook

Heard = queue.Queue[tuple[Event, str]]


@pytest.fixture
def heard() -> Iterator[Heard]:
    """Return what is told from here on."""
    news: Heard = queue.Queue()
    end = listen(lambda event, text: news.put((event, text)))
    yield news
    end()


def events_of(heard: Heard) -> list[tuple[Event, str]]:
    """Return what was told so far."""
    return [heard.get_nowait() for _ in range(heard.qsize())]


def fails(call: Callable[[], object]) -> None:
    """Make a call that fails."""
    with pytest.raises(BotError):
        call()


# The nonce


@pytest.mark.usefixtures("nonce_file")
def test_a_foreign_sender_is_told_of_at_the_webhook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another sender on the key, met by a broker, reaches the webhook as refused nonces, a foreign sender and the
    silence, each in one message."""
    monkeypatch.setattr(alert_queue, "KIND_SECONDS", 0.0)
    with Webhook() as hook, open_desk() as desk:
        alerts = Alerts(hook.url, name="bot")
        alerts.start()
        desk.broker.private_call("BalanceEx")
        desk.simulator.faults.fire_next("foreign_nonce", "BalanceEx", times=3)
        fails(lambda: desk.broker.private_call("BalanceEx"))
        alerts.close(LIMIT_SECONDS)
        bodies = [hook.next().body for _ in range(hook.requests.qsize())]
    counts: dict[str, int] = {}
    for body in bodies:
        counts[body["event"]] = counts.get(body["event"], 0) + body["count"]
    assert counts == {"refused_nonce": 3, "foreign_sender": 1, "breaker": 1}
    texts = {body["event"]: body["text"] for body in bodies}
    assert "Give every program a key of its own" in texts["foreign_sender"]
    assert texts["breaker"].endswith("\nNothing is sent on this key for 100 s: another sender is using this key.")


@pytest.mark.usefixtures("nonce_file")
def test_another_sender_is_told_of_when_its_nonce_is_seen(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe whose answer shows a nonce between the last one and its own is told of as a foreign sender."""
    with open_desk() as desk:
        handle = desk.simulator.api.handle

        def before_the_probe(method: str, target: str, *arguments: Any) -> tuple[int, bytes]:
            status, answer = handle(method, target, *arguments)
            if target.endswith("GetApiKeyInfo"):
                content = json.loads(answer)
                content["result"]["nonce"] = str(int(content["result"]["nonce"]) - 1)
                answer = json.dumps(content).encode()
            return status, answer

        monkeypatch.setattr(desk.simulator.api, "handle", before_the_probe)
        desk.broker.private_call("BalanceEx")
        desk.broker._guard.locked_out()
        end_silence(desk.simulator.key)
        events_of(heard)
        desk.broker.private_call("BalanceEx")
    ((event, text),) = events_of(heard)
    assert event is Event.FOREIGN_SENDER
    assert "another sender is on this key" in text


@pytest.mark.usefixtures("nonce_file")
def test_a_lockout_is_told(heard: Heard) -> None:
    """A lockout is told as a silence of 15 minutes."""
    with open_desk() as desk:
        desk.simulator.faults.raise_next("BalanceEx", "EGeneral:Temporary lockout")
        fails(lambda: desk.broker.private_call("BalanceEx"))
    told = f"Nothing is sent on this key for 900 s: {nonce_recovery.LOCKED_OUT}."
    assert events_of(heard) == [(Event.BREAKER, told)]


@pytest.mark.usefixtures("nonce_file")
def test_a_burnt_key_is_told_with_the_way_out(heard: Heard) -> None:
    """A key that another tool has burnt is told as five refused nonces and a silence, with what to do about it."""
    with open_desk() as desk:
        broker = desk.open_broker(burnt_key(desk, 660_000_000))
        fails(lambda: broker.private_call("BalanceEx"))
        broker.close()
    told = events_of(heard)
    assert [event for event, _text in told] == [Event.REFUSED_NONCE] * 5 + [Event.BREAKER]
    assert "The way out is a new API key" in told[-1][1]


# Orders


def lost_order(desk: Desk) -> str:
    """Lose the answer to an order; return the order's id."""
    desk.simulator.faults.fire_next("answer_502", "AddOrder")
    with pytest.raises(OrderUnknownError) as caught:
        desk.broker.private_call("AddOrder", ORDER)
    return caught.value.cl_ord_id


@pytest.mark.usefixtures("nonce_file")
def test_an_unknown_order_is_told_once_a_run(heard: Heard) -> None:
    """An order whose answer was lost is told once by the run that sent it, however often it is looked at, and once by
    the next run that finds it unsettled."""
    with open_desk() as desk:
        lost = lost_order(desk)
        desk.broker.unknown_orders()
        ((event, text),) = events_of(heard)
        assert (event, lost in text) == (Event.UNKNOWN_OUTCOME, True)
        assert "It is not sent again" in text
        restarted = desk.open_broker()
        for _ in range(2):
            assert len(restarted.unknown_orders()) == 1
        ((event, text),) = events_of(heard)
        assert (event, lost in text) == (Event.UNKNOWN_OUTCOME, True)
        assert text.startswith("An earlier run, or another process, has left the order")
        restarted.close()


# Who leads


def test_a_change_of_the_leader_is_told(
    redis_url: str, nonce_file: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An instance tells when it leads and when it has lost the lead to another one, but not when it signs off."""
    monkeypatch.setattr(broker_manager, "NONCE_STORE", redis_url)
    monkeypatch.setattr(leader_election, "RENEW_PART", 0.0001)
    with open_desk() as desk:
        store = desk.broker.shared_store
        assert isinstance(store, SharedStore)
        leadership = Leadership(store, 300.0)
        leadership.wait(threading.Event(), print)
        assert heard.get(timeout=LIMIT_SECONDS) == (
            Event.LEADER_CHANGE,
            f"{store.owner} leads, generation {leadership.generation}.",
        )
        # What another instance would have done, had it thought this one gone.
        store.engine.sign_off(leadership.generation, False)
        event, text = heard.get(timeout=LIMIT_SECONDS)
        assert event is Event.LEADER_CHANGE
        assert text.startswith(f"{store.owner} does not lead any more: ")
        leadership.wait(threading.Event(), print)
        events_of(heard)
        leadership.sign_off(settled=True)
        assert events_of(heard) == []


# The whole program


def test_a_running_bot_tells_its_webhook_and_its_heart_beats(state: Path) -> None:
    """A bot that starts under the kill switch tells its webhook, asks for the heartbeat's address, ends at a signal
    within its time although the webhook hangs by then, and shows neither address."""
    with Webhook() as hook, Webhook() as heart, local_kraken(state) as kraken:
        state.mkdir()
        (state / "halt").touch()
        settings = kraken.settings(ALERT_WEBHOOK_URL=hook.telegram_url, HEARTBEAT_URL=heart.url)
        with running(settings=settings, until="nothing to do") as bot:
            text = hook.next().body["text"]
            assert re.match(r"\[live bot .*\] kill switch at .*\nthe kill switch is on: no order is sent$", text)
            assert heart.next().method == "GET"
            hook.answers = [hook.hang]
            kraken.simulator.faults.fire_next("spurious_nonce", "BalanceEx")
            assert bot.stop() == 0
            assert "refused nonce" in hook.next().body["text"]
        assert TOKEN not in bot.text


def test_a_service_tells_why_it_does_not_trade(state: Path) -> None:
    """A service whose key Kraken does not know tells its webhook so."""
    with Webhook() as hook, local_kraken(state) as kraken:
        settings = kraken.settings(ALERT_WEBHOOK_URL=hook.url, KRAKEN_API_KEY="c29tZWtleQ==")
        with running("run", "--stay", settings=settings, until="^waiting "):
            body = hook.next().body
    assert body["event"] == "trouble"
    assert "EAPI:Invalid key" in body["text"]


def test_entries_that_are_stopped_are_told(heard: Heard, tmp_path: Path) -> None:
    """What the page's stop does is told."""
    stop_entries(tmp_path)
    ((event, text),) = events_of(heard)
    assert event is Event.ENTRIES_STOPPED
    assert "python main.py resume" in text

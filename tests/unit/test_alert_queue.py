"""The alert queue: it counts every event, uses bounded memory and limits the message rate."""

from __future__ import annotations

import math
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from bot.app.alert_queue import EVENT_INTERVAL_SECONDS, MESSAGE_LENGTH_MAX, TEXTS_MAX, AlertQueue, Message
from bot.base.event_catalog import Alert

NOON = 1_795_348_800.0  # 2026-11-22 12:00:00 UTC


def take_message(alert_queue: AlertQueue) -> Message:
    """Take a message from a queue that has one."""
    message = alert_queue.take()
    assert message is not None
    return message


def test_each_event_is_sent_at_most_once_a_minute() -> None:
    """A second message of an event is due a minute after the first; a message of another event is due at once."""
    alert_queue = AlertQueue()
    alert_queue.put(Alert.REFUSED_NONCE, "first", NOON)
    first = take_message(alert_queue)
    assert (first.texts, alert_queue.due_seconds()) == (("first",), math.inf)
    alert_queue.mark_sent(first, 100.0)
    alert_queue.put(Alert.REFUSED_NONCE, "second", NOON + 1)
    assert alert_queue.due_seconds() == 160.0
    alert_queue.put(Alert.HALTED, "on", NOON + 2)
    assert alert_queue.due_seconds() == -math.inf
    halted = take_message(alert_queue)
    assert halted.alert is Alert.HALTED
    alert_queue.mark_sent(halted, 101.0)
    assert (alert_queue.due_seconds(), take_message(alert_queue).texts) == (160.0, ("second",))


def test_queued_events_merge_into_one_message() -> None:
    """Queued events of one type become one message with their count, the first time, and each distinct text once."""
    alert_queue = AlertQueue()
    for text, seconds in (("refusal 1", 0), ("refusal 2", 1), ("refusal 1", 2)):
        alert_queue.put(Alert.REFUSED_NONCE, text, NOON + seconds)
    assert take_message(alert_queue).render("bot on host").splitlines() == [
        "[bot on host] refused nonce, 3 times since 2026-11-22T12:00:00Z",
        "refusal 1",
        "refusal 2",
    ]


def test_single_event_has_no_count() -> None:
    """A single event is reported with its time and without a count."""
    message = Message(Alert.HALTED, ("No order is sent.",), 1, NOON)
    assert message.render("bot") == "[bot] halted at 2026-11-22T12:00:00Z\nNo order is sent."


def test_message_fits_every_chat_limit() -> None:
    """A message stays within Discord's 2000 characters and Telegram's 4096 UTF-16 units; the newest text is kept."""
    alert_queue = AlertQueue()
    for number in range(50):
        alert_queue.put(Alert.TRADING_INTERRUPTED, f"{number:02}" + "\U00010000" * 5000, NOON)
    text = take_message(alert_queue).render("\U00010000" * 5000)
    assert len(text) <= MESSAGE_LENGTH_MAX == 2000
    assert len(text.encode("utf-16-le")) // 2 <= 4096
    assert text.splitlines()[1] == "49" + "\U00010000" * 1698
    assert "50 times" in text


def test_backoff_doubles_to_a_minute_and_resets_on_success() -> None:
    """Each failure doubles the delay up to a minute; a delivered message resets it."""
    alert_queue = AlertQueue()
    alert_queue.put(Alert.CIRCUIT_BREAKER, "open", NOON)
    delays = []
    for _ in range(9):
        alert_queue.mark_failed(take_message(alert_queue), 0.0, 0.0)
        delays.append(alert_queue.due_seconds())
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    alert_queue.mark_sent(take_message(alert_queue), 0.0)
    alert_queue.put(Alert.TRADING_INTERRUPTED, "interrupted", NOON)
    alert_queue.mark_failed(take_message(alert_queue), 0.0, 0.0)
    assert alert_queue.due_seconds() == 1


def test_retry_after_is_respected() -> None:
    """After a retry-after answer no message of any event is sent for that time, limited to an hour."""
    alert_queue = AlertQueue()
    for retry_after_seconds, wait_seconds in ((41.0, 41.0), (1_000_000.0, 3600.0)):
        alert_queue.put(Alert.CIRCUIT_BREAKER, "open", NOON)
        alert_queue.mark_failed(take_message(alert_queue), 0.0, retry_after_seconds)
        alert_queue.put(Alert.HALTED, "on", NOON)
        assert alert_queue.due_seconds() == wait_seconds


def test_failed_message_does_not_block_other_events() -> None:
    """A failed message is queued behind those of other events and merged with newer events of its own type."""
    alert_queue = AlertQueue()
    alert_queue.put(Alert.CIRCUIT_BREAKER, "first", NOON)
    first = take_message(alert_queue)
    alert_queue.put(Alert.CIRCUIT_BREAKER, "second", NOON + 5)
    alert_queue.put(Alert.TRADING_INTERRUPTED, "interrupted", NOON + 6)
    alert_queue.mark_failed(first, 0.0, 0.0)
    interrupted = take_message(alert_queue)
    assert interrupted.alert is Alert.TRADING_INTERRUPTED
    alert_queue.mark_sent(interrupted, 1.0)
    assert take_message(alert_queue) == Message(Alert.CIRCUIT_BREAKER, ("first", "second"), 2, NOON)


def test_burst_uses_little_memory() -> None:
    """10,000 texts of 10,000 characters (100 MB) use less than 100 kB."""
    alert_queue = AlertQueue()
    tracemalloc.start()
    for number in range(10_000):
        alert_queue.put(Alert.REFUSED_NONCE, f"refusal {number} ".ljust(10_000, "x"), NOON)
    used_bytes, _peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used_bytes < 100_000
    assert take_message(alert_queue).count == 10_000


STEPS = st.lists(st.tuples(st.sampled_from(Alert), st.integers(0, 30), st.sampled_from(["put", "send", "fail"])))


@given(STEPS)
def test_every_event_is_counted_in_exactly_one_message(steps: list[tuple[Alert, int, str]]) -> None:
    """For any sequence of steps: each event is counted in one sent or queued message, no event is sent twice in a
    minute, and a message has at most ten texts."""
    alert_queue, now, put_count, sent_count = AlertQueue(), 0.0, 0, 0
    last_sent_seconds: dict[Alert, float] = {}
    for alert, seconds, step in steps:
        now += seconds
        if step == "put":
            alert_queue.put(alert, f"text {put_count}", NOON + now)
            put_count += 1
        elif alert_queue.due_seconds() <= now:
            message = take_message(alert_queue)
            assert len(message.texts) <= TEXTS_MAX
            assert alert_queue.count == put_count - sent_count
            if step == "fail":
                alert_queue.mark_failed(message, now, 0.0)
            else:
                assert now - last_sent_seconds.get(message.alert, -math.inf) >= EVENT_INTERVAL_SECONDS
                last_sent_seconds[message.alert] = now
                alert_queue.mark_sent(message, now)
                sent_count += message.count
        assert alert_queue.count == put_count - sent_count
    while (message_left := alert_queue.take()) is not None:
        sent_count += message_left.count
    assert sent_count == put_count

"""What waits to be told: nothing is lost but texts, nothing grows without an end, and no chat is flooded."""

from __future__ import annotations

import math
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from bot.app.alert_queue import EVENT_INTERVAL_SECONDS, MESSAGE_LENGTH_MAX, TEXTS_MAX, AlertQueue, Message
from bot.base.events import Event

NOON = 1_795_348_800.0  # 2026-11-22 12:00:00 UTC


def take_message(outbox: AlertQueue) -> Message:
    """Take a message that is there."""
    message = outbox.take()
    assert message is not None
    return message


def test_each_event_is_sent_at_most_once_a_minute() -> None:
    """After a message of a kind the next one of that kind is due a minute later, and one of another kind at once."""
    outbox = AlertQueue()
    outbox.put(Event.REFUSED_NONCE, "first", NOON)
    assert (take_message(outbox).texts, outbox.due_seconds()) == (("first",), math.inf)
    outbox.mark_sent(100.0)
    outbox.put(Event.REFUSED_NONCE, "second", NOON + 1)
    assert outbox.due_seconds() == 160.0
    outbox.put(Event.KILL_SWITCH, "on", NOON + 2)
    assert (outbox.due_seconds(), take_message(outbox).event) == (-math.inf, Event.KILL_SWITCH)
    outbox.mark_sent(101.0)
    assert (outbox.due_seconds(), take_message(outbox).texts) == (160.0, ("second",))


def test_queued_events_merge_into_one_message() -> None:
    """Events of one kind that wait are one message: how many, since when, and each different text once."""
    outbox = AlertQueue()
    for text, seconds in (("refusal 1", 0), ("refusal 2", 1), ("refusal 1", 2)):
        outbox.put(Event.REFUSED_NONCE, text, NOON + seconds)
    assert take_message(outbox).render("bot on host").splitlines() == [
        "[bot on host] refused nonce, 3 times since 2026-11-22T12:00:00Z",
        "refusal 1",
        "refusal 2",
    ]


def test_single_event_has_no_count() -> None:
    """A single event is told with its time, and without a number."""
    message = Message(Event.KILL_SWITCH, ("No order is sent.",), 1, NOON)
    assert message.render("bot") == "[bot] kill switch at 2026-11-22T12:00:00Z\nNo order is sent."


def test_message_fits_every_chat_limit() -> None:
    """However much is to be said and by whom, a message keeps to Discord's 2000 characters, and in UTF-16 to Telegram's
    4096; what stays is the newest text, as far as a text may go."""
    outbox = AlertQueue()
    for number in range(50):
        outbox.put(Event.TRADING_INTERRUPTED, f"{number:02}" + "\U00010000" * 5000, NOON)
    text = take_message(outbox).render("\U00010000" * 5000)
    assert len(text) <= MESSAGE_LENGTH_MAX == 2000
    assert len(text.encode("utf-16-le")) // 2 <= 4096
    assert text.splitlines()[1] == "49" + "\U00010000" * 1698
    assert "50 times" in text


def test_backoff_doubles_to_a_minute_and_resets_on_success() -> None:
    """After each failure the line rests twice as long, up to a minute; a message that has gone ends that."""
    outbox = AlertQueue()
    outbox.put(Event.CIRCUIT_BREAKER, "silent", NOON)
    delays = []
    for _ in range(9):
        take_message(outbox)
        outbox.mark_failed(0.0, 0.0)
        delays.append(outbox.due_seconds())
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    take_message(outbox)
    outbox.mark_sent(0.0)
    outbox.put(Event.TRADING_INTERRUPTED, "trouble", NOON)
    take_message(outbox)
    outbox.mark_failed(0.0, 0.0)
    assert outbox.due_seconds() == 1


def test_retry_after_is_respected() -> None:
    """A server that wants to be left alone gets no message of any kind for so long, and for an hour at most."""
    outbox = AlertQueue()
    for retry_after_seconds, wait_seconds in ((41.0, 41.0), (1_000_000.0, 3600.0)):
        outbox.put(Event.CIRCUIT_BREAKER, "silent", NOON)
        take_message(outbox)
        outbox.mark_failed(0.0, retry_after_seconds)
        outbox.put(Event.KILL_SWITCH, "on", NOON)
        assert outbox.due_seconds() == wait_seconds


def test_failed_message_does_not_block_other_events() -> None:
    """A message that failed goes behind those of other kinds that wait, and with what has come of its kind since."""
    outbox = AlertQueue()
    outbox.put(Event.CIRCUIT_BREAKER, "first", NOON)
    take_message(outbox)
    outbox.put(Event.CIRCUIT_BREAKER, "second", NOON + 5)
    outbox.put(Event.TRADING_INTERRUPTED, "trouble", NOON + 6)
    outbox.mark_failed(0.0, 0.0)
    assert take_message(outbox).event is Event.TRADING_INTERRUPTED
    outbox.mark_sent(1.0)
    assert take_message(outbox) == Message(Event.CIRCUIT_BREAKER, ("first", "second"), 2, NOON)


def test_burst_uses_little_memory() -> None:
    """Of 10,000 texts of 10,000 characters, 100 MB in all, less than 100 kB are kept."""
    outbox = AlertQueue()
    tracemalloc.start()
    for number in range(10_000):
        outbox.put(Event.REFUSED_NONCE, f"refusal {number} ".ljust(10_000, "x"), NOON)
    used_bytes, _peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used_bytes < 100_000
    assert take_message(outbox).count == 10_000


STEPS = st.lists(st.tuples(st.sampled_from(Event), st.integers(0, 30), st.sampled_from(["put", "send", "fail"])))


@given(STEPS)
def test_every_event_is_counted_in_exactly_one_message(steps: list[tuple[Event, int, str]]) -> None:
    """Whatever comes, goes and fails: each event is counted in one message that has gone or waits, no kind goes twice
    in a minute, and no more than ten texts of a kind are kept."""
    outbox, now, put_count, sent_count = AlertQueue(), 0.0, 0, 0
    last_sent_seconds: dict[Event, float] = {}
    for event, seconds, step in steps:
        now += seconds
        if step == "put":
            outbox.put(event, f"text {put_count}", NOON + now)
            put_count += 1
        elif outbox.due_seconds() <= now:
            message = take_message(outbox)
            assert len(message.texts) <= TEXTS_MAX
            assert outbox.count == put_count - sent_count
            if step == "fail":
                outbox.mark_failed(now, 0.0)
            else:
                assert now - last_sent_seconds.get(message.event, -math.inf) >= EVENT_INTERVAL_SECONDS
                last_sent_seconds[message.event] = now
                outbox.mark_sent(now)
                sent_count += message.count
        assert outbox.count == put_count - sent_count

"""What waits to be told: nothing is lost but texts, nothing grows without an end, and no chat is flooded."""

from __future__ import annotations

import math
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from bot.app.alert_queue import KIND_SECONDS, MESSAGE_LENGTH_MAX, TEXTS_MAX, Message, Outbox
from bot.base.events import Event

NOON = 1_795_348_800.0  # 2026-11-22 12:00:00 UTC


def taken(outbox: Outbox) -> Message:
    """Take a message that is there."""
    message = outbox.take()
    assert message is not None
    return message


def test_a_kind_goes_once_a_minute_and_holds_up_no_other() -> None:
    """After a message of a kind the next one of that kind is due a minute later, and one of another kind at once."""
    outbox = Outbox()
    outbox.put(Event.REFUSED_NONCE, "first", NOON)
    assert (taken(outbox).texts, outbox.due_seconds()) == (("first",), math.inf)
    outbox.sent(100.0)
    outbox.put(Event.REFUSED_NONCE, "second", NOON + 1)
    assert outbox.due_seconds() == 160.0
    outbox.put(Event.KILL_SWITCH, "on", NOON + 2)
    assert (outbox.due_seconds(), taken(outbox).event) == (-math.inf, Event.KILL_SWITCH)
    outbox.sent(101.0)
    assert (outbox.due_seconds(), taken(outbox).texts) == (160.0, ("second",))


def test_what_comes_together_is_one_message_with_its_number() -> None:
    """Events of one kind that wait are one message: how many, since when, and each different text once."""
    outbox = Outbox()
    for text, seconds in (("refusal 1", 0), ("refusal 2", 1), ("refusal 1", 2)):
        outbox.put(Event.REFUSED_NONCE, text, NOON + seconds)
    assert taken(outbox).text("bot on host").splitlines() == [
        "[bot on host] refused nonce, 3 times since 2026-11-22T12:00:00Z",
        "refusal 1",
        "refusal 2",
    ]


def test_one_event_is_said_plainly() -> None:
    """A single event is told with its time, and without a number."""
    message = Message(Event.KILL_SWITCH, ("No order is sent.",), 1, NOON)
    assert message.text("bot") == "[bot] kill switch at 2026-11-22T12:00:00Z\nNo order is sent."


def test_a_message_fits_into_every_chat() -> None:
    """However much is to be said and by whom, a message keeps to Discord's 2000 characters, and in UTF-16 to Telegram's
    4096; what stays is the newest text, as far as a text may go."""
    outbox = Outbox()
    for number in range(50):
        outbox.put(Event.TROUBLE, f"{number:02}" + "\U00010000" * 5000, NOON)
    text = taken(outbox).text("\U00010000" * 5000)
    assert len(text) <= MESSAGE_LENGTH_MAX == 2000
    assert len(text.encode("utf-16-le")) // 2 <= 4096
    assert text.splitlines()[1] == "49" + "\U00010000" * 1698
    assert "50 times" in text


def test_a_failure_backs_off_up_to_a_minute_and_a_success_forgets_it() -> None:
    """After each failure the line rests twice as long, up to a minute; a message that has gone ends that."""
    outbox = Outbox()
    outbox.put(Event.BREAKER, "silent", NOON)
    rests = []
    for _ in range(9):
        taken(outbox)
        outbox.not_sent(0.0, 0.0)
        rests.append(outbox.due_seconds())
    assert rests == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    taken(outbox)
    outbox.sent(0.0)
    outbox.put(Event.TROUBLE, "trouble", NOON)
    taken(outbox)
    outbox.not_sent(0.0, 0.0)
    assert outbox.due_seconds() == 1


def test_a_server_is_left_alone_for_as_long_as_it_asks() -> None:
    """A server that wants to be left alone gets no message of any kind for so long, and for an hour at most."""
    outbox = Outbox()
    for asked, waits in ((41.0, 41.0), (1_000_000.0, 3600.0)):
        outbox.put(Event.BREAKER, "silent", NOON)
        taken(outbox)
        outbox.not_sent(0.0, asked)
        outbox.put(Event.KILL_SWITCH, "on", NOON)
        assert outbox.due_seconds() == waits


def test_a_message_that_no_server_takes_holds_up_no_other() -> None:
    """A message that failed goes behind those of other kinds that wait, and with what has come of its kind since."""
    outbox = Outbox()
    outbox.put(Event.BREAKER, "first", NOON)
    taken(outbox)
    outbox.put(Event.BREAKER, "second", NOON + 5)
    outbox.put(Event.TROUBLE, "trouble", NOON + 6)
    outbox.not_sent(0.0, 0.0)
    assert taken(outbox).event is Event.TROUBLE
    outbox.sent(1.0)
    assert taken(outbox) == Message(Event.BREAKER, ("first", "second"), 2, NOON)


def test_a_burst_is_kept_in_little_memory() -> None:
    """Of 10,000 texts of 10,000 characters, 100 MB in all, less than 100 kB are kept."""
    outbox = Outbox()
    tracemalloc.start()
    for number in range(10_000):
        outbox.put(Event.REFUSED_NONCE, f"refusal {number} ".ljust(10_000, "x"), NOON)
    kept_bytes, _peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept_bytes < 100_000
    assert taken(outbox).count == 10_000


STEPS = st.lists(st.tuples(st.sampled_from(Event), st.integers(0, 30), st.sampled_from(["put", "send", "fail"])))


@given(STEPS)
def test_every_event_is_counted_in_exactly_one_message(steps: list[tuple[Event, int, str]]) -> None:
    """Whatever comes, goes and fails: each event is counted in one message that has gone or waits, no kind goes twice
    in a minute, and no more than ten texts of a kind are kept."""
    outbox, now, put, gone = Outbox(), 0.0, 0, 0
    last: dict[Event, float] = {}
    for event, seconds, step in steps:
        now += seconds
        if step == "put":
            outbox.put(event, f"text {put}", NOON + now)
            put += 1
        elif outbox.due_seconds() <= now:
            message = taken(outbox)
            assert len(message.texts) <= TEXTS_MAX
            assert outbox.count == put - gone
            if step == "fail":
                outbox.not_sent(now, 0.0)
            else:
                assert now - last.get(message.event, -math.inf) >= KIND_SECONDS
                last[message.event] = now
                outbox.sent(now)
                gone += message.count
        assert outbox.count == put - gone

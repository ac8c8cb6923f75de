"""Refused nonces: what to do next, how long to be silent, and what a restart remembers of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from freezegun import freeze_time

from bot.base import clock
from bot.base.clock import wall_seconds
from bot.base.errors import InvalidNonceError, LockoutError, NoAnswerError, SilenceError
from bot.kraken.breaker_file import Silence, SilenceFile
from bot.kraken.circuit_breaker import KeyGuard, NonceRefusedError
from bot.kraken.nonce_recovery import Again, BeSilent, Climb, Recovery, longer

REFUSED = InvalidNonceError("BalanceEx", ["EAPI:Invalid nonce"])


def test_out_of_sync_the_nonce_climbs_twice_and_then_the_key_is_silent() -> None:
    """Before anything was accepted: again at once, again after 2 s, a jump, a long climb, 15 minutes of silence."""
    recovery = Recovery()
    assert [recovery.refused(0.0) for _ in range(5)] == [
        Again(0.1, Climb.NONE),
        Again(2.0, Climb.NONE),
        Again(0.0, Climb.JUMP),
        Again(0.0, Climb.LONG),
        BeSilent(900.0, "every nonce since the start was refused"),
    ]


def test_in_sync_the_nonce_never_climbs() -> None:
    """After an accepted nonce: again after 0.1 s, again after 2 s, then 100 s of silence; no climb."""
    recovery = Recovery()
    recovery.accepted()
    assert [recovery.refused(time) for time in (0.0, 100.0, 200.0)] == [
        Again(0.1, Climb.NONE),
        Again(2.0, Climb.NONE),
        BeSilent(100.0, "another sender is using this key"),
    ]


@pytest.mark.parametrize(("last", "silent"), [(60.0, True), (60.1, False)])
def test_three_refusals_within_sixty_seconds_are_silence(last: float, silent: bool) -> None:
    """Three refusals with accepted nonces between them bring silence if they lie within 60 s, and not otherwise."""
    recovery = Recovery()
    recovery.accepted()
    for time in (0.0, 30.0):
        assert isinstance(recovery.refused(time), Again)
        recovery.accepted()
    assert isinstance(recovery.refused(last), BeSilent) is silent


def test_after_a_silence_the_count_begins_anew() -> None:
    """The refusal after a silence is the first of a new row, in sync and out of it."""
    for in_sync in (True, False):
        recovery = Recovery()
        if in_sync:
            recovery.accepted()
        while not isinstance(recovery.refused(0.0), BeSilent):
            pass
        assert recovery.refused(1.0) == Again(0.1, Climb.NONE)


def test_every_refusal_is_counted() -> None:
    """refused_total counts all refusals, whatever came of them."""
    recovery = Recovery()
    for _ in range(7):
        recovery.refused(0.0)
    assert recovery.refused_total == 7


def test_a_silence_grows_to_fifteen_minutes() -> None:
    """A refused probe doubles the silence, to 900 s at most."""
    assert [longer(seconds) for seconds in (100.0, 200.0, 400.0, 800.0, 900.0)] == [200, 400, 800, 900, 900]


def test_a_silence_is_remembered_in_its_file(tmp_path: Path) -> None:
    """What one object begins another one reads, until it is ended."""
    path = str(tmp_path / "silence")
    begun = SilenceFile(path).begin(100.0, "why")
    assert SilenceFile(path).read() == begun
    assert not begun.over
    SilenceFile(path).end()
    assert SilenceFile(path).read() is None


def test_a_silence_is_over_when_its_time_has_come() -> None:
    """A silence is over at its end, and not before."""
    with freeze_time("2026-11-22 12:00:00") as frozen:
        silence = Silence(wall_seconds() + 100, 100.0, "why")
        frozen.tick(99)
        assert not silence.over
        frozen.tick(1)
        assert silence.over


def test_a_clock_that_is_set_back_does_not_prolong_a_silence() -> None:
    """A silence whose end is further away than its length is over: the clock was set back."""
    with freeze_time("2026-11-22 12:00:00") as frozen:
        silence = Silence(wall_seconds() + 100, 100.0, "why")
        frozen.move_to("2026-11-22 11:00:00")
        assert silence.over


@pytest.mark.parametrize("text", ["", "{", "[]", '{"until_seconds": "x"}', "\x00\x00", '{"until_seconds": null}'])
def test_a_damaged_file_is_a_silence_that_is_over(text: str, tmp_path: Path) -> None:
    """A file that cannot be read as a silence leads to one probe, and to a full silence if that is refused."""
    path = tmp_path / "silence"
    path.write_text(text)
    silence = SilenceFile(str(path)).read()
    assert silence is not None
    assert (silence.over, silence.seconds) == (True, 900.0)


def test_a_silence_that_cannot_be_written_is_remembered_by_the_process(tmp_path: Path) -> None:
    """Where the folder is gone, the object that began the silence still keeps it."""
    silence = SilenceFile(str(tmp_path / "gone" / "silence"))
    begun = silence.begin(100.0, "why")
    assert silence.read() == begun
    silence.end()
    assert silence.read() is None


def test_an_old_file_does_not_hide_a_silence_that_could_not_be_written(tmp_path: Path) -> None:
    """Where a file of an older silence stands and cannot be replaced, the newer silence holds."""
    path = tmp_path / "silence"
    path.write_text(json.dumps({"until_seconds": 0.0, "seconds": 100.0, "reason": "old"}))
    silence = SilenceFile(str(path))
    path.unlink()
    path.mkdir()
    (path / "in the way").touch()
    begun = silence.begin(200.0, "new")
    assert silence.read() == begun


def guard_after(seconds_ago: float, path: Path, seconds: float = 100.0) -> KeyGuard:
    """Return the guard of a key whose silence ended so many seconds ago."""
    until = wall_seconds() - seconds_ago
    path.write_text(json.dumps({"until_seconds": until, "seconds": seconds, "reason": "another sender"}))
    return KeyGuard(str(path), str(path.with_suffix(".refused")))


@pytest.fixture
def guards(tmp_path: Path) -> Callable[[], KeyGuard]:
    """Return what makes the guards of one key's processes."""
    return lambda: KeyGuard(str(tmp_path / "silence"), str(tmp_path / "refused"))


def steps(guard: KeyGuard, nonces: Iterable[int]) -> list[Again | None]:
    """Let nonces be refused; return how the guard says to go on, None for not at all."""
    answers = [guard.refused(REFUSED, nonce, "us") for nonce in nonces]
    return [answer.again if isinstance(answer, NonceRefusedError) else None for answer in answers]


@pytest.fixture
def boot_clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the time since boot, moved by hand only."""
    now = [1000.0]
    monkeypatch.setattr(clock, "boottime_seconds", lambda: now[0])
    return now


def test_refusals_of_three_processes_are_a_foreign_sender(
    guards: Callable[[], KeyGuard], boot_clock: list[float]
) -> None:
    """Three refusals within 60 s bring the silence, whichever processes of the machine they happen to."""
    one, other, third = guards(), guards(), guards()
    for number, guard in enumerate((one, other, third)):
        guard.accepted(100)
        boot_clock[0] += 30.0
        assert steps(guard, [200 + number]) == [Again(0.1, Climb.NONE) if guard is not third else None]
        assert guard.refused_total == 1
    with pytest.raises(SilenceError, match="another sender"):
        one.check(lambda: None, lambda: 1)


def test_refusals_of_other_processes_are_forgotten_after_a_minute(
    guards: Callable[[], KeyGuard], boot_clock: list[float]
) -> None:
    """Refusals of other processes more than 60 s ago, or from before the machine was started, do not count."""
    for moment in (1000.0, 1000.0, 1060.1, 5.0):
        boot_clock[0] = moment
        guard = guards()
        guard.accepted(100)
        assert steps(guard, [200]) == [Again(0.1, Climb.NONE)]


@pytest.mark.parametrize(
    ("accepted", "later_seconds", "climbs"), [(199, 60.0, False), (1000, 0.0, True), (199, 60.1, True)]
)
def test_what_another_process_had_accepted_forbids_a_climb(
    guards: Callable[[], KeyGuard], boot_clock: list[float], accepted: int, later_seconds: float, climbs: bool
) -> None:
    """A new process climbs, but not where another one had a lower nonce accepted within the last minute."""
    guards().accepted(accepted)
    boot_clock[0] += later_seconds
    third = steps(guards(), [200, 201, 202])[2]
    assert third == (Again(0.0, Climb.JUMP) if climbs else None)


def test_accepted_nonces_are_told_every_twenty_seconds(
    guards: Callable[[], KeyGuard], boot_clock: list[float], tmp_path: Path
) -> None:
    """The first accepted nonce is written down for the others, and then one in 20 s."""
    guard, told = guards(), []
    for nonce in range(5):
        guard.accepted(nonce)
        told.append(json.loads((tmp_path / "refused").read_text())["accepted"][1])
        boot_clock[0] += 10.0
    assert told == ["0", "0", "2", "2", "4"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"accepted": 1, "refused": 2}', '{"accepted": [1, 2], "refused": ["x", null, [], 1]}']
)
def test_damaged_refusals_are_none(guards: Callable[[], KeyGuard], tmp_path: Path, text: str) -> None:
    """A file of refusals that cannot be read leaves a process to what it has seen itself."""
    (tmp_path / "refused").write_text(text)
    guard = guards()
    assert steps(guard, [200, 201, 202]) == [
        Again(0.1, Climb.NONE),
        Again(2.0, Climb.NONE),
        Again(0.0, Climb.JUMP),
    ]
    guard.accepted(300)
    assert json.loads((tmp_path / "refused").read_text())["accepted"][1] == "300"


def test_no_probe_is_sent_during_a_silence(tmp_path: Path) -> None:
    """While the silence lasts, check raises SilenceError with its end, and asks nothing."""
    guard = guard_after(-50.0, tmp_path / "silence")
    asked: list[int] = []
    with pytest.raises(SilenceError) as caught:
        guard.check(lambda: asked.append(1), lambda: 1)
    assert asked == []
    assert 49 < caught.value.until_seconds - wall_seconds() <= 50


@pytest.mark.parametrize("error", [REFUSED, LockoutError("GetApiKeyInfo", ["EGeneral:Temporary lockout"])])
def test_a_refused_probe_doubles_the_silence(error: Exception, tmp_path: Path) -> None:
    """After a refused probe the silence is twice as long, from now on."""
    path = tmp_path / "silence"
    guard = guard_after(1.0, path)

    def probe() -> None:
        raise error

    with pytest.raises(SilenceError):
        guard.check(probe, lambda: 1)
    kept = json.loads(path.read_text())
    assert kept["seconds"] == 200
    assert 199 < kept["until_seconds"] - wall_seconds() <= 200


def test_an_unanswered_probe_leaves_the_silence_as_it_is(tmp_path: Path) -> None:
    """A probe without an answer raises SilenceError, and the next check probes again."""
    guard = guard_after(1.0, tmp_path / "silence")

    def probe() -> None:
        raise NoAnswerError("nothing came back")

    for _ in range(2):
        with pytest.raises(SilenceError, match="nothing came back"):
            guard.check(probe, lambda: 1)


@pytest.mark.parametrize(("reported", "named"), [(150, True), (90, False), (250, False)])
def test_the_reported_nonce_proves_the_other_sender(
    reported: int, named: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A nonce reported between our last one and the probe's is somebody else's, and the log says so; no other is."""
    caplog.set_level(logging.WARNING)
    last = [100]

    def probe() -> dict[str, str]:
        last[0] = 200
        return {"nonce": str(reported)}

    guard_after(1.0, tmp_path / "silence").check(probe, lambda: last[0])
    assert ("another sender is on this key" in caplog.text) is named


@pytest.mark.parametrize("info", [None, [], {}, {"nonce": None}, {"nonce": "x"}, {"nonce": "-1"}])
def test_a_probe_with_an_odd_answer_ends_the_silence(info: object, tmp_path: Path) -> None:
    """An accepted probe ends the silence, whatever it reports."""
    path = tmp_path / "silence"
    guard_after(1.0, path).check(lambda: info, lambda: 1)
    assert not path.exists()


def test_the_guard_says_what_was_sent_and_which_tool_it_looks_like(guards: Callable[[], KeyGuard]) -> None:
    """The last word before the long silence names the nonce sent, nanoseconds, and the way out."""
    guard = guards()
    answers = [guard.refused(REFUSED, 123, "us") for _ in range(5)]
    assert [isinstance(answer, NonceRefusedError) for answer in answers] == [True] * 4 + [False]
    for word in ("nonce 123 (us)", "nanoseconds", "new API key", "NONCE_UNIT=ns"):
        assert word in str(answers[-1])

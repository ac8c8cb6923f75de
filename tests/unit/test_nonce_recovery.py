"""Refused nonces: the next action, the open time of the circuit breaker, and what survives a restart."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import pytest
from freezegun import freeze_time

from bot.base import clock
from bot.base.clock import MarketClock, ServerTime, wall_seconds
from bot.base.errors import CircuitOpenError, InvalidNonceError, NoAnswerError
from bot.kraken.breaker_file import BreakerFile, BreakerState
from bot.kraken.circuit_breaker import CircuitBreaker, NonceRefusedError
from bot.kraken.client import KrakenClient, PrivateRequest
from bot.kraken.nonce_recovery import NonceJump, NonceRecovery, OpenBreaker, Retry, next_open_seconds
from bot.kraken.rate_counters import UNLIMITED
from bot.kraken.rate_limiter import RateLimiter
from bot.nonce.local_lock import Priority

REFUSED = InvalidNonceError("BalanceEx", ["EAPI:Invalid nonce"])


def test_out_of_sync_nonce_jumps_twice_then_opens_the_breaker() -> None:
    """Before any accepted nonce: retry at once, retry after 2 s, small jump, large jump, then the breaker opens for 15
    minutes."""
    recovery = NonceRecovery()
    assert [recovery.handle_refusal(0.0) for _ in range(5)] == [
        Retry(0.1, NonceJump.NONE),
        Retry(2.0, NonceJump.NONE),
        Retry(0.0, NonceJump.SMALL),
        Retry(0.0, NonceJump.LARGE),
        OpenBreaker(900.0, "every nonce since the start was refused"),
    ]


def test_in_sync_nonce_never_jumps() -> None:
    """After an accepted nonce: retry after 0.1 s, retry after 2 s, then the breaker opens for 100 s; no nonce jump."""
    recovery = NonceRecovery()
    recovery.record_accepted()
    assert [recovery.handle_refusal(time) for time in (0.0, 100.0, 200.0)] == [
        Retry(0.1, NonceJump.NONE),
        Retry(2.0, NonceJump.NONE),
        OpenBreaker(100.0, "another sender is using this key"),
    ]


@pytest.mark.parametrize(("last", "opens"), [(60.0, True), (60.1, False)])
def test_three_refusals_within_sixty_seconds_open_the_breaker(last: float, opens: bool) -> None:
    """Three refusals with accepted nonces between them open the breaker only if they are within 60 s."""
    recovery = NonceRecovery()
    recovery.record_accepted()
    for time in (0.0, 30.0):
        assert isinstance(recovery.handle_refusal(time), Retry)
        recovery.record_accepted()
    assert isinstance(recovery.handle_refusal(last), OpenBreaker) is opens


def test_refusal_count_restarts_after_the_breaker_was_open() -> None:
    """The first refusal after the breaker was open starts a new count, in sync and out of sync."""
    for in_sync in (True, False):
        recovery = NonceRecovery()
        if in_sync:
            recovery.record_accepted()
        while not isinstance(recovery.handle_refusal(0.0), OpenBreaker):
            pass
        assert recovery.handle_refusal(1.0) == Retry(0.1, NonceJump.NONE)


def test_every_refusal_is_counted() -> None:
    """refused_total counts all refusals, whatever their consequence."""
    recovery = NonceRecovery()
    for _ in range(7):
        recovery.handle_refusal(0.0)
    assert recovery.refused_total == 7


def test_open_seconds_grow_to_fifteen_minutes() -> None:
    """A refused probe doubles the open time, up to 900 s."""
    assert [next_open_seconds(seconds) for seconds in (100.0, 200.0, 400.0, 800.0, 900.0)] == [200, 400, 800, 900, 900]


def test_open_breaker_is_stored_in_its_file(tmp_path: Path) -> None:
    """Another object reads the breaker state that one has stored, until it is reset."""
    path = str(tmp_path / "silence")
    opened = BreakerFile(path).trip(100.0, "why")
    assert BreakerFile(path).read() == opened
    assert not opened.is_half_open
    BreakerFile(path).reset()
    assert BreakerFile(path).read() is None


def test_breaker_expires_on_time() -> None:
    """A breaker becomes half-open at its end time and not before."""
    with freeze_time("2026-11-22 12:00:00") as frozen:
        state = BreakerState(wall_seconds() + 100, 100.0, "why")
        frozen.tick(99)
        assert not state.is_half_open
        frozen.tick(1)
        assert state.is_half_open


def test_clock_set_back_does_not_prolong_an_open_breaker() -> None:
    """An end time further away than the open time has expired, because the clock was set back."""
    with freeze_time("2026-11-22 12:00:00") as frozen:
        state = BreakerState(wall_seconds() + 100, 100.0, "why")
        frozen.move_to("2026-11-22 11:00:00")
        assert state.is_half_open


@pytest.mark.parametrize("text", ["", "{", "[]", '{"until_seconds": "x"}', "\x00\x00", '{"until_seconds": null}'])
def test_damaged_breaker_file_reads_as_expired(text: str, tmp_path: Path) -> None:
    """An unreadable breaker file leads to one probe, and to the full open time if that is refused."""
    path = tmp_path / "silence"
    path.write_text(text)
    state = BreakerFile(str(path)).read()
    assert state is not None
    assert (state.is_half_open, state.open_seconds) == (True, 900.0)


def test_unwritable_breaker_is_remembered_in_process(tmp_path: Path) -> None:
    """If the folder is missing, the object that opened the breaker still reports it as open."""
    breaker_file = BreakerFile(str(tmp_path / "gone" / "silence"))
    opened = breaker_file.trip(100.0, "why")
    assert breaker_file.read() == opened
    breaker_file.reset()
    assert breaker_file.read() is None


def test_old_breaker_file_does_not_hide_a_newer_unwritten_one(tmp_path: Path) -> None:
    """If the file of an older open breaker cannot be replaced, the newer state counts."""
    path = tmp_path / "silence"
    path.write_text(json.dumps({"until_seconds": 0.0, "seconds": 100.0, "reason": "old"}))
    breaker_file = BreakerFile(str(path))
    path.unlink()
    path.mkdir()
    (path / "in the way").touch()
    opened = breaker_file.trip(200.0, "new")
    assert breaker_file.read() == opened


def make_breaker(seconds_ago: float, path: Path, seconds: float = 100.0) -> CircuitBreaker:
    """Return the circuit breaker of a key whose open time ended so many seconds ago."""
    until = wall_seconds() - seconds_ago
    path.write_text(json.dumps({"until_seconds": until, "seconds": seconds, "reason": "another sender"}))
    return CircuitBreaker(str(path), str(path.with_suffix(".refused")))


class FakeApi:
    """A krakenex.API whose only answer is given, and which takes nonce 200 for its request."""

    def __init__(self, answer: dict[str, Any] | Exception) -> None:
        self.answer = answer
        self.methods: list[str] = []

    def _nonce(self) -> str:
        return "200"

    def send_private(self, method: str, params: dict[str, Any], nonce: int | str) -> dict[str, Any]:
        """Give the answer."""
        self.methods.append(method)
        assert int(nonce) == 200
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class FakeSender:
    """A sender whose last nonce before the probe is given; None where it knows none."""

    def __init__(self, last_nonce: int | None) -> None:
        self._last_nonce = last_nonce

    def check_request_lock(self) -> None:
        """Allow everything."""

    def check_not_stopping(self, priority: Priority) -> None:
        """Allow everything."""

    def apply_nonce_jump(self, jump: NonceJump) -> None:
        """Never called."""
        raise AssertionError(jump)

    def newest_nonce_before(self, nonce: int) -> int | None:
        """Return the given nonce."""
        return self._last_nonce


def check_with_probe(breaker: CircuitBreaker, api: FakeApi, last_nonce: int | None = 100) -> None:
    """Send a request, which a probe precedes where the breaker is half open."""
    market_clock = MarketClock()
    limiter = RateLimiter(os.devnull, UNLIMITED)
    client = KrakenClient(FakeSender(last_nonce), breaker, limiter, ServerTime(market_clock), "us")
    client.try_send(cast(Any, api), PrivateRequest("Balance", {}), must_send=False)


def answer(result: object = None, *errors: str) -> dict[str, Any]:
    """Return an envelope of Kraken's."""
    return {"error": list(errors), "result": result}


@pytest.fixture
def breaker_factory(tmp_path: Path) -> Callable[[], CircuitBreaker]:
    """Return a factory for the circuit breakers of one key's processes."""
    return lambda: CircuitBreaker(str(tmp_path / "silence"), str(tmp_path / "refused"))


def recovery_actions(breaker: CircuitBreaker, nonces: Iterable[int]) -> list[Retry | None]:
    """Report refused nonces; return the retry that the breaker prescribes for each, or None."""
    outcomes = [breaker.handle_refusal(REFUSED, nonce, "us", is_repeatable=True) for nonce in nonces]
    return [outcome.retry if isinstance(outcome, NonceRefusedError) else None for outcome in outcomes]


@pytest.fixture
def boot_clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the time since boot, which only the test changes."""
    now = [1000.0]
    monkeypatch.setattr(clock, "boottime_seconds", lambda: now[0])
    return now


def test_refusals_of_three_processes_mean_an_external_sender(
    breaker_factory: Callable[[], CircuitBreaker], boot_clock: list[float]
) -> None:
    """Three refusals within 60 s open the breaker, whichever processes of the machine they happen in."""
    one, other, third = breaker_factory(), breaker_factory(), breaker_factory()
    for number, breaker in enumerate((one, other, third)):
        breaker.record_accepted(100)
        boot_clock[0] += 30.0
        assert recovery_actions(breaker, [200 + number]) == [
            Retry(0.1, NonceJump.NONE) if breaker is not third else None
        ]
        assert breaker.refused_total == 1
    with pytest.raises(CircuitOpenError, match="another sender"):
        one.check()


def test_refusals_of_other_processes_are_forgotten_after_a_minute(
    breaker_factory: Callable[[], CircuitBreaker], boot_clock: list[float]
) -> None:
    """Refusals of other processes more than 60 s ago, or from before the last boot, do not count."""
    for boot_seconds in (1000.0, 1000.0, 1060.1, 5.0):
        boot_clock[0] = boot_seconds
        breaker = breaker_factory()
        breaker.record_accepted(100)
        assert recovery_actions(breaker, [200]) == [Retry(0.1, NonceJump.NONE)]


@pytest.mark.parametrize(
    ("accepted", "later_seconds", "jumps"), [(199, 60.0, False), (1000, 0.0, True), (199, 60.1, True)]
)
def test_nonce_accepted_by_another_process_forbids_a_jump(
    breaker_factory: Callable[[], CircuitBreaker],
    boot_clock: list[float],
    accepted: int,
    later_seconds: float,
    jumps: bool,
) -> None:
    """A new process jumps, unless another process had a lower nonce accepted within the last minute."""
    breaker_factory().record_accepted(accepted)
    boot_clock[0] += later_seconds
    third = recovery_actions(breaker_factory(), [200, 201, 202])[2]
    assert third == (Retry(0.0, NonceJump.SMALL) if jumps else None)


def test_accepted_nonces_are_shared_every_twenty_seconds(
    breaker_factory: Callable[[], CircuitBreaker], boot_clock: list[float], tmp_path: Path
) -> None:
    """The first accepted nonce is written for the other processes, and then one every 20 s."""
    breaker, shared = breaker_factory(), []
    for nonce in range(5):
        breaker.record_accepted(nonce)
        shared.append(json.loads((tmp_path / "refused").read_text())["accepted"][1])
        boot_clock[0] += 10.0
    assert shared == ["0", "0", "2", "2", "4"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"accepted": 1, "refused": 2}', '{"accepted": [1, 2], "refused": ["x", null, [], 1]}']
)
def test_damaged_refusals_are_none(breaker_factory: Callable[[], CircuitBreaker], tmp_path: Path, text: str) -> None:
    """With an unreadable file of refusals a process relies on its own observations."""
    (tmp_path / "refused").write_text(text)
    breaker = breaker_factory()
    assert recovery_actions(breaker, [200, 201, 202]) == [
        Retry(0.1, NonceJump.NONE),
        Retry(2.0, NonceJump.NONE),
        Retry(0.0, NonceJump.SMALL),
    ]
    breaker.record_accepted(300)
    assert json.loads((tmp_path / "refused").read_text())["accepted"][1] == "300"


def test_no_probe_is_sent_while_the_breaker_is_open(tmp_path: Path) -> None:
    """While the breaker is open, a call raises CircuitOpenError with the end of that time and sends nothing."""
    breaker = make_breaker(-50.0, tmp_path / "silence")
    api = FakeApi(answer({}))
    with pytest.raises(CircuitOpenError) as caught:
        check_with_probe(breaker, api)
    assert api.methods == []
    assert 49 < caught.value.until_seconds - wall_seconds() <= 50


@pytest.mark.parametrize("error", ["EAPI:Invalid nonce", "EGeneral:Temporary lockout"])
def test_refused_probe_doubles_open_seconds(error: str, tmp_path: Path) -> None:
    """A refused probe doubles the open time, from now on."""
    path = tmp_path / "silence"
    breaker = make_breaker(1.0, path)

    with pytest.raises(CircuitOpenError):
        check_with_probe(breaker, FakeApi(answer(None, error)))
    stored = json.loads(path.read_text())
    assert stored["seconds"] == 200
    assert 199 < stored["until_seconds"] - wall_seconds() <= 200


def test_unanswered_probe_leaves_the_breaker_unchanged(tmp_path: Path) -> None:
    """A probe without an answer raises CircuitOpenError, and the next check probes again."""
    breaker = make_breaker(1.0, tmp_path / "silence")

    for _ in range(2):
        with pytest.raises(CircuitOpenError, match="nothing came back"):
            check_with_probe(breaker, FakeApi(NoAnswerError("nothing came back")))


@pytest.mark.parametrize(
    ("last_nonce", "reported", "named"), [(100, 150, True), (100, 90, False), (100, 250, False), (None, 150, False)]
)
def test_reported_nonce_proves_an_external_sender(
    last_nonce: int | None, reported: int, named: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A reported nonce between our last one and that of the probe proves an external sender, which is logged; no other
    does."""
    caplog.set_level(logging.WARNING)
    check_with_probe(make_breaker(1.0, tmp_path / "silence"), FakeApi(answer({"nonce": str(reported)})), last_nonce)
    assert ("another sender is on this key" in caplog.text) is named


@pytest.mark.parametrize("info", [None, [], {}, {"nonce": None}, {"nonce": "x"}, {"nonce": "-1"}])
def test_probe_with_malformed_response_closes_the_breaker(info: object, tmp_path: Path) -> None:
    """An accepted probe closes the breaker, whatever it reports."""
    path = tmp_path / "silence"
    check_with_probe(make_breaker(1.0, path), FakeApi(answer(info)))
    assert not path.exists()


def test_breaker_message_names_the_nonce_and_likely_tool(breaker_factory: Callable[[], CircuitBreaker]) -> None:
    """The message before the long open time names the sent nonce, nanoseconds, and the remedies."""
    breaker = breaker_factory()
    outcomes = [breaker.handle_refusal(REFUSED, 123, "us", is_repeatable=True) for _ in range(5)]
    assert [isinstance(outcome, NonceRefusedError) for outcome in outcomes] == [True] * 4 + [False]
    for part in ("nonce 123 (us)", "nanoseconds", "new API key", "NONCE_UNIT=ns"):
        assert part in str(outcomes[-1])

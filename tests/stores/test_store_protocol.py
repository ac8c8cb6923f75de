"""The contract of `bot.nonce.store_protocol`, sentence by sentence, over plain Python, Redis and PostgreSQL."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from bot.nonce.store_protocol import Drawn, Engine, Lease, Outcome, Row
from tests.stores.key_rows import HIGHEST, HOUR_SECONDS, KeyRow, drawn, lead, until, wish

HOUR_US = 3_600_000_000
# Long enough to be seen alive, short enough to wait for its end.
SOON_SECONDS = 0.03


@pytest.fixture
def engine(key_row: KeyRow) -> Engine:
    """Return a client of a key that the store knows nothing of."""
    return key_row.connect()


def turn_is_free(engine: Engine) -> bool:
    """Whether nobody has the turn."""
    row = engine.look()
    return row is not None and not row.turn_owner


def lease_is_over(engine: Engine) -> bool:
    """Whether the lease's lifetime has passed."""
    row = engine.look()
    return row is not None and row.lease.remaining_seconds == 0.0


class TestNonces:
    """`draw`."""

    @pytest.mark.parametrize("ticks", [1, 1000], ids=["us", "ns"])
    def test_it_starts_from_the_servers_clock(self, key_row: KeyRow, engine: Engine, ticks: int) -> None:
        """A nonce is the server's time at which it was drawn, in the wish's unit, where nothing asks for more."""
        before = key_row.server_us()
        nonce = drawn(engine.draw(wish(ticks=ticks)))
        assert before * ticks <= nonce <= key_row.server_us() * ticks
        assert nonce % ticks == 0

    def test_it_goes_on_above_the_last(self, key_row: KeyRow, engine: Engine) -> None:
        """A nonce is the last one plus one where the last one is ahead of the server's clock."""
        ahead = drawn(engine.draw(wish(floor=key_row.server_us() + HOUR_US)))
        assert drawn(engine.draw(wish())) == ahead + 1

    def test_it_is_at_least_the_floor(self, key_row: KeyRow, engine: Engine) -> None:
        """A nonce is exactly the floor where clock and last are below it; one that the last has reached is over."""
        floor = key_row.server_us() + HOUR_US
        assert drawn(engine.draw(wish(floor=floor))) == floor
        assert drawn(engine.draw(wish(floor=floor))) == floor + 1

    @pytest.mark.parametrize("floor", [2**53, 10**16 - 2, 1_999_999_999_999_999_998, 10**18 - 2, HIGHEST - 4])
    def test_every_digit_counts(self, engine: Engine, floor: int) -> None:
        """Four nonces in a row are exact and one apart where a double would round, carry or lose them."""
        nonces = [drawn(engine.draw(wish(floor=floor + 1))) for _ in range(4)]
        assert nonces == [floor + 1, floor + 2, floor + 3, floor + 4]
        row = engine.look()
        assert row is not None
        assert row.nonce == floor + 4

    def test_the_ceiling_is_the_highest(self, key_row: KeyRow, engine: Engine) -> None:
        """A nonce may be the ceiling; the next one is AHEAD, with the last one told and nothing written."""
        ceiling = drawn(engine.draw(wish(floor=key_row.server_us() + HOUR_US))) + 1
        assert drawn(engine.draw(wish(ceiling=ceiling))) == ceiling
        before = engine.look()
        assert engine.draw(wish(ceiling=ceiling)) == Drawn(Outcome.AHEAD, 0, ceiling)
        assert engine.draw(wish(floor=ceiling + 2, ceiling=ceiling + 1)) == Drawn(Outcome.AHEAD, 0, ceiling)
        assert engine.look() == before

    def test_there_is_none_above_the_highest_number(self, engine: Engine) -> None:
        """A last nonce of 2^63 - 1, which cannot be counted on, is AHEAD too."""
        assert drawn(engine.draw(wish(floor=HIGHEST))) == HIGHEST
        assert engine.draw(wish()) == Drawn(Outcome.AHEAD, 0, HIGHEST)
        assert engine.take(wish(), "a", HOUR_SECONDS) == Drawn(Outcome.AHEAD, 0, HIGHEST)

    def test_the_last_one_is_told(self, key_row: KeyRow, engine: Engine) -> None:
        """`last` is what the store held before: 0 if nothing, and 0 again after it was wiped."""
        first = engine.draw(wish())
        second = engine.draw(wish())
        third = engine.take(wish(), "a", HOUR_SECONDS)
        assert [first.last, second.last, third.last] == [0, first.nonce, second.nonce]
        key_row.lose()
        assert engine.draw(wish()).last == 0

    def test_it_is_written_before_it_is_returned(self, key_row: KeyRow, engine: Engine) -> None:
        """Another client sees each nonce that was drawn, and draws above it."""
        other = key_row.connect()
        for _ in range(5):
            nonce = drawn(engine.draw(wish()))
            row = other.look()
            assert row is not None
            assert row.nonce == nonce
            assert drawn(other.draw(wish())) > nonce

    def test_threads(self, key_row: KeyRow, engine: Engine, full_size: bool) -> None:
        """Four threads on two clients get different nonces, each rising, and the highest is what the store has."""
        count = 2000 if full_size else 100
        clients = [engine, key_row.connect()]

        def draw_many(number: int) -> list[int]:
            return [drawn(clients[number % 2].draw(wish())) for _ in range(count)]

        with ThreadPoolExecutor(4) as pool:
            sequences = list(pool.map(draw_many, range(4)))
        together = [nonce for sequence in sequences for nonce in sequence]
        assert len(set(together)) == 4 * count
        assert all(sequence == sorted(sequence) for sequence in sequences)
        row = engine.look()
        assert row is not None
        assert row.nonce == max(together)


class TestNoncesUnderALease:
    """`draw` and `take` with a generation."""

    def test_the_leader_draws(self, engine: Engine) -> None:
        """A nonce is drawn with the generation of the lease, while it lives."""
        generation = lead(engine, "a").generation
        drawn(engine.draw(wish(generation=generation)))
        drawn(engine.take(wish(generation=generation), "a", HOUR_SECONDS))

    def test_who_does_not_lead_draws_without(self, engine: Engine) -> None:
        """Without a generation a nonce is drawn whoever leads."""
        lead(engine, "a")
        drawn(engine.draw(wish()))
        drawn(engine.take(wish(), "b", HOUR_SECONDS))

    @pytest.mark.parametrize("why", ["no lease", "another's", "over", "signed off", "superseded"])
    def test_it_is_stale(self, engine: Engine, why: str) -> None:
        """With a generation that is not that of a living lease nothing is written, and the last nonce is told."""
        last = drawn(engine.draw(wish()))
        generation = 5
        if why != "no lease":
            lease = lead(engine, "a", SOON_SECONDS if why in {"over", "superseded"} else HOUR_SECONDS)
            generation = lease.generation - (why == "another's")
        if why == "signed off":
            engine.sign_off(generation, settled=True)
        if why in {"over", "superseded"}:
            until(lambda: lease_is_over(engine))
        if why == "superseded":
            lead(engine, "b")
        assert engine.draw(wish(generation=generation)) == Drawn(Outcome.STALE, 0, last)
        assert engine.take(wish(generation=generation), "a", HOUR_SECONDS) == Drawn(Outcome.STALE, 0, last)
        row = engine.look()
        assert row is not None
        assert (row.nonce, row.turn_owner) == (last, "")


class TestTurns:
    """`take` and `give_back`."""

    def test_a_turn_comes_with_a_nonce(self, key_row: KeyRow, engine: Engine) -> None:
        """A turn is taken together with a nonce of the same rules, and the store names its owner."""
        floor = key_row.server_us() + HOUR_US
        assert engine.take(wish(floor=floor), "a", HOUR_SECONDS) == Drawn(Outcome.DRAWN, floor, 0)
        assert engine.look() == Row(floor, Lease(), "a")

    def test_one_at_a_time(self, engine: Engine) -> None:
        """While one has the turn, another is NEXT and all others BUSY: no nonce is drawn, and the last one is told."""
        nonce = drawn(engine.take(wish(), "a", HOUR_SECONDS))
        for owner, outcome in ("b", Outcome.NEXT), ("c", Outcome.BUSY), ("b", Outcome.NEXT):
            assert engine.take(wish(), owner, HOUR_SECONDS) == Drawn(outcome, 0, nonce)
        assert engine.look() == Row(nonce, Lease(), "a")

    def test_a_nonce_alone_waits_for_no_turn(self, engine: Engine) -> None:
        """A nonce is drawn without the turn while another has it."""
        nonce = drawn(engine.take(wish(), "a", HOUR_SECONDS))
        assert drawn(engine.draw(wish())) > nonce

    def test_ahead_takes_no_turn(self, engine: Engine) -> None:
        """Where the nonce would be above the ceiling the turn is not taken either, and nothing is there after it."""
        assert engine.take(wish(ceiling=1), "a", HOUR_SECONDS) == Drawn(Outcome.AHEAD, 0, 0)
        assert engine.look() is None
        drawn(engine.take(wish(), "b", HOUR_SECONDS))

    def test_given_back(self, engine: Engine) -> None:
        """A turn that was given back is free at once, and to give it back once more changes nothing."""
        nonce = drawn(engine.take(wish(), "a", HOUR_SECONDS))
        engine.give_back(nonce)
        assert turn_is_free(engine)
        drawn(engine.take(wish(), "b", HOUR_SECONDS))
        engine.give_back(nonce)
        assert not turn_is_free(engine)

    def test_over(self, engine: Engine) -> None:
        """A turn that is not given back is free when its lifetime is over; given back later, it stays another's."""
        late = drawn(engine.take(wish(), "a", SOON_SECONDS))
        until(lambda: turn_is_free(engine))
        drawn(engine.take(wish(), "b", HOUR_SECONDS))
        engine.give_back(late)
        assert engine.take(wish(), "a", HOUR_SECONDS).outcome is Outcome.NEXT

    def test_the_owner_asks_again(self, engine: Engine) -> None:
        """Its owner takes the turn again, with a higher nonce, and only that one gives it back."""
        lost = drawn(engine.take(wish(), "a", HOUR_SECONDS))
        nonce = drawn(engine.take(wish(), "a", HOUR_SECONDS))
        assert nonce > lost
        engine.give_back(lost)
        assert not turn_is_free(engine)
        engine.give_back(nonce)
        assert turn_is_free(engine)

    def test_the_owner_asks_again_while_another_is_next(self, engine: Engine) -> None:
        """Its owner takes the turn again though another waits for it, or neither would have it until it is over."""
        drawn(engine.take(wish(), "a", HOUR_SECONDS))
        assert engine.take(wish(), "b", HOUR_SECONDS).outcome is Outcome.NEXT
        engine.give_back(drawn(engine.take(wish(), "a", HOUR_SECONDS)))
        drawn(engine.take(wish(), "b", HOUR_SECONDS))

    def test_the_next_one_is_next(self, engine: Engine) -> None:
        """A turn is given to the first who asked in vain, not to a busy sender who asks sooner, nor to a third."""
        nonce = drawn(engine.take(wish(), "a", HOUR_SECONDS))
        for owner in "bcb":
            assert engine.take(wish(), owner, HOUR_SECONDS).outcome is (Outcome.NEXT if owner == "b" else Outcome.BUSY)
        engine.give_back(nonce)
        for owner in "ac":
            assert engine.take(wish(), owner, HOUR_SECONDS).outcome is Outcome.BUSY
        drawn(engine.take(wish(), "b", HOUR_SECONDS))

    def test_who_has_waited_longer_is_next(self, engine: Engine) -> None:
        """Who has waited longer than the one who is next becomes next, or gets the turn at once where it is free."""
        nonce = drawn(engine.take(wish(), "a", HOUR_SECONDS))
        for owner, waited_seconds, outcome in (
            ("b", 2.0, Outcome.NEXT),
            ("c", 1.0, Outcome.BUSY),
            ("c", 3.0, Outcome.NEXT),
            ("b", 2.5, Outcome.BUSY),
        ):
            assert engine.take(wish(), owner, HOUR_SECONDS, waited_seconds).outcome is outcome
        engine.give_back(nonce)
        drawn(engine.take(wish(), "d", HOUR_SECONDS, 4.0))
        assert engine.take(wish(), "b", HOUR_SECONDS, 3.5).outcome is Outcome.NEXT

    def test_who_was_next_is_next_once(self, engine: Engine) -> None:
        """Who got the turn by being next is not next any more: whoever asks in vain then is."""
        nonce = drawn(engine.take(wish(), "a", HOUR_SECONDS))
        assert engine.take(wish(), "b", HOUR_SECONDS).outcome is Outcome.NEXT
        engine.give_back(nonce)
        nonce = drawn(engine.take(wish(), "b", HOUR_SECONDS))
        assert engine.take(wish(), "a", HOUR_SECONDS).outcome is Outcome.NEXT
        engine.give_back(nonce)
        assert engine.take(wish(), "b", HOUR_SECONDS).outcome is Outcome.BUSY
        drawn(engine.take(wish(), "a", HOUR_SECONDS))

    def test_who_is_next_and_asks_no_more_holds_nobody_up(self, engine: Engine) -> None:
        """Who is next and does not ask again is forgotten by the store's own clock, and the turn is another's."""
        nonce = drawn(engine.take(wish(), "a", HOUR_SECONDS))
        assert engine.take(wish(), "gone", HOUR_SECONDS).outcome is Outcome.NEXT
        engine.give_back(nonce)
        assert engine.take(wish(), "c", HOUR_SECONDS).outcome is Outcome.BUSY
        until(lambda: engine.take(wish(), "c", HOUR_SECONDS).outcome is Outcome.DRAWN)

    def test_many_at_once(self, key_row: KeyRow, engine: Engine, full_size: bool) -> None:
        """Of four senders on two clients that ask at once, one at a time has the turn, with nonces that rise."""
        clients = [engine, key_row.connect()]
        inside: list[str] = []
        nonces: list[int] = []
        pause = threading.Event()

        def take_turns(owner: str) -> None:
            client = clients[ord(owner) % 2]
            for _ in range(200 if full_size else 8):
                while (answer := client.take(wish(), owner, HOUR_SECONDS)).outcome is not Outcome.DRAWN:
                    pause.wait(0.002)
                inside.append(owner)
                assert inside == [owner]
                nonces.append(answer.nonce)
                inside.remove(owner)
                client.give_back(answer.nonce)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(take_turns, "abcd"))
        assert nonces == sorted(set(nonces))


def test_nothing_to_look_at(engine: Engine) -> None:
    """Steps on a key that the store does not know, which do nothing, leave nothing to look at."""
    assert engine.look() is None
    engine.give_back(1)
    assert not engine.renew(1, HOUR_SECONDS)
    engine.sign_off(1, settled=True)
    assert engine.draw(wish(generation=1)) == Drawn(Outcome.STALE, 0, 0)
    assert engine.draw(wish(ceiling=1)) == Drawn(Outcome.AHEAD, 0, 0)
    assert engine.look() is None


def test_closed(engine: Engine) -> None:
    """A client that was closed opens again with its next use, and may be closed twice."""
    nonce = drawn(engine.draw(wish()))
    engine.close()
    engine.close()
    assert drawn(engine.draw(wish())) > nonce

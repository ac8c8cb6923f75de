"""The contract of `bot.nonce.store_protocol` on leases, over plain Python, Redis and PostgreSQL."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from bot.nonce.store_protocol import Engine, Lease, Outcome
from tests.stores.key_rows import HOUR_SECONDS, KeyRow, drawn, lead, until, wish
from tests.stores.test_store_protocol import SOON_SECONDS, lease_is_over, turn_is_free


@pytest.fixture
def engine(key_row: KeyRow) -> Engine:
    """Return a client of a key that the store knows nothing of."""
    return key_row.connect()


def standing(engine: Engine) -> Lease:
    """Return the lease as the store has it."""
    row = engine.look()
    assert row is not None
    return row.lease


def test_the_first_one_leads(key_row: KeyRow, engine: Engine) -> None:
    """Who asks first leads, for its lifetime, by a generation that is the server's time; nobody had signed off."""
    before = key_row.server_us()
    lease = lead(engine, "a")
    assert before <= lease.generation <= key_row.server_us()
    assert HOUR_SECONDS - 60.0 < lease.remaining_seconds <= HOUR_SECONDS
    assert not lease.clean
    assert standing(engine).generation == lease.generation


def test_another_one_stands_by(engine: Engine) -> None:
    """While one leads, another is told who, by which generation and for how long, and nothing changes."""
    lease = lead(engine, "a")
    told = engine.acquire("b", 2 * HOUR_SECONDS)
    assert (told.owner, told.generation, told.clean) == ("a", lease.generation, False)
    assert 0.0 < told.remaining_seconds <= lease.remaining_seconds
    assert standing(engine).owner == "a"


def test_the_leader_asks_again(engine: Engine) -> None:
    """The same owner takes the same lease again while it lives, with the same generation, for a lifetime from then."""
    lease = lead(engine, "a")
    again = lead(engine, "a", 2 * HOUR_SECONDS)
    assert again.generation == lease.generation
    assert again.remaining_seconds > HOUR_SECONDS
    drawn(engine.draw(wish(generation=lease.generation)))


def test_the_former_leader_asks_again(engine: Engine) -> None:
    """A lease that is over is not brought back for its owner: it is granted anew, by a higher generation, not clean."""
    engine.sign_off(lead(engine, "z").generation, settled=True)
    former = lead(engine, "a", SOON_SECONDS)
    until(lambda: lease_is_over(engine))
    lease = lead(engine, "a")
    assert lease.generation > former.generation
    assert not lease.clean
    assert engine.draw(wish(generation=former.generation)).outcome is Outcome.STALE


def test_a_lease_that_is_over_is_granted_to_another(engine: Engine) -> None:
    """When its lifetime is over another one leads, by a higher generation, and is told that nobody signed off."""
    former = lead(engine, "a", SOON_SECONDS)
    until(lambda: lease_is_over(engine))
    assert standing(engine) == Lease("a", former.generation, 0.0, clean=False)
    lease = lead(engine, "b")
    assert lease.generation > former.generation
    assert not lease.clean


@pytest.mark.parametrize("settled", [True, False])
def test_signed_off(engine: Engine, settled: bool) -> None:
    """A lease that was signed off is granted at once, by a higher generation; `clean` says how it was signed off."""
    former = lead(engine, "a")
    engine.sign_off(former.generation, settled)
    assert standing(engine) == Lease("", former.generation, 0.0, clean=False)
    lease = lead(engine, "b")
    assert lease.generation > former.generation
    assert lease.clean is settled


def test_signed_off_too_late(engine: Engine) -> None:
    """Whoever signs off after its lease was over leaves nothing clean."""
    former = lead(engine, "a", SOON_SECONDS)
    until(lambda: lease_is_over(engine))
    engine.sign_off(former.generation, settled=True)
    assert not lead(engine, "b").clean


def test_clean_is_of_the_last_grant(engine: Engine) -> None:
    """`clean` stays with the grant while it lives, and is not the next one's where its owner has not signed off."""
    engine.sign_off(lead(engine, "a").generation, settled=True)
    lease = lead(engine, "b", SOON_SECONDS)
    assert lease.clean
    assert standing(engine).clean
    until(lambda: lease_is_over(engine))
    assert not lead(engine, "c").clean


def test_who_signed_off_leads_anew(engine: Engine) -> None:
    """An owner who signed off and asks again leads by a new generation."""
    former = lead(engine, "a")
    engine.sign_off(former.generation, settled=True)
    assert lead(engine, "a").generation > former.generation


def test_a_generation_never_comes_again(key_row: KeyRow, engine: Engine) -> None:
    """A generation that was lost with the store's data is not granted again, and draws nothing."""
    lost = lead(engine, "a").generation
    key_row.lose()
    assert lead(engine, "b").generation > lost
    assert engine.draw(wish(generation=lost)).outcome is Outcome.STALE


def test_renewed(engine: Engine) -> None:
    """A lease that is renewed lives for a whole lifetime from then."""
    lease = lead(engine, "a", HOUR_SECONDS)
    assert engine.renew(lease.generation, 2 * HOUR_SECONDS)
    assert standing(engine).remaining_seconds > HOUR_SECONDS
    assert engine.renew(lease.generation, SOON_SECONDS)
    assert standing(engine).remaining_seconds <= SOON_SECONDS


def test_not_renewed_when_it_is_over(engine: Engine) -> None:
    """A lease that is over is not renewed, though it is nobody else's yet: it stays over, and draws nothing."""
    lease = lead(engine, "a", SOON_SECONDS)
    until(lambda: lease_is_over(engine))
    assert not engine.renew(lease.generation, HOUR_SECONDS)
    assert lease_is_over(engine)
    assert engine.draw(wish(generation=lease.generation)).outcome is Outcome.STALE


def test_not_renewed(engine: Engine) -> None:
    """A lease is not renewed that was signed off, is another's by now, or never was; and nothing changes."""
    former = lead(engine, "a")
    engine.sign_off(former.generation, settled=True)
    before = engine.look()
    assert not engine.renew(former.generation, HOUR_SECONDS)
    assert engine.look() == before
    lease = lead(engine, "b")
    assert not engine.renew(former.generation, 2 * HOUR_SECONDS)
    assert not engine.renew(lease.generation + 1, 2 * HOUR_SECONDS)
    assert standing(engine).remaining_seconds <= HOUR_SECONDS


def test_signed_off_once(engine: Engine) -> None:
    """A sign-off that comes twice, or after another one leads, changes nothing."""
    former = lead(engine, "a")
    engine.sign_off(former.generation, settled=True)
    engine.sign_off(former.generation, settled=False)
    lease = lead(engine, "b")
    assert lease.clean
    engine.sign_off(former.generation, settled=True)
    assert standing(engine).owner == "b"
    drawn(engine.draw(wish(generation=lease.generation)))


def test_a_grant_takes_away_the_former_leaders_turn(engine: Engine) -> None:
    """The turn of a leader whose lease is over is free when another one leads."""
    lead(engine, "a", SOON_SECONDS)
    drawn(engine.take(wish(), "a", HOUR_SECONDS))
    until(lambda: lease_is_over(engine))
    assert not turn_is_free(engine)
    lead(engine, "b")
    assert turn_is_free(engine)
    drawn(engine.take(wish(), "b", HOUR_SECONDS))


def test_a_grant_leaves_another_senders_turn(engine: Engine) -> None:
    """The turn of a sender that did not lead stays its own when another one leads."""
    lead(engine, "a", SOON_SECONDS)
    drawn(engine.take(wish(), "script", HOUR_SECONDS))
    until(lambda: lease_is_over(engine))
    lead(engine, "b")
    row = engine.look()
    assert row is not None
    assert row.turn_owner == "script"
    assert engine.take(wish(), "b", HOUR_SECONDS).outcome is Outcome.NEXT


@pytest.mark.parametrize("owner", ["a", "script"])
def test_a_sign_off_takes_away_the_leaders_turn(engine: Engine, owner: str) -> None:
    """The turn of a leader that signs off is free at once; another sender's stays its own."""
    lease = lead(engine, "a")
    drawn(engine.take(wish(), owner, HOUR_SECONDS))
    engine.sign_off(lease.generation, settled=False)
    assert turn_is_free(engine) == (owner == "a")


def test_one_of_many_leads(key_row: KeyRow, engine: Engine, full_size: bool) -> None:
    """Of four that ask at the same moment, time and again, one leads, and all are told the same one."""
    clients = {owner: key_row.connect() for owner in "abcd"}
    with ThreadPoolExecutor(4) as pool:
        for _ in range(500 if full_size else 20):
            leases = list(pool.map(lambda owner: clients[owner].acquire(owner, HOUR_SECONDS), clients))
            assert len({(lease.owner, lease.generation) for lease in leases}) == 1
            engine.sign_off(leases[0].generation, settled=True)

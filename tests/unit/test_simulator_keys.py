"""Keys: Kraken's signature and the nonce rule."""

from __future__ import annotations

import pytest

from bot.simulator.errors import Refusal
from bot.simulator.keys import KeyRing, new_key, sign

SECRET = "kQH5HW/8p1uGOVjbgWA7FunAmGO8lsSUXNsu3eow76sz84Q18fWxnyRzBHCd3pd5nE9qa99HAZtuZuj6F1huXg=="
NONCE = "1616492376594"
ADD_ORDER = "/0/private/AddOrder"
FORM = "nonce=1616492376594&ordertype=limit&pair=XBTUSD&price=37500&type=buy&volume=1.25"
JSON = '{"nonce":"1616492376594","ordertype":"limit","pair":"XBTUSD","price":"37500","type":"buy","volume":"1.25"}'
NOW = 1_790_000_000.0


class Sender:
    """One key on a ring, and requests that it signs."""

    def __init__(self, nonce_window: int = 0, lockout_after: int = 0, allow_nonce_repeats: bool = False) -> None:
        self.key_ring = KeyRing(lockout_after, allow_nonce_repeats)
        self.key = new_key(NOW, "test", nonce_window=nonce_window)
        self.key_ring.add(self.key)

    def send(self, nonce: object, now: float = NOW, secret: str = "", key: str = "") -> str:
        """Return the refusal of a request with that nonce, or "" if it is accepted."""
        payload = f"nonce={nonce}"
        signature = sign(secret or self.key.secret, "/0/private/Balance", str(nonce), payload)
        try:
            self.key_ring.authenticate(key or self.key.key, signature, "/0/private/Balance", str(nonce), payload, now)
        except Refusal as refusal:
            return refusal.error
        return ""


@pytest.mark.parametrize(
    ("path", "payload", "signature"),
    [
        (ADD_ORDER, FORM, "4/dpxb3iT4tp/ZCVEwSnEsLxx0bqyhLpdfOpc6fn7OR8+UClSV5n9E6aSS8MPtnRfp32bAb0nmbRn6H8ndwLUQ=="),
        (
            "/0/private/Balance",
            f"nonce={NONCE}",
            "1nH4vwR+8FHiYh1QT649xXkGd3JR3x0DWkgv3u9Ed/Qqv6KPtgQpEU4m+Emb/VgpEji3j1XNwI+HCbfXxmrTOg==",
        ),
        (ADD_ORDER, JSON, "r/o+GpKxXjV/mls/r5CKLu5R+yzK5psqvQ4hXxMX1nzdxTBhV+ui82QGgPZMMitpFwCOAdPEZMmXgZxD2chJEg=="),
    ],
)
def test_the_signature_matches_krakens_examples(path: str, payload: str, signature: str) -> None:
    """The example of Kraken's authentication guide, and two more with the same secret, match."""
    assert sign(SECRET, path, NONCE, payload) == signature


def test_a_nonce_must_be_higher_than_every_one_before_it() -> None:
    """Equal and lower nonces are refused, a gap of any size is accepted, and no clock is read."""
    sender = Sender()
    answers = [sender.send(nonce) for nonce in (1, 2, 2, 1, 10**18, 10**18 - 1, 10**18 + 1)]
    bad = "EAPI:Invalid nonce"
    assert answers == ["", "", bad, bad, "", bad, ""]


def test_a_refused_nonce_does_not_move_the_floor() -> None:
    """After a refusal the nonce floor is unchanged."""
    sender = Sender()
    sender.send(10)
    sender.send(3)
    assert sender.key.floor == 10


@pytest.mark.parametrize("nonce", ["", "-1", "1.5", "abc", str(2**64), "1e9", "\u0663"])
def test_a_nonce_must_be_an_unsigned_64_bit_integer(nonce: str) -> None:
    """Only digits up to 2^64 - 1 are a nonce."""
    assert Sender().send(nonce) == "EAPI:Invalid nonce"


def test_the_maximum_nonce_is_accepted() -> None:
    """2^64 - 1 is accepted, as the last nonce of its key."""
    assert Sender().send(2**64 - 1) == ""


def test_a_bad_signature_never_moves_the_floor() -> None:
    """A request with a wrong secret and a high nonce is refused, and the next nonce works."""
    sender = Sender()
    assert sender.send(1000, secret=SECRET) == "EAPI:Invalid signature"
    assert sender.send(1) == ""


def test_an_unknown_key_is_refused() -> None:
    """A key that is not on the ring is refused whatever it signs."""
    assert Sender().send(1, key="nobody") == "EAPI:Invalid key"


def test_a_nonce_window_accepts_late_nonces_once_and_keeps_the_floor() -> None:
    """With a window of 5, 95 is accepted after 100, 94 is not, and the floor stays 100."""
    sender = Sender(nonce_window=5)
    assert [sender.send(nonce) for nonce in (100, 95, 94, 95)] == ["", "", "EAPI:Invalid nonce", "EAPI:Invalid nonce"]
    assert sender.key.floor == 100


def test_a_window_with_repeats_accepts_the_same_nonce_twice() -> None:
    """With the option on, a copy of a request inside the window is accepted again."""
    sender = Sender(nonce_window=5, allow_nonce_repeats=True)
    assert [sender.send(nonce) for nonce in (100, 100, 98, 98)] == ["", "", "", ""]


def test_lockout_is_off_by_default() -> None:
    """A hundred refusals in a minute lock nobody out by default."""
    sender = Sender()
    assert {sender.send(0) for _ in range(100)} == {"EAPI:Invalid nonce"}


def test_too_many_bad_requests_lock_the_sender_out_for_15_minutes() -> None:
    """After ten refusals within 60 s, a valid request is refused until 15 minutes without requests have passed."""
    sender = Sender(lockout_after=10)
    for second in range(10):
        sender.send(0, NOW + second)
    assert sender.send(1, NOW + 10) == "EGeneral:Temporary lockout"
    assert sender.send(1, NOW + 10 + 899) == "EGeneral:Temporary lockout"
    assert sender.send(1, NOW + 10 + 899 + 900) == ""


def test_bad_requests_far_apart_lock_nobody_out() -> None:
    """Ten refusals, seven seconds apart, are never ten within 60 s."""
    sender = Sender(lockout_after=10)
    assert {sender.send(0, NOW + 7 * count) for count in range(30)} == {"EAPI:Invalid nonce"}


def test_another_sender_on_the_key_raises_the_floor() -> None:
    """A nonce accepted from an external sender raises the floor for everyone on the key."""
    sender = Sender()
    sender.key_ring.raise_nonce_floor(sender.key.key, 500)
    assert [sender.send(500), sender.send(501)] == ["EAPI:Invalid nonce", ""]

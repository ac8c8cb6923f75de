"""Made-up secrets of every kind, and a look for pieces of them."""

from __future__ import annotations

import base64
import random
import socket

PIECE_LENGTH = 6
_random = random.Random(20260105)


def random_base64(count: int) -> str:
    """Return random bytes as Kraken writes its keys."""
    return base64.b64encode(_random.randbytes(count)).decode()


# As Kraken makes them: public keys have 56 characters, private ones and signatures 88.
KEYS = [random_base64(42) for _ in range(50)]
SECRETS = [random_base64(64) for _ in range(50)]
KEY, SECRET = KEYS[0], SECRETS[0]
BOT_TOKEN = "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1"  # as Telegram's documentation has one


def assert_no_part_of(secret: str, text: str) -> None:
    """Fail where a piece of the secret is in the text."""
    pieces = {secret[start : start + PIECE_LENGTH] for start in range(max(1, len(secret) - PIECE_LENGTH + 1))}
    assert [piece for piece in pieces if piece in text] == [], text


def unused_port() -> int:
    """Return a port of this machine on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])

"""Which engine an address names; the drivers are optional, and are loaded where a setting names one."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

from bot.base.errors import SettingsError
from bot.base.paths import key_hash
from bot.nonce.store_protocol import Engine

REDIS_SCHEMES = ("redis", "rediss")
POSTGRES_SCHEMES = ("postgresql", "postgres")
# Of the key's hash: enough that no two keys of a server that many share are taken for one.
NAME_DIGITS = 16

_BARE = re.compile(r"\s|%(?![0-9A-Fa-f]{2})")


def url_problem(url: str) -> str:
    """Return what is wrong with the address of a store, or "". The address is not in it: it may hold a password."""
    try:
        parts = urlsplit(url)
        # urlsplit makes it small, and the drivers want it so.
        known = url.startswith(f"{parts.scheme}:") and parts.scheme in REDIS_SCHEMES + POSTGRES_SCHEMES
        usable = known and bool(parts.hostname) and 0 not in _ports(parts)
    except ValueError:
        usable = False
    # A password with a bare / ? or # ends the host early, and one with a bare @ begins it early for libpq: what is
    # behind it would be taken for the rest, and shown.
    password = parts.netloc.rpartition("@")[0] if usable else ""
    if usable and "@" not in password + parts.path + parts.query + parts.fragment and not _BARE.search(url):
        return ""
    return (
        "must look like redis://host:6379/0, rediss://... or postgresql://user@host:5432/name, with the special "
        "characters of a password percent-encoded."
    )


def _ports(parts: SplitResult) -> list[int | None]:
    """Return the ports; raise ValueError for one that is none."""
    place = parts.netloc.rpartition("@")[2]
    # PostgreSQL may have several hosts, each with a port of its own.
    hosts = place.split(",") if parts.scheme in POSTGRES_SCHEMES else [place]
    return [urlsplit(f"//{host}").port for host in hosts]


def open_engine(url: str, api_key: str) -> Engine:
    """Return the engine for a key; it connects when it is first asked.

    Raises SettingsError for an address that is none, or where the driver is not installed.
    """
    if problem := url_problem(url):
        raise SettingsError([f"The address of the nonce store {problem}"])
    name = key_hash(api_key, NAME_DIGITS)
    scheme = urlsplit(url).scheme
    try:
        if scheme in REDIS_SCHEMES:
            from bot.nonce.redis_store import RedisEngine

            return RedisEngine(url, name)
        from bot.nonce.postgres_store import PostgresEngine

        return PostgresEngine(url, name)
    except ValueError as error:
        # The engines do not repeat the address.
        raise SettingsError([f"The address of the nonce store ({scheme}://...) cannot be used: {error}."]) from None
    except ImportError as error:
        raise SettingsError(
            [f"A nonce store at {scheme}://... needs a driver that is not installed ({error}). Run `make stores`."]
        ) from error

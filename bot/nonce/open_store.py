"""Open the nonce store that an address names. The drivers are optional and loaded only for such an address."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

from bot.base.errors import SettingsError
from bot.base.paths import key_hash
from bot.nonce.store_protocol import NonceStore

REDIS_SCHEMES = ("redis", "rediss")
POSTGRES_SCHEMES = ("postgresql", "postgres")
# Digits of the key's hash: enough to tell the keys on a server that many share apart.
KEY_HASH_DIGITS = 16

_UNENCODED = re.compile(r"\s|%(?![0-9A-Fa-f]{2})")


def url_problem(url: str) -> str:
    """Return what is wrong with the address of a store, or "". The text does not repeat the address, which may hold a
    password."""
    try:
        parts = urlsplit(url)
        # urlsplit converts the scheme to lower case, and the drivers accept lower case only.
        is_known_scheme = url.startswith(f"{parts.scheme}:") and parts.scheme in REDIS_SCHEMES + POSTGRES_SCHEMES
        is_usable = is_known_scheme and bool(parts.hostname) and 0 not in _ports(parts)
    except ValueError:
        is_usable = False
    # A password with a bare / ? or # ends the host too early, and one with a bare @ starts it too early for libpq: the
    # rest of the password would be taken for another part of the address, and shown.
    password = parts.netloc.rpartition("@")[0] if is_usable else ""
    if is_usable and "@" not in password + parts.path + parts.query + parts.fragment and not _UNENCODED.search(url):
        return ""
    return (
        "must look like redis://host:6379/0, rediss://... or postgresql://user@host:5432/name, with the special "
        "characters of a password percent-encoded."
    )


def _ports(parts: SplitResult) -> list[int | None]:
    """Return the ports; raise ValueError for an invalid one."""
    host_list = parts.netloc.rpartition("@")[2]
    # PostgreSQL may have several hosts, each with a port of its own.
    hosts = host_list.split(",") if parts.scheme in POSTGRES_SCHEMES else [host_list]
    return [urlsplit(f"//{host}").port for host in hosts]


def open_nonce_store(url: str, api_key: str) -> NonceStore:
    """Return the nonce store of a key; it connects at its first use.

    Raises SettingsError for an invalid address, or where the driver is not installed.
    """
    if problem := url_problem(url):
        raise SettingsError([f"The address of the nonce store {problem}"])
    name = key_hash(api_key, KEY_HASH_DIGITS)
    scheme = urlsplit(url).scheme
    try:
        if scheme in REDIS_SCHEMES:
            from bot.nonce.redis_store import RedisStore

            return RedisStore(url, name)
        from bot.nonce.postgres_store import PostgresStore

        return PostgresStore(url, name)
    except ValueError as error:
        # The errors of the stores do not repeat the address.
        raise SettingsError([f"The address of the nonce store ({scheme}://...) cannot be used: {error}."]) from None
    except ImportError as error:
        raise SettingsError(
            [f"A nonce store at {scheme}://... needs a driver that is not installed ({error}). Run `make stores`."]
        ) from error

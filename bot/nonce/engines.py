"""Which engine an address names; the drivers are optional, and are loaded where a setting names one."""

from __future__ import annotations

from urllib.parse import urlsplit

from bot.errors import SettingsError
from bot.nonce.engine import Engine
from bot.nonce.paths import key_hash

REDIS_SCHEMES = ("redis", "rediss")
POSTGRES_SCHEMES = ("postgresql", "postgres")
# Of the key's hash: enough that no two keys of a server that many share are taken for one.
NAME_DIGITS = 16


def url_problem(url: str) -> str:
    """Return what is wrong with the address of a store, or "". The address is not in it: it may hold a password."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in REDIS_SCHEMES + POSTGRES_SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    return "" if usable else "must look like redis://host:6379/0, rediss://... or postgresql://user@host:5432/name."


def open_engine(url: str, api_key: str) -> Engine:
    """Return the engine for a key; it connects when it is first asked.

    Raises SettingsError for an address that is none, or where the driver is not installed.
    """
    if problem := url_problem(url):
        raise SettingsError([f"NONCE_STORE {problem}"])
    name = key_hash(api_key, NAME_DIGITS)
    scheme = urlsplit(url).scheme
    try:
        if scheme in REDIS_SCHEMES:
            from bot.nonce.redis_engine import RedisEngine

            return RedisEngine(url, name)
        from bot.nonce.postgres_engine import PostgresEngine

        return PostgresEngine(url, name)
    except ImportError as error:
        raise SettingsError(
            [f"NONCE_STORE={scheme}://... needs a driver that is not installed ({error}). Run `make stores`."]
        ) from error

"""Addresses of a Redis server: which are accepted, how they are shown, and TLS."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.base.errors import SettingsError, StoreUnavailableError
from bot.nonce.open_store import open_nonce_store
from bot.nonce.redis_store import INVALID_URL_MESSAGE, RedisStore
from tests.servers import RedisServer
from tests.stores.key_rows import granted_nonce, make_request
from tests.tcp_proxy import FaultProxy


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("redis://host", "redis://host:6379/0"),
        ("redis://:secret@host:1/2", "redis://host:1/2"),
        ("redis://someone:sec%2Fret%40@host.example/", "redis://host.example:6379/0"),
        ("rediss://someone:secret@host:1?db=3&ssl_cert_reqs=none", "rediss://host:1/3"),
        ("redis://host?username=someone&password=secret", "redis://host:6379/0"),
        ("redis://someone:secret@[::1]:7", "redis://[::1]:7/0"),
    ],
)
def test_a_location_has_no_credentials(url: str, location: str) -> None:
    """A server is shown by scheme, host, port and database, without user name, password and options."""
    assert RedisStore(url, "name").location == location


@pytest.mark.parametrize(
    "url",
    [
        "http://host",
        "redis://:sec/ret@host",
        "redis://:12/34@host",
        "redis://:12#34@host",
        "redis://:12?34@host",
        "redis://host:port",
        "redis://host:99999",
        "redis://[::1",
        "redis://host/name",
        "redis://host/1/2",
        "redis://host?db=name",
        "redis://host?db=-1",
        "redis://host?socket_timeout=60",
        "redis://host?connection_class=x",
        "redis://host?ssl_cert_reqs=none",
        "rediss://host?ssl_nothing=1",
        "rediss://host?ssl_cert_reqs=maybe",
        f"redis://{'a' * 64}.example",
    ],
)
def test_an_address_that_cannot_be_used_is_refused_unseen(url: str) -> None:
    """A malformed address, one that an unescaped sign in a password cuts short, and one with unsupported options are
    refused by one sentence that repeats nothing of it."""
    with pytest.raises(ValueError, match="must look like") as caught:
        RedisStore(url, "name")
    assert str(caught.value) == INVALID_URL_MESSAGE
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_server_with_a_trusted_certificate_is_used_by_tls(redis_server: RedisServer, tmp_path: Path) -> None:
    """rediss:// works with a server whose certificate the named authority has signed."""
    with FaultProxy(redis_server, tls_folder=tmp_path) as proxy:
        assert proxy.url.startswith("rediss://")
        store = RedisStore(proxy.url, "name")
        assert granted_nonce(store.next_nonce(make_request())) > 0
        store.close()


def test_a_server_with_another_certificate_gets_nothing(redis_server: RedisServer, tmp_path: Path) -> None:
    """rediss:// without that authority fails at the certificate, with its own message, before the password is sent."""
    with FaultProxy(redis_server, tls_folder=tmp_path) as proxy:
        store = RedisStore(proxy.url.partition("?")[0], "name")
        with pytest.raises(StoreUnavailableError, match=r"(?i)certificate.verify.failed"):
            store.next_nonce(make_request())
        assert proxy.requests == 0


@pytest.mark.parametrize("scheme", ["redis", "postgresql"])
@pytest.mark.parametrize("who", ["bot:12@hunter2", "bot@host:hunter2"])
def test_a_bare_at_sign_is_refused_unseen(scheme: str, who: str) -> None:
    """An at sign in a user name or password must be percent-encoded: libpq takes what follows the first one as the
    host, which would be shown."""
    with pytest.raises(SettingsError, match="percent-encoded") as caught:
        open_nonce_store(f"{scheme}://{who}@127.0.0.1/0", "key")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["redis", "postgresql"])
@pytest.mark.parametrize("host", ["store..example", f"{'a' * 64}.example"])
def test_a_host_that_no_name_server_can_be_asked_for_is_refused(scheme: str, host: str) -> None:
    """A host name with an empty or an overlong part is a wrong address, and not an unexpected exception."""
    with pytest.raises(SettingsError, match="cannot be used"):
        open_nonce_store(f"{scheme}://{host}/0", "key")

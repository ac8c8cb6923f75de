"""The permissions in docs/stores.md are enough: the page's own commands, and nothing more."""

from __future__ import annotations

from urllib.parse import quote

import psycopg
import redis

from bot.nonce.postgres_store import PostgresStore
from bot.nonce.redis_store import RedisStore
from bot.nonce.store_protocol import GrantStatus, NonceStore
from tests.conftest import ROOT
from tests.pages import code_blocks, read_section
from tests.servers import PostgresServer, RedisServer
from tests.stores.key_rows import HOUR_SECONDS, acquire_lease, granted_nonce, make_request

SCHEMA = ROOT / "bot/nonce/postgres/schema.sql"
PASSWORD = "of-its-own"


def documented_command(title: str) -> str:
    """Return the one command that the page has under a title."""
    (command_line,) = code_blocks(read_section("docs/stores.md", title))
    return command_line.strip()


def check_every_step(store: NonceStore) -> None:
    """Check that a store does each of its steps."""
    fencing_token = acquire_lease(store, "a").fencing_token
    nonce = granted_nonce(store.acquire_lock(make_request(fencing_token=fencing_token), "a", HOUR_SECONDS))
    assert store.acquire_lock(make_request(), "b", HOUR_SECONDS).status is GrantStatus.RESERVED
    store.release_lock(nonce)
    # Ahead of the clock the next nonce is the last one plus one.
    ahead = granted_nonce(store.next_nonce(make_request(floor=nonce + 3_600_000_000)))
    assert granted_nonce(store.next_nonce(make_request())) == ahead + 1
    assert store.renew_lease(fencing_token, HOUR_SECONDS)
    store.release_lease(fencing_token, is_reconciled=True)
    assert acquire_lease(store, "b").is_clean_handover
    assert store.read_record() is not None
    store.close()


def test_redis(redis_server: RedisServer) -> None:
    """A user of Redis with the permissions of the page's command can do every step."""
    arguments = documented_command("Redis or Valkey").replace("PASSWORD", PASSWORD).split()
    with redis.Redis.from_url(redis_server.url) as admin:
        admin.execute_command(*arguments)
    check_every_step(RedisStore(f"redis://{arguments[2]}:{PASSWORD}@127.0.0.1:{redis_server.port}/0", "own"))


def test_postgres(postgres_server: PostgresServer) -> None:
    """A user of PostgreSQL with the permissions of the page's command, on a table of the owner's, can do every step."""
    line = documented_command("PostgreSQL")
    with psycopg.connect(postgres_server.admin_url, autocommit=True) as admin:
        database = admin.info.dbname
        admin.execute("REVOKE CREATE ON SCHEMA public FROM public")
        admin.execute(f"CREATE ROLE kraken_bot LOGIN PASSWORD '{PASSWORD}'")
        admin.execute(SCHEMA.read_bytes())
        admin.execute(line.encode())
    address = f"kraken_bot:{quote(PASSWORD)}@127.0.0.1:{postgres_server.port}/{database}"
    check_every_step(PostgresStore(f"postgresql://{address}", "own"))

"""The rights that docs/stores.md names are enough: the page's own lines, with nothing more."""

from __future__ import annotations

from urllib.parse import quote

import psycopg
import redis

from bot.nonce.postgres_store import PostgresEngine
from bot.nonce.redis_store import RedisEngine
from bot.nonce.store_protocol import Engine, Outcome
from tests.conftest import ROOT
from tests.pages import blocks, section
from tests.servers import PostgresServer, RedisServer
from tests.stores.key_rows import HOUR_SECONDS, drawn, lead, wish

SCHEMA = ROOT / "bot/nonce/postgres/schema.sql"
PASSWORD = "of-its-own"


def the_line(title: str) -> str:
    """Return the one command that the page has under a title."""
    (line,) = blocks(section("docs/stores.md", title))
    return line.strip()


def does_every_step(engine: Engine) -> None:
    """Check that an engine does each of its steps."""
    generation = lead(engine, "a").generation
    nonce = drawn(engine.take(wish(generation=generation), "a", HOUR_SECONDS))
    assert engine.take(wish(), "b", HOUR_SECONDS).outcome is Outcome.NEXT
    engine.give_back(nonce)
    # Ahead of the clock it is counted on.
    ahead = drawn(engine.draw(wish(floor=nonce + 3_600_000_000)))
    assert drawn(engine.draw(wish())) == ahead + 1
    assert engine.renew(generation, HOUR_SECONDS)
    engine.sign_off(generation, settled=True)
    assert lead(engine, "b").clean
    assert engine.look() is not None
    engine.close()


def test_redis(redis_server: RedisServer) -> None:
    """A user of Redis with the rights of the page's line does every step."""
    words = the_line("Redis or Valkey").replace("PASSWORD", PASSWORD).split()
    with redis.Redis.from_url(redis_server.url) as admin:
        admin.execute_command(*words)
    does_every_step(RedisEngine(f"redis://{words[2]}:{PASSWORD}@127.0.0.1:{redis_server.port}/0", "own"))


def test_postgres(postgres_server: PostgresServer) -> None:
    """A user of PostgreSQL with the rights of the page's line, on a table that its owner has made, does every step."""
    line = the_line("PostgreSQL")
    with psycopg.connect(postgres_server.admin_url, autocommit=True) as admin:
        database = admin.info.dbname
        admin.execute("REVOKE CREATE ON SCHEMA public FROM public")
        admin.execute(f"CREATE ROLE kraken_bot LOGIN PASSWORD '{PASSWORD}'")
        admin.execute(SCHEMA.read_bytes())
        admin.execute(line.encode())
    address = f"kraken_bot:{quote(PASSWORD)}@127.0.0.1:{postgres_server.port}/{database}"
    does_every_step(PostgresEngine(f"postgresql://{address}", "own"))

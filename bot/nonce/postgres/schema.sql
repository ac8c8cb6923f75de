-- One row a key, by the hash of the key. Times are microseconds since the Unix epoch by the server's clock, which is
-- read as clock_timestamp(); the cast from a fraction rounds (before PostgreSQL 14 it is a double).
CREATE TABLE IF NOT EXISTS kraken_bot_keys (
    name text PRIMARY KEY,
    nonce bigint NOT NULL DEFAULT 0,
    nonce_before bigint NOT NULL DEFAULT 0,
    turn_owner text NOT NULL DEFAULT '',
    turn_nonce bigint NOT NULL DEFAULT 0,
    turn_until bigint NOT NULL DEFAULT 0,
    turn_lifetime bigint NOT NULL DEFAULT 0,
    next_owner text NOT NULL DEFAULT '',
    next_until bigint NOT NULL DEFAULT 0,
    next_since bigint NOT NULL DEFAULT 0,
    lease_owner text NOT NULL DEFAULT '',
    lease_until bigint NOT NULL DEFAULT 0,
    lease_lifetime bigint NOT NULL DEFAULT 0,
    generation bigint NOT NULL DEFAULT 0,
    settled boolean NOT NULL DEFAULT false,
    clean boolean NOT NULL DEFAULT false
)

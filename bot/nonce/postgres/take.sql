-- The turn remembers the nonce that it was taken with: both are one number, computed once.
UPDATE kraken_bot_keys AS k
SET (nonce_before, nonce, turn_nonce, turn_owner, turn_until, turn_lifetime, next_owner, next_until, lease_until) = (
    SELECT
        k.nonce,
        drawn.nonce,
        drawn.nonce,
        %(owner)s,
        clock.now + %(lifetime)s,
        %(lifetime)s,
        CASE WHEN k.next_owner = %(owner)s THEN '' ELSE k.next_owner END,
        CASE WHEN k.next_owner = %(owner)s THEN 0 ELSE k.next_until END,
        CASE
            WHEN k.generation = %(generation)s THEN least(k.lease_until, clock.now + k.lease_lifetime)
            ELSE k.lease_until
        END
    FROM
        (SELECT round(extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now OFFSET 0) AS clock,
        LATERAL (
            SELECT greatest(k.nonce + 1, %(floor)s, least(clock.now * %(ticks)s, %(ceiling)s)) AS nonce OFFSET 0
        ) AS drawn
)
WHERE k.name = %(name)s AND (
    SELECT
        k.nonce < %(ceiling)s
        AND %(floor)s <= %(ceiling)s
        AND clock.now * %(ticks)s <= %(ceiling)s
        AND (%(generation)s = 0 OR k.generation = %(generation)s AND k.lease_until > clock.now)
        AND (k.turn_owner = %(owner)s OR k.turn_until <= clock.now)
        AND (k.next_owner = %(owner)s OR k.next_until <= clock.now)
    FROM (SELECT round(extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now OFFSET 0) AS clock
)
RETURNING nonce, nonce_before

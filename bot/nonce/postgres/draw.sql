-- A statement that has waited for another one's row begins again with the new row and the new time. The clock is read
-- more than once, so the nonce is held below the ceiling that it was let through for.
UPDATE kraken_bot_keys AS k
SET nonce_before = k.nonce,
    nonce = greatest(
        k.nonce + 1,
        %(floor)s,
        least(round(extract(epoch FROM clock_timestamp()) * 1000000)::bigint * %(ticks)s, %(ceiling)s)
    ),
    lease_until = CASE
        WHEN k.generation = %(generation)s
        THEN least(k.lease_until, round(extract(epoch FROM clock_timestamp()) * 1000000)::bigint + k.lease_lifetime)
        ELSE k.lease_until
    END
WHERE k.name = %(name)s
    AND k.nonce < %(ceiling)s
    AND %(floor)s <= %(ceiling)s
    AND round(extract(epoch FROM clock_timestamp()) * 1000000)::bigint * %(ticks)s <= %(ceiling)s
    AND (
        %(generation)s = 0
        OR k.generation = %(generation)s
        AND k.lease_until > round(extract(epoch FROM clock_timestamp()) * 1000000)::bigint
    )
RETURNING nonce, nonce_before

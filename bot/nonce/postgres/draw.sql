-- A statement that has waited for another one's row begins again with the new row and the new time. The clock is read
-- more than once, as a subquery for it would cost more: so the nonce is held below the ceiling that it was let through
-- for.
UPDATE kraken_bot_keys
SET nonce_before = nonce,
    nonce = greatest(
        nonce + 1,
        %(floor)s,
        least((extract(epoch FROM clock_timestamp()) * 1000000)::bigint * %(ticks)s, %(ceiling)s)
    ),
    lease_until = CASE
        WHEN generation = %(generation)s
        THEN least(lease_until, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + lease_lifetime)
        ELSE lease_until
    END
WHERE name = %(name)s
    AND nonce < %(ceiling)s
    AND %(floor)s <= %(ceiling)s
    AND (extract(epoch FROM clock_timestamp()) * 1000000)::bigint * %(ticks)s <= %(ceiling)s
    AND (
        %(generation)s = 0
        OR generation = %(generation)s
        AND lease_until > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
    )
RETURNING nonce, nonce_before

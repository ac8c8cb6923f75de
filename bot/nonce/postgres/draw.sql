-- The time is that of the statement's start. One that then has to wait for another one's row goes on with the new row,
-- so that its nonce is above the other's; under a lease that was taken over meanwhile it draws none.
UPDATE kraken_bot_keys
SET nonce_before = nonce,
    nonce = greatest(nonce + 1, %(floor)s, now * %(ticks)s),
    lease_until = CASE
        WHEN generation = %(generation)s THEN least(lease_until, now + lease_lifetime) ELSE lease_until
    END
FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now) AS clock
WHERE name = %(name)s
    AND nonce < %(ceiling)s AND %(floor)s <= %(ceiling)s AND now * %(ticks)s <= %(ceiling)s
    AND (%(generation)s = 0 OR generation = %(generation)s AND lease_until > now)
RETURNING nonce, nonce_before

-- As draw.sql; and the turn remembers the nonce that it was taken with.
UPDATE kraken_bot_keys
SET nonce_before = nonce,
    nonce = greatest(nonce + 1, %(floor)s, now * %(ticks)s),
    turn_nonce = greatest(nonce + 1, %(floor)s, now * %(ticks)s),
    turn_owner = %(owner)s,
    turn_until = now + %(lifetime)s,
    turn_lifetime = %(lifetime)s,
    next_owner = CASE WHEN next_owner = %(owner)s THEN '' ELSE next_owner END,
    next_until = CASE WHEN next_owner = %(owner)s THEN 0 ELSE next_until END,
    lease_until = CASE
        WHEN generation = %(generation)s THEN least(lease_until, now + lease_lifetime) ELSE lease_until
    END
FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now) AS clock
WHERE name = %(name)s
    AND nonce < %(ceiling)s AND %(floor)s <= %(ceiling)s AND now * %(ticks)s <= %(ceiling)s
    AND (%(generation)s = 0 OR generation = %(generation)s AND lease_until > now)
    AND CASE
        WHEN turn_until > now THEN turn_owner = %(owner)s
        ELSE next_owner = %(owner)s OR next_until <= now OR next_since > now - %(waited)s
    END
RETURNING nonce, nonce_before

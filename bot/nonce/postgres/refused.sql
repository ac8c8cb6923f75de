-- Why nothing was drawn, with an empty owner for one who asks for no turn. The last two columns: is the owner next, where
-- reserve.sql has nothing to write; and has it?
SELECT
    nonce,
    %(generation)s <> 0 AND (generation <> %(generation)s OR lease_until <= now),
    %(owner)s <> ''
    AND CASE
        WHEN turn_until > now THEN turn_owner <> %(owner)s
        ELSE next_owner <> %(owner)s AND next_until > now AND next_since <= now - %(waited)s
    END,
    nonce >= %(ceiling)s OR %(floor)s > %(ceiling)s OR now * %(ticks)s > %(ceiling)s,
    next_owner = %(owner)s,
    CASE
        WHEN next_owner = %(owner)s THEN next_until <= now + %(next_lifetime)s / 2
        ELSE next_until <= now OR next_since > now - %(waited)s
    END
    OR next_until > now + %(next_lifetime)s
    OR turn_until > now + turn_lifetime
    OR generation = %(generation)s AND lease_until > now + lease_lifetime
FROM kraken_bot_keys, (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now) AS clock
WHERE name = %(name)s

-- Whoever asked in vain is next, if nobody is who has waited as long; times too far away are cut to one lifetime.
UPDATE kraken_bot_keys
SET turn_until = least(turn_until, now + turn_lifetime),
    next_owner = CASE
        WHEN next_owner <> %(owner)s AND next_until > now AND next_since <= now - %(waited)s
        THEN next_owner
        ELSE %(owner)s
    END,
    next_until = CASE
        WHEN next_owner <> %(owner)s AND next_until > now AND next_since <= now - %(waited)s
        THEN least(next_until, now + %(next_lifetime)s)
        ELSE now + %(next_lifetime)s
    END,
    next_since = CASE
        WHEN next_owner <> %(owner)s AND next_until > now AND next_since <= now - %(waited)s
        THEN next_since
        ELSE now - %(waited)s
    END,
    lease_until = CASE
        WHEN generation = %(generation)s THEN least(lease_until, now + lease_lifetime) ELSE lease_until
    END
FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now) AS clock
WHERE name = %(name)s
    AND CASE
        WHEN turn_until > now THEN turn_owner <> %(owner)s
        ELSE next_owner <> %(owner)s AND next_until > now AND next_since <= now - %(waited)s
    END
RETURNING next_owner = %(owner)s

-- The same owner goes on with its generation. Every column on the right is the row as it was before.
UPDATE kraken_bot_keys
SET lease_owner = %(owner)s,
    lease_until = now + %(lifetime)s,
    lease_lifetime = %(lifetime)s,
    generation = CASE WHEN lease_until > now THEN generation ELSE greatest(generation + 1, now) END,
    clean = CASE WHEN lease_until > now THEN clean ELSE settled END,
    settled = false,
    turn_owner = CASE WHEN turn_owner = lease_owner AND lease_until <= now THEN '' ELSE turn_owner END,
    turn_until = CASE WHEN turn_owner = lease_owner AND lease_until <= now THEN 0 ELSE turn_until END
FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now) AS clock
WHERE name = %(name)s AND (lease_owner = %(owner)s OR lease_until <= now)
RETURNING lease_owner, generation, lease_lifetime, clean

-- The same owner goes on with its generation. Every column on the right is the row as it was before.
UPDATE kraken_bot_keys AS k
SET (lease_owner, lease_until, lease_lifetime, generation, settled, clean, turn_owner, turn_until) = (
    SELECT
        %(owner)s,
        clock.now + %(lifetime)s,
        %(lifetime)s,
        CASE WHEN k.lease_owner = %(owner)s THEN k.generation ELSE greatest(k.generation + 1, clock.now) END,
        false,
        CASE WHEN k.lease_owner = %(owner)s THEN k.clean ELSE k.settled END,
        CASE WHEN k.turn_owner = k.lease_owner AND k.lease_owner <> %(owner)s THEN '' ELSE k.turn_owner END,
        CASE WHEN k.turn_owner = k.lease_owner AND k.lease_owner <> %(owner)s THEN 0 ELSE k.turn_until END
    FROM (SELECT round(extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now OFFSET 0) AS clock
)
WHERE k.name = %(name)s
    AND (
        k.lease_owner = %(owner)s
        OR k.lease_until <= round(extract(epoch FROM clock_timestamp()) * 1000000)::bigint
    )
RETURNING lease_owner, generation, lease_lifetime, clean

-- It may have left a request behind, whose answer nobody waits for any more: its turn ends too. After its end another
-- one may have led, in writes that this server has lost: then nothing is settled.
UPDATE kraken_bot_keys
SET lease_owner = '',
    lease_until = 0,
    settled = %(settled)s AND lease_until > now,
    turn_owner = CASE WHEN turn_owner = lease_owner THEN '' ELSE turn_owner END,
    turn_until = CASE WHEN turn_owner = lease_owner THEN 0 ELSE turn_until END
FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now) AS clock
WHERE name = %(name)s AND generation = %(generation)s AND lease_owner <> ''

-- It may have left a request behind, whose answer nobody waits for any more: its turn ends too.
UPDATE kraken_bot_keys
SET lease_owner = '',
    lease_until = 0,
    settled = %(settled)s,
    turn_owner = CASE WHEN turn_owner = lease_owner THEN '' ELSE turn_owner END,
    turn_until = CASE WHEN turn_owner = lease_owner THEN 0 ELSE turn_until END
WHERE name = %(name)s AND generation = %(generation)s AND lease_owner <> ''

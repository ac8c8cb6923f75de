UPDATE kraken_bot_keys
SET lease_owner = '', lease_until = 0, settled = %(settled)s
WHERE name = %(name)s AND generation = %(generation)s AND lease_owner <> ''

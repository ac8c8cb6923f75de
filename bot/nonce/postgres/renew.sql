UPDATE kraken_bot_keys
SET lease_until = round(extract(epoch FROM clock_timestamp()) * 1000000)::bigint + %(lifetime)s,
    lease_lifetime = %(lifetime)s
WHERE name = %(name)s AND generation = %(generation)s AND lease_owner <> ''
RETURNING generation

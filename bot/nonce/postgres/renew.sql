-- A lease that ran out is not brought back: another one may have led since, in writes that this server has lost.
UPDATE kraken_bot_keys
SET lease_until = now + %(lifetime)s, lease_lifetime = %(lifetime)s
FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now) AS clock
WHERE name = %(name)s AND generation = %(generation)s AND lease_until > now
RETURNING generation

-- A lease that ends later than its whole lifetime from now was written before the clock was set back.
UPDATE kraken_bot_keys
SET lease_until = now + lease_lifetime
FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now) AS clock
WHERE name = %(name)s AND lease_until > now + lease_lifetime

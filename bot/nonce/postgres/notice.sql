-- A lease that ends later than its whole lifetime from now was written before the clock was set back.
UPDATE kraken_bot_keys AS k
SET lease_until = least(
    k.lease_until,
    round(extract(epoch FROM clock_timestamp()) * 1000000)::bigint + k.lease_lifetime
)
WHERE k.name = %(name)s
    AND k.lease_until > round(extract(epoch FROM clock_timestamp()) * 1000000)::bigint + k.lease_lifetime

-- The last column: has notice.sql anything to write?
SELECT
    nonce,
    lease_owner,
    generation,
    greatest(0, least(lease_until - now, lease_lifetime)),
    clean,
    CASE WHEN turn_until > now THEN turn_owner ELSE '' END,
    lease_until > now + lease_lifetime
FROM kraken_bot_keys, (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now) AS clock
WHERE name = %(name)s

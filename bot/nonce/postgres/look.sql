-- The last column: is the lease longer than its whole lifetime, so that notice.sql has something to write?
SELECT
    k.nonce,
    k.lease_owner,
    k.generation,
    greatest(0, least(k.lease_until - clock.now, k.lease_lifetime)),
    k.clean,
    CASE WHEN k.turn_until > clock.now THEN k.turn_owner ELSE '' END,
    k.lease_until > clock.now + k.lease_lifetime
FROM
    kraken_bot_keys AS k,
    (SELECT round(extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now OFFSET 0) AS clock
WHERE k.name = %(name)s

-- Why nothing was drawn; an empty owner asks for no turn. The last column: would reserve.sql change anything?
SELECT
    k.nonce,
    %(generation)s <> 0 AND (k.generation <> %(generation)s OR k.lease_until <= clock.now),
    %(owner)s <> '' AND (it.taken OR it.reserved),
    k.nonce >= %(ceiling)s OR %(floor)s > %(ceiling)s OR clock.now * %(ticks)s > %(ceiling)s,
    NOT it.reserved
    OR k.turn_until > clock.now + k.turn_lifetime
    OR k.next_until > clock.now + %(next_lifetime)s
FROM
    kraken_bot_keys AS k,
    (SELECT round(extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now OFFSET 0) AS clock,
    LATERAL (
        SELECT
            k.turn_owner <> %(owner)s AND k.turn_until > clock.now AS taken,
            k.next_owner <> %(owner)s AND k.next_until > clock.now AS reserved
    ) AS it
WHERE k.name = %(name)s

-- Whoever asked in vain is next, if nobody is; times too far away are cut to one lifetime.
UPDATE kraken_bot_keys AS k
SET (turn_until, next_owner, next_until) = (
    SELECT
        least(k.turn_until, clock.now + k.turn_lifetime),
        CASE WHEN k.next_until > clock.now THEN k.next_owner ELSE %(owner)s END,
        CASE
            WHEN k.next_until > clock.now AND k.next_owner <> %(owner)s
            THEN least(k.next_until, clock.now + %(next_lifetime)s)
            ELSE clock.now + %(next_lifetime)s
        END
    FROM (SELECT round(extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now OFFSET 0) AS clock
)
WHERE k.name = %(name)s AND (
    SELECT
        k.turn_owner <> %(owner)s AND k.turn_until > clock.now
        OR k.next_owner <> %(owner)s AND k.next_until > clock.now
    FROM (SELECT round(extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now OFFSET 0) AS clock
)

UPDATE kraken_bot_keys
SET turn_owner = '', turn_until = 0
WHERE name = %(name)s AND turn_nonce = %(nonce)s

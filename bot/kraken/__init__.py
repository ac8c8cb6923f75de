"""Kraken's Spot REST API: the transport, the private call and the parsing of responses.

`transport` sends. `error_table` maps each error string to its meaning and to whether the request may be repeated.
`pairs` has names, precision and minima, `responses` parses responses into `bot.base.models`, `order_requests` builds
orders. `rate_limiter` and `circuit_breaker` decide when a key may send, `nonce_recovery` what follows a refused nonce.
"""

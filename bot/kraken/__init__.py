"""Everything about Kraken's Spot REST API: the transport, one private call, and how its answers are read.

`transport` sends, `error_table` says what each error string means and whether the request may be repeated, `pairs`
knows names, precision and minima, `responses` reads answers into `bot.base.models`, `order_requests` writes orders.
`rate_limiter` and `circuit_breaker` say when a key may send; `nonce_recovery` says what follows a refused nonce.
"""

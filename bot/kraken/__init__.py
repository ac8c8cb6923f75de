"""Kraken's Spot REST API: the transport, one attempt at a request, public market data, the account.

`transport` is krakenex's client over `http_connection`, which sends and reads. `client` is one attempt at a private
request, with `rate_limiter` and `circuit_breaker`, which decide when a key may send, and `nonce_recovery`, which
decides what follows a refused nonce. `market_data` and `account` read. `error_table` maps each error string to its
meaning and to whether the request may be repeated. `pairs` has names, precision and minima, `responses` parses
responses into `bot.base.models`, `new_order` builds orders.
"""

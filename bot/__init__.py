"""The Kraken trading bot. `python main.py` runs it.

Packages, top to bottom; a package imports from those below it only (checked by `make test`):

    cli             the command line
    dashboard       the web page, /api and /metrics
    app             one run of the bot: session, lifecycle, supervisor, alerts, reports
    broker_manager  KrakenBroker and get_kraken_nonce(); beside it `trading`: trader, risk, strategies
    orders          gateway, reconciliation, journal; beside it `config`: the settings
    kraken          transport, error table, pairs, requests and responses, rate limiter, circuit breaker
    nonce           nonce stores, request locks, leader election; beside it `simulator`: the local Kraken
    base            errors, models, clock, events, metrics, logging, files
"""

__version__ = "0.1.0"

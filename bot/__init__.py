"""The Kraken trading bot. Arrows point down only:

main -> trader -> broker_manager -> kraken, nonce -> models, errors, clock

`strategies`, `risk` and `position` know `models` alone; nothing below `main.py` knows `simulator`.
"""

__version__ = "0.1.0"

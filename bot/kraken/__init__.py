"""What is known of Kraken's Spot REST API, as data and pure functions.

- `error_table`: every error string, what it means, whether the request may have run, whether it may be repeated;
- `pairs`: names, precision and minima from AssetPairs and Assets;
- `replies`: Kraken's answers read into `bot.models`;
- `limits`: the decaying counters, kept so that the bot waits instead of being refused.

Nothing in these four sends a request, reads a clock or keeps a file.
"""

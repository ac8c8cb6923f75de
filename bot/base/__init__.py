"""What every other package may use: errors, models, clocks, timeframes, events, metrics, logging and files.

Nothing here imports another package of the bot. Start with `errors` (the exception tree), `models` (the typed values),
`clock` (the only module that reads a clock or sleeps) and `events` (what the program reports about itself).
"""

"""A local Kraken over real HTTP on loopback: for paper trading and for tests.

What it enforces as Kraken does: signature, nonce floor per key for ever, nonce window, permissions, rate counters by
tier, precision and minima, fees, holds, deadlines, client ids unique among open orders. What is simpler than the
exchange: one account, no margin, no order queue and unlimited depth at the price (an order fills when the price path
touches it), one tick of spread on each side, no conditional close, no relative prices, no amend, edit or batches.

It is written from Kraken's documentation, independent of the client. From the rest of the bot it imports
`bot.base.clock` alone.
"""

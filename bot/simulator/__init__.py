"""A local Kraken over real HTTP on loopback: for paper trading and for tests.

It enforces as Kraken does: signature, nonce floor per key for ever, nonce window, permissions, rate counters by tier,
precision and minima, fees, holds, deadlines, client order ids unique among open orders. It is simpler than the exchange
in these points: one account, no margin, no order queue and unlimited depth at the price (an order fills when the price
path touches it), one tick of spread on each side, no conditional close, no relative prices, no amend, edit or batches.

It is written from Kraken's documentation, independent of the client. From the rest of the bot it imports
`bot.base.clock` alone.
"""

"""Decides what to trade: the trader's cycle, strategies, risk limits, the position and the exit policy.

`trader.Trader` runs the cycle. It reaches the exchange through the protocol in `broker` alone, so it runs the same on
paper, live and in a test.
"""

"""Nonces and turns.

The promise of a store: every nonce is greater than all before it on that file, whoever drew them; it is
never below `at_least`; it is written down before it is returned. Survived: the death of the process at
any moment, damage to the file, a clock that steps. Not promised: anything about two machines without a
shared disk.

The promise of a turn: one private request per API key is under way at any time, across the threads and
processes of one machine, so that nonces arrive at Kraken in the order in which they were drawn.
"""

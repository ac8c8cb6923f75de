"""Nonces and request locks, for threads, processes and hosts.

The one way to get a nonce is `bot.broker_manager.get_kraken_nonce`, which takes it from a store of this package.

The promise of a nonce store: every nonce is greater than all nonces before it in that file or record, whichever process
took them; it is never below `at_least`; it is written before it is returned. The promise survives the death of the
process at any moment, damage to the file and clock steps. Without a shared store it covers one machine only.

The promise of a request lock: one private request per API key is in flight at any time, across the threads and
processes of one machine and, with a shared store, across hosts, so that nonces reach Kraken in order.

`file_store`, `redis_store` and `postgres_store` keep nonces; `local_lock` and `distributed_lock` are the request lock;
`leader_election` decides which instance of the bot trades.
"""

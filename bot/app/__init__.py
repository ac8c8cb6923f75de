"""Runs the bot: one run of trading, its start and end, and its reports to people.

`venue` opens Kraken or a paper account, `session` is one run on it, `lifecycle` ends it within five seconds of a
signal, `supervisor` restarts it after a transient error. `preflight` checks the setup before any order,
`instance_lock` keeps a second bot off the state folder, `alerts` and `reports` inform people.
"""

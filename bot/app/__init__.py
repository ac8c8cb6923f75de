"""Runs the bot: one run of trading, its start and end, and what it reports to people.

`venue` opens Kraken or a paper account, `session` is one run on it, `lifecycle` ends it within five seconds of a
signal, `supervisor` starts it again after trouble. `preflight` checks the setup before any order, `instance_lock`
keeps a second bot off the state folder, `alerts` and `reports` tell people what happened.
"""

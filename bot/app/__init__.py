"""Runs the bot: one run of trading, its start and end, and what it reports to people.

`session` is one run, `lifecycle` ends it within five seconds of a signal, `supervisor` starts it again after trouble.
`preflight` checks the setup before any order, `instance_lock` keeps a second bot off the state folder, `alerts` and
`reports` tell people what happened.
"""

"""The web page of a running bot, its `/api` and `/metrics`, and the client behind the `status` command.

`server.open_dashboard` starts it; `snapshot` reads the bot's state; `page` and `charts` draw it.
"""

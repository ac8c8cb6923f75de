"""The web page of a running bot, its `/api` and `/metrics`, and the client behind the `status` command.

`listener.Listener` holds its port; `server.DashboardServer` serves it; `snapshot` reads the bot's state; `page` and
`charts` render it.
"""

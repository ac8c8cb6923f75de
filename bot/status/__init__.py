"""What the bot shows of itself: facts, a server on loopback or behind a token, and the page."""

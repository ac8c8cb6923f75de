-- A row with nothing in it says the same as none.
INSERT INTO kraken_bot_keys (name) VALUES (%(name)s) ON CONFLICT (name) DO NOTHING

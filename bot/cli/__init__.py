"""The command line of `python main.py`: `parser` lists the commands, and each command has a module of its own."""

"""The command line of `python main.py`.

`start` runs it and ends the process, `parser` describes commands and options, `commands` maps each command to its
function, and `exit_codes` maps each error to its exit code. The other modules are the commands.
"""

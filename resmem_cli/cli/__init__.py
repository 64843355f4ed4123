"""The command line: the only code that uses typer and rich."""

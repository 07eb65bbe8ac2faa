"""`python -m mlc`: the command line."""

from .compiler.cli import main

main()

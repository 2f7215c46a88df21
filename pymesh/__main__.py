"""`python -m pymesh`: the command, where no script of that name is installed."""

from pymesh.cli.main import main

main()

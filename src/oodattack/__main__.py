"""`python -m oodattack`."""

from oodattack.cli import main

main()

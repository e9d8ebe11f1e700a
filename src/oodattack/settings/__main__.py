"""`python -m oodattack.settings`: the tables of settings in docs/usage.md."""

import sys

from oodattack.settings import COMMANDS
from oodattack.settings.table import markdown_table

for command, settings in COMMANDS.items():
    sys.stdout.write(f"### `oodattack {command}`\n\n{markdown_table(settings)}\n")

"""`python -m oodattack.settings`: the tables of settings in docs/usage.md."""

import sys

from oodattack.settings import VERBS
from oodattack.settings.table import markdown_table

for verb, settings in VERBS.items():
    sys.stdout.write(f"### `oodattack {verb}`\n\n{markdown_table(settings)}\n")

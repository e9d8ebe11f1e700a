"""How work is run: batches that fit into memory, their measured size, the machine."""

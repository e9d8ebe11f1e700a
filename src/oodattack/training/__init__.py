"""Fitting networks: one loop, and what each method minimises."""

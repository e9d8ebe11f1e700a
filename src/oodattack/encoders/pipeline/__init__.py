"""Pipelines: what a product does to an image file before its network, as the first layer of f (Section II-A)."""

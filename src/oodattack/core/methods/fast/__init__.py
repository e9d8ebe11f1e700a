"""`fast`: whitened errors, softened kinks, two precisions, and a search on the 8-bit grid."""

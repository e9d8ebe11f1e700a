"""Algorithm 1 and what it needs: knows a callable and tensors, imports torch and itself only.

Nothing is imported here: settings and the command line take `core.errors` without loading torch.
"""

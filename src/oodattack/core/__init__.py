"""Algorithm 1 and what it needs: it works on a callable and tensors, and imports nothing but torch and itself.

Nothing is imported here, so that settings and the command line can import `core.errors` without loading torch.
"""

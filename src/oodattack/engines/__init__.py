"""Who runs the batches: this process."""

from oodattack.engines.local import Progress, run_attack

__all__ = ["Progress", "run_attack"]

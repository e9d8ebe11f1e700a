"""Fitting networks: the trained methods of the paper's references."""

from oodattack.training.trainer import Training, train

__all__ = ["Training", "train"]

"""Detectors built on likelihoods: on flows of images."""

from oodattack.detectors.likelihood.models import ImageModels

__all__ = ["ImageModels"]

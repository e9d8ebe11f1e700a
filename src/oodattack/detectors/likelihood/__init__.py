"""Detectors built on likelihoods: on flows of images."""

from functools import partial

from oodattack.detectors.likelihood.dose import DoSE
from oodattack.detectors.likelihood.levels import LastScale
from oodattack.detectors.likelihood.mass import ApproximateMass
from oodattack.detectors.likelihood.models import ImageModels
from oodattack.detectors.likelihood.nll import NLL, Typicality
from oodattack.detectors.likelihood.ratio import LikelihoodRatio
from oodattack.detectors.likelihood.readings import READING, Likelihoods
from oodattack.detectors.likelihood.waic import WAIC
from oodattack.detectors.make import Make

__all__ = ["READING", "ImageModels", "Likelihoods", "likelihood_detectors"]


def likelihood_detectors(models: ImageModels, dequantise: int = 0) -> dict[str, Make]:
    """Detectors on flows of images, which share one reading (`Likelihoods`).

    Args:
        models: the trained models; detectors whose models are missing do not apply.
        dequantise: number of draws of the dequantisation noise that scores average over; 0 for its middle.

    Raises:
        InputError: for a negative number.

    >>> list(likelihood_detectors(ImageModels()))
    ['NLL', 'LikelihoodRatio', 'WAIC', 'Typicality', 'DoSE', 'LastScale', 'ApproximateMass']
    """
    likelihoods = Likelihoods(models, dequantise)
    return {
        "NLL": partial(NLL, likelihoods),
        "LikelihoodRatio": partial(LikelihoodRatio, likelihoods),
        "WAIC": partial(WAIC, likelihoods),
        "Typicality": partial(Typicality, likelihoods),
        "DoSE": partial(DoSE, likelihoods),
        "LastScale": partial(LastScale, likelihoods),
        "ApproximateMass": partial(ApproximateMass, likelihoods),
    }

"""Detectors built on densities: on flows and score networks of images, and on a flow of features."""

from functools import partial

from oodattack.detectors.likelihood.complexity import InputComplexity
from oodattack.detectors.likelihood.dose import DoSE
from oodattack.detectors.likelihood.levels import LastScale
from oodattack.detectors.likelihood.mass import ApproximateMass
from oodattack.detectors.likelihood.models import ImageModels
from oodattack.detectors.likelihood.nll import NLL, Typicality
from oodattack.detectors.likelihood.ratio import LikelihoodRatio
from oodattack.detectors.likelihood.readings import READING, Likelihoods
from oodattack.detectors.likelihood.score_based import MSMA, OneStep
from oodattack.detectors.likelihood.waic import WAIC
from oodattack.detectors.make import Make

__all__ = ["READING", "ImageModels", "Likelihoods", "likelihood_detectors"]


def likelihood_detectors(models: ImageModels, dequantise: int = 0) -> dict[str, Make]:
    """Detectors on flows of images, which share one reading (`Likelihoods`), and on a score network.

    Args:
        models: the trained models; detectors whose models are missing do not apply.
        dequantise: number of draws of the dequantisation noise that scores average over; 0 for its middle.

    Raises:
        InputError: for a negative number.

    >>> ", ".join(likelihood_detectors(ImageModels()))
    'NLL, LikelihoodRatio, WAIC, InputComplexity, Typicality, DoSE, LastScale, ApproximateMass, MSMA, OneStep'
    """
    likelihoods = Likelihoods(models, dequantise)
    return {
        "NLL": partial(NLL, likelihoods),
        "LikelihoodRatio": partial(LikelihoodRatio, likelihoods),
        "WAIC": partial(WAIC, likelihoods),
        "InputComplexity": partial(InputComplexity, likelihoods),
        "Typicality": partial(Typicality, likelihoods),
        "DoSE": partial(DoSE, likelihoods),
        "LastScale": partial(LastScale, likelihoods),
        "ApproximateMass": partial(ApproximateMass, likelihoods),
        "MSMA": partial(MSMA, models),
        "OneStep": partial(OneStep, models),
    }

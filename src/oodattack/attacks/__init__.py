"""Attacks on detectors, one file each: latent, informed, direct, aimed and nll; and a search that needs no gradient.

Each is a function from a batch of samples and a ball to the images it found, and attacks a detector or a subject from
`oodattack.detectors`. Audits and rounds of training use them.
"""

from oodattack.attacks.aimed import aimed
from oodattack.attacks.batch import Ball, Found, Samples
from oodattack.attacks.codec_search import search_grid
from oodattack.attacks.direct import direct
from oodattack.attacks.follow import Followed, follow
from oodattack.attacks.informed import informed
from oodattack.attacks.latent import latent
from oodattack.attacks.nll import nll
from oodattack.attacks.slope import Slope, measure_slope

__all__ = [
    "Ball",
    "Followed",
    "Found",
    "Samples",
    "Slope",
    "aimed",
    "direct",
    "follow",
    "informed",
    "latent",
    "measure_slope",
    "nll",
    "search_grid",
]

"""Instances of the one idea, each in a file: latent, informed and direct attacks on detectors.

Each is a function from a batch of samples and a ball to the images it found. Detectors and subjects come from below;
audits, training and recipes use them from above.
"""

from oodattack.attacks.batch import Ball, Found, Samples
from oodattack.attacks.direct import direct
from oodattack.attacks.follow import Followed, follow
from oodattack.attacks.informed import informed
from oodattack.attacks.latent import latent

__all__ = ["Ball", "Followed", "Found", "Samples", "direct", "follow", "informed", "latent"]

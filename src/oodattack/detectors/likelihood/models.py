"""The trained models that likelihood detectors are made of, by role."""

from dataclasses import dataclass

from oodattack.networks import Glow


@dataclass(frozen=True)
class ImageModels:
    """Trained models of images, (B, 3, H, W) in [0, 1] with the H and W of each.

    Attributes:
        flows: the first is the flow that most detectors read; all of them are the ensemble of WAIC.
        background: a flow trained on images some of whose pixels were replaced at random, for the likelihood ratio.

    >>> ImageModels(flows=(Glow(8, steps=1, levels=2, width=4),)).background is None
    True
    """

    flows: tuple[Glow, ...] = ()
    background: Glow | None = None

"""The trained models that likelihood detectors are made of, by role."""

from dataclasses import dataclass

from oodattack.detectors.base import NotApplicableError
from oodattack.detectors.subjects.subject import present
from oodattack.networks import Glow
from oodattack.networks.score import ScoreNetwork

NO_FLOW = "it needs a flow; name one, trained by `oodattack train --objective likelihood`, with --model trained:DIR"
NO_BACKGROUND = (
    "it needs a background model; name a flow trained by `oodattack train --objective likelihood --mutate ...` with"
    " --model trained:DIR"
)
NO_SCORE_NETWORK = (
    "it needs a score network; name one, trained by `oodattack train --objective score`, with --model trained:DIR"
)


@dataclass(frozen=True)
class ImageModels:
    """Trained models of images (B, 3, H, W) in [0, 1].

    Attributes:
        flows: the first is the flow that most detectors read; all of them are the ensemble of WAIC.
        background: a flow trained on images of which some pixels were replaced at random, for the likelihood ratio.
        score_network: estimates the gradient of the log-density of noisy images.

    >>> models = ImageModels(flows=(Glow(8, steps=1, levels=2, width=4),))
    >>> models.check_size((8, 8))
    >>> models.check_size((32, 32))
    Traceback (most recent call last):
        ...
    oodattack.detectors.base.NotApplicableError: it needs images of 8x8 pixels, as its flow was trained on, and the \
encoder takes 32x32; audit with --native-size 8
    """

    flows: tuple[Glow, ...] = ()
    background: Glow | None = None
    score_network: ScoreNetwork | None = None

    @property
    def flow(self) -> Glow:
        """The first flow; raises `NotApplicableError` without one."""
        return present(next(iter(self.flows), None), NO_FLOW)

    @property
    def denoiser(self) -> ScoreNetwork:
        """The score network; raises `NotApplicableError` without one."""
        return present(self.score_network, NO_SCORE_NETWORK)

    def named(self) -> list[tuple[str, Glow | ScoreNetwork]]:
        """All models, and what each is, in words."""
        others = (("background model", self.background), ("score network", self.score_network))
        return [("flow", flow) for flow in self.flows] + [(name, model) for name, model in others if model is not None]

    def check_size(self, size: tuple[int, int]) -> None:
        """Raise if a model takes images of another size, (H, W) in pixels.

        Raises:
            NotApplicableError: with both sizes.
        """
        for role, model in self.named():
            (height, width), (h, w) = model.input_size, size
            if (height, width) != (h, w):
                raise NotApplicableError(
                    f"it needs images of {height}x{width} pixels, as its {role} was trained on, and the encoder takes"
                    f" {h}x{w}; audit with --native-size {height}"
                )

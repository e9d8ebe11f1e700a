"""Several detectors as one, which rejects an image if any of them does."""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from oodattack.detectors.base import Detector
from oodattack.detectors.ranks import Ranks
from oodattack.detectors.subjects.passes import shared_passes

ENSEMBLE = "jointly"  # its name in tables and files
SHARPNESS = 30.0  # of the slope of the maximum: members a tenth of the ranks below it count a twentieth


class Ensemble(Detector):
    """The largest of its members' ranks among in-distribution scores; about 0.95 is the largest that all accept.

    The slope of the maximum is that of a smooth maximum, which lowers all high ranks at once.

    Args:
        members: the detectors by name, fitted.
        scores: (N,) their scores of in-distribution images, by name, which define the ranks (`Ranks`).
        two_sided: rejects both tails of every member's scores, by the largest ``|2 rank - 1|`` in place of the largest
            rank: all members accept an image only in the central part of their in-distribution scores.

    Raises:
        InputError: if a member has no finite score.

    """

    def __init__(
        self, members: Mapping[str, Detector], scores: Mapping[str, Tensor], *, two_sided: bool = False
    ) -> None:
        self.members, self.two_sided = dict(members), two_sided
        self.ranks = {name: Ranks(scores[name]) for name in members}
        self.draws = max((member.draws or 0 for member in members.values()), default=0) or None
        # With other members, or other code of a member, it is another detector.
        described = "+".join(f"{name} {member.source}" for name, member in members.items())
        described += " two-sided" if two_sided else ""
        self.source = hashlib.sha256(described.encode()).hexdigest()

    def combine(self, scores: Mapping[str, Tensor]) -> Tensor:
        """The scores (B,) of images, given those of the members, (B,) each."""
        return self._extremes([ranks(scores[name]) for name, ranks in self.ranks.items()]).amax(1)

    def score(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        return self.combine({name: member.score(images).cpu() for name, member in self.members.items()})

    def reads(self, images: Tensor) -> Tensor:
        """See `Detector`: the ranks of all members, (B, M); if two-sided, ``|2 rank - 1|``."""
        with shared_passes():
            ranks = [self.ranks[name](member.sample(images).to(images.device)) for name, member in self.members.items()]
        return self._extremes(ranks)

    def judge(self, reads: Tensor) -> Tensor:
        """See `Detector`: the maximum, with the slope of a smooth one."""
        smooth = (SHARPNESS * reads).logsumexp(1) / SHARPNESS
        return smooth + (reads.amax(1) - smooth).detach()

    def _extremes(self, ranks: Sequence[Tensor]) -> Tensor:
        """What is compared between members, (B, M): high where a member rejects."""
        stacked = torch.stack(list(ranks), dim=1)
        return (2 * stacked - 1).abs() if self.two_sided else stacked

"""What a detector is: three methods."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from torch import Tensor


class Loader(Protocol):
    """In-distribution data to fit on: batches of images (B, 3, H, W) in [0, 1] and their classes (B,), again and again.

    A `torch.utils.data.DataLoader` is one.
    """

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...

    def __len__(self) -> int: ...


@runtime_checkable
class Detector(Protocol):
    """A judge of images; a class with these three methods, and nothing else, is audited like all others.

    Three things more are used where a detector has them: ``judge(reads) -> (B,)``, the score of what it reads, with
    which a score without gradient is attacked at the cost of the judge alone; ``parts``, the lengths of the parts of
    what it reads, where these are of different sizes; and ``reading``, the name of what it reads, which is attacked
    once for all that share it: "features" for z, "logits", or one of its own.
    """

    def fit(self, loader: Loader) -> None:
        """Learn what is in-distribution."""

    def score(self, images: Tensor) -> Tensor:
        """Scores (B,) of images (B, 3, H, W) in [0, 1]; higher is more out-of-distribution."""

    def reads(self, images: Tensor) -> Tensor:
        """(B, K): what the score is computed from, differentiable with respect to the images."""

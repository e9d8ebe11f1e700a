"""What a detector is: three methods that it must have, and documented defaults for everything else."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from torch import Tensor

from oodattack.core.errors import InputError

Judge = Callable[[Tensor], Tensor]
"""From what a detector reads, (B, K), to its scores, (B,)."""


class NotApplicableError(InputError):
    """A detector needs something that the subject does not have, or data that the training images do not provide."""


class Loader(Protocol):
    """In-distribution data to fit on: batches of images (B, 3, H, W) in [0, 1] and class numbers (B,).

    It can be iterated any number of times. A `torch.utils.data.DataLoader` is one.
    """

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...

    def __len__(self) -> int: ...


class Detector(ABC):
    """An out-of-distribution detector. Only `score` and `reads` must be defined; everything else has a default.

    A detector of your own need not inherit from this class: any object with ``fit``, ``score`` and ``reads`` is
    wrapped (see `own_detector`), and the optional attributes below are used where it has them.

    A detector states what it needs of its subject by asking for it when it is constructed: ``subject.logits`` or
    ``subject.head`` raise `NotApplicableError` where there are none, and the detector is listed with that reason.

    Attributes:
        reading: name of what `reads` returns. Detectors with the same name are attacked together by the informed
            attack: "features" and "logits" are the views of the subject itself. None (default): its own.
        parts: lengths of the parts of what is read that differ in scale; each is weighted by its own size when it is
            matched. None (default): one part.
        judge: the score as a function of what is read, ``judge(reads(x)) == score(x)``. With it, a score without
            gradient can be differenced in the space of the readings, at no further pass of the network. None (default):
            the score is known as a function of the image only.
        unfollowed: why the direct attack cannot follow the score where there is no `judge`. None (default): it can, by
            SPSA on the image if need be.
        source: SHA-256 (hex) of the source code, for detectors whose code may change between two commands: their fits
            are not kept, and their attacks are kept under this digest. Empty (default): the code is a released one.

    >>> import torch
    >>> class Brightness(Detector):
    ...     def score(self, images: Tensor) -> Tensor:
    ...         return self.reads(images)[:, 0]
    ...     def reads(self, images: Tensor) -> Tensor:
    ...         return images.mean((1, 2, 3))[:, None]
    >>> detector = Brightness()
    >>> detector.score(torch.ones(2, 3, 4, 4)), detector.judge, detector.state_dict()
    (tensor([1., 1.]), None, None)
    """

    reading: str | None = None
    parts: tuple[int, ...] | None = None
    judge: Judge | None = None
    unfollowed: str | None = None
    source: str = ""

    def fit(self, loader: Loader) -> None:  # noqa: B027 -- a default
        """Learn what is in-distribution. By default there is nothing to learn."""

    @abstractmethod
    def score(self, images: Tensor) -> Tensor:
        """Scores (B,) of images (B, 3, H, W) in [0, 1]; higher is more out-of-distribution."""

    @abstractmethod
    def reads(self, images: Tensor) -> Tensor:
        """(B, K): what the score is computed from, differentiable with respect to the images."""

    def state_dict(self) -> dict[str, Any] | None:
        """What was fitted, as tensors and plain values. None (default): not kept, and fitted again each time."""
        return None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned. Called only where that was not None."""
        raise NotImplementedError

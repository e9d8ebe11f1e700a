"""The interface of detectors: two methods that each must define, and documented defaults for everything else."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from oodattack.core.errors import InputError

Judge = Callable[[Tensor], Tensor]
"""Maps what a detector reads, (B, K), to its scores, (B,)."""


class NotApplicableError(InputError):
    """A detector needs something that the subject or the training images do not provide."""


class Loader(Protocol):
    """In-distribution data to fit on: batches of images (B, 3, H, W) in [0, 1] and class numbers (B,).

    It can be iterated any number of times; a `torch.utils.data.DataLoader` is an example.
    """

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...

    def __len__(self) -> int: ...


class Detector(ABC):
    """An out-of-distribution detector. Only `score` and `reads` must be defined; everything else has a default.

    Your own detector need not inherit from this class: any object with ``fit``, ``score`` and ``reads`` is wrapped (see
    `own_detector`), and those of the optional attributes below that it has are used.

    A detector states what it needs from its subject by accessing it in its constructor: ``subject.logits`` and
    ``subject.head`` raise `NotApplicableError` if the subject has none, and the detector is listed with that reason.

    Attributes:
        reading: name of what `reads` returns. The informed attack attacks detectors with the same name together;
            "features" and "logits" are the views of the subject itself. None (default): shared with no other detector.
        parts: lengths of the parts of what is read that differ in scale; each is weighted by its own scale when it is
            matched. None (default): one part.
        judge: the score as a function of what is read, ``judge(reads(x)) == score(x)``, differentiable if possible. The
            gradient of a step function may be that of a smooth approximation; its value must be exact. Without a
            gradient, differences in the space of the readings replace it, at no further pass of the network. None
            (default): the score is known only as a function of the image.
        draws: for a random score, how many evaluations an attack averages at each step (`sample`). None (default): the
            score is not random.
        source: SHA-256 (hex) of the source code, for detectors whose code may change between two commands: their fits
            are not stored, and their attacks are stored under this digest. Empty (default): released code.

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
    draws: int | None = None
    source: str = ""

    def fit(self, loader: Loader) -> None:  # noqa: B027 -- a default
        """Fit the detector to in-distribution data. By default it needs no fit."""

    @abstractmethod
    def score(self, images: Tensor) -> Tensor:
        """Scores (B,) of images (B, 3, H, W) in [0, 1]; higher is more out-of-distribution.

        The same image has the same score in every call and batch, even if the score is random: see `seeded_by`.
        """

    @abstractmethod
    def reads(self, images: Tensor) -> Tensor:
        """(B, K): what the score is computed from, differentiable with respect to the images."""

    def sample(self, images: Tensor) -> Tensor:
        """The score (B,) as an attack evaluates it: with a gradient if possible, and with new draws if it is random.

        The draws come from torch's global generator, and their expectation must be that of `score`. By default
        ``judge(reads(images))``, or without a `judge` the score itself.
        """
        return self.score(images) if self.judge is None else self.judge(self.reads(images))

    def state_dict(self) -> dict[str, Any] | None:
        """The fitted state, as tensors and plain values. None (default): it is not stored; every process fits again."""
        return None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state returned by `state_dict`. Called only if that was not None."""
        raise NotImplementedError


class Judged(Detector):
    """A detector whose score is `judge` of what it reads.

    >>> import torch
    >>> class Brightness(Judged):
    ...     def reads(self, images: Tensor) -> Tensor:
    ...         return images.mean((1, 2, 3))[:, None]
    ...     def judge(self, reads: Tensor) -> Tensor:
    ...         return reads[:, 0]
    >>> Brightness().score(torch.ones(2, 3, 4, 4))
    tensor([1., 1.], dtype=torch.float64)
    """

    @abstractmethod
    def judge(self, reads: Tensor) -> Tensor:
        """The score (B,) of what is read, (B, K)."""

    def score(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        with torch.no_grad():
            return self.judge(self.reads(images)).cpu().double()

"""What distinguishes one attack method from another: where it starts, how it steps, how it clips.

`paper` is Algorithm 1 as published, the reference; `fast` is ours; `plain` is projected gradient descent.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oodattack.core.ball import project, sample, steepest, tangent
from oodattack.core.errors import InputError, did_you_mean
from oodattack.core.steps import Adamax, CosineNadam, Plain, StepRule


def published_h(gradient: Tensor, x: Tensor, start: Tensor, eps: Tensor, norm: float) -> Tensor:  # noqa: ARG001
    """The paper's h, which looks at the gradient alone."""
    return steepest(gradient, norm)


def _fast_h(gradient: Tensor, x: Tensor, start: Tensor, eps: Tensor, norm: float) -> Tensor:
    """The normalised gradient, whatever the norm, without the part that only pushes against the ball."""
    return tangent(steepest(gradient, 2), x, start, eps, norm)


@dataclass(frozen=True)
class Method:
    """The replaceable parts of Algorithm 1; give your own to `oodattack.attack` as ``method``.

    Attributes:
        rule: (step sizes (B,), number of steps) -> a fresh `StepRule` for one run of the loop.
        step_size: (eps (B,), pixels per image, norm, steps N) -> the default alpha (B,).
        draw: (start, eps, norm, one generator per sample) -> random start (B, 3, H, W).
        clip: (x, start, eps, norm) -> x inside ball and pixel box.
        direction: (gradient, x, start, eps, norm) -> h(J'), the direction of ascent that the rule is given.
        random_first: whether the first try starts from a random point too, or from the start itself.
        keep_best: whether the best image of a try counts, or its last.
        polyak: whether a step is cut where the loss would reach zero (`polyak_share`); not with estimated gradients.
        whiten: whether errors that do not fall fast (`Fall`) are weighted by how little they have moved (`Whitening`);
            the weights fade away in the last fifth of the steps (beyond 100 steps, a shorter part; no fewer than four
            steps), and where the ball holds an image whose target looks out of reach. Not with estimated gradients.
        soften: width at the first step of the zone in which rectifiers' kinks are softened (`SoftKinks`), narrower
            beyond 100 steps; it shrinks along a half cosine, and the last 40 % of the steps have the exact gradient
            (the largest layers all steps). Not with estimated ones.
        rough: whether samples far from their target are passed through f's rough twin, if f has one, in the first 60 %
            of the steps (`TwoPrecisions`). Not with estimated gradients.
        grid_steps: steps N -> gradient evaluations that search on the 8-bit grid afterwards, by default none.

    >>> mine = Method(rule=CosineNadam, step_size=lambda eps, pixels, norm, steps: eps / 50, random_first=True)
    >>> mine.step_size(torch.tensor([5.0]), 3072, 2.0, 100)
    tensor([0.1000])
    """

    rule: Callable[[Tensor, int], StepRule]
    step_size: Callable[[Tensor, int, float, int], Tensor]
    draw: Callable[[Tensor, Tensor, float, Sequence[torch.Generator]], Tensor] = sample
    clip: Callable[[Tensor, Tensor, Tensor, float], Tensor] = project
    direction: Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor] = published_h
    random_first: bool = False
    keep_best: bool = True
    polyak: bool = False
    whiten: bool = False
    soften: float = 0.0
    rough: bool = False
    grid_steps: Callable[[int], int] = lambda _steps: 0


def get_method(method: "str | Method") -> Method:
    """The method of that name, or the one given.

    Raises:
        InputError: for an unknown name.

    >>> get_method("paper").keep_best
    False
    """
    if isinstance(method, Method):
        return method
    methods = {"fast": FAST, "paper": PAPER, "plain": PLAIN}
    if method not in methods:
        hint = did_you_mean(str(method), methods)
        raise InputError(f"expected method 'fast', 'paper' or 'plain', got {method!r}{hint}")
    return methods[method]


def _paper_draw(start: Tensor, eps: Tensor, norm: float, generators: Sequence[torch.Generator]) -> Tensor:
    """The authors' xi: uniform in [-eps, eps] a pixel, then clipped to the ball (not uniform in an L2 ball)."""
    cube = sample(start, eps, math.inf, generators)
    return project(cube, start, eps, norm, box=None)


def _paper_clip(x: Tensor, start: Tensor, eps: Tensor, norm: float) -> Tensor:
    """The authors' order of clips: to the ball first, to the pixel box second."""
    return project(x, start, eps, norm, box=None).clamp(0, 1)


def _paper_step_size(eps: Tensor, pixels: int, norm: float, steps: int) -> Tensor:  # noqa: ARG001
    """The authors' alpha = eps / 100; for an infinite eps, as for one that reaches across the pixel box.

    Adamax moves every pixel by alpha; in L1, which the paper leaves open, eps / 100 of it would be far too much,
    and eps / sqrt(pixels) takes its place.
    """
    return (eps / math.sqrt(pixels) if norm == 1 else eps).clamp_max(_widest(pixels, norm)) / 100


def _fast_step_size(eps: Tensor, pixels: int, norm: float, steps: int) -> Tensor:
    """2.4 times what eps allows a pixel when all move alike, and no more than 6 / N (0.3 / sqrt(N) beyond 400 steps).

    Adam moves every pixel by about alpha a step: N of 6 / N would take it six times across its range, however few they
    are, but none is longer than 0.3. What is too far, the ball holds back, and Polyak's cut.
    """
    per_pixel = {1.0: eps / math.sqrt(pixels), 2.0: eps / math.sqrt(pixels), math.inf: eps}[norm]
    return (2.4 * per_pixel).clamp_max(min(0.3, max(6 / steps, 0.3 / math.sqrt(steps))))


def _plain_step_size(eps: Tensor, pixels: int, norm: float, steps: int) -> Tensor:  # noqa: ARG001
    """A twentieth of the radius."""
    return eps.clamp_max(_widest(pixels, norm)) / 20


def _widest(pixels: int, norm: float) -> float:
    """Distance between the two opposite corners of the pixel box."""
    return 1.0 if norm == math.inf else pixels ** (1 / norm)


PAPER = Method(
    rule=lambda step_size, _steps: Adamax(step_size),
    step_size=_paper_step_size,
    draw=_paper_draw,
    clip=_paper_clip,
    random_first=True,
    keep_best=False,
)
"""Algorithm 1 as published: random start, Adamax on the perturbation with alpha = eps / 100, the last image."""

FAST = Method(
    rule=CosineNadam,
    step_size=_fast_step_size,
    direction=_fast_h,
    polyak=True,
    whiten=True,
    soften=0.8,
    rough=True,
    grid_steps=lambda steps: min(steps // 2, max(50, steps // 8)),
)
"""Nesterov's Adam with a cosine schedule on the normalised gradient of whitened errors along the ball, through softened
kinks, no step longer than Polyak's, from the start itself, the best image kept, and a search on the 8-bit grid."""

PLAIN = Method(rule=lambda step_size, _steps: Plain(step_size), step_size=_plain_step_size)
"""Projected gradient descent without memory, the usual baseline."""

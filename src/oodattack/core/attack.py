"""`attack`: Algorithm 1 on a batch, with restarts and an optional search on the 8-bit grid."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from oodattack.core.algorithm import Callback, algorithm_1
from oodattack.core.arguments import check_arguments
from oodattack.core.ball import distance
from oodattack.core.checks import check_health, check_latents, evaluation_mode
from oodattack.core.gradient import Function, Gradient
from oodattack.core.methods import Method
from oodattack.core.metrics import as_matrix
from oodattack.core.pixels import dequantize, to_grid
from oodattack.core.problem import make_problem
from oodattack.core.result import AttackResult
from oodattack.core.tracker import Tracker


def attack(
    f: Function,
    start: Tensor,
    target: Tensor | None,
    *,
    eps: float | Sequence[float] | Tensor,
    norm: float = 2,
    steps: int = 100,
    method: str | type[Method] = "fast",
    step_size: float | None = None,
    restarts: int = 1,
    tolerance: float = 0.0,
    seed: int | Sequence[int] = 0,
    pixels: int | None = None,
    grid_steps: int | None = None,
    gradient: str | Gradient = "autograd",
    parts: Sequence[int] | None = None,
    initial: Tensor | None = None,
    below: bool = False,
    check: bool = True,
    callback: Callback | None = None,
) -> AttackResult:
    """Find, for every sample, an image near its start whose latent matches its target (Algorithm 1).

    Every sample is its own problem: beyond float rounding, its result depends neither on the other samples of the batch
    nor on their order. Exceptions are an f that splits its batches, once samples leave, and an f that keeps the samples
    on an axis other than the first: see `oodattack.core.methods.fast.kinks.SoftKinks`.

    Args:
        f: encoder, (B, 3, H, W) in [0, 1] -> (B, K) or (B,), differentiable unless ``gradient="spsa"``. A module runs
            in eval mode with frozen parameters; its flags are restored afterwards. If f has a `rough_twin`, a faster
            approximation of itself (`oodattack.core.gradient.HasTwin`), `fast` uses the twin for samples that are far
            from their target; every figure but ``history`` comes from f itself.
        start: (B, 3, H, W) initial OOD images x'_out, pixels in [0, 1], in 32 or 64 bits.
        target: (B, K) or (B,) latents z_in to reach, of the shape that f returns. With None, f returns a score, (B,) or
            (B, 1); the attack minimises it within the ball and keeps the image with the lowest score.
        eps: radius of the ball in the given norm, in pixels of [0, 1]; one for all samples or one per sample. With
            infinity only the pixel box applies; 0 returns the start.
        norm: 1, 2 or infinity (``math.inf``).
        steps: N, the number of gradient evaluations per try in floating point.
        method: "fast", "paper" (Algorithm 1 as published), "plain", or a subclass of `Method`.
        step_size: alpha, in pixels of [0, 1]; by default the method derives it from eps, the image size and N.
        restarts: total number of tries. After the first, only samples above the tolerance run again, from a random
            point in the ball; the best try of each sample is kept. With ``pixels=256``, both are judged on the 8-bit
            image.
        tolerance: MAPE (a fraction) at which a sample is finished and leaves the batch; with several parts, the worst
            one counts. 0 uses all steps, unless a target is met exactly.
        seed: one seed, used for every sample alike, or one per sample.
        pixels: with 256, the result is on the 8-bit grid, inside the ball, and measured there; None stays in floating
            point.
        grid_steps: with ``pixels=256``, the number of gradient evaluations per try for the search on the grid, after
            the N in floating point (`oodattack.core.methods.grid`); 0 only rounds. By default `fast` uses half of
            N, at most 50 (beyond 400 steps an eighth of N), and the other methods 0. With SPSA, images are only
            rounded.
        gradient: "autograd", "spsa", or a `Spsa` with custom settings.
        parts: lengths of the parts of the latent, if f concatenates several layers. Each part's squared error is
            divided by its length and its squared max|t|, so that no part dominates the others.
        initial: (B, 3, H, W) images from which the first try starts, projected onto the ball around ``start``; by
            default the start, or for `paper` a random point. The result of an earlier attack is a good choice.
        below: whether the target is an upper bound: a latent below it has reached it and counts as MAPE 0. Use it to
            lower a score to a given value; ``target=None`` lowers it as far as possible.
        check: whether to check the health of f first (`check_health`).
        callback: see `oodattack.core.algorithm.Callback`.

    Returns:
        An `AttackResult`.

    Raises:
        InputError: for an invalid value, or an f that cannot be attacked; the message names the remedy.
        TypeError: for an argument of the wrong type.

    References:
        Liang, Ma, Qian, Chen (2020), "An Algorithm to Attack Neural Network Encoder-based Out-Of-Distribution Sample
        Detector", arXiv 2009.08016, Algorithm 1.

    >>> f = lambda x: x.mean((2, 3))
    >>> result = attack(f, torch.zeros(1, 3, 8, 8), torch.tensor([[0.1, 0.2, 0.1]]), eps=4.0)
    >>> bool(result.mape < 0.01), bool(result.distance <= 4)
    (True, True)
    >>> darkest = attack(lambda x: x.mean((1, 2, 3)), torch.full((1, 3, 8, 8), 0.5), None, eps=1.0)
    >>> bool(darkest.latent < darkest.start_latent)
    True
    """
    given = check_arguments(
        start, target, eps=eps, norm=norm, steps=steps, method=method, step_size=step_size, restarts=restarts,
        tolerance=tolerance, seed=seed, pixels=pixels, grid_steps=grid_steps, gradient=gradient, parts=parts,
        initial=initial, below=below, callback=callback,
    )  # fmt: skip
    start = given.start
    if check:
        check_health(f, start, gradient=given.gradient.passes > 0)
    with evaluation_mode(f):
        with torch.no_grad():
            start_latent = f(start)
        check_latents(start_latent, len(start))
        problem = make_problem(start, start_latent, target, given.eps, given.norm, given.parts, below=below)
        start_figure, _ = problem.judge(as_matrix(start_latent), 0)
        best = _Best(start, start_figure, steps)
        if pixels is not None:
            best.saved = dequantize(to_grid(start, start, given.eps, given.norm), start.dtype)
        for number in range(restarts):
            rows = (~best.arrived).nonzero().flatten()
            if len(rows) == 0:
                break
            attempt = given.method(
                f,
                problem.rows(rows),
                given.gradient,
                [given.seeds[i] for i in rows.tolist()],
                steps,
                given.step_size[rows],
                given.grid_steps,
                number,
                None if given.initial is None or number else given.initial[rows],
            )
            found = Tracker(start[rows], start_figure[rows], steps + 1, float(tolerance))
            algorithm_1(attempt, found, _of_all_samples(callback, rows, start_figure))
            best.take(rows, number, found, None if pixels is None else attempt.to_grid(found))
        image = best.image if pixels is None else best.saved
        with torch.no_grad():
            latent = f(image)
    flat, start_flat = as_matrix(latent), as_matrix(start_latent)
    matching = target is not None
    return AttackResult(
        image=image,
        latent=latent,
        mape=problem.mape(flat),
        distance=distance(image, start, given.norm),
        float_image=best.image,
        float_mape=best.figure if matching else torch.full_like(best.figure, math.nan),
        float_distance=distance(best.image, start, given.norm),
        part_mape=problem.part_mape(flat),
        gradient_evaluations=best.gradients,
        forward_evaluations=best.forwards + 2,  # for the start, and the image that is returned
        restart=best.restart,
        history=best.history,
        start_latent=start_latent,
        start_mape=problem.mape(start_flat),
        start_distance=torch.zeros_like(given.eps),
        notes=tuple(map(_note, problem.notes(), flat.isfinite().all(1).tolist(), best.broken.tolist())),
    )


class _Best:
    """The best try of each sample so far."""

    def __init__(self, start: Tensor, start_figure: Tensor, steps: int) -> None:
        zeros = torch.zeros(len(start), dtype=torch.int64, device=start.device)
        self.image, self.saved = start.clone(), start.clone()  # in floating point, and on the 8-bit grid
        self.loss = torch.full_like(start_figure, math.inf)  # of the final image: with pixels=256, of `saved`
        self.figure = start_figure.clone()  # of the image in floating point
        self.arrived = torch.zeros_like(zeros, dtype=torch.bool)
        self.broken = self.arrived.clone()
        self.history = start_figure.new_full((len(start), steps + 1), math.nan)
        self.gradients, self.forwards, self.restart = zeros, zeros.clone(), zeros.clone()

    def take(self, rows: Tensor, number: int, found: Tracker, on_grid: Tracker | None) -> None:
        """Keep the results of a try on the samples ``rows`` (b,) where they are better, and add up its work."""
        judged = found if on_grid is None else on_grid
        self.gradients[rows] += found.gradients
        self.forwards[rows] += found.forwards
        if on_grid is not None:
            self.gradients[rows] += on_grid.gradients
            self.forwards[rows] += on_grid.forwards
        first = self.loss[rows].isinf() & (self.loss[rows] > 0)
        self.broken[rows[first]] = found.broken[first]
        better = (judged.loss < self.loss[rows]) | judged.arrived
        place = rows[better]
        self.image[place], self.figure[place] = found.image[better], found.measured[better]
        self.history[place], self.broken[place] = found.history[better], found.broken[better]
        self.loss[place], self.arrived[place] = judged.loss[better], judged.arrived[better]
        self.restart[place] = number
        if on_grid is not None:
            self.saved[place] = on_grid.image[better]


def _of_all_samples(callback: Callback | None, rows: Tensor, start_figure: Tensor) -> Callback | None:
    """Adapt a callback for the whole batch to a try on some samples; the others report the figure of their start."""
    if callback is None:
        return None

    def widened(step: int, figure: Tensor) -> None:
        callback(step, start_figure.index_copy(0, rows, figure))

    return widened


def _note(undefined: str, latent_is_finite: bool, gradient_is_broken: bool) -> str:
    """Why a MAPE is undefined or the attack stopped; an empty string if neither."""
    if not latent_is_finite:
        return "f(x_out) is NaN or infinite"
    return undefined or ("stopped where f has a gradient of NaN or infinity" if gradient_is_broken else "")

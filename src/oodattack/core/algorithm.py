"""Algorithm 1, OOD attack on a DNN encoder (Section II-A).

Given a differentiable f, a target latent t and a start image x0 per sample, find x with ``‖x - x0‖_p <= eps``,
pixels in [0, 1], and f(x) ≈ t. The core knows a callable and tensors, nothing else.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from oodattack.core.ball import check_norm, distance, held, per_sample
from oodattack.core.checks import check_health, check_latents, check_pixels, evaluation_mode
from oodattack.core.errors import InputError
from oodattack.core.gradient import Gradient, get_gradient
from oodattack.core.methods.fast.grid import descend
from oodattack.core.methods.fast.kinks import SoftKinks
from oodattack.core.methods.fast.passes import TwoPrecisions
from oodattack.core.methods.fast.whitening import Fall, Whitening
from oodattack.core.methods.methods import Method, get_method
from oodattack.core.metrics import UNDEFINED_MAPE, as_matrix, mape
from oodattack.core.pixels import check_grid, dequantize, quantize, to_grid
from oodattack.core.problem import (
    Problem,
    check_count,
    is_number,
    make_problem,
    part_lengths,
    part_mape,
    radii,
    sample_seeds,
)
from oodattack.core.result import AttackResult
from oodattack.core.steps import half_cosine, polyak_share

SOFT = 0.6  # of the steps; from there on kinks are not softened, and f is exact
TAIL = 0.2  # of the steps, at up to 100: in these the weights of errors fade away
LEAST_TAIL = 4  # steps; of five or ten, a fifth is not enough
FADING = 0.99  # of the squares of h, a step: those of about the last hundred count
GRID = 2**20  # number of the stream that the search on the grid draws from; no attack has so many tries

Callback = Callable[[int, Tensor], None]
"""Called after every step with the steps done in this try, and the MAPE (B,) of the image that counts so far in it: the
best that was looked at, in floating point; for `paper`, whose last image counts, the start."""


def attack(
    f: Callable[[Tensor], Tensor],
    start: Tensor,
    target: Tensor,
    *,
    eps: float | Sequence[float] | Tensor,
    norm: float = 2,
    steps: int = 100,
    method: str | Method = "fast",
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
    """Find, for every sample, an image near its start whose latent is its target (Algorithm 1).

    Every sample is its own problem: its result does not depend on which others share the batch, nor on their
    order, beyond float rounding (but where f cuts its batches into parts and samples leave, or keeps them on another
    axis than the first inside: see `SoftKinks`).

    Args:
        f: encoder, (B, 3, H, W) in [0, 1] -> (B, K) or (B,), differentiable unless ``gradient="spsa"``. A module
            is run in eval mode with frozen parameters, and its flags are restored. If it has an attribute
            ``rough_twin``, another callable that gives about the same and is faster, `fast` passes samples through that
            while they are far from their target (`TwoPrecisions`); every figure but ``history`` is by f itself.
        start: (B, 3, H, W) initial OOD images x'_out, pixels in [0, 1], in 32 or 64 bits.
        target: (B, K) or (B,) latents z_in to reach, the shape that f gives.
        eps: radius of the ball in the given norm, pixel units of [0, 1]; one for all or one per sample.
            Infinity leaves the pixel box alone, 0 returns the start.
        norm: 1, 2 or infinity (``math.inf``).
        steps: N, gradient evaluations per try, in floating point.
        method: "fast", "paper" (Algorithm 1 as published), "plain", or a `Method`.
        step_size: alpha, in pixels of [0, 1]; by default the method's own, from eps and the image size.
        restarts: number of tries in all. After the first, only samples above the tolerance run again, from a
            random point of the ball; the best try of each sample is kept. With ``pixels=256`` both are decided by
            the 8-bit image.
        tolerance: MAPE (a fraction) at which a sample is finished and leaves the batch; of several parts, the
            worst counts. 0 uses all steps.
        seed: one seed, used for every sample alike, or one per sample.
        pixels: 256 ends on the 8-bit grid, inside the ball, and measures there; None stays in floating point.
        grid_steps: with ``pixels=256``, gradient evaluations per try that search on the grid, after the N in floating
            point (`oodattack.core.methods.fast.grid`); 0 rounds and is done. By default the method's own: `fast` takes
            half of N, at most 50 (beyond 400 steps an eighth), the others none. SPSA rounds.
        gradient: "autograd", "spsa", or a `Spsa` with its own settings.
        parts: lengths of the parts of the latent, when f concatenates several layers. Each part's squared error
            is divided by its length and its squared max|t|, so that none drowns the others.
        initial: (B, 3, H, W) images that the first try sets out from, projected onto the ball around ``start``; by
            default the start, or for `paper` a random point. What an earlier attack found is a good one.
        below: whether the target is an upper bound: a latent below it has reached it, and counts as MAPE 0. For
            scores that are to be lowered.
        check: ask f for its health first (`check_health`).
        callback: see `Callback`.

    Returns:
        An `AttackResult`.

    Raises:
        InputError: a value that cannot be, or an f that cannot be attacked; the message names the remedy.
        TypeError: an argument of another type.

    References:
        Liang, Ma, Qian, Chen (2020), "An Algorithm to Attack Neural Network Encoder-based Out-Of-Distribution
        Sample Detector", arXiv 2009.08016, Algorithm 1.

    >>> f = lambda x: x.mean((2, 3))
    >>> result = attack(f, torch.zeros(1, 3, 8, 8), torch.tensor([[0.1, 0.2, 0.1]]), eps=4.0)
    >>> bool(result.mape < 0.01), bool(result.distance <= 4)
    (True, True)
    """
    norm, chosen, derivative = check_norm(norm), get_method(method), get_gradient(gradient)
    check_pixels(start, "start")
    check_count("steps", steps, least=1)
    check_count("restarts", restarts, least=1)
    if grid_steps is not None:
        check_count("grid_steps", grid_steps, least=0)
        if pixels is None:
            raise InputError("expected grid_steps with pixels=256, got pixels=None: floating point has no grid")
        if grid_steps and not derivative.passes:
            raise InputError(f"expected no grid_steps with gradient='spsa', which rounds, got {grid_steps}")
    if not (is_number(tolerance) and tolerance >= 0):
        raise InputError(f"expected a tolerance >= 0 (a MAPE: 0.001 is 0.1 %), got {tolerance!r}")
    if pixels not in (None, 256):
        raise InputError(f"expected pixels=256 (the 8-bit grid) or None (floating point), got {pixels!r}")
    if step_size is not None and not (is_number(step_size) and 0 < step_size < math.inf):
        raise InputError(f"expected a positive step_size, one for all samples, got {step_size!r}")
    # A clone, for autograd refuses tensors that were made in inference mode. Contiguous, as the loop's arithmetic on
    # flat images would copy others in each step (those that were permuted from (H, W, 3) are not).
    start, eps = start.detach().clone(memory_format=torch.contiguous_format), radii(eps, start)
    if initial is not None:
        check_pixels(initial, "initial")
        if initial.shape != start.shape:
            raise InputError(f"expected initial of shape {tuple(start.shape)}, got {tuple(initial.shape)}")
        initial = chosen.clip(initial.detach().to(start).contiguous(), start, eps, norm)
    if pixels is not None:
        check_grid(start, eps, norm)
    if check:
        check_health(f, start, gradient=derivative.passes > 0)
    with evaluation_mode(f):
        with torch.no_grad():
            start_latent = f(start)
        check_latents(start_latent, len(start))
        lengths = part_lengths(parts, as_matrix(start_latent).shape[1])
        problem = make_problem(start, start_latent, target, eps, lengths, below=below)
        alpha = chosen.step_size(eps, start[0].numel(), norm, steps)
        if step_size is not None:
            alpha = torch.full_like(alpha, float(step_size))
        start_mape = mape(problem.aim(as_matrix(start_latent)), problem.target)
        seeds = sample_seeds(seed, len(start))
        grid = (chosen.grid_steps(steps) if grid_steps is None else grid_steps) if pixels is not None else 0
        tries = _Tries(
            f, problem, seeds, chosen, derivative, norm, steps, alpha, float(tolerance), grid, initial, callback
        )
        best = _Best.of(problem, start_mape, steps)
        if pixels is not None:
            best.saved = dequantize(to_grid(start, start, eps, norm), start.dtype)
        for attempt in range(restarts):
            rows = (~best.arrived).nonzero().flatten()
            if len(rows) == 0:
                break
            found = _Best.of(problem, start_mape, steps)
            tries.algorithm_1(found, rows, attempt)
            if pixels is not None:
                tries.to_grid(found, rows)
            best.take(found, rows)
        image = best.image if pixels is None else best.saved
        with torch.no_grad():
            latent = f(image)
    flat = problem.aim(as_matrix(latent))
    return AttackResult(
        image=image,
        latent=latent,
        mape=mape(flat, problem.target),
        distance=distance(image, start, norm),
        float_image=best.image,
        float_mape=best.mape,
        float_distance=distance(best.image, start, norm),
        part_mape=part_mape(flat, problem.target, lengths),
        gradient_evaluations=best.calls * derivative.passes,
        # Two more: the start, and the image that is returned.
        forward_evaluations=best.calls * derivative.forwards + best.looks + 2,
        restart=best.restart,
        history=best.history,
        start_latent=start_latent,
        start_mape=start_mape,
        start_distance=torch.zeros_like(eps),
        notes=tuple(map(_note, problem.target.any(1).tolist(), flat.isfinite().all(1).tolist(), best.broken.tolist())),
    )


def _zone(steps: int) -> float:
    """How wide the zone about a kink is in a run of so many steps, as a share of `Method.soften`.

    Long steps switch more units, short ones fewer: with 400 steps, which are finer, less of it is wanted.

    >>> _zone(100), _zone(200), _zone(400), _zone(800)
    (1.0, 0.875, 0.625, 0.625)
    """
    return min(1.0, max(0.625, 1.125 - steps / 800))


def _ending(n: int, steps: int) -> float:
    """How much of the error itself is in every push after n steps: nothing until the tail, all in its last quarter.

    A target out of reach is approached in the least squares of line 3 only if the end is as line 3 says; one within
    reach is approached best while the weights count. Beyond 100 steps, which are finer, the tail grows with
    the root of their number alone; it is never shorter than four steps.

    >>> [round(_ending(n, 100), 2) for n in (80, 85, 90, 95)], round(_ending(385, 400), 2), round(_ending(8, 10), 2)
    ([0.0, 0.11, 0.44, 1.0], 0.69, 0.44)
    """
    tail = max(LEAST_TAIL, TAIL * min(steps, 10 * math.sqrt(steps)))
    return min(1.0, max(0.0, (n - steps + tail) / (0.75 * tail))) ** 2


def _plain_share(error: Tensor, x: Tensor, now: Problem, norm: float, left: float) -> Tensor:
    """How much of the error itself is in the push on images that the ball holds back: (B,), from 0 to 1.

    Weights have another optimum than line 3 where the target is out of reach. Whether it is, the error tells: it is
    behind the straight line from the start's to zero at the last step (also in a try that sets out from elsewhere). The
    fourth power of error / line counts.

    Args:
        error: (B, K) errors.
        x: (B, 3, H, W) images.
        now: what they are attacked for.
        norm: of the ball.
        left: share of the steps that are left, in (0, 1].
    """
    line = now.start_error.clamp_min(torch.finfo(error.dtype).tiny) * left
    behind = torch.linalg.vector_norm(error, dim=1).div(line).clamp_max(1).pow(4)
    behind = torch.where(behind > 1e-3, behind, 0)
    if not bool(behind.any()):  # as in most steps on the way to a target within reach
        return behind
    return behind * held(x, now.start, now.eps, norm).to(behind)


def _note(target_is_defined: bool, latent_is_finite: bool, gradient_is_broken: bool) -> str:
    """Why a MAPE is undefined, or where the attack had to stop, or nothing."""
    if not latent_is_finite:
        return "f(x_out) is NaN or infinite"
    if not target_is_defined:
        return UNDEFINED_MAPE
    return "stopped where f has a gradient of NaN or infinity" if gradient_is_broken else ""


@dataclass
class _Best:
    """The best image of each sample so far, and the work spent on it."""

    image: Tensor
    lent: bool  # whether it is the loop's own tensor, kept without a copy: not to be written to
    loss: Tensor
    mape: Tensor
    saved: Tensor  # the same on the 8-bit grid, where that is asked for
    slopes: Tensor  # fading sum of the squares of h on the way to it, where the grid is searched
    arrived: Tensor  # whether it is within the tolerance
    broken: Tensor  # whether the try ended at a gradient that is no number
    restart: Tensor
    history: Tensor
    calls: Tensor  # gradients asked for
    looks: Tensor  # forward passes alone: on the last image of a try, through the twin to measure it, on the grid

    @classmethod
    def of(cls, problem: Problem, start_mape: Tensor, steps: int) -> "_Best":
        """Nothing tried yet: the start stands in, with an infinite loss."""
        zeros = torch.zeros(len(problem.start), dtype=torch.int64, device=problem.start.device)
        return cls(
            image=problem.start,
            lent=True,
            loss=torch.full_like(start_mape, math.inf),
            mape=start_mape.clone(),
            saved=problem.start.clone(),
            slopes=torch.zeros_like(problem.start),
            arrived=torch.zeros_like(start_mape, dtype=torch.bool),
            broken=torch.zeros_like(start_mape, dtype=torch.bool),
            restart=zeros,
            history=start_mape.new_full((len(zeros), steps + 1), math.nan),
            calls=zeros.clone(),
            looks=zeros.clone(),
        )

    def put(self, rows: Tensor, images: Tensor) -> None:
        """Write the images of some samples."""
        if self.lent:
            self.image, self.lent = self.image.clone(), False
        self.image[rows] = images

    def take(self, found: "_Best", rows: Tensor) -> None:
        """Take over what another try found for ``rows``, where it is better, and add up the work."""
        self.calls += found.calls
        self.looks += found.looks
        first = rows[self.loss[rows].isinf()]
        self.broken[first] = found.broken[first]
        rows = rows[(found.loss[rows] < self.loss[rows]) | found.arrived[rows]]
        self.put(rows, found.image[rows])
        self.loss[rows], self.mape[rows] = found.loss[rows], found.mape[rows]
        self.restart[rows], self.history[rows] = found.restart[rows], found.history[rows]
        self.saved[rows], self.arrived[rows] = found.saved[rows], found.arrived[rows]
        self.broken[rows] = found.broken[rows]


@dataclass(frozen=True)
class _Tries:
    """One call of `attack`: what all its tries share."""

    f: Callable[[Tensor], Tensor]
    problem: Problem
    seeds: tuple[int, ...]
    method: Method
    gradient: Gradient
    norm: float
    steps: int
    step_size: Tensor
    tolerance: float
    grid_steps: int
    initial: Tensor | None
    callback: Callback | None

    def algorithm_1(self, best: _Best, rows: Tensor, attempt: int) -> None:
        """One try for the samples ``rows``; what it finds goes to ``best``."""
        method = self.method
        best.restart[rows] = attempt
        now = self.problem.rows(rows)
        generators = {i: _generator(self.seeds[i], attempt) for i in rows.tolist()}
        rule = method.rule(self.step_size[rows], self.steps)
        # Of an estimated gradient's path, most is the estimate's noise.
        whitening = Whitening() if method.whiten and self.gradient.passes else None
        fall = Fall() if whitening is not None else None
        zone = method.soften * _zone(self.steps)
        kinks = SoftKinks(zone) if zone else None
        both = None
        twin = getattr(self.f, "rough_twin", None)
        if method.rough and self.gradient.passes and callable(twin):
            both = TwoPrecisions(self.f, twin, len(rows), now.start.device, self.steps, kinks)
        slopes = torch.zeros_like(now.start) if self.grid_steps else None

        x = now.start if self.initial is None else self.initial[rows]
        if attempt > 0 or (method.random_first and self.initial is None):
            xi = method.draw(now.start, now.eps, self.norm, list(generators.values()))  # line 1
            x = method.clip(xi, now.start, now.eps, self.norm)  # line 2
        for n in range(self.steps):  # line 4
            draws = [generators[i] for i in rows.tolist()]
            if n >= SOFT * self.steps:
                kinks = both = None
            elif both is not None and bool(both.left.all()):
                both = None
            if kinks is not None:
                kinks.width = zone * half_cosine(n, self.steps)
            f = self.f if both is None else both
            with kinks or nullcontext():
                latent, pullback = self.gradient(f, x, draws)
            error = now.error(latent)  # line 3: J is the sum of its squares
            push, ending = error, _ending(n, self.steps)
            if whitening is not None and ending < 1:
                plain = _plain_share(error, x, now, self.norm, 1 - n / self.steps).clamp_min(ending)
                if fall is not None:
                    share = fall(error)
                    plain = plain.maximum(share)
                    if not bool(share.any()):  # nor will it be more
                        fall = None
                push = torch.lerp(whitening(error), error, plain[:, None])
            slope = pullback(2 * now.weight * push)  # J' for line 5; with a push other than the error, of <push, error>
            del pullback  # and all that the pass kept, before the next one
            best.calls[rows] += 1
            arrived = self._record(best, rows, n, x, latent, error, now, None if both is None else both.exact)
            # A sample that has arrived leaves the batch, and so does one that has fallen off the numbers.
            broken = ~slope.flatten(1).sum(1, dtype=torch.float32).isfinite()
            leaves = arrived | broken
            if both is not None:
                exact = both.exact
                fault = broken & ~exact  # of the twin: the next pass is exact
                if bool(fault.any()):
                    slope = torch.where(fault[:, None, None, None], 0, slope)
                both.look(x, error, leaves, now)
                best.looks[rows] += both.extra
                leaves = leaves & exact
            stay = (~leaves).nonzero().flatten()
            if len(stay) < len(rows):
                best.broken[rows] = leaves & ~arrived
                if slopes is not None:
                    best.slopes[rows], slopes = slopes, slopes[stay]
                rows, now, x, slope = rows[stay], now.rows(stay), x[stay], slope[stay]
                error, push = error[stay], push[stay]
                rule.keep(stay)
                for memory in (whitening, fall, kinks, both):
                    if memory is not None:
                        memory.keep(stay)
            if len(rows) == 0:
                break
            h = method.direction(slope, x, now.start, now.eps, self.norm)
            if slopes is not None:
                slopes.mul_(FADING).addcmul_(h, h)
            step = rule.step(h)  # alpha * h(J'), with the rule's momentum
            if method.polyak and self.gradient.passes:  # an estimated slope is mostly noise: too steep for Polyak
                share = polyak_share(step, (push * error).sum(1), slope)
                x = torch.addcmul(x, step, per_sample(share, x), value=-1)
            else:
                x = x - step
            x = method.clip(x, now.start, now.eps, self.norm)  # line 5
            if self.callback is not None:
                self.callback(n + 1, best.mape.clone())
        if slopes is not None:
            best.slopes[rows] = slopes
        if len(rows):  # line 6: the last image has not been looked at yet
            with torch.no_grad():
                latent = as_matrix(self.f(x))
            best.looks[rows] += 1
            self._record(best, rows, self.steps, x, latent, now.error(latent), now)

    def to_grid(self, best: _Best, rows: Tensor) -> None:
        """End on the 8-bit grid; from here on its image decides on loss and arrival."""
        rows = rows[best.loss[rows].isfinite()]
        if len(rows) == 0:
            return
        now = self.problem.rows(rows)
        levels = to_grid(best.image[rows], now.start, now.eps, self.norm)
        steps = self.grid_steps if self.gradient.passes else 0
        generators = [_generator(self.seeds[i], GRID) for i in rows.tolist()]
        image, slopes = best.image[rows], best.slopes[rows]
        found = descend(self.f, now, levels, image, slopes, self.norm, steps, self.tolerance, self.gradient, generators)
        best.calls[rows] += found.calls
        best.looks[rows] += found.looks
        saved, loss = dequantize(found.levels, now.start.dtype), found.loss
        if self.method.keep_best:  # nor is it worse than a start that is on the grid itself
            on_grid = (dequantize(quantize(now.start), now.start.dtype) == now.start).flatten(1).all(1)
            start_loss = now.start_error.square()
            worse = on_grid & ~found.arrived & (start_loss < loss)
            saved = torch.where(worse[:, None, None, None], now.start, saved)
            loss = torch.where(worse, start_loss, loss)
        best.saved[rows], best.loss[rows], best.arrived[rows] = saved, loss, found.arrived

    def _record(
        self,
        best: _Best,
        rows: Tensor,
        n: int,
        x: Tensor,
        latent: Tensor,
        error: Tensor,
        now: Problem,
        exact: Tensor | None = None,
    ) -> Tensor:
        """Note the images after n steps, keep the better ones; returns which samples have arrived, or look like it.

        Those of which ``exact`` says that their latent is a rough one are not kept.
        """
        loss, (measured, arrived) = error.square().sum(1), now.judge(latent, self.tolerance)
        best.history[rows, n] = measured
        better = loss < best.loss[rows]
        if not self.method.keep_best and n < self.steps:
            better = torch.zeros_like(arrived)  # as published: the last image counts
        better |= arrived  # J is quadratic and MAPE is not: an image can arrive without the least J so far
        if exact is not None:
            better &= exact
        place = rows[better]
        if len(place) == len(best.image):  # all of them, as in most steps
            best.image, best.lent = x, True
        elif len(place):
            best.put(place, x[better])
        best.loss[place], best.mape[place] = loss[better], measured[better]
        best.arrived[rows[arrived & better]] = True
        return arrived


def _generator(seed: int, attempt: int) -> torch.Generator:
    """A generator of its own for every sample and try; near seeds give unrelated streams."""
    digest = hashlib.sha256(f"{seed}/{attempt}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)

"""Algorithm 1, OOD attack on a DNN encoder (Section II-A), with its lines numbered as in the paper.

The loop is the same for every method; methods differ in the hooks of `oodattack.core.methods.method.Method`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from oodattack.core.gradient import evaluate
from oodattack.core.methods.method import Method
from oodattack.core.tracker import Tracker

Callback = Callable[[int, Tensor], None]
"""Called after every step with the number of steps done in this try and the MAPE (B,) of the best image so far, in
floating point. `paper` keeps only its last image, so its figure is that of the start. Without a target, the score."""


def algorithm_1(attempt: Method, best: Tracker, callback: Callback | None = None) -> None:
    """Run one try.

    Args:
        attempt: the method's object for this try on a batch.
        best: tracker of the same samples, updated in place with the images that the try finds.
        callback: see `Callback`.
    """
    x = attempt.start()  # line 1: a random xi; line 2: x = x'_out + xi
    problem = attempt.problem  # line 3: its loss J is ||f(x) - t||^2
    rows = torch.arange(len(x), device=x.device)
    for n in range(attempt.steps):  # line 4
        seen = attempt.look(x, n)
        error = problem.error(seen.latent)
        push = attempt.push(x, error, n)
        gradient = seen.pullback(problem.cotangent(push))  # J'
        arrived = best.see(rows, n, x, seen, error, problem, counts=attempt.counts(n))
        broken, exact = _is_broken(gradient), seen.exact
        del seen  # frees the activations that the pass stored, before the next one
        leaves = attempt.release(x, error, exact, arrived | broken)
        stay = (~leaves).nonzero().flatten()
        if len(stay) < len(rows):
            best.broken[rows] = leaves & broken & ~arrived
            attempt.keep(stay)
            rows, problem, x, gradient, broken = rows[stay], attempt.problem, x[stay], gradient[stay], broken[stay]
            if len(rows) == 0:
                return
        if bool(broken.any()):  # and not released: these samples wait for their next pass
            gradient = torch.where(broken[:, None, None, None], 0, gradient)
        h = attempt.direction(x, gradient)
        attempt.record(h)
        x = attempt.clip(attempt.step(x, h, gradient))  # line 5: x <- clip(x - alpha * h(J'))
        if callback is not None:
            callback(n + 1, best.measured.clone())
    # line 6: end. The last image has not been evaluated yet.
    last = evaluate(attempt.f, x)
    best.see(rows, attempt.steps, x, last, problem.error(last.latent), problem, counts=attempt.counts(attempt.steps))


def _is_broken(gradient: Tensor) -> Tensor:
    """Which samples (B,) have a gradient that is NaN or infinite."""
    return ~gradient.flatten(1).sum(1, dtype=torch.float32).isfinite()

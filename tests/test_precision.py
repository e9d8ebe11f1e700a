"""Two precisions: the twin saves work, but never decides a result."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oodattack import attack
from oodattack.core.methods.methods import FAST
from oodattack.core.metrics import mape


class _Twins(nn.Module):
    """A small random network that counts its samples, with a twin that counts them too."""

    def __init__(self, rough: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 7 * 7, 10))
        self.exactly = self.roughly = 0
        self.passed: list[tuple[int, int]] = []  # samples through the twin, then exact ones, per use of it
        self.wrong: Callable[[Tensor, Tensor], Tensor] = rough

    def forward(self, x: Tensor) -> Tensor:
        self.exactly += len(x)
        self.passed[-1:] = [(self.passed[-1][0], len(x))] if self.passed else []
        z: Tensor = self.net(x)
        return z

    def rough_twin(self, x: Tensor) -> Tensor:
        assert len(x)  # not every model takes an empty batch
        self.roughly += len(x)
        self.passed.append((len(x), 0))
        return self.about(x)

    def about(self, x: Tensor) -> Tensor:
        return self.wrong(x, self.net(x))


def noisy(x: Tensor, z: Tensor) -> Tensor:
    """An error of up to 0.2 % that looks random, differs between images, and is reproducible."""
    size = torch.linalg.vector_norm(z.detach(), dim=1)
    wrong: Tensor = 0.002 * size * torch.sin(100 * x.detach().mean((1, 2, 3)))
    return z + wrong[:, None]


class _Halved(_Twins):
    """The same, with a twin that computes in bfloat16."""

    def about(self, x: Tensor) -> Tensor:
        z: Tensor = deepcopy(self.net).bfloat16()(x.bfloat16())
        return z.to(x)


def problem(f: nn.Module, count: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, start = torch.rand(2, count, 3, 16, 16, generator=generator)
    with torch.no_grad():
        return start, f.net(x)  # type: ignore[operator]


def test_a_twin_saves_exact_passes_and_gets_as_close() -> None:
    f, alone = _Twins(noisy), _Twins(noisy)
    start, target = problem(f)
    expected = attack(alone.net, start, target, eps=8.0, steps=50)
    found = attack(f, start, target, eps=8.0, steps=50, check=False)
    assert f.roughly > 4 * 2  # the look at the start, and some of the first 30 steps of each of four samples
    assert expected.mape.max() < 1e-3
    assert found.mape.max() < 1e-3
    torch.testing.assert_close(found.mape, mape(f.net(found.image), target))


def test_every_pass_is_counted() -> None:
    f = _Twins(noisy)
    start, target = problem(f)
    found = attack(f, start, target, eps=8.0, steps=20, pixels=256, check=False)
    # A gradient evaluation is one pass, through f or its twin, and so is a forward evaluation.
    assert f.exactly + f.roughly == int((found.gradient_evaluations + found.forward_evaluations).sum())


def test_only_the_exact_f_decides_which_samples_are_finished() -> None:
    f = _Twins(lambda _x, z: target + 0 * z)
    start, target = problem(f)
    found = attack(f, start, target, eps=8.0, steps=50, tolerance=1e-3, check=False)
    assert f.roughly == len(start)  # the twin's error exceeds the error of every sample
    assert bool((found.mape <= 1e-3 * (1 + 1e-3)).all())  # measured again, in another batch
    assert int(found.gradient_evaluations.min()) > 3


def test_finished_samples_do_not_use_the_twin() -> None:
    f = _Twins(noisy)
    start, _ = problem(f)
    attack(f, start, f.net(start).detach(), eps=8.0, steps=50, tolerance=1e-3, check=False)
    assert f.roughly == 0


def test_an_image_that_reaches_the_target_only_by_the_twin_does_not_count() -> None:
    """The twin is exact at the start and afterwards reports that the target is reached."""
    f = _Twins(lambda x, z: z if torch.equal(x, start) else target + 0 * z)
    start, target = problem(f)
    found = attack(f, start, target, eps=8.0, steps=50, tolerance=1e-3, check=False)
    assert f.roughly == 2 * len(start)  # the evaluation of the start, and one pass
    assert bool((found.mape <= 1e-3 * (1 + 1e-3)).all())  # measured again, in another batch
    torch.testing.assert_close(found.mape, mape(f.net(found.image), target))


def test_a_non_finite_twin_is_abandoned() -> None:
    f = _Twins(lambda _x, z: z * torch.nan)
    start, target = problem(f)
    found = attack(f, start, target, eps=8.0, steps=50, check=False)
    assert f.roughly == len(start)
    expected = attack(f.net, start, target, eps=8.0, steps=50, check=False)
    torch.testing.assert_close(found.image, expected.image)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_last_steps_are_exact(steps: int) -> None:
    """Even for a sample that stays far from its target: only images that the exact f has evaluated count."""
    f = _Twins(noisy)
    start, target = problem(f)
    found = attack(f, start, 100 * target, eps=0.1, steps=steps, check=False)
    assert f.roughly == len(start) * -(-3 * steps // 5)  # the start, and the first 60 % but for one step
    torch.testing.assert_close(found.mape, mape(f.net(found.image), 100 * target))
    assert bool((found.mape <= found.start_mape).all())


def test_a_twin_that_fails_at_a_seemingly_finished_sample_stops_no_sample() -> None:
    def wrong(x: Tensor, z: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return z
        return target + 0 * z + (x - x.detach()).square().sum((1, 2, 3)).sqrt()[:, None]

    f = _Twins(wrong)
    start, target = problem(f)
    found = attack(f, start, target, eps=8.0, steps=50, check=False)
    assert bool((found.gradient_evaluations == 50).all())
    assert found.mape.max() < 1e-3


@pytest.mark.parametrize("fails", ["latent", "gradient"])
def test_a_twin_that_fails_later_is_abandoned_then(fails: str) -> None:
    def wrong(x: Tensor, z: Tensor) -> Tensor:
        if f.roughly <= 3 * len(start):
            return z
        # The gradient of a square root is infinite at 0.
        return z * torch.nan if fails == "latent" else z + (x - x.detach()).square().sum((1, 2, 3)).sqrt()[:, None]

    f = _Twins(wrong)
    start, target = problem(f)
    found = attack(f, start, target, eps=8.0, steps=50, check=False)
    assert f.roughly == 4 * len(start)
    assert found.mape.max() < 1e-3
    assert bool((found.gradient_evaluations == 50).all())
    assert f.exactly + f.roughly == int((found.gradient_evaluations + found.forward_evaluations).sum())


def test_a_twin_that_fails_one_sample_serves_the_others() -> None:
    def wrong(_x: Tensor, z: Tensor) -> Tensor:
        fails = torch.is_grad_enabled() and len(z) == len(start)
        return torch.cat([z[:1] * torch.nan, z[1:]]) if fails else z

    f = _Twins(wrong)
    start, target = problem(f)
    found = attack(f, start, 100 * target, eps=0.1, steps=50, check=False)
    # All are evaluated and passed once, in vain; then three use the twin until the end of the first 60 %.
    assert f.roughly == 4 + 4 + 3 * (1 + 1 + 27)
    assert bool((found.gradient_evaluations == 50).all())
    assert f.exactly + f.roughly == int((found.gradient_evaluations + found.forward_evaluations).sum())


@pytest.mark.parametrize("twins", [_Twins, _Halved])
def test_samples_do_not_depend_on_which_others_use_the_twin(twins: type[_Twins]) -> None:
    """Some finish while others use the twin; some leave the twin between two measurements of r, some at one."""
    f = twins(noisy).double()
    start, target = (tensor.double() for tensor in problem(_Twins(noisy), count=10))
    way = torch.tensor([0.001, 1, 0.3, 0.003, 0.1, 1, 0.03, 0.01, 2, 0.5])[:, None].double()
    target = (1 - way) * f.net(start).detach() + way * target
    given: dict[str, Any] = {"eps": 2.0, "steps": 60, "tolerance": 1e-4, "restarts": 2, "check": False}
    together = attack(f, start, target, **given)
    both_at_once = [(rough, exact) for rough, exact in f.passed if rough and exact]
    assert len(both_at_once) > 12
    for i in range(len(start)):
        alone = attack(f, start[i : i + 1], target[i : i + 1], **given)
        torch.testing.assert_close(together.image[i], alone.image[0], rtol=0, atol=1e-9)
        assert together.forward_evaluations[i] == alone.forward_evaluations[0]
        assert together.gradient_evaluations[i] == alone.gradient_evaluations[0]


def test_an_image_that_is_better_only_by_the_twin_is_not_kept() -> None:
    """The twin is exact in forward passes without gradient, and otherwise reports that the target is close."""
    f = _Twins(lambda _x, z: target + 0.02 * (z - target) if torch.is_grad_enabled() else z)
    start, target = problem(f)
    found = attack(f, start, target, eps=0.3, steps=20, check=False)
    assert f.roughly == len(start) * 12  # two evaluations, and the first 60 % except those two steps
    assert bool((found.mape < found.history[:, 12]).all())  # the first image that f itself evaluated after the twin's


@pytest.mark.parametrize(("off", "late", "stays"), [(0.2, False, True), (0.2, True, False), (0.12, True, True)])
def test_the_error_of_a_twin_is_measured_again(off: float, late: bool, stays: bool) -> None:
    """Off by a share of the error, only at the start or always: the first is used, the second abandoned."""

    def wrong(_x: Tensor, z: Tensor) -> Tensor:
        at_the_start = f.roughly == len(start)
        return z if at_the_start == late else z + off * (far - z).detach()

    f = _Twins(wrong)
    start, target = problem(f)
    far = 100 * target
    attack(f, start, far, eps=0.1, steps=140, check=False)
    # One evaluation at the start and one seven passes later; the twin is used in between, and then until 60 %.
    assert f.roughly == len(start) * (1 + 6 + 1 + (76 if stays else 0))


def test_samples_leave_the_twin_together() -> None:
    f = _Twins(noisy)
    start, target = problem(f, count=16)
    attack(f, start, target, eps=8.0, steps=100, check=False)
    sizes = [rough for rough, _ in f.passed if rough]
    changes = [n for n, (size, following) in enumerate(pairwise(sizes), start=1) if size != following]
    assert len(set(sizes)) > 2
    assert all(n % 5 == changes[0] % 5 for n in changes)


def test_a_twin_must_be_callable() -> None:
    f = nn.Flatten()
    f.rough_twin = 0.1  # type: ignore[assignment]
    start, x = torch.rand(2, 1, 3, 4, 4)
    assert attack(f, start, f(x), eps=3.0, steps=5).mape.isfinite()


@pytest.mark.parametrize("changes", [{"method": "paper"}, {"method": replace(FAST, rough=False)}, {"gradient": "spsa"}])
def test_other_methods_do_not_use_the_twin(changes: dict[str, object]) -> None:
    f = _Twins(noisy)
    start, target = problem(f)
    attack(f, start, target, eps=8.0, steps=3, check=False, **changes)  # type: ignore[arg-type]
    assert f.roughly == 0

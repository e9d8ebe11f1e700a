"""Two precisions: the twin saves work but never decides a result."""

from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oodattack import attack
from oodattack.core.metrics import mape
from tests.methods import WithoutTwin


class _WithTwin(nn.Module):
    """A small random network that counts its samples, with a twin that counts them too."""

    def __init__(self, rough: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 7 * 7, 10))
        self.exact_samples = self.twin_samples = 0
        self.passed: list[tuple[int, int]] = []  # samples through the twin and through f, per pass of the twin
        self.distort: Callable[[Tensor, Tensor], Tensor] = rough

    def forward(self, x: Tensor) -> Tensor:
        self.exact_samples += len(x)
        self.passed[-1:] = [(self.passed[-1][0], len(x))] if self.passed else []
        z: Tensor = self.net(x)
        return z

    def rough_twin(self, x: Tensor) -> Tensor:
        assert len(x)  # not every model accepts an empty batch
        self.twin_samples += len(x)
        self.passed.append((len(x), 0))
        return self.approximate(x)

    def approximate(self, x: Tensor) -> Tensor:
        return self.distort(x, self.net(x))


def noisy(x: Tensor, z: Tensor) -> Tensor:
    """An error of up to 0.2 % that looks random, differs between images, and is reproducible."""
    size = torch.linalg.vector_norm(z.detach(), dim=1)
    error: Tensor = 0.002 * size * torch.sin(100 * x.detach().mean((1, 2, 3)))
    return z + error[:, None]


class _WithBfloat16Twin(_WithTwin):
    """The same, with a twin that computes in bfloat16."""

    def approximate(self, x: Tensor) -> Tensor:
        z: Tensor = deepcopy(self.net).bfloat16()(x.bfloat16())
        return z.to(x)


def problem(f: nn.Module, count: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, start = torch.rand(2, count, 3, 16, 16, generator=generator)
    with torch.no_grad():
        return start, f.net(x)  # type: ignore[operator]


def test_a_twin_saves_exact_passes_and_gets_as_close() -> None:
    f, alone = _WithTwin(noisy), _WithTwin(noisy)
    start, target = problem(f)
    expected = attack(alone.net, start, target, eps=8.0, steps=50)
    found = attack(f, start, target, eps=8.0, steps=50, check=False)
    assert f.twin_samples > 4 * 2  # the evaluation of the start, and some of the first 30 steps of each of four samples
    assert expected.mape.max() < 1e-3
    assert found.mape.max() < 1e-3
    torch.testing.assert_close(found.mape, mape(f.net(found.image), target))


def test_every_pass_is_counted() -> None:
    f = _WithTwin(noisy)
    start, target = problem(f)
    found = attack(f, start, target, eps=8.0, steps=20, pixels=256, check=False)
    # A gradient evaluation is one pass, through f or its twin, and so is a forward evaluation.
    assert f.exact_samples + f.twin_samples == int((found.gradient_evaluations + found.forward_evaluations).sum())


def test_only_the_exact_f_decides_which_samples_are_finished() -> None:
    f = _WithTwin(lambda _x, z: target + 0 * z)
    start, target = problem(f)
    found = attack(f, start, target, eps=8.0, steps=50, tolerance=1e-3, check=False)
    assert f.twin_samples == len(start)  # the twin's error exceeds the error of every sample
    assert bool((found.mape <= 1e-3 * (1 + 1e-3)).all())  # measured again, in another batch
    assert int(found.gradient_evaluations.min()) > 3


def test_finished_samples_do_not_use_the_twin() -> None:
    f = _WithTwin(noisy)
    start, _ = problem(f)
    attack(f, start, f.net(start).detach(), eps=8.0, steps=50, tolerance=1e-3, check=False)
    assert f.twin_samples == 0


def test_an_image_that_reaches_the_target_only_by_the_twin_does_not_count() -> None:
    """The twin is exact at the start and afterwards reports that the target is reached."""
    f = _WithTwin(lambda x, z: z if torch.equal(x, start) else target + 0 * z)
    start, target = problem(f)
    found = attack(f, start, target, eps=8.0, steps=50, tolerance=1e-3, check=False)
    assert f.twin_samples == 2 * len(start)  # the evaluation of the start, and one pass
    assert bool((found.mape <= 1e-3 * (1 + 1e-3)).all())  # measured again, in another batch
    torch.testing.assert_close(found.mape, mape(f.net(found.image), target))


def test_a_non_finite_twin_is_abandoned() -> None:
    f = _WithTwin(lambda _x, z: z * torch.nan)
    start, target = problem(f)
    found = attack(f, start, target, eps=8.0, steps=50, check=False)
    assert f.twin_samples == len(start)
    expected = attack(f.net, start, target, eps=8.0, steps=50, check=False)
    torch.testing.assert_close(found.image, expected.image)


@pytest.mark.parametrize("steps", [2, 5])
def test_the_last_steps_are_exact(steps: int) -> None:
    """Even for a sample that stays far from its target: only images that the exact f has evaluated count."""
    f = _WithTwin(noisy)
    start, target = problem(f)
    found = attack(f, start, 100 * target, eps=0.1, steps=steps, check=False)
    assert f.twin_samples == len(start) * -(-3 * steps // 5)  # the start, and the first 60 % except for one step
    torch.testing.assert_close(found.mape, mape(f.net(found.image), 100 * target))
    assert bool((found.mape <= found.start_mape).all())


def test_a_twin_that_fails_at_a_seemingly_finished_sample_stops_no_sample() -> None:
    def distort(x: Tensor, z: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return z
        return target + 0 * z + (x - x.detach()).square().sum((1, 2, 3)).sqrt()[:, None]

    f = _WithTwin(distort)
    start, target = problem(f)
    found = attack(f, start, target, eps=8.0, steps=50, check=False)
    assert bool((found.gradient_evaluations == 50).all())
    assert found.mape.max() < 1e-3


@pytest.mark.parametrize("fails", ["latent", "gradient"])
def test_a_twin_that_fails_later_is_abandoned_then(fails: str) -> None:
    def distort(x: Tensor, z: Tensor) -> Tensor:
        if f.twin_samples <= 3 * len(start):
            return z
        # The gradient of a square root is infinite at 0.
        return z * torch.nan if fails == "latent" else z + (x - x.detach()).square().sum((1, 2, 3)).sqrt()[:, None]

    f = _WithTwin(distort)
    start, target = problem(f)
    found = attack(f, start, target, eps=8.0, steps=50, check=False)
    assert f.twin_samples == 4 * len(start)
    assert found.mape.max() < 1e-3
    assert bool((found.gradient_evaluations == 50).all())
    assert f.exact_samples + f.twin_samples == int((found.gradient_evaluations + found.forward_evaluations).sum())


def test_a_twin_that_fails_one_sample_serves_the_others() -> None:
    def distort(_x: Tensor, z: Tensor) -> Tensor:
        fails = torch.is_grad_enabled() and len(z) == len(start)
        return torch.cat([z[:1] * torch.nan, z[1:]]) if fails else z

    f = _WithTwin(distort)
    start, target = problem(f)
    found = attack(f, start, 100 * target, eps=0.1, steps=50, check=False)
    # The twin's error is measured for all four, and all four pass through the twin once, in vain; then three use it
    # until the end of the first 60 %.
    assert f.twin_samples == 4 + 4 + 3 * (1 + 1 + 27)
    assert bool((found.gradient_evaluations == 50).all())
    assert f.exact_samples + f.twin_samples == int((found.gradient_evaluations + found.forward_evaluations).sum())


@pytest.mark.parametrize("twins", [_WithTwin, _WithBfloat16Twin])
def test_samples_do_not_depend_on_which_others_use_the_twin(twins: type[_WithTwin]) -> None:
    """Some finish while others use the twin; some leave the twin between two measurements of r, some during one."""
    f = twins(noisy).double()
    start, target = (tensor.double() for tensor in problem(_WithTwin(noisy), count=10))
    share = torch.tensor([0.001, 1, 0.3, 0.003, 0.1, 1, 0.03, 0.01, 2, 0.5])[:, None].double()
    target = (1 - share) * f.net(start).detach() + share * target
    options: dict[str, Any] = {"eps": 2.0, "steps": 60, "tolerance": 1e-4, "restarts": 2, "check": False}
    together = attack(f, start, target, **options)
    mixed = [(rough, exact) for rough, exact in f.passed if rough and exact]
    assert len(mixed) > 12
    for i in range(len(start)):
        alone = attack(f, start[i : i + 1], target[i : i + 1], **options)
        torch.testing.assert_close(together.image[i], alone.image[0], rtol=0, atol=1e-9)
        assert together.forward_evaluations[i] == alone.forward_evaluations[0]
        assert together.gradient_evaluations[i] == alone.gradient_evaluations[0]


def test_an_image_that_is_better_only_by_the_twin_is_not_kept() -> None:
    """The twin is exact in forward passes without gradient, and otherwise reports that the target is close."""
    f = _WithTwin(lambda _x, z: target + 0.02 * (z - target) if torch.is_grad_enabled() else z)
    start, target = problem(f)
    found = attack(f, start, target, eps=0.3, steps=20, check=False)
    assert f.twin_samples == len(start) * 12  # two evaluations, and the first 60 % except those two steps
    by_twin, by_f = found.history[:, 2:12], torch.cat([found.history[:, :2], found.history[:, 12:]], dim=1)
    assert (by_twin.amin(1) < 0.1 * found.mape).all()
    assert torch.isclose(found.mape[:, None], by_f, rtol=1e-4).any(1).all()


def test_a_single_step_does_not_measure_the_twin() -> None:
    f = _WithTwin(noisy)
    start, target = problem(f)
    found = attack(f, start, target, eps=1.0, steps=1, check=False)
    assert f.twin_samples == 0
    assert found.forward_evaluations.tolist() == [3] * len(start)  # the start, the last image, the one returned


@pytest.mark.parametrize(("off", "late", "stays"), [(0.2, False, True), (0.2, True, False), (0.12, True, True)])
def test_the_error_of_a_twin_is_measured_again(off: float, late: bool, stays: bool) -> None:
    """The twin is off by a share of the sample's error, either only at the start or only after it."""

    def distort(_x: Tensor, z: Tensor) -> Tensor:
        at_the_start = f.twin_samples == len(start)
        return z if at_the_start == late else z + off * (far - z).detach()

    f = _WithTwin(distort)
    start, target = problem(f)
    far = 100 * target
    attack(f, start, far, eps=0.1, steps=140, check=False)
    # One evaluation at the start and one seven passes later; the twin is used in between, and then until 60 %.
    assert f.twin_samples == len(start) * (1 + 6 + 1 + (76 if stays else 0))


def test_samples_leave_the_twin_together() -> None:
    f = _WithTwin(noisy)
    start, target = problem(f, count=16)
    attack(f, start, target, eps=8.0, steps=100, check=False)
    sizes = [rough for rough, _ in f.passed if rough]
    changes = [n for n, (size, following) in enumerate(pairwise(sizes), start=1) if size != following]
    assert len(set(sizes)) > 2
    assert all(n % 5 == changes[0] % 5 for n in changes)


@pytest.mark.parametrize("changes", [{"method": "paper"}, {"method": WithoutTwin}, {"gradient": "spsa"}])
def test_other_methods_do_not_use_the_twin(changes: dict[str, object]) -> None:
    f = _WithTwin(noisy)
    start, target = problem(f)
    attack(f, start, target, eps=8.0, steps=3, check=False, **changes)  # type: ignore[arg-type]
    assert f.twin_samples == 0

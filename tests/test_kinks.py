"""Softened kinks: outputs are unchanged, derivatives are averaged over the zone, samples are independent."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodattack.core.attack import attack
from oodattack.core.errors import InputError
from oodattack.core.methods import Fast
from oodattack.core.methods.fast.kinks import MAX_UNITS, ZONE, SoftKinks
from oodattack.core.methods.fast.nadam import half_cosine
from tests.methods import WithoutSoftening

WIDTH = 0.4
RECTIFIERS: list[tuple[Callable[[Tensor], Tensor], float, float]] = [
    (nn.ReLU(), 0, math.inf),
    (nn.ReLU(inplace=True), 0, math.inf),
    (F.relu, 0, math.inf),
    (lambda a: F.relu(a, True), 0, math.inf),
    (F.relu_, 0, math.inf),
    (torch.relu, 0, math.inf),
    (torch.relu_, 0, math.inf),
    (Tensor.relu, 0, math.inf),
    (Tensor.relu_, 0, math.inf),
    (torch.ops.aten.relu.default, 0, math.inf),
    (torch.ops.aten.relu_.default, 0, math.inf),
    (nn.ReLU6(), 0, 6),
    (nn.ReLU6(inplace=True), 0, 6),
    (F.relu6, 0, 6),
    (nn.Hardtanh(), -1, 1),
    (nn.Hardtanh(-2, 3, inplace=True), -2, 3),
    (lambda a: F.hardtanh(a, -2.0, max_val=3.0), -2, 3),
    (lambda a: F.hardtanh(a, -2.0, math.inf), -2, math.inf),
    (lambda a: F.hardtanh(a, -math.inf, 3.0), -math.inf, 3),
    (lambda a: F.hardtanh_(a, -2.0, 3.0), -2, 3),
    (lambda a: torch.ops.aten.hardtanh.default(a, 0.0, 6.0), 0, 6),
    (lambda a: torch.ops.aten.hardtanh_.default(a, 0.0, 6.0), 0, 6),
]


def activations(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Inputs of a layer, with a different scale for each sample."""
    rng = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, 1, shape[0], dtype=torch.float64).view(-1, *(1,) * (len(shape) - 1))
    return (torch.randn(*shape, generator=rng, dtype=torch.float64) * 2 * scales).to(dtype)


def seeded(*layers: Callable[[], nn.Module]) -> nn.Sequential:
    """The layers, with the same weights in every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(*(layer() for layer in layers))


def derivatives(
    rectifier: Callable[[Tensor], Tensor], a: Tensor, kinks: SoftKinks | None = None
) -> tuple[Tensor, Tensor]:
    """Outputs and derivatives; in-place rectifiers get a tensor that is not a leaf."""
    a = a.detach().requires_grad_(True)
    with kinks or nullcontext():
        out = rectifier(a * 1)
    (derivative,) = torch.autograd.grad(out.sum(), a)
    return out.detach(), derivative


@pytest.mark.parametrize(("rectifier", "low", "high"), RECTIFIERS)
def test_rectifiers_keep_their_output_and_average_their_derivative_over_the_zone(
    rectifier: Callable[[Tensor], Tensor], low: float, high: float
) -> None:
    """The mean of the exact derivatives at 2,001 points of each zone."""
    a = activations(3, 4, 5, 6)
    expected, exact = derivatives(rectifier, a)
    out, soft = derivatives(rectifier, a, SoftKinks(WIDTH))
    assert torch.equal(out, expected)
    zone = WIDTH * a.square().mean((1, 2, 3), keepdim=True).sqrt()
    zone = zone.clamp_max((high - low) / 2)  # where two zones overlap, the derivative is not the mean over one
    points = a[None] + zone * torch.linspace(-1, 1, 2001, dtype=a.dtype).view(-1, 1, 1, 1, 1)
    mean = ((points > low) & (points < high)).to(a).mean(0)
    narrow = (zone < (high - low) / 2).expand_as(a)
    assert narrow[0].all()
    torch.testing.assert_close(soft[narrow], mean[narrow], rtol=0, atol=1e-3)
    assert ((soft - exact).abs() > 0.01).any()


def test_layers_that_are_too_large_keep_their_kinks() -> None:
    """The size of a sample decides, not that of the batch."""
    a = activations(2, MAX_UNITS // 64, 8, 8, dtype=torch.float32)
    _, soft = derivatives(F.relu, a, SoftKinks(WIDTH))
    _, hard = derivatives(F.relu, F.pad(a, (0, 1), value=-1.0), SoftKinks(WIDTH))
    assert ((soft > 0) & (soft < 1)).any()
    assert torch.equal(hard[..., :-1], (a > 0).float())


def test_in_place_operations_modify_their_tensor() -> None:
    a = activations(2, 5).requires_grad_(True)
    with SoftKinks(WIDTH):
        middle = a * 1
        F.relu_(middle)
        narrow = a * 1
        F.hardtanh_(narrow)
        kept = a * 1
        F.relu(kept)
    assert torch.equal(middle, a.clamp_min(0))
    assert torch.equal(narrow, a.clamp(-1, 1))
    assert torch.equal(kept, a)


def test_a_sample_does_not_depend_on_its_neighbours_or_its_scale() -> None:
    a = activations(3, 4, 5, 6)
    _, together = derivatives(F.relu, a, SoftKinks(WIDTH))
    _, alone = derivatives(F.relu, a[[1]], SoftKinks(WIDTH))
    _, scaled = derivatives(F.relu, 1e-6 * a, SoftKinks(WIDTH))
    torch.testing.assert_close(together[[1]], alone)
    torch.testing.assert_close(scaled, together)


def test_r_is_measured_in_every_tenth_pass() -> None:
    a = activations(3, 4, 5, 6)
    _, fresh = derivatives(F.relu, a, SoftKinks(WIDTH))
    kinks = SoftKinks(WIDTH)
    for number in range(11):
        _, found = derivatives(F.relu, a if number == 0 else a / 10, kinks)
        if number in (0, 10):
            torch.testing.assert_close(found, fresh)
        else:  # the zone of the first pass: the same units, ten times closer to their kinks
            torch.testing.assert_close(found, (0.5 + (fresh - 0.5) / 10).where((fresh > 0) & (fresh < 1), found))
            assert not torch.allclose(found, fresh)


def test_the_width_may_change_between_passes() -> None:
    a = activations(3, 4, 5, 6)
    kinks = SoftKinks(2 * WIDTH)
    derivatives(F.relu, a, kinks)
    kinks.width = WIDTH
    torch.testing.assert_close(derivatives(F.relu, a, kinks), derivatives(F.relu, a, SoftKinks(WIDTH)))


def test_the_r_of_samples_that_stay_is_kept() -> None:
    a, stay = activations(3, 4, 5, 6), torch.tensor([2, 0])
    kinks = SoftKinks(WIDTH)
    derivatives(F.relu, a, kinks)
    _, together = derivatives(F.relu, a / 10, kinks)
    kinks.keep(stay)
    _, found = derivatives(F.relu, (a / 10)[stay], kinks)
    torch.testing.assert_close(found, together[stay])


@pytest.mark.parametrize("shape", [(2, 4, 5, 6), (3, 8, 5, 6), (4, 5), (3, 4, 5), (3, 4, 5, 6)])
def test_a_pass_through_other_layers_is_measured_again(shape: tuple[int, ...]) -> None:
    """A different first layer; or, in the last case, one layer fewer, which shows only when the pass has ended."""
    a, other = activations(3, 4, 5, 6), activations(*shape)
    same = other.shape == a.shape

    def graph(kinks: SoftKinks, *layers: Tensor) -> list[Tensor]:
        layers = tuple(layer.detach().requires_grad_(True) for layer in layers)
        with kinks:
            outs = [F.relu(layer) for layer in layers]
        return list(torch.autograd.grad([out.sum() for out in outs], layers))

    kinks = SoftKinks(WIDTH)
    graph(kinks, a / 10, a / 10, *([a / 10] if same else []))
    if same:
        graph(kinks, a, a)
    torch.testing.assert_close(graph(kinks, other, a), graph(SoftKinks(WIDTH), other, a))


@pytest.mark.parametrize("part", [2, 8])
def test_samples_may_leave_an_f_that_splits_its_batches(part: int) -> None:
    """If f does not split them, the samples that stay do not depend on those that leave."""
    net = seeded(nn.Flatten, lambda: nn.Linear(48, 20), nn.ReLU, lambda: nn.Linear(20, 6)).double()
    rng = torch.Generator().manual_seed(0)
    start, goal = torch.rand(2, 5, 3, 4, 4, generator=rng, dtype=torch.float64)
    near = torch.tensor([0.02, 1, 0.02, 1, 1], dtype=torch.float64).view(-1, 1, 1, 1)
    with torch.no_grad():
        target = net(start + near * (goal - start))

    def f(x: Tensor) -> Tensor:
        return torch.cat([net(rows) for rows in torch.split(x, part)])

    found = attack(f, start, target, eps=9.0, steps=60, tolerance=0.01)
    assert (found.mape <= 0.01 * (1 + 1e-9)).all()  # measured again, in another batch
    assert len(set(found.gradient_evaluations.tolist())) > 1  # some leave before the others
    if part == 8:
        alone = [attack(f, start[[i]], target[[i]], eps=9.0, steps=60, tolerance=0.01).image for i in range(5)]
        torch.testing.assert_close(found.image, torch.cat(alone))


def test_memory_formats_agree() -> None:
    a = activations(3, 4, 5, 6)
    _, rows = derivatives(F.relu, a, SoftKinks(WIDTH))
    _, channels = derivatives(F.relu, a.contiguous(memory_format=torch.channels_last), SoftKinks(WIDTH))
    torch.testing.assert_close(rows, channels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes_are_kept_and_zeros_are_at_the_kink(dtype: torch.dtype) -> None:
    out, derivative = derivatives(F.relu, torch.zeros(2, 3, dtype=dtype), SoftKinks(WIDTH))
    assert out.dtype == derivative.dtype == dtype
    assert (derivative == 0.5).all()


def test_nothing_is_softened_outside_the_context_or_without_a_gradient() -> None:
    a = activations(2, 5)
    with SoftKinks(WIDTH), torch.no_grad():
        assert torch.equal(F.relu(a), a.clamp_min(0))
    _, derivative = derivatives(F.relu, a)
    assert torch.equal(derivative, (a > 0).to(a))


@pytest.mark.parametrize("width", [0.0, -1.0, math.nan])
def test_a_width_that_is_not_positive_is_refused(width: float) -> None:
    with pytest.raises(InputError, match="positive width"):
        SoftKinks(width)


def test_an_exported_program_is_softened_too() -> None:
    net = seeded(lambda: nn.Linear(6, 5), nn.ReLU, lambda: nn.Linear(5, 4), nn.ReLU6)
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    exported = torch.export.export(net, (x,)).module()
    expected, found = derivatives(net, x, SoftKinks(WIDTH)), derivatives(exported, x, SoftKinks(WIDTH))
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found[1], derivatives(net, x)[1])


def test_gradient_checkpointing_is_refused_with_a_remedy() -> None:
    """Checkpoints repeat the forward pass inside the backward pass, where it cannot be softened."""
    net = seeded(nn.Flatten, lambda: nn.Linear(12, 5), nn.ReLU, lambda: nn.Linear(5, 4), nn.ReLU)
    rng = torch.Generator().manual_seed(0)
    start, target = torch.rand(2, 3, 2, 2, generator=rng), torch.rand(2, 4, generator=rng)

    def checkpointed(x: Tensor) -> Tensor:
        out: Tensor = torch.utils.checkpoint.checkpoint(net, x, use_reentrant=False)
        return out

    with pytest.raises(InputError, match=r"checkpointing.*method='plain'"):
        attack(checkpointed, start, target, eps=1.0, steps=2)
    expected, found = (
        attack(f, start, target, eps=1.0, steps=20, method=WithoutSoftening).image for f in (net, checkpointed)
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("steps", "share"), [(25, 1), (240, 0.825)])
def test_the_zone_shrinks_with_the_step_and_the_last_steps_are_exact(steps: int, share: float) -> None:
    """The steps are too small to move the unit, so its derivative shows the width of the zone."""
    found: list[float] = []

    def f(x: Tensor) -> Tensor:
        a = (x - 0.5).mean((2, 3)).mean(1, keepdim=True) * torch.tensor([0.2, 2.0])
        if a.requires_grad:
            a.register_hook(lambda grad: found.append(float(grad[0, 0])))  # type: ignore[no-untyped-call]
        return F.relu(a) @ torch.tensor([[1.0], [0.0]])

    start = torch.full((1, 3, 2, 2), 0.55)  # a = 0.01 and 0.1; r is their root mean square
    attack(f, start, torch.ones(1, 1), eps=1.0, steps=steps, step_size=1e-9, check=False)
    r = math.sqrt((0.01**2 + 0.1**2) / 2)
    widths = [ZONE * share * half_cosine(n, steps) if n < 0.6 * steps else 0 for n in range(steps)]
    expected = [min(1, 0.5 + 0.01 / (2 * width * r)) if width else 1 for width in widths]
    assert len(found) == steps
    relative = torch.tensor(found) / found[-1]
    assert expected[0] < 0.99
    torch.testing.assert_close(relative, torch.tensor(expected), rtol=1e-4, atol=0)


def test_fast_activates_inactive_units() -> None:
    """A unit that is off at the start has no exact gradient, but the target needs it on."""
    weight = torch.randn(2, 192, generator=torch.Generator().manual_seed(0)) / 14
    start, bias = torch.full((1, 3, 8, 8), 0.5), torch.tensor([1.0, -0.1])

    def f(x: Tensor) -> Tensor:
        return F.relu((x - 0.5).flatten(1) @ weight.T + bias)

    target = torch.tensor([[1.0, 0.2]])  # the first unit is already where it should be
    soft, hard = (
        attack(f, start, target, eps=8.0, steps=50, method=method, check=False) for method in (Fast, WithoutSoftening)
    )
    assert torch.equal(hard.image, start)
    assert (soft.mape < 0.01).all()


def test_a_retained_graph_gives_the_same_gradient_again() -> None:
    """As in an f that differentiates a value and then returns it."""
    a = torch.randn(2, 50, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    with SoftKinks(1.0):
        out = 3 * torch.relu(a).sum()
    (first,) = torch.autograd.grad(out, a, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(out, a)
    assert torch.equal(second, kept)
    assert ((second > 0) & (second < 3)).any()


def test_a_gradient_by_torch_func_is_exact() -> None:
    net = seeded(lambda: nn.Linear(6, 20), nn.ReLU, lambda: nn.Linear(20, 5))
    grad = torch.func.grad(lambda x: net(x).square().sum())
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    expected, exact = derivatives(grad, x)
    out, derivative = derivatives(grad, x, SoftKinks(WIDTH))
    assert torch.equal(out, expected)
    assert torch.equal(derivative, exact)


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_gradient_computed_inside_f_is_exact(create_graph: bool) -> None:
    """Softening leaves outputs unchanged, even if f itself contains a gradient (GradNorm, input perturbation)."""
    net = seeded(lambda: nn.Linear(6, 20), nn.ReLU, lambda: nn.Linear(20, 20), nn.ReLU6, lambda: nn.Linear(20, 1))

    def f(x: Tensor) -> Tensor:
        (inner,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=create_graph)
        out: Tensor = inner * net(x)
        return out

    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    expected, exact = derivatives(f, x)
    out, soft = derivatives(f, x, SoftKinks(WIDTH))
    assert torch.equal(out, expected)
    assert not torch.allclose(soft, exact)


def test_a_compiled_network_is_not_recompiled_in_every_step() -> None:
    """Its passes are softened like those of the network itself."""
    torch.compiler.reset()
    graphs = []

    def count(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    net = seeded(nn.Flatten, lambda: nn.Linear(12, 20), nn.ReLU, lambda: nn.Linear(20, 4), nn.ReLU6)
    rng = torch.Generator().manual_seed(0)
    start, target = torch.rand(2, 3, 2, 2, generator=rng), torch.rand(2, 4, generator=rng)
    compiled = torch.compile(net, backend=count)
    attack(compiled, start, target, eps=1.0, steps=40)
    assert len(graphs) < 8

    def gradient(f: Callable[[Tensor], Tensor], kinks: SoftKinks | None) -> Tensor:
        x = start.clone().requires_grad_(True)
        with kinks or nullcontext():
            out = f(x)
        return torch.autograd.grad(out.sum(), x)[0]

    torch.testing.assert_close(gradient(compiled, SoftKinks(WIDTH)), gradient(net, SoftKinks(WIDTH)))
    assert not torch.allclose(gradient(compiled, SoftKinks(WIDTH)), gradient(net, None))

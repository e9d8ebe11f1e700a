"""Gradients that the library does not give: KNN, Gram and NACUE against closed forms."""

import torch
from torch import Tensor

from oodattack.detectors import make_detectors, make_subject
from oodattack.detectors.layers import _gram_rows, _smooth
from oodattack.detectors.shaping import _without_first
from oodattack.encoders import load_encoder

generator = torch.Generator().manual_seed(0)


def test_distances_to_close_neighbours_are_exact() -> None:
    subject = make_subject(load_encoder("python:tests.factories:tiny"))
    knn = make_detectors(subject, ["KNN"])[0]["KNN"]
    centre = torch.rand(1, 128, generator=generator) + 0.5
    near = centre * (1 + 1e-5 * torch.randn(60, 128, generator=generator))
    bank = torch.cat([torch.rand(200, 128, generator=generator), near])
    knn.load_state_dict({"features": bank, "labels": torch.zeros(len(bank), dtype=torch.long)})
    z = centre.clone().requires_grad_(True)
    judge = knn.judge
    assert judge is not None
    distance = judge(z)
    (gradient,) = torch.autograd.grad(distance.sum(), z)
    exact = centre.double().requires_grad_(True)
    unit, points = (value / value.norm(dim=1, keepdim=True) for value in (exact, bank.double()))
    nearest = (unit - points).norm(dim=1).sort().values
    (wanted,) = torch.autograd.grad(nearest[39:60].mean(), exact)
    assert 0 < nearest[49] < 1e-4
    # |a|^2 + |b|^2 - 2 ab is wrong by more than the distance; float32 features by 1e-7.
    torch.testing.assert_close(distance.double()[0], nearest[49], rtol=5e-2, atol=0)
    assert torch.cosine_similarity(gradient.double(), wanted) > 0.9


def test_removing_the_first_singular_component_has_a_gradient_where_others_are_equal() -> None:
    maps = torch.zeros(2, 4, 3, 3, dtype=torch.float64)
    maps[:, 0], maps[:, 1, 0, 0], maps[:, 2, 0, 1] = 1, 0.2, 0.2  # of rank 3, with two equal singular values
    maps[1] += 0.1 * torch.randn(4, 3, 3, generator=generator, dtype=torch.float64)
    rest = _without_first(maps.requires_grad_(True))
    u, s, v = torch.linalg.svd(maps.detach().flatten(2), full_matrices=False)
    torch.testing.assert_close(rest.detach(), ((u * s[:, None])[:, :, 1:] @ v[:, 1:]).view_as(maps))
    weights = torch.randn(maps.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(rest, maps, weights)
    assert gradient.isfinite().all()
    (expected,) = torch.autograd.grad(_by_svd(maps[1:]), maps, weights[1:])
    torch.testing.assert_close(gradient[1], expected[1], rtol=1e-2, atol=1e-3)


def _by_svd(maps: Tensor) -> Tensor:
    u, s, v = torch.linalg.svd(maps.flatten(2), full_matrices=False)
    first: Tensor = s[:, :1, None] * u[:, :, :1] @ v[:, :1]
    return maps - first.view_as(maps)


def row_sums(maps: Tensor, p: int) -> Tensor:
    power = maps.flatten(2) ** p
    rows = (power @ power.transpose(1, 2)).sum(2)
    return rows.sign() * rows.abs() ** (1 / p)


def test_gram_rows_and_their_gradient_are_those_of_the_matrices() -> None:
    maps = torch.randn(2, 5, 3, 4, generator=generator, dtype=torch.float64).requires_grad_(True)
    for p, rows in zip(range(1, 11), _gram_rows(maps, range(1, 11)), strict=True):
        expected = row_sums(maps, p)
        torch.testing.assert_close(rows, expected)
        weights = torch.rand(rows.shape, generator=generator, dtype=torch.float64)
        found, wanted = (torch.autograd.grad(v, maps, weights, retain_graph=True)[0] for v in (rows, expected))
        torch.testing.assert_close(found, wanted)


def test_gram_rows_do_not_overflow() -> None:
    maps = torch.rand(2, 5, 3, 4, generator=generator).mul(1e6)
    maps[:, 0] = 0  # a channel that is never active
    maps.requires_grad_(True)
    rows = torch.stack(_gram_rows(maps, range(1, 11)), dim=2)
    expected = torch.stack([row_sums(maps.double(), p) for p in range(1, 11)], dim=2)
    torch.testing.assert_close(rows.double(), expected, rtol=1e-4, atol=0)
    (gradient,) = torch.autograd.grad(rows.sum(), maps)
    assert gradient.isfinite().all()


def test_the_smooth_coverage_rises_towards_covered_bins_from_any_distance() -> None:
    covered = torch.zeros(1, 50)
    covered[0, 25] = 1  # states just above 0
    states = torch.linspace(-30, 30, 121)[:, None].requires_grad_(True)
    (slope,) = torch.autograd.grad(_smooth(covered, states).sum(), states)
    away = states.detach() - 0.25
    assert (slope.sign() == -away.sign())[away.abs() > 1].all()


def test_gram_reads_every_block() -> None:
    subject = make_subject(load_encoder("python:tests.factories:resnet20"))
    assert [shape[0] for shape in subject.blocks.shapes] == [16] * 3 + [32] * 3 + [64] * 3 + [10]
    assert [shape[0] for shape in subject.layers.shapes] == [16, 32, 64, 10]
    chosen = make_subject(load_encoder("python:tests.factories:resnet20"), layers=["layer1", "layer2"])
    assert [shape[0] for shape in chosen.blocks.shapes] == [16, 32, 10]

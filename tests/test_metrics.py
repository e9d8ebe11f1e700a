"""MAPE, as the paper defines it."""

import math

import numpy as np
import pytest
import torch

from oodattack.core.errors import InputError
from oodattack.core.metrics import UNDEFINED_MAPE, as_matrix, mape
from oodattack.core.problem import part_lengths, part_mape


def test_mape_is_the_papers_formula() -> None:
    rng = torch.Generator().manual_seed(0)
    z_out, z_in = torch.randn(5, 7, generator=rng), torch.randn(5, 7, generator=rng)
    a, b = z_out.numpy().astype(float), z_in.numpy().astype(float)
    expected = [np.mean(np.abs(a[i] - b[i])) / np.max(np.abs(b[i])) for i in range(5)]
    assert mape(z_out, z_in).tolist() == pytest.approx(expected, rel=1e-6)


def test_mape_divides_by_the_largest_magnitude_not_the_largest_value() -> None:
    assert mape(torch.tensor([[0.0, 0.0]]), torch.tensor([[-4.0, 1.0]])).item() == pytest.approx(2.5 / 4)


def test_mape_is_not_symmetric() -> None:
    small, large = torch.tensor([[1.0]]), torch.tensor([[4.0]])
    assert (mape(small, large).item(), mape(large, small).item()) == (0.75, 3.0)


def test_mape_accepts_one_scalar_per_sample() -> None:
    assert mape(torch.tensor([1.0, 2.0]), torch.tensor([2.0, -1.0])).tolist() == [0.5, 3.0]


def test_mape_of_a_zero_target_is_undefined_and_of_an_infinite_latent_infinite() -> None:
    values = mape(torch.tensor([[0.0, 0.0], [1.0, math.inf]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert math.isnan(values[0])
    assert math.isinf(values[1])
    assert "max|z_in|" in UNDEFINED_MAPE


def test_mape_does_not_depend_on_the_scale_of_the_latent() -> None:
    z_out, z_in = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)), torch.ones(3, 4)
    for scale in (1e-30, 1e30):
        torch.testing.assert_close(mape(z_out * scale, z_in * scale), mape(z_out, z_in))


def test_part_mape_is_the_mape_of_each_part() -> None:
    rng = torch.Generator().manual_seed(0)
    z_out, z_in = torch.randn(4, 6, generator=rng), torch.randn(4, 6, generator=rng)
    values = part_mape(z_out, z_in, [1, 2, 3])
    assert values.shape == (4, 3)
    for column, part in enumerate([slice(0, 1), slice(1, 3), slice(3, 6)]):
        assert torch.equal(values[:, column], mape(z_out[:, part], z_in[:, part]))
    assert torch.equal(part_mape(z_out, z_in, part_lengths(None, 6))[:, 0], mape(z_out, z_in))


def test_as_matrix_turns_a_vector_into_a_column() -> None:
    assert as_matrix(torch.zeros(3)).shape == (3, 1)
    assert as_matrix(torch.zeros(3, 2)).shape == (3, 2)


@pytest.mark.parametrize("latents", [torch.zeros(2, 3, 4), torch.zeros(2, 0), torch.zeros(2, 3, dtype=torch.int64)])
def test_mape_accepts_only_latents(latents: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"expected latents \(B, K\) or \(B,\) of floating-point numbers, got"):
        mape(latents, latents)
    assert mape(torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0,)  # an empty batch is not an error

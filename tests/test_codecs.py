"""Lengths of encoded images, their surrogates, and the search on the 8-bit grid."""

import sys
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from oodattack.attacks import Ball, search_grid
from oodattack.core.errors import InputError
from oodattack.core.pixels import dequantize
from oodattack.detectors.likelihood.code_lengths import CodeLengths
from oodattack.detectors.likelihood.codecs import codecs, lengths
from oodattack.detectors.likelihood.wavelet import soft_bits

SIZE = 32


def smooth(count: int) -> Tensor:
    """Images (count, 3, SIZE, SIZE) between a flat one and noise: enlarged from 4x4 random pixels."""
    small = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(small, size=(SIZE, SIZE), mode="bicubic").clamp(0, 1)


def noise(count: int) -> Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def levels(images: Tensor) -> Tensor:
    return (images * 255).round().to(torch.uint8)


def loader(images: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(batch, torch.zeros(len(batch), dtype=torch.int64)) for batch in torch.split(images, 4)]


def decoded(name: str, file: bytes) -> np.ndarray:
    if name == "JPEG XL":
        return np.asarray(pytest.importorskip("imagecodecs").jpegxl_decode(file))
    return np.asarray(Image.open(BytesIO(file)))


def test_files_decode_to_the_same_pixels_and_their_lengths_are_counted() -> None:
    images = levels(torch.cat([smooth(2), noise(2)]))
    counted = lengths(images)
    for column, (name, codec) in enumerate(codecs().items()):
        for row, image in enumerate(images):
            pixels = np.ascontiguousarray(image.movedim(0, -1).numpy())
            file = codec(pixels)
            np.testing.assert_array_equal(decoded(name, file), pixels)
            assert counted[row, column] == len(file)


def test_without_imagecodecs_three_codecs_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    assert CodeLengths().names == ("PNG", "WebP", "JPEG 2000")
    assert lengths(levels(noise(1))).shape == (1, 3)


def test_soft_bits_of_a_flat_image_are_those_of_its_coarsest_average() -> None:
    image = torch.full((1, 3, 8, 8), 100 / 255, dtype=torch.float64)
    one = np.log2(1 + 100 / 0.5)
    torch.testing.assert_close(soft_bits(image, 0.5), torch.tensor([[3 * 4 * one, 4 * one]], dtype=torch.float64))


def test_soft_bits_follow_the_lifting_steps_of_the_5_3_wavelet() -> None:
    """One level on an image whose columns differ, which splits rows alone: written out coefficient by coefficient."""
    row = torch.tensor([10.0, 60.0, 30.0, 90.0, 200.0, 0.0, 7.0], dtype=torch.float64)
    x = row.tolist()
    high = [x[1] - (x[0] + x[2]) / 2, x[3] - (x[2] + x[4]) / 2, x[5] - (x[4] + x[6]) / 2]
    low = [x[0] + high[0] / 2, x[2] + (high[0] + high[1]) / 4, x[4] + (high[1] + high[2]) / 4, x[6] + high[2] / 2]
    further = [low[1] - (low[0] + low[2]) / 2, low[3] - low[2]]
    coarse = [low[0] + further[0] / 2, low[2] + (further[0] + further[1]) / 4]
    # seven equal rows become four, then two, and have no details of their own
    expected = sum(4 * np.log2(1 + abs(c)) for c in high) + sum(2 * np.log2(1 + abs(c)) for c in further + coarse)
    grey = (row / 255).expand(1, 3, 7, 7)
    torch.testing.assert_close(soft_bits(grey, 1.0)[0].tolist(), [3 * expected, expected])


def test_surrogates_rank_flat_images_below_smooth_ones_below_noise() -> None:
    images = torch.cat([torch.full((1, 3, SIZE, SIZE), 0.5), smooth(4), noise(1)])
    unfitted, fitted = CodeLengths(), CodeLengths()
    fitted.fit(loader(smooth(8)))
    for sizes in (unfitted, fitted):
        estimate = sizes.estimate(images)
        assert (estimate[0] < estimate[1:5]).all()
        assert (estimate[1:5] < estimate[5]).all()


def test_a_fit_recovers_the_lengths_it_was_fitted_to_better_than_the_defaults() -> None:
    images = smooth(8)
    fitted = CodeLengths()
    fitted.fit(loader(images))
    true = lengths(levels(images))
    error, before = ((sizes.estimate(images) - true).square().sum() for sizes in (fitted, CodeLengths()))
    assert error < before
    assert (fitted.weights >= 0).all()


def test_values_are_true_lengths_and_gradients_are_finite() -> None:
    images = torch.cat([smooth(2), noise(1), torch.full((1, 3, SIZE, SIZE), 0.5)]).requires_grad_()
    sizes = CodeLengths()
    values = sizes(images)
    torch.testing.assert_close(values.detach().double(), lengths(levels(images.detach())), atol=0.01, rtol=0)
    for column in range(values.shape[1]):
        (gradient,) = torch.autograd.grad(values[:, column].sum(), images, retain_graph=True)
        assert gradient.isfinite().all()
        assert (gradient[:3] != 0).flatten(1).any(1).all()


def test_state_is_restored_and_belongs_to_its_codecs(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted, other = CodeLengths(), CodeLengths()
    fitted.fit(loader(smooth(8)))
    file = BytesIO()
    torch.save(fitted.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other.load_state_dict(state)
    assert (other.estimate(noise(2)) == fitted.estimate(noise(2))).all()
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    if len(fitted.names) == 4:
        with pytest.raises(InputError, match="oodattack\\[codecs\\]"):
            CodeLengths().load_state_dict(state)


@pytest.mark.parametrize("norm", [1.0, 2.0, float("inf")])
def test_the_search_stays_in_the_ball_and_never_raises_the_objective(norm: float) -> None:
    start = levels(torch.cat([smooth(2), noise(2)]))
    eps = {1.0: 40.0, 2.0: 1.5, float("inf"): 8 / 255}[norm]
    target = torch.tensor([1500.0, 900.0, 2500.0, 5000.0])

    def objective(images: Tensor, rows: Tensor) -> Tensor:
        assert (
            torch.linalg.vector_norm((images.double() - start[rows]).flatten(1) / 255, norm, dim=1) <= eps + 1e-6
        ).all()
        seen[rows] += 1
        return (lengths(images)[:, 0] / target[rows]).log().abs()

    seen = torch.zeros(4)
    before = objective(start, torch.arange(4))
    generators = [torch.Generator().manual_seed(i) for i in range(4)]
    seen.zero_()
    found, value = search_grid(start, objective, Ball(eps, norm, 60), dequantize(start), generators)
    assert (seen <= 60).all()
    assert (value <= before).all()
    assert (value < before).any()
    torch.testing.assert_close(value, objective(found, torch.arange(4)))


def test_each_image_of_a_search_depends_on_its_own_generator_alone_and_leaves_when_it_is_finished() -> None:
    start = levels(noise(3))
    bright = torch.tensor([0.0, 0.48, 0.47])

    def objective(images: Tensor, rows: Tensor) -> Tensor:
        return (images.double().mean((1, 2, 3)) / 255 - bright[rows + offset]).abs()

    def search(first: int, last: int) -> tuple[Tensor, Tensor]:
        generators = [torch.Generator().manual_seed(i) for i in range(first, last)]
        part = start[first:last]
        return search_grid(part, objective, Ball(2.0, 2, 80), dequantize(part), generators, tolerance=0.002)

    offset = 0
    together = search(0, 3)
    for offset in range(3):
        alone = search(offset, offset + 1)
        assert (alone[0][0] == together[0][offset]).all()
        assert alone[1][0] == together[1][offset]

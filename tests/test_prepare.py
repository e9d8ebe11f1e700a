"""The prepared encoder computes the same function and leaves the original unchanged."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodattack.encoders import Encoder, load_encoder
from oodattack.speed import prepare
from oodattack.speed.half_gradient import HalfGradient, worth_halving
from oodattack.speed.padding import plain_convolution
from oodattack.speed.prepared import Prepared
from oodattack.speed.stem import Stem, is_stem
from oodattack.speed.timing import faster_in_16_bits
from tests.factories import jpeg_resnet20, resnet20


def trained_looking(model: nn.Module) -> nn.Module:
    """Give batch norms non-trivial statistics; with the initial ones, a wrong fold would go unnoticed."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.running_mean, -0.5), (module.running_var, 0.5)):
                assert tensor is not None
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + low)
            with torch.no_grad():
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
                module.bias.copy_(torch.rand(module.bias.shape, generator=generator) - 0.5)
    return model


def norms(module: nn.Module) -> int:
    return sum(isinstance(child, nn.BatchNorm2d) for child in module.modules())


class _Reused(nn.Module):
    """The convolution's output also bypasses the batch norm, so that folding would change the function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return F.relu(y + self.bn(y)).mean((2, 3))


class _HalfGradient(nn.Module):
    """In channels-last memory its latents are correct, but its gradient is half the correct one."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(x - 0.5)
        return (y if x.is_contiguous() else 0.5 * y + 0.5 * y.detach()).mean((2, 3))


class _Subclass(nn.Conv2d):
    """A subclass, which may do more than convolve."""


class _Same(nn.Conv2d):
    """TensorFlow's "same" padding, as used in EfficientNets."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- the name of torch
        pads: list[int] = []
        for n, kernel, stride in zip(input.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            pad = max(0, (-(-n // stride) - 1) * stride + kernel - n)
            pads += [pad // 2, pad - pad // 2]
        return super().forward(F.pad(input, pads))


class _Standardised(_Same):
    """Does its own padding, but also standardises its weights."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(input) * input.std()


class _Stubborn(nn.Module):
    """Cannot be copied."""

    def __deepcopy__(self, memo: object) -> nn.Module:
        raise RuntimeError("not copied")

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


@pytest.mark.parametrize("spec", ["embedded", "torchvision:densenet121,weights=none,size=64"])
@pytest.mark.filterwarnings("ignore:.*random weights")
def test_known_models_give_the_same_latents_and_gradients(spec: str) -> None:
    encoder = load_encoder(spec, device="cpu")
    prepared = prepare(encoder)
    x = torch.rand(2, 3, *encoder.input_size, generator=torch.Generator().manual_seed(5)).requires_grad_(True)
    z, fast = encoder(x), prepared(x)
    torch.testing.assert_close(fast, z, rtol=1e-4, atol=1e-4 * float(z.detach().abs().max()))
    (gradient,), (fast_gradient,) = torch.autograd.grad(z.sum(), x), torch.autograd.grad(fast.sum(), x)
    assert F.cosine_similarity(gradient.flatten(), fast_gradient.flatten(), dim=0) > 0.9999


def test_every_batch_norm_behind_a_convolution_is_folded() -> None:
    encoder = Encoder(trained_looking(resnet20()), name="resnet20", input_size=(32, 32))
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    prepared = prepare(encoder)
    assert norms(encoder) == 19
    assert norms(prepared) == 0
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    x = torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(prepared(x), encoder(x), rtol=1e-3, atol=1e-4)


def test_a_fold_that_changes_the_function_is_not_used() -> None:
    encoder = Encoder(trained_looking(_Reused()), name="reused", input_size=(16, 16), layer="output")
    with pytest.warns(UserWarning, match="its latents differ from the original's"):
        assert prepare(encoder) is encoder


def test_a_model_that_cannot_be_copied_is_attacked_unchanged() -> None:
    encoder = Encoder(_Stubborn(), name="stubborn", input_size=(16, 16), layer="output")
    with pytest.warns(UserWarning, match="without preparation for speed: RuntimeError: not copied"):
        assert prepare(encoder) is encoder


def test_a_copy_with_a_different_gradient_is_not_used() -> None:
    encoder = Encoder(_HalfGradient(), name="half", input_size=(16, 16), layer="output")
    with pytest.warns(UserWarning, match="its gradients differ from the original's"):
        assert prepare(encoder) is encoder


def test_a_model_without_a_gradient_is_prepared_for_forward_passes() -> None:
    assert isinstance(prepare(Encoder(jpeg_resnet20(), name="jpeg", input_size=(32, 32))), Prepared)


@pytest.mark.filterwarnings("ignore:.*random weights")
@pytest.mark.parametrize("name", ["torchvision:resnet18", "torchvision:densenet121"])
def test_the_first_convolution_of_known_models_is_rewritten(name: str) -> None:
    prepared = prepare(load_encoder(f"{name},weights=none,size=64", device="cpu"), rough=False)
    assert [type(module) for module in prepared.modules() if isinstance(module, Stem)] == [Stem]


@pytest.mark.parametrize(("height", "width", "bias"), [(32, 32, True), (31, 38, False), (33, 40, True)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(7, 2, 3), (3, 2, 1), (4, 4, 0), (16, 16, 0), (11, 4, 2), (2, 3, 1), (5, 3, 4)]
)
def test_a_stem_equals_its_convolution(
    kernel: int, stride: int, padding: int, bias: bool, height: int, width: int
) -> None:
    """Including strides that skip trailing pixels, and kernels smaller than the stride."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 5, kernel, stride, padding, bias=bias).double()
    assert is_stem(convolution) == (padding < kernel)
    x = torch.rand(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    expected, got = convolution(x), Stem(convolution)(x)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    weight = torch.rand_like(expected)
    (gradient,), (expected_gradient,) = (torch.autograd.grad(y, x, weight) for y in (got, expected))
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-12)


def derivatives(f: nn.Module, x: Tensor, towards: Tensor, each: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Second derivatives, forward-mode derivatives, and vectorised gradients."""

    def loss(x: Tensor) -> Tensor:
        y: Tensor = f(x)
        return y.square().sum()

    (gradient,) = torch.autograd.grad(loss(x), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), x)
    return second, torch.func.jvp(f, (x,), (towards,))[1], torch.vmap(torch.func.grad(loss))(each)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # raised by torch.func itself
def test_a_stem_is_twice_differentiable_and_works_in_mixed_precision() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 5, 3, 2, 1).requires_grad_(False)
    stem = Stem(convolution)
    x = torch.rand(1, 3, 7, 8, requires_grad=True)
    towards, each = torch.rand_like(x), torch.rand(3, 1, 3, 7, 8)
    for got, expected in zip(*(derivatives(f, x, towards, each) for f in (stem, convolution)), strict=True):
        torch.testing.assert_close(got, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = stem(x)
    assert y.dtype == torch.bfloat16
    (gradient,), (expected,) = (torch.autograd.grad(z.sum(), x) for z in (y, convolution(x)))
    torch.testing.assert_close(gradient, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2, (2, 1), 3])
@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (3, 1), (4, 0), (4, 2), ((5, 2), (4, 1))])
@pytest.mark.parametrize(("size", "bias"), [((12, 12), False), ((13, 15), True)])
def test_half_gradients_are_accurate_to_one_per_cent(
    kernel: int | tuple[int, int],
    padding: int | tuple[int, int],
    stride: int | tuple[int, int],
    dilation: int,
    bias: bool,
    size: tuple[int, int],
) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(64, 48, kernel, stride, padding, dilation, bias=bias)
    x = torch.rand(2, 64, *size, requires_grad=True)
    expected, got = convolution(x), HalfGradient(convolution)(x)
    assert torch.equal(got, expected)
    weight = torch.rand_like(expected)
    (gradient,), (expected_gradient,) = (torch.autograd.grad(y, x, weight) for y in (got, expected))
    assert gradient.dtype == torch.float32
    assert 1e-5 * expected_gradient.norm() < (gradient - expected_gradient).norm() < 0.01 * expected_gradient.norm()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # raised by torch.func itself
def test_half_gradients_are_differentiable_and_work_with_torch_func() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(32, 32, 3, 2, 1).requires_grad_(False)
    half = HalfGradient(convolution)
    x = torch.rand(1, 32, 7, 8, requires_grad=True)
    towards, each = torch.rand_like(x), torch.rand(3, 1, 32, 7, 8)
    second, forward, first = zip(*(derivatives(f, x, towards, each) for f in (half, convolution)), strict=True)
    torch.testing.assert_close(*forward)
    for got, expected in (second, first):
        assert (got - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize(
    "module",
    [
        _Subclass(64, 64, 3),
        nn.Conv2d(3, 64, 3),
        nn.Conv2d(64, 64, 1, stride=2),
        nn.Conv2d(64, 64, 3, groups=2),
        nn.Conv2d(64, 64, 3, padding="same"),
        nn.Conv2d(64, 64, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(64, 64, 3).double(),
        nn.Linear(64, 64),
    ],
)
def test_half_gradients_are_not_used_for_other_layers(module: nn.Module) -> None:
    assert not worth_halving(module)


def halved(module: nn.Module) -> int:
    return sum(isinstance(child, HalfGradient) for child in module.modules())


def test_gradients_are_in_bfloat16_where_that_is_faster() -> None:
    encoder = Encoder(resnet20(), name="resnet20", input_size=(32, 32))
    kinds = [halved(prepare(encoder, half=half, rough=False)) for half in (True, False, None)]
    assert kinds == [18, 0, 18 if faster_in_16_bits(torch.device("cpu")) else 0]  # all but the first layer


class _Cancels(nn.Module):
    """Its gradient is a small difference between two large ones."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3)
        self.same = nn.Conv2d(64, 64, 3)
        with torch.no_grad():
            self.same.weight.copy_(self.other.weight * (1 + 1e-3 * torch.randn_like(self.other.weight)))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.one(x)
        y = self.other(y) - self.same(y)
        return y.mean((2, 3))


def test_gradients_too_inaccurate_in_bfloat16_stay_in_float32() -> None:
    torch.manual_seed(0)
    prepared = prepare(Encoder(_Cancels(), name="cancels", input_size=(16, 16), layer="output"), half=True)
    assert isinstance(prepared, Prepared)
    assert halved(prepared) == 0


@pytest.mark.parametrize("stride", [1, 2, (2, 1), 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5, (5, 2)])
@pytest.mark.parametrize(("size", "bias"), [((32, 32), False), ((31, 38), True)])
def test_explicit_padding_is_absorbed_into_the_convolution(
    kernel: int | tuple[int, int], stride: int | tuple[int, int], bias: bool, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    own = _Same(4, 8, kernel, stride, groups=2, bias=bias).double()
    x = torch.rand(2, 4, *size, dtype=torch.float64, requires_grad=True)
    expected = own(x)
    with torch.no_grad():
        twin = plain_convolution(own, x.shape, expected.shape)
    assert twin is not None
    assert type(twin) is nn.Conv2d
    torch.testing.assert_close(twin(x), expected, rtol=1e-12, atol=1e-12)
    weight = torch.rand_like(expected)
    (gradient,), (expected_gradient,) = (torch.autograd.grad(y, x, weight) for y in (twin(x), expected))
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("error")
def test_a_prepared_network_pads_only_in_its_convolutions() -> None:
    """Except those that do more or are called with images of two sizes; the original is left unchanged."""
    shared = _Same(8, 8, 3, stride=2)
    model = nn.Sequential(
        _Same(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(inplace=True), _Standardised(8, 8, 3), shared, shared
    )
    encoder = Encoder(trained_looking(model), name="same", input_size=(32, 24), layer="output")
    prepared = prepare(encoder)
    convolutions = [type(module) for module in prepared.modules() if isinstance(module, nn.Conv2d | Stem)]
    assert convolutions == [Stem, _Standardised, _Same]
    assert norms(prepared) == 0
    assert [type(module) for module in model] == [_Same, nn.BatchNorm2d, nn.ReLU, _Standardised, _Same, _Same]
    assert not any(module._forward_hooks for module in [*encoder.modules(), *prepared.modules()])
    x = torch.rand(3, 3, 32, 24)
    torch.testing.assert_close(prepared(x), encoder(x), rtol=1e-4, atol=1e-5)


class _Gain(nn.Conv2d):
    """Called with an extra argument."""

    def forward(self, input: Tensor, gain: float = 2.0) -> Tensor:  # noqa: A002
        return super().forward(input) * gain


class _Slim(nn.Conv2d):
    """Slices its weight to the number of input channels."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return F.conv2d(input, self.weight[:, : input.shape[1]], self.bias)


class _Asking(nn.Module):
    """Decides by itself how to call its convolution."""

    def __init__(self, convolution: nn.Conv2d, call: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.convolution, self.call = convolution, call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.convolution, x).mean((2, 3))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("convolution", "call"),
    [
        (_Subclass(3, 4, 3, 2, 1), lambda convolution, x: convolution(input=x)),
        (_Gain(3, 4, 3), lambda convolution, x: convolution(x, gain=1.0)),
        (_Gain(3, 4, 3), lambda convolution, x: convolution(x, 1.0)),
        (_Slim(8, 4, 3), lambda convolution, x: convolution(x)),
        (_Same(3, 4, 3, 2), lambda convolution, x: convolution(x) * convolution.forward.__self__.named),
        (_Standardised(3, 4, 3), lambda convolution, x: convolution(0 * x)),  # zeros do not reveal what it computes
    ],
)
def test_convolutions_that_do_more_are_kept(convolution: nn.Conv2d, call: Callable[[Any, Tensor], Tensor]) -> None:
    convolution.named = 3.0  # type: ignore[assignment]
    encoder = Encoder(_Asking(convolution, call), name="asking", input_size=(8, 8), layer="output")
    state = torch.get_rng_state()
    prepared = prepare(encoder)
    assert torch.equal(torch.get_rng_state(), state)
    assert [type(module) for module in prepared.modules() if isinstance(module, nn.Conv2d)] == [type(convolution)]


@pytest.mark.filterwarnings("ignore:.*random weights")
@pytest.mark.parametrize("name", ["embedded", "timm:tf_efficientnet_lite0,weights=none,size=64"])
def test_efficientnets_get_plain_convolutions(name: str) -> None:
    prepared = prepare(load_encoder(name, device="cpu"))
    assert {type(module) for module in prepared.modules() if isinstance(module, nn.Conv2d)} == {nn.Conv2d}


@pytest.mark.parametrize(
    "module",
    [
        _Subclass(3, 8, 3, 2),
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(3, 9, 3, 2, groups=3),
        nn.Conv2d(3, 8, 3, 2, dilation=2),
        nn.Conv2d(3, 8, 3, (2, 1)),
        nn.Conv2d(3, 8, (3, 5), 2),
        nn.Conv2d(3, 8, 3, 2, (1, 0)),
        nn.Conv2d(3, 8, 3, 2, padding_mode="circular", padding=1),
        nn.Conv2d(3, 8, 3, 2, padding="valid"),
        nn.Conv2d(16, 8, 3, 2),
        nn.Linear(3, 3),
    ],
    ids=repr,
)
def test_other_layers_are_not_stems(module: nn.Module) -> None:
    assert not is_stem(module)


@pytest.mark.parametrize("layer", ["0", "input of 1", "0+2"])
def test_z_between_a_convolution_and_its_norm_prevents_folding(layer: str) -> None:
    net = trained_looking(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    )
    encoder = Encoder(net, name="net", input_size=(16, 16), layer=layer)
    prepared = prepare(encoder)
    assert isinstance(prepared, Prepared)
    assert norms(prepared) == (2 if "2" in layer else 1)
    x = torch.rand(4, 3, 16, 16)
    torch.testing.assert_close(prepared(x), encoder(x), rtol=1e-3, atol=1e-4)

"""The bfloat16 twin approximates the encoder, and exists only where it is faster."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import oodattack.speed.rough as rough_module
from oodattack import attack
from oodattack.core.checks import evaluation_mode
from oodattack.encoders import Encoder, load_encoder
from oodattack.speed import prepare, timing
from oodattack.speed.depthwise import Depthwise, is_depthwise
from oodattack.speed.prepared import Prepared
from oodattack.speed.probe import probe
from oodattack.speed.rough import MIN_FLOPS, MIN_SPEEDUP, _flops_per_image
from oodattack.speed.timing import interleaved_times


def twins(encoder: Encoder) -> tuple[Prepared, Prepared | None]:
    prepared = prepare(encoder, rough=True)
    assert isinstance(prepared, Prepared)
    return prepared, prepared.rough_twin


@pytest.mark.filterwarnings("ignore:.*random weights")
@pytest.mark.parametrize(
    "spec",
    [
        "python:tests.factories:resnet20",
        "torchvision:resnet18,weights=none,size=64",
        "torchvision:mobilenet_v2,weights=none,size=64",
        "torchvision:densenet121,weights=none,size=64,layer=features.norm5",
        "timm:test_vit,weights=none",
    ],
)
def test_twins_of_known_models_are_close(spec: str) -> None:
    torch.manual_seed(0)
    prepared, rough = twins(load_encoder(spec, device="cpu"))
    assert rough is not None
    assert {p.dtype for p in rough.encoder.model.state_dict().values() if p.is_floating_point()} == {torch.bfloat16}
    images = torch.rand(3, 3, *prepared.encoder.input_size, generator=torch.Generator().manual_seed(1))
    (z, gradient), (z_rough, gradient_rough) = probe(prepared, images), probe(rough, images)
    assert z_rough.dtype == gradient_rough.dtype == torch.float32
    assert gradient_rough.is_contiguous()
    size = z.norm()
    assert 1e-4 * size < (z_rough - z).norm() < 0.1 * size  # not equal, since it computes in bfloat16
    assert torch.cosine_similarity(gradient.flatten(), gradient_rough.flatten(), dim=0) > 0.6


def test_the_prepared_encoder_stays_in_float32() -> None:
    encoder = load_encoder("python:tests.factories:resnet20", device="cpu")
    images = torch.rand(2, 3, 32, 32)
    alone, (prepared, _) = prepare(encoder, rough=False), twins(encoder)
    for one, other in zip(probe(alone, images), probe(prepared, images), strict=True):
        assert torch.equal(one, other)


class _Refuses(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise TypeError("32 bits, please")
        return self.net(x).mean((2, 3))  # type: ignore[no-any-return]

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv2d(3, 4, 3)


class _SomethingElse(_Refuses):
    """Its gradient is different in bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x if x.dtype == torch.float32 else 0.5 - x)
        return y.mean((2, 3))


@pytest.mark.parametrize("model", [_Refuses(), _SomethingElse()])
@pytest.mark.filterwarnings("error")
def test_a_model_that_rejects_bfloat16_or_deviates_has_no_twin(model: nn.Module) -> None:
    prepared, rough = twins(Encoder(model, name="mine", input_size=(8, 8), layer="output"))
    assert rough is None
    start, x = torch.rand(2, 1, 3, 8, 8)
    assert attack(prepared, start, prepared(x).detach(), eps=3.0, steps=5).mape.isfinite()


class _Mixed(nn.Module):
    def __init__(self, *kinds: torch.dtype) -> None:
        super().__init__()
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(3, 1, 1, dtype=kind)) for kind in kinds])

    def forward(self, x: Tensor) -> Tensor:
        for scale in self.scales:
            x = x.to(scale.dtype) * scale
        return x.abs().flatten(1)


@pytest.mark.parametrize(
    ("kinds", "twin"),
    [
        ([], False),  # no weights to convert
        ([torch.float32], True),
        ([torch.float64], False),
        ([torch.bfloat16], False),
        ([torch.float32, torch.float64], False),
        ([torch.float32, torch.complex64], False),
    ],
)
def test_only_float32_models_have_a_twin(
    kinds: list[torch.dtype], twin: bool, recwarn: pytest.WarningsRecorder
) -> None:
    encoder = Encoder(_Mixed(*kinds), name="mixed", input_size=(8, 8), layer="output")
    prepared, rough = twins(encoder)
    images = torch.rand(2, 3, 8, 8)
    assert prepared(images).dtype == encoder(images).dtype
    assert (rough is not None) == twin
    assert len(recwarn) == 0


def test_a_twin_moves_with_its_encoder() -> None:
    prepared, rough = twins(load_encoder("python:tests.factories:resnet20", device="cpu"))
    assert rough is not None
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    z = prepared.double()(images)
    assert rough(images).dtype == torch.float64
    torch.testing.assert_close(rough(images), z, rtol=0, atol=0.05 * float(z.abs().max()))


@pytest.mark.parametrize(("gain", "work", "twin"), [(1.1, 1.0, True), (0.9, 1.0, False), (1.1, 0.9, False)])
def test_by_default_large_networks_have_a_twin_where_it_is_faster(
    gain: float, work: float, twin: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The times are made up: no test may depend on what is faster here."""
    encoder = load_encoder("python:tests.factories:resnet20", device="cpu")
    images = torch.rand(2, 3, 32, 32)
    monkeypatch.setattr(rough_module, "faster_in_16_bits", lambda _device: True)
    monkeypatch.setattr(rough_module, "interleaved_times", lambda *_calls, seconds: ([MIN_SPEEDUP * gain], [1.0]))
    monkeypatch.setattr(rough_module, "MIN_FLOPS", _flops_per_image(encoder, images) / work - 1)
    prepared = prepare(encoder)
    assert isinstance(prepared, Prepared)
    assert (prepared.rough_twin is not None) == twin


def test_flops_count_multiplications_and_additions() -> None:
    small = Encoder(nn.Conv2d(3, 4, 3), name="small", input_size=(8, 8), layer="output")
    assert _flops_per_image(small, torch.rand(2, 3, 8, 8)) == 2 * 3 * 4 * 9 * 36 < MIN_FLOPS


def test_calls_are_timed_in_turn_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fake clock; the first call of each function is a warm-up and is not timed."""
    now, spent = 0.0, {"slow": iter([9.0, 5.0, 4.0]), "fast": iter([0.1, 3.0, 2.0])}

    def call(name: str) -> None:
        nonlocal now
        now += next(spent[name])

    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now))
    slow, fast = interleaved_times(lambda: call("slow"), lambda: call("fast"))
    assert slow == pytest.approx([5.0, 4.0])
    assert fast == pytest.approx([3.0, 2.0])


def test_an_attack_with_a_twin_gets_close() -> None:
    torch.manual_seed(0)
    prepared, rough = twins(load_encoder("python:tests.factories:resnet20", device="cpu"))
    assert rough is not None
    passed = []
    rough.register_forward_hook(lambda _module, inputs, _output: passed.append(len(inputs[0])))
    start, x = torch.rand(2, 4, 3, 32, 32)
    with evaluation_mode(prepared), torch.no_grad():
        target = prepared(x)
    found = attack(prepared, start, target, eps=10.0, steps=30)
    assert sum(passed) > 2 * 4  # the evaluation of the start, and some steps of each
    assert (found.mape < 0.3 * found.start_mape).all()
    with torch.no_grad():
        torch.testing.assert_close(found.latent, prepared(found.image))


@pytest.mark.parametrize("stride", [1, 2, (2, 1), 3])
@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (2, 1), (3, 1), (4, 1), (5, 2), (5, 0), ((5, 2), (4, 0))])
@pytest.mark.parametrize(("size", "bias"), [((12, 12), False), ((13, 15), True)])
def test_depthwise_equals_its_convolution(
    kernel: int | tuple[int, int],
    padding: int | tuple[int, int],
    stride: int | tuple[int, int],
    bias: bool,
    size: tuple[int, int],
) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(4, 4, kernel, stride, padding, groups=4, bias=bias).double()
    assert is_depthwise(convolution)
    x = torch.rand(2, 4, *size, dtype=torch.float64, requires_grad=True)
    expected, got = convolution(x), Depthwise(convolution)(x)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    weight = torch.rand_like(expected)
    (gradient,), (expected_gradient,) = (torch.autograd.grad(y, x, weight) for y in (got, expected))
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(1, 1, 3),
        nn.Conv2d(4, 4, 3, groups=4, dilation=2),
        nn.Conv2d(4, 4, 3, groups=4, padding=3),
        nn.Conv2d(4, 4, 3, groups=4, padding="same"),
        nn.Conv2d(4, 4, 3, groups=4, padding=1, padding_mode="reflect"),
        nn.Linear(3, 4),
    ],
)
def test_other_layers_are_not_depthwise(module: nn.Module) -> None:
    assert not is_depthwise(module)

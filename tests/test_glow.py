"""Glow: its determinants against autograd, its likelihoods against closed forms and normflows, and its inverse."""

import copy
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import normflows as nf
import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn
from torch.distributions import Normal
from torch.func import jacrev
from torch.nn import functional as F

from oodattack.core.errors import InputError
from oodattack.encoders.checkpoints import load_state, put_weights
from oodattack.networks import Glow, build_glow
from oodattack.networks.glow.actnorm import ActNorm
from oodattack.networks.glow.coupling import BOUND, Coupling
from oodattack.networks.glow.flow import Flow, glow_steps
from oodattack.networks.glow.layer import Layer
from oodattack.networks.glow.mixing import Mixing
from oodattack.networks.glow.prior import SplitPrior, TopPrior
from oodattack.storage.files import write_weights


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def randomised(module: nn.Module, batch: Tensor, scale: float = 0.1) -> nn.Module:
    """Initialise from a batch, and move all parameters away from their initial values, which hide errors."""
    module.train()
    module(batch)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return module.eval().requires_grad_(False)


def glow(size: int = 8, *, steps: int = 2, levels: int = 2, width: int = 8, scale: float = 0.1) -> Glow:
    model = Glow(size, steps=steps, levels=levels, width=width)
    randomised(model, torch.rand(16, 3, size, size), scale)
    return model


def layers_of(model: Glow, level: int) -> list[Layer]:
    return list(cast(Flow, model.flows[level]).layers)  # type: ignore[arg-type]


def identity(std: float, mean: float = 0.0) -> Glow:
    """A Glow of one level, which is the identity up to the order and signs of pixels, and its normal distribution."""
    model = Glow(8, steps=2, levels=1, width=4)
    for layer in layers_of(model, 0):
        if isinstance(layer, ActNorm):  # undoes the scale of the coupling, whose network is zero
            layer.log_scale.data[6:] = math.log1p(math.exp(-2))
        elif isinstance(layer, Mixing):
            layer.order.copy_(torch.arange(12))
            layer.triangles.data.zero_()
            layer.log_diagonal.data.zero_()
            layer.sign.copy_(torch.ones(12))
    for module in model.modules():
        if isinstance(module, ActNorm):
            module.initialised.fill_(True)
    prior = cast(TopPrior, model.priors[0])
    prior.mean.data.fill_(mean)
    prior.log_std.data.fill_(math.log(std))
    return model.eval()


def far_images(size: int) -> Tensor:
    """Noise, black and white noise, constant images, checkerboards: (B, 3, size, size)."""
    i = torch.arange(size)
    boards = [((i[:, None] // side + i // side) % 2).float().expand(3, -1, -1) for side in (1, 4)]
    constants = [torch.full((3, size, size), level) for level in (0.0, 0.5, 1.0)]
    noise = torch.rand(3, size, size)
    return torch.stack(
        [noise, noise.round(), *constants, *boards, boards[0] * torch.tensor([1, 0, 0.5])[:, None, None]]
    )


LAYERS = [lambda: ActNorm(8), lambda: Mixing(8), lambda: Coupling(8, 6), lambda: glow_steps(8, 2, 6)]
NAMES = ["actnorm", "mixing", "coupling", "steps"]


@pytest.mark.parametrize("build", LAYERS, ids=NAMES)
def test_a_layers_log_determinant_is_that_of_its_jacobian(build: Callable[[], Layer]) -> None:
    layer = build()
    randomised(layer, torch.randn(32, 8, 4, 6), 0.3).double()
    h = torch.randn(3, 8, 4, 6, dtype=torch.float64)
    log_det = layer(h)[1].expand(3)
    for image, found in zip(h, log_det, strict=True):
        jacobian = jacrev(lambda one: layer(one[None])[0])(image).view(192, 192)
        assert float(found) == pytest.approx(float(torch.linalg.slogdet(jacobian)[1]), rel=1e-9)


@pytest.mark.parametrize("build", LAYERS, ids=NAMES)
def test_a_layer_inverts(build: Callable[[], Layer]) -> None:
    layer = build()
    randomised(layer, torch.randn(32, 8, 4, 6), 0.3).double()
    h = torch.randn(3, 8, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(layer.inverse(layer(h)[0]), h, atol=1e-8, rtol=0)


def test_mixing_starts_as_a_random_rotation() -> None:
    weight = Mixing(8).weight()
    torch.manual_seed(0)
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))
    torch.testing.assert_close(weight, rotation.float())


def test_the_log_determinant_of_the_model_is_that_of_its_jacobian_in_pixel_values() -> None:
    model = glow(4, levels=2).double()
    x, noise = torch.rand(2, 3, 4, 4, dtype=torch.float64), torch.rand(2, 3, 4, 4, dtype=torch.float64)
    encoding = model.encode(x, noise)
    for i in range(2):

        def latents(values: Tensor, u: Tensor = noise[i]) -> Tensor:
            return torch.cat([z.flatten() for z in model.encode(values[None] / 255, u).z])

        jacobian = jacrev(latents)(255 * x[i]).view(48, 48)
        assert float(encoding.log_det[i]) == pytest.approx(float(torch.linalg.slogdet(jacobian)[1]), rel=1e-9)


def test_log_p_is_the_density_of_the_latents_of_each_level() -> None:
    model = glow().double()
    x = torch.rand(3, 3, 8, 8, dtype=torch.float64)
    encoding = model.encode(x)
    assert [tuple(z.shape[1:]) for z in encoding.z] == model.latent_shapes == [(6, 4, 4), (24, 2, 2)]
    (first, first_det), pixels = model.flows[0](F.pixel_unshuffle((255 * x + 0.5) / 256 - 0.5, 2)), 192
    second, second_det = model.flows[1](F.pixel_unshuffle(first[:, :6], 2))
    torch.testing.assert_close(encoding.z, (first[:, 6:], second))
    dets = torch.stack([first_det - pixels * math.log(256), second_det], dim=1)
    torch.testing.assert_close(encoding.log_dets, dets)
    for level, parameters in enumerate([model.priors[0](first[:, :6]), model.priors[1]()]):
        mean, log_std = parameters
        density = Normal(mean, log_std.exp()).log_prob(encoding.z[level])  # type: ignore[no-untyped-call]
        expected = density.sum((1, 2, 3))
        torch.testing.assert_close(encoding.log_p[:, level], expected)
    torch.testing.assert_close(-model(x), encoding.log_p.sum(1) + encoding.log_det)
    torch.testing.assert_close(model.bits_per_dim(x), model(x) / pixels / math.log(2))


def test_a_uniform_density_has_eight_bits_per_dimension() -> None:
    """A normal distribution that is flat over the cube of all images, with the constant density (std sqrt(2 pi))^-D."""
    std = 1e4
    bits = identity(std).double().bits_per_dim(far_images(8).double())
    torch.testing.assert_close(
        bits - math.log2(std * math.sqrt(2 * math.pi)), torch.full_like(bits, 8), atol=1e-6, rtol=0
    )


def test_likelihoods_are_those_of_8_bit_values() -> None:
    """The middle of a pixel value's interval stands for the whole interval, whose probability is known here."""
    levels = torch.randint(0, 40, (4, 3, 8, 8)).double()
    edges = levels.numpy() / 256 - 0.5
    probability = norm.cdf(edges + 1 / 256, -0.45, 0.05) - norm.cdf(edges, -0.45, 0.05)
    exact = -torch.from_numpy(probability).log().sum((1, 2, 3))
    torch.testing.assert_close(identity(0.05, -0.45).double()(levels / 255), exact, rtol=1e-3, atol=0)


def test_noise_moves_an_image_towards_the_next_pixel_value() -> None:
    model = glow().double()
    levels = torch.randint(0, 255, (4, 3, 8, 8)).double()
    half, one = torch.full_like(levels, 0.5), torch.ones(3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(model(levels / 255, half), model(levels / 255))
    torch.testing.assert_close(model(levels / 255, one), model((levels + 1) / 255, 0 * one))


def test_decode_inverts_encode_far_from_the_data() -> None:
    model, x = glow(16), far_images(16)
    torch.testing.assert_close(model.decode(model.encode(x).z), x, atol=1e-3, rtol=0)
    torch.testing.assert_close(model.double().decode(model.encode(x.double()).z), x.double(), atol=1e-9, rtol=0)


@pytest.mark.parametrize("s", [-1e4, 1e4])
def test_a_coupling_inverts_and_has_gradients_for_extreme_outputs_of_its_network(s: float) -> None:
    coupling = Coupling(8, 6)
    randomised(coupling, torch.randn(16, 8, 4, 4), 0.0)
    coupling.conv3.bias.data[4:] = s
    h = torch.randn(3, 8, 4, 4, requires_grad=True)
    out, log_det = coupling(h)
    torch.testing.assert_close(coupling.inverse(out), h, atol=1e-4, rtol=0)
    expected = 64 * -math.log1p(math.exp(-2 - math.copysign(BOUND, s)))
    torch.testing.assert_close(log_det, torch.full((3,), expected), rtol=1e-2, atol=0)


@pytest.mark.parametrize("scale", [0.03, 0.3])
def test_gradients_are_finite_far_from_the_data(scale: float) -> None:
    """Also where likelihoods are astronomically small, because every layer multiplies its input."""
    model, x = glow(16, scale=scale), far_images(16).requires_grad_()
    nats = model(x)
    (gradient,) = torch.autograd.grad(nats.sum(), x)
    assert bool(nats.isfinite().all())
    assert bool(gradient.isfinite().all())
    assert bool((gradient.flatten(1).norm(dim=1) > 0).all())


def test_float32_is_accurate_enough_to_match_likelihoods() -> None:
    model = Glow(32, steps=4, levels=3, width=16)
    x = torch.rand(16, 3, 32, 32)
    randomised(model, x, 0.01)
    torch.testing.assert_close(
        model.bits_per_dim(x).double(), model.double().bits_per_dim(x.double()), atol=1e-4, rtol=0
    )


class _Interleaved(nn.Module):
    """A coupling network of normflows with our bound of the scale."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.net(h).clone()
        s = out[:, 1::2]
        out[:, 1::2] = s / (1 + s.abs() / 4)
        return out


def normflows_block(layers: Sequence[Layer], width: int) -> nn.Module:
    """A block of normflows with the weights of three layers of ours; its `inverse` is what we call `forward`."""
    first, mixing, coupling = layers
    assert isinstance(first, ActNorm)
    assert isinstance(mixing, Mixing)
    assert isinstance(coupling, Coupling)
    channels = len(mixing.sign)
    block = nf.flows.GlowBlock(channels, width, use_lu=False, net_actnorm=True)
    block.flows[2].s.data, block.flows[2].t.data = -first.log_scale.data[None], -first.bias.data[None]
    block.flows[1].W.data = mixing.weight().data
    affine = block.flows[0].flows[1]
    net = affine.param_map.net
    for index, ours in ((0, coupling.conv1), (3, coupling.conv2)):
        net[index].weight.data = ours.conv.weight.data
        scale = ours.norm.log_scale.data
        net[index + 1].actNorm.s.data = scale[None]
        net[index + 1].actNorm.t.data = (ours.norm.bias.data * scale.exp())[None]
    order = torch.stack([torch.arange(channels // 2), torch.arange(channels // 2, channels)], dim=1).flatten()
    sign = torch.tensor([-1.0, 1.0]).repeat(channels // 2)  # their shift is subtracted
    factor = ((3 * coupling.conv3.log_scale.data).exp()[order] * sign[:, None, None]).double()
    net[-1].weight.data = coupling.conv3.weight.data[order] * factor[..., None]
    net[-1].bias.data = coupling.conv3.bias.data[order] * factor.flatten()
    affine.param_map = _Interleaved(affine.param_map)
    for module in block.modules():
        if isinstance(module, nf.flows.ActNorm):
            module.data_dep_init_done = torch.tensor(1.0)
    return block.double()  # type: ignore[no-any-return]


def test_the_model_agrees_with_normflows() -> None:
    model = glow(8, steps=2, levels=2, width=6).double()
    prior = cast(SplitPrior, model.priors[0])
    prior.conv.weight.data.zero_()  # their distributions depend on no channels
    flows, bases = [], []
    for level in (1, 0):  # theirs begin at the top
        layers = layers_of(model, level)
        blocks = [normflows_block(layers[i : i + 3], width=6) for i in (3, 0)]
        flows.append([*blocks, nf.flows.Squeeze()])
        shape = model.latent_shapes[level]
        base = nf.distributions.DiagGaussian(shape)
        parameters = model.priors[1]() if level else prior(torch.zeros(1, *shape, dtype=torch.float64))
        base.loc.data, base.log_scale.data = (value.data.expand(1, *shape) for value in parameters)
        bases.append(base)
    theirs = nf.MultiscaleFlow(bases, flows, [nf.flows.Merge()], class_cond=False)
    x = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    y = (255 * x + 0.5) / 256 - 0.5
    z, log_det = theirs.inverse_and_log_det(y)
    encoding = model.encode(x)
    torch.testing.assert_close(encoding.z, (z[1], z[0]))
    torch.testing.assert_close(encoding.log_det, log_det - 192 * math.log(256))
    torch.testing.assert_close(encoding.log_prob, theirs.log_prob(y, None) - 192 * math.log(256))


def test_the_first_batch_in_training_mode_and_no_other_initialises() -> None:
    layer = ActNorm(3)
    first = 3 + 2 * torch.randn(16, 3, 4, 4) * torch.tensor([1, 5, 0])[:, None, None]
    with pytest.raises(InputError, match=r"not initialised; load trained weights, or call it in training mode"):
        layer.eval()(first)
    with pytest.raises(InputError, match="not initialised"):
        layer.train().inverse(first)
    out = layer(first)[0]
    mean, std = out.mean((0, 2, 3)), out.std((0, 2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(std, torch.tensor([1.0, 1.0, 0.0]), atol=1e-4, rtol=0)
    assert float(layer.log_scale.detach().max()) <= math.log(1001)  # of the channel that is constant
    weights = {name: value.clone() for name, value in layer.state_dict().items()}
    layer(10 * first)
    layer.eval()(10 * first)
    torch.testing.assert_close(dict(layer.state_dict()), weights)


def test_loading_weights_replaces_the_initialisation() -> None:
    trained, new = glow(), Glow(8, steps=2, levels=2, width=8)
    untrained, x = copy.deepcopy(new.state_dict()), torch.rand(4, 3, 8, 8)
    new.load_state_dict(trained.state_dict())
    torch.testing.assert_close(new.train()(x), trained(x))
    new.load_state_dict(untrained)
    with pytest.raises(InputError, match="not initialised"):
        new.eval()(x)


def test_weights_are_saved_and_loaded_without_executing_code(tmp_path: Path) -> None:
    model, x = glow(), torch.rand(4, 3, 8, 8)
    write_weights(tmp_path / "model.safetensors", model.state_dict())
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    for state in (load_state(str(tmp_path / "model.safetensors")), torch.load(file, weights_only=True)):
        copied = Glow(8, steps=2, levels=2, width=8).eval()
        put_weights(copied, state, "model")
        torch.testing.assert_close(dict(copied.state_dict()), dict(model.state_dict()), atol=0, rtol=0)
        torch.testing.assert_close(copied(x), model(x))


def test_samples_have_the_distribution_of_the_model() -> None:
    model = glow(scale=0.02)
    # Few pixels are clamped: images are scaled to a tenth of the range.
    norm_in = layers_of(model, 0)[0]
    assert isinstance(norm_in, ActNorm)
    norm_in.log_scale.add_(math.log(10))
    images = model.sample(256, torch.Generator().manual_seed(1), temperature=0.5)
    assert images.shape == (256, 3, 8, 8)
    assert float(((images == 0) | (images == 1)).float().mean()) < 0.001
    first, second = model.encode(images).z
    stays = F.pixel_shuffle(cast(Flow, model.flows[1]).inverse(second), 2)
    for z, (mean, log_std) in ((first, model.priors[0](stays)), (second, model.priors[1]())):
        standard = (z - mean) / log_std.exp()
        assert abs(float(standard.mean())) < 0.02
        assert float(standard.std()) == pytest.approx(0.5, rel=0.05)


def test_samples_depend_on_nothing_but_the_generator() -> None:
    model = glow()
    images = model.sample(3, torch.Generator().manual_seed(1))
    torch.rand(1)
    assert torch.equal(images, model.sample(3, torch.Generator().manual_seed(1)))
    assert not torch.equal(images, model.sample(3, torch.Generator().manual_seed(2)))
    assert 0 <= float(images.min()) < float(images.max()) <= 1


def test_mixed_precision_rounds_networks_and_not_the_flow() -> None:
    layer, h = Mixing(8), torch.randn(3, 8, 4, 4)
    model, x = Glow(8, steps=2, levels=2, width=8), torch.rand(8, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(h)[0], _without_autocast(layer, h))
        model(x)  # initialises
    randomised(model, x, 0.02)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoding = model.encode(x)
    assert {part.dtype for part in (*encoding.z, encoding.log_p, encoding.log_dets)} == {torch.float32}
    torch.testing.assert_close(encoding.z, model.encode(x).z, atol=0.1, rtol=0)


def _without_autocast(layer: Layer, h: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        out: Tensor = layer(h)[0]
        return out


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"size": 12, "levels": 3}, "size a multiple of 2\\^levels, got .*size=12; choose another size"),
        ({"size": 0, "levels": 1}, "size=0"),
        ({"size": 8, "levels": 0}, "levels=0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Glow(steps=1, width=4, **sizes)


def test_images_and_latents_that_do_not_fit_are_refused() -> None:
    model = glow()
    with pytest.raises(InputError, match=r"expected floating-point images \(B, 3, 8, 8\), got .*\(2, 3, 16, 16\)"):
        model(torch.rand(2, 3, 16, 16))
    with pytest.raises(InputError, match=r"expected floating-point images .* got torch.uint8"):
        model(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(InputError, match=r"expected latents with the shapes \[\(6, 4, 4\), \(24, 2, 2\)\]"):
        model.decode(model.encode(torch.rand(2, 3, 8, 8)).z[::-1])


@pytest.mark.parametrize("name", ["glow", "glow-k4-l3", "glow-k4-l3-w64-x", "resnet20", "glow-k0-l3-w64"])
def test_names_of_other_networks_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="expected"):
        build_glow(name, 32)

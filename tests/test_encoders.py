"""The Encoder: the definition of z, and the absence of side effects."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from oodattack.core.errors import InputError
from oodattack.encoders import Encoder, load_encoder, pick_device

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(autouse=True)
def _beside_factories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)


@pytest.fixture
def net() -> nn.Module:
    return load_encoder("python:factories:tiny", device="cpu").model


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def encoder(net: nn.Module, layer: str | None = None) -> Encoder:
    return Encoder(net, name="mine", input_size=(32, 32), layer=layer, mean=MEAN, std=STD)


def normalised(x: Tensor) -> Tensor:
    return torch.stack([(x[:, c] - MEAN[c]) / STD[c] for c in range(3)], dim=1)


class Returns(nn.Module):
    """A model without layers whose forward is a function."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> object:
        return self.function(x)


def hooks_on(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


# --- the definition of z


def test_z_of_resnet18_is_the_pooled_features() -> None:
    with pytest.warns(UserWarning, match="resnet18 has random weights"):
        f = load_encoder("torchvision:resnet18,weights=none,size=64x48", device="cpu")
    x = torch.rand(2, 3, 64, 48)
    m = f.model
    y = m.maxpool(m.relu(m.bn1(m.conv1(normalised(x)))))  # type: ignore[operator]
    for stage in (m.layer1, m.layer2, m.layer3, m.layer4):
        y = stage(y)  # type: ignore[operator]
    torch.testing.assert_close(f(x), y.mean(dim=(2, 3)), rtol=1e-4, atol=1e-5)
    assert (f.layer, f.latent_dim, f.parts, f.input_size) == ("input of fc", 512, (512,), (64, 48))


def test_z_of_embedded_is_the_pooled_features_of_256_level_pixels() -> None:
    f = load_encoder("embedded", device="cpu")
    x = torch.rand(1, 3, 224, 224)
    expected = f.model.extract_features((255 * x - 127) / 128).mean(dim=(2, 3))  # type: ignore[operator]
    torch.testing.assert_close(f(x), expected, rtol=1e-4, atol=1e-5)
    assert (f.layer, f.latent_dim) == ("input of _fc", 1280)
    assert f.classes is not None
    assert f.classes[:2] == ("tench", "goldfish")


def test_the_gradient_reaches_the_image_through_the_normalisation(net: nn.Module, images: Tensor) -> None:
    f = encoder(net)
    direction = torch.randn(f.latent_dim)
    x = images.clone().requires_grad_()
    (got,) = torch.autograd.grad((f(x) @ direction).sum(), x)
    y = nn.functional.adaptive_avg_pool2d(net.bn(net.conv(normalised(x))).relu(), 4)  # type: ignore[operator]
    (expected,) = torch.autograd.grad((y.flatten(1) @ direction).sum(), x)
    assert expected.abs().sum() > 0
    torch.testing.assert_close(got, expected)


def test_a_layer_is_read_before_a_later_in_place_operation(net: nn.Module, images: Tensor) -> None:
    z = encoder(net, "bn")(images)
    expected = net.bn(net.conv(normalised(images)))  # type: ignore[operator]
    assert (expected < 0).any()
    torch.testing.assert_close(z, expected.flatten(1))


def test_several_layers_are_joined_in_the_order_given(net: nn.Module, images: Tensor) -> None:
    f = encoder(net, "output + input of fc+conv")
    z = f(images)
    assert f.layer == "output+input of fc+conv"
    assert f.parts == (5, 128, 8 * 16 * 16)
    assert z.shape == (4, f.latent_dim) == (4, sum(f.parts))
    for part, layer in zip(z.split(f.parts, dim=1), f.layer.split("+"), strict=True):
        assert torch.equal(part, encoder(net, layer)(images))


def test_the_head_is_the_last_linear_layer_called_on_vectors() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(7, 3), nn.Linear(4, 7)  # defined in the other order
            self.tokens = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.last(self.first(x.mean(dim=(1, 3))[:, :4]).relu())
            tokens: Tensor = self.tokens(y[:, None].expand(-1, 6, -1))
            return tokens.mean(dim=1)

    assert Encoder(Net(), name="net", input_size=(8, 8)).layer == "input of last"


def test_an_embedding_is_not_a_head_despite_its_2d_weight() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.words = nn.Linear(3, 4), nn.Embedding(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            words: Tensor = self.words(self.fc(x.mean(dim=(2, 3))).argmax(dim=1))
            return words

    assert Encoder(Net(), name="net", input_size=(8, 8)).layer == "input of fc"


def test_without_a_linear_layer_z_is_the_output() -> None:
    f = Encoder(nn.Conv2d(3, 2, 3), name="conv", input_size=(5, 4))
    assert (f.layer, f.latent_dim) == ("output", 2 * 3 * 2)
    assert f.classify(torch.rand(1, 3, 5, 4)) is None


def test_one_number_per_image_is_a_valid_latent() -> None:
    f = Encoder(Returns(lambda x: x.sum(dim=(1, 2, 3))), name="score", input_size=(2, 2))
    x = torch.rand(4, 3, 2, 2)
    assert f.parts == (1,)
    torch.testing.assert_close(f(x), x.sum(dim=(1, 2, 3))[:, None])


def test_a_layer_called_twice_records_its_last_call() -> None:
    act = nn.Tanh()
    f = Encoder(nn.Sequential(act, nn.Flatten(), act), name="twice", input_size=(2, 2), layer="0")
    x = torch.rand(3, 3, 2, 2)
    torch.testing.assert_close(f(x), x.tanh().tanh().flatten(1))


@dataclass
class Output:
    loss: None
    logits: Tensor


@pytest.mark.parametrize(
    "wrap",
    [
        lambda z: (z, z + 1),
        lambda z: {"loss": None, "logits": z},
        lambda z: Output(None, z),
        lambda z: [(z,)],
    ],
)
def test_the_first_tensor_of_an_output_is_used(wrap: Callable[[Tensor], object]) -> None:
    x = torch.rand(2, 3, 2, 2)
    f = Encoder(Returns(lambda x: wrap(x.sum(dim=(2, 3)))), name="wrapped", input_size=(2, 2))
    torch.testing.assert_close(f(x), x.sum(dim=(2, 3)))


# --- side effects


def test_no_hook_remains_on_the_model(net: nn.Module, images: Tensor) -> None:
    f = encoder(net, "conv+input of fc")
    f(images)
    assert hooks_on(net) == 0


def test_no_hook_remains_after_an_exception(net: nn.Module, images: Tensor) -> None:
    f = encoder(net, "conv+fc")
    net.fc = nn.Linear(3, 3)  # wrong input size
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        f(images)
    with pytest.raises(InputError, match="shapes cannot be multiplied"):
        encoder(net)
    assert hooks_on(net) == 0


def test_loading_puts_the_model_in_eval_mode_and_keeps_its_statistics(net: nn.Module, images: Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    f = encoder(net.train())
    assert torch.equal(f(images), f(images))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_loaded_weights_are_frozen(images: Tensor) -> None:
    f = load_encoder("python:factories:tiny", device="cpu")
    assert not any(parameter.requires_grad for parameter in f.parameters())
    assert not f(images).requires_grad


# --- classes


def test_classify_returns_the_softmax_of_the_logits(net: nn.Module, images: Tensor) -> None:
    p = encoder(net).classify(images)
    assert p is not None
    torch.testing.assert_close(p, net(normalised(images)).softmax(1))


def test_classify_returns_none_without_a_head(net: nn.Module, images: Tensor) -> None:
    assert encoder(net, "output").classify(images) is None
    net.fc = nn.Linear(128, 1)
    assert encoder(net).classify(images) is None


# --- the digest


def test_equal_digests_mean_equal_weights_normalisation_and_layer(net: nn.Module) -> None:
    first = encoder(net).digest()
    assert first == encoder(net).digest()
    assert first == encoder(load_encoder("python:factories:tiny", device="cpu").model).digest()
    assert first != encoder(net, "output").digest()
    assert first != Encoder(net, name="mine", input_size=(32, 32), mean=(0.4, 0.4, 0.4), std=STD).digest()
    with torch.no_grad():
        net.fc.bias[0] += 1e-6  # type: ignore[union-attr, operator, index]
    assert first != encoder(net).digest()


def test_a_digest_exists_for_every_type_of_weight(net: nn.Module) -> None:
    f = encoder(net)
    assert len({f.digest(), f.half().digest(), f.bfloat16().digest()}) == 3


# --- bad input


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("fcc", r"expected a layer of the model, got 'fcc'; nearest: fc, "),
        ("input of fcc", "got 'fcc'; nearest: fc, "),
        ("conv+", "got ''; nearest"),
    ],
)
def test_an_unknown_layer_is_refused_with_suggestions(net: nn.Module, layer: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        encoder(net, layer)


def test_at_most_the_nearest_fifteen_layers_are_listed() -> None:
    net = nn.Sequential(*(nn.Identity() for _ in range(40)))
    with pytest.raises(InputError, match=r"nearest: 4, .* and 25 more$"):
        Encoder(net, name="deep", input_size=(2, 2), layer="4x")


def test_a_layer_that_is_not_called_is_refused(net: nn.Module) -> None:
    net.spare = nn.Linear(2, 2)
    with pytest.raises(InputError, match="expected layers that the forward pass calls, got 'spare'"):
        encoder(net, "conv+spare")


def test_a_layer_whose_first_axis_is_not_the_batch_is_refused() -> None:
    net = nn.Sequential(nn.Flatten(0, 1), nn.Unflatten(0, (-1, 3)))
    with pytest.raises(InputError, match=r"expected the batch as first axis of layer '0' .* \(6, 4, 4\)"):
        Encoder(net, name="odd", input_size=(4, 4), layer="0")


def test_a_model_without_tensors_is_refused() -> None:
    with pytest.raises(InputError, match="expected a tensor from 'output', got str"):
        Encoder(Returns(lambda x: "cat"), name="words", input_size=(2, 2))


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (3, 32, 32), (2, 3, 32, 31)])
def test_images_of_another_shape_are_refused(net: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"expected images of shape \(B, 3, 32, 32\) for mine, got .* resize"):
        encoder(net)(torch.rand(shape))


def test_the_number_of_class_names_must_match(net: nn.Module) -> None:
    with pytest.raises(InputError, match="expected 5 class names for mine, got 2"):
        Encoder(net, name="mine", input_size=(32, 32), classes=["cat", "dog"])


@pytest.mark.parametrize("device", ["gpu", "meta", "cuda:99", "cpu:x"])
def test_a_device_that_cannot_be_used_is_refused(device: str) -> None:
    with pytest.raises(InputError, match=rf"expected a device available .* got '{device}'"):
        pick_device(device)

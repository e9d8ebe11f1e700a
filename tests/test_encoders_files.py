"""Models from files: z survives saving and loading, and no code in a file runs without trust."""

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

from oodattack.core.errors import InputError
from oodattack.encoders import load_encoder

SHARED = Path(__file__).parents[2] / "shared"
TINY = "python:factories:tiny"


@pytest.fixture(autouse=True)
def _beside_factories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)


@pytest.fixture
def net() -> nn.Module:
    """The small network with weights that differ from those of its factory."""
    model = load_encoder(TINY, device="cpu").model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 32, 32)


def z_and_logits(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    y = net.bn(net.conv(x)).relu()  # type: ignore[operator]
    z = nn.functional.adaptive_avg_pool2d(y, 4).flatten(1)
    return z, net(x)


def save_pt2(net: nn.Module, path: Path) -> None:
    # torch.export still calls one of torch's deprecated functions.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dynamic = ({0: torch.export.Dim("batch")},)
        torch.export.save(torch.export.export(net, (torch.rand(2, 3, 32, 32),), dynamic_shapes=dynamic), path)


def save_torchscript(net: nn.Module, path: Path) -> None:
    # TorchScript is deprecated, but its files are still in use.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(net, torch.rand(2, 3, 32, 32)), path)  # type: ignore[no-untyped-call]


def prefixed(net: nn.Module) -> dict[str, Tensor]:
    return {f"module.{name}": tensor for name, tensor in net.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("a.pth", lambda net, path: torch.save(net.state_dict(), path)),
        ("a.safetensors", lambda net, path: safetensors.torch.save_file(net.state_dict(), path)),
        ("a.th", lambda net, path: torch.save({"state_dict": prefixed(net), "best_prec1": 91.7}, path)),
        ("a.pt", lambda net, path: torch.save({"model": net.state_dict(), "epoch": 3}, path)),
        (
            "a, b.bin",
            lambda net, path: torch.save(net.state_dict(), path, _use_new_zipfile_serialization=False),
        ),
    ],
)
def test_a_state_dict_is_restored(
    net: nn.Module, images: Tensor, tmp_path: Path, name: str, save: Callable[[nn.Module, Path], None]
) -> None:
    path = tmp_path / name
    save(net, path)
    f = load_encoder(f"file:{path}", factory="factories:tiny", device="cpu")
    torch.testing.assert_close(f(images), z_and_logits(net, images)[0])
    g = load_encoder(TINY, weights=str(path), device="cpu")
    assert g.digest() == f.digest()


def test_a_pt2_file_is_restored_with_its_layers_and_size(net: nn.Module, images: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "a.pt2"
    save_pt2(net, path)
    f = load_encoder(f"file:{path}", trust=True, device="cpu")
    assert (f.layer, f.input_size) == ("input of fc", (32, 32))
    z, logits = z_and_logits(net, images)
    torch.testing.assert_close(f(images), z)
    torch.testing.assert_close(f.classify(images), logits.softmax(1))
    assert f.digest() == load_encoder(f"file:{path}", trust=True, device="cpu").digest()
    assert load_encoder(f"file:{path}", layer="bn", trust=True, device="cpu").latent_dim == 8 * 16 * 16


def test_a_torchscript_file_is_read_through_its_output(net: nn.Module, images: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_torchscript(net, path)
    f = load_encoder(f"file:{path},size=32", trust=True, device="cpu")
    assert f.layer == "output"
    torch.testing.assert_close(f(images), z_and_logits(net, images)[1])
    assert f.digest() == load_encoder(f"file:{path},size=32", trust=True, device="cpu").digest()
    with pytest.raises(InputError, match=r"expected layer=output, got 'fc'; .*TorchScript allows no hooks"):
        load_encoder(f"file:{path},size=32,layer=fc", trust=True, device="cpu")


def test_a_pickled_model_is_restored_if_trusted(net: nn.Module, images: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"model": net}, path)
    with pytest.raises(InputError, match=r"got the Python object factories\._Tiny.* pass --trust"):
        load_encoder(f"file:{path}", device="cpu")
    f = load_encoder(f"file:{path}", trust=True, device="cpu")
    torch.testing.assert_close(f(images), z_and_logits(net, images)[0])


class Touch:
    """Creates a file when unpickled: a harmless stand-in for malicious code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))])
@pytest.mark.parametrize(
    "spec",
    [
        "file:{}",
        "file:{},factory=factories:tiny",
        TINY + ",weights={}",
        "torchvision:squeezenet1_1,weights={}",
    ],
)
def test_a_malicious_pickle_runs_nothing(tmp_path: Path, save: Callable[[object, Path], None], spec: str) -> None:
    harm, path = tmp_path / "harm", tmp_path / "a.pth"
    save({"weight": Touch(harm)}, path)
    with pytest.raises(InputError, match=r"loading it can execute code; .* pass --trust"):
        load_encoder(spec.format(path), device="cpu")
    assert not harm.exists()
    with pytest.raises(InputError):
        load_encoder(spec.format(path), trust=True, device="cpu")
    assert harm.exists()  # with trust the code does run, so the test can detect it


@pytest.mark.parametrize("save", [save_pt2, save_torchscript])
def test_exported_models_need_trust(net: nn.Module, tmp_path: Path, save: Callable[[nn.Module, Path], None]) -> None:
    path = tmp_path / ("a.pt2" if save is save_pt2 else "a.pth")
    save(net, path)
    with pytest.raises(InputError, match=r"cannot execute code, got the exported model .* pass --trust"):
        load_encoder(f"file:{path},size=32", device="cpu")
    with pytest.raises(InputError, match="expected no factory="):
        load_encoder(f"file:{path},size=32,factory=factories:tiny", trust=True, device="cpu")


def test_a_pt2_file_exported_for_one_image_is_refused(net: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "a.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(net, (torch.rand(1, 3, 32, 32),)), path)
    with pytest.raises(InputError, match=r"batch of 2 images of 32x32, got .*Expected .* equal to 1"):
        load_encoder(f"file:{path}", trust=True, device="cpu")


def test_mismatched_weights_are_named(net: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    state = net.state_dict()
    state["fc.bias"] = torch.zeros(7)
    state["head.weight"] = state.pop("fc.weight")
    del state["bn.num_batches_tracked"]  # missing in old files, which is not an error
    torch.save(state, path)
    message = (
        r"to fit _Tiny, got missing: fc\.weight; unexpected: head\.weight; "
        r"of a different shape: fc\.bias \(7,\) instead of \(5,\)$"
    )
    with pytest.raises(InputError, match=message):
        load_encoder(TINY, weights=str(path), device="cpu")


def test_only_the_first_three_mismatches_are_listed(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"missing: conv\.weight, conv\.bias, bn\.weight and 5 more$"):
        load_encoder(TINY, weights=str(tmp_path / "a.pth"), device="cpu")


def test_published_densenet_parameter_names_are_mapped(tmp_path: Path) -> None:
    spec = "torchvision:densenet121,size=32,weights="
    with pytest.warns(UserWarning, match="random weights"):
        net = load_encoder(spec + "none", device="cpu").model
    with torch.no_grad():
        net.classifier.bias.add_(1)  # type: ignore[union-attr, operator]
    old = {}
    for name, tensor in net.state_dict().items():
        for part in ("norm1", "norm2", "conv1", "conv2"):
            if "denselayer" in name:
                name = name.replace(part, f"{part[:-1]}.{part[-1]}")
        old[name] = tensor
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "a.pth")
    again = load_encoder(f"{spec}{tmp_path / 'a.pth'}", device="cpu").model
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04half a zip"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors", "pt2"])
def test_a_damaged_file_raises_a_one_sentence_error(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"expected .*a\.") as caught:
        load_encoder(f"file:{path},size=32", trust=suffix == "pt2", device="cpu")
    assert "\n" not in str(caught.value)


def test_a_damaged_zip_directory_raises_a_one_sentence_error(net: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(net.state_dict(), path)
    path.write_bytes(path.read_bytes().replace(b"PK\x01\x02", b"PK\x01\x03"))
    with pytest.raises(InputError, match=r"expected .*a\.pth") as caught:
        load_encoder(f"file:{path},size=32", device="cpu")
    assert "\n" not in str(caught.value)


def test_the_error_names_what_a_file_contains(net: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with pytest.raises(InputError, match=r"expected a model file, got '.*a\.pth': no such file"):
        load_encoder(f"file:{path}", device="cpu")
    torch.save(net.state_dict(), path)
    with pytest.raises(InputError, match=r"weights only\); name the function .* factory=MODULE:FACTORY"):
        load_encoder(f"file:{path}", device="cpu")
    torch.save({"net": net.state_dict(), "epoch": 3}, path)
    with pytest.raises(InputError, match=r"expected a state dict .* got the keys net, epoch"):
        load_encoder(f"file:{path},factory=factories:tiny", device="cpu")


def test_resnet20_classifies_cifar10() -> None:
    weights = SHARED / "data/weights/cifar10_resnet20-12fca82f.th"
    folder = SHARED / "data/cifar10/test"
    if not (weights.is_file() and folder.is_dir()):
        pytest.skip(f"needs {weights} and {folder}")
    channels = "mean=0.485/0.456/0.406,std=0.229/0.224/0.225"
    f = load_encoder(f"file:{weights},factory=factories:resnet20,{channels}", device="cpu")
    assert f.latent_dim == 64
    right = 0
    for label, name in enumerate(sorted(path.name for path in folder.iterdir())):
        files = sorted((folder / name).iterdir())[:50]
        pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
        p = f.classify(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
        assert p is not None
        right += int((p.argmax(1) == label).sum())
    # 79.8 % of 500. Published: 91.7 % on the lossless pixels; JPEG at quality 75 costs the rest.
    assert right >= 380

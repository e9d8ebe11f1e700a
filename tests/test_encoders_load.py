"""The string that names an encoder, and the packages that provide encoders."""

import json
import sys
import time
import urllib.request
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from oodattack.core.errors import InputError
from oodattack.encoders import Encoder, load_encoder

TINY = "python:factories:tiny"


@pytest.fixture(autouse=True)
def _beside_factories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Redirect every request to a closed local port."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "_opener", None)  # otherwise it keeps the previous proxies


@pytest.mark.parametrize("given", [{}, {"layer": "conv"}])
def test_options_may_be_in_the_string_or_separate(given: dict[str, str], tmp_path: Path) -> None:
    names = tmp_path / "a, b.txt"
    names.write_text("cat\ndog\nfrog\nship\ntruck\n", encoding="utf-8")
    options = f"mean=0.1/0.2/0.3, std=1/2/4,size=16x24,classes={names}" + ("" if given else ",layer=conv")
    spec = f"{TINY},{options}"
    f = load_encoder(spec, device="cpu", **given)  # type: ignore[arg-type]
    assert (f.name, f.input_size, f.layer, f.latent_dim) == (spec, (16, 24), "conv", 8 * 8 * 12)
    assert f.classes == ("cat", "dog", "frog", "ship", "truck")
    x = torch.rand(1, 3, 16, 24)
    shown = (x - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1)
    torch.testing.assert_close(f(x), f.model.conv(shown).flatten(1))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet18", "expected an encoder as one of embedded, torchvision:NAME, .* got 'resnet18'"),
        ("", "expected an encoder as one of"),
        ("torchvision:resnt18", "expected a torchvision model, got 'resnt18'; nearest: resnet18, "),
        ("timm:resnt18", "expected a timm model, got 'resnt18'; nearest: resnet18, "),
        ("timm:resnet18.a9_in1k", r"got 'resnet18\.a9_in1k'; nearest: .*resnet18\.a1_in1k"),
        (TINY + ",wieghts=none", "got 'wieghts'; did you mean weights"),
        (TINY + ",trust=yes", "expected one of the options layer, .* got 'trust'"),
        (TINY + ",size=32,size=64", "expected size= once, got it twice"),
        (TINY + ",size=0", "expected size as 224 or 32x48 .* got '0'"),
        (TINY + ",size=32x", "got '32x'"),
        (TINY + ",size=1x2x3", "got '1x2x3'"),
        (TINY + ",mean=0.5", "expected mean as three numbers like 0.485/0.456/0.406, got '0.5'"),
        (TINY + ",mean=0.5/nan/0.5", "expected mean as three numbers"),
        (TINY + ",std=1/0/1", "expected std as three positive numbers"),
        (TINY + ",classes=no.txt", "expected classes= to be a text file .* got 'no.txt'"),
        (TINY + ",factory=a:b", "expected no factory= for python:"),
        (TINY + ",size=32,weights=no.pth", "expected a model file, got 'no.pth'"),
        ("embedded,weights=none", "expected no weights= for embedded, got 'none'"),
        ("file:a.pth,weights=b.pth", "expected no weights= for file:"),
        ("torchvision:resnet18,weights=no.pth", "as none, IMAGENET1K_V1, DEFAULT or a file, got 'no.pth'"),
        ("python:factories", "expected MODULE:FACTORY, got 'factories'"),
        ("python:no_such_module:tiny", "expected the module 'no_such_module' to be importable here"),
        ("python:factories:tyni", "expected a function in 'factories', got 'tyni'; nearest: tiny"),
        ("python:math:sqrt", r"expected math:sqrt\(\) to build a model, got TypeError"),
        ("python:time:time", r"expected time:time\(\) to return a torch.nn.Module, got float"),
        ("python:torch.nn:Identity", "expected the input size of .* pass size="),
        (TINY + ",size=1x1,layer=layer4", "expected a layer of the model, got 'layer4'"),
    ],
)
def test_an_invalid_string_raises_an_error_with_a_remedy(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_encoder(spec, device="cpu")
    assert "\n" not in str(caught.value)


def test_an_option_given_in_two_places_is_refused() -> None:
    with pytest.raises(InputError, match=r"expected layer once, got it in .* and as an option"):
        load_encoder(TINY + ",layer=conv", layer="conv", device="cpu")


def test_an_unsupported_size_raises_a_one_sentence_error() -> None:
    with (
        pytest.warns(UserWarning, match="random weights"),
        pytest.raises(InputError, match=r"batch of 2 images of 64x64, got AssertionError: Wrong image height"),
    ):
        load_encoder("torchvision:vit_b_16,weights=none,size=64", device="cpu")


def test_a_users_module_is_found_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_here.py").write_text(
        "from torch import nn\n"
        "from oodattack.encoders import Encoder\n"
        "def net():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 2))\n"
        "def ready():\n"
        "    return Encoder(net(), name='x', input_size=(2, 2), layer='1')\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    f = load_encoder("python:mine_here:net,size=2", device="cpu")
    assert (f.layer, f.latent_dim) == ("input of 2", 4)
    ready = load_encoder("python:mine_here:ready", device="cpu")
    assert (ready.layer, ready.name) == ("1", "python:mine_here:ready")
    with pytest.raises(InputError, match=r"expected no layer= for .* which is an Encoder already"):
        load_encoder("python:mine_here:ready,layer=2", device="cpu")
    assert sys.path == path


def test_torchvision_preprocessing_is_known_without_a_download() -> None:
    with pytest.warns(UserWarning, match="random weights") as caught:
        f = load_encoder("torchvision:squeezenet1_1,weights=none", device="cpu")
    assert Path(caught[0].filename) == Path(__file__)  # the warning points at the caller
    assert f.input_size == (224, 224)
    torch.testing.assert_close(f.mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))
    torch.testing.assert_close(f.std.flatten(), torch.tensor([0.229, 0.224, 0.225]))
    assert f.classes is not None
    assert len(f.classes) == 1000


def test_timm_preprocessing_is_used() -> None:
    pytest.importorskip("timm", reason="needs the timm extra")
    with pytest.warns(UserWarning, match="random weights"):
        f = load_encoder("timm:vit_tiny_patch16_224,weights=none", device="cpu")
    assert (f.layer, f.latent_dim, f.input_size) == ("input of head", 192, (224, 224))
    torch.testing.assert_close(f.mean.flatten(), torch.full((3,), 0.5))
    assert f.classes is not None
    assert f.classes[0].startswith("tench")


@pytest.mark.parametrize("spec", ["torchvision:squeezenet1_1", "timm:resnet10t"])
def test_random_weights_are_reproducible_and_leave_the_generator_alone(spec: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*random weights")  # intended
        before = torch.random.get_rng_state()
        first = load_encoder(spec + ",weights=none,size=64", device="cpu")
        assert torch.equal(torch.random.get_rng_state(), before)
        torch.rand(1)
        assert load_encoder(spec + ",weights=none,size=64", device="cpu").digest() == first.digest()


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_files(tmp_path: Path) -> tuple[Path, nn.Module]:
    """A folder as timm saves it for the hub, with a model of three named classes."""
    timm = pytest.importorskip("timm", reason="needs the timm extra")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = timm.create_model("test_resnet", num_classes=3)
    config = {
        "architecture": "test_resnet",
        "num_classes": 3,
        "label_names": ["cat", "dog", "frog"],
        "pretrained_cfg": {"input_size": [3, 64, 64], "mean": [0.1] * 3, "std": [0.2] * 3, "classifier": "fc"},
    }
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder, model.eval()


def check_hub_model(f: Encoder, model: nn.Module) -> None:
    """Check that an encoder has the weights, the preprocessing and the classes of `hub_files`."""
    assert f.input_size == (64, 64)
    assert f.classes == ("cat", "dog", "frog")
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model((x - 0.1) / 0.2).softmax(1)
        found = f.classify(x)
    assert found is not None
    torch.testing.assert_close(found, expected)


def test_a_timm_model_in_a_folder(hub_files: tuple[Path, nn.Module]) -> None:
    folder, model = hub_files
    check_hub_model(load_encoder(f"timm:local-dir:{folder}", device="cpu"), model)
    bare = load_encoder(f"timm:local-dir:{folder},num_classes=0", device="cpu")
    assert (bare.layer, bare.classes) == ("output", None)
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="expected to load the weights of timm:local-dir:"):
        load_encoder(f"timm:local-dir:{folder}", device="cpu")
    with pytest.raises(InputError, match=r"expected a folder with a config\.json and weights"):
        load_encoder(f"timm:local-dir:{folder.parent}", device="cpu")


@pytest.mark.usefixtures("_no_network")
def test_a_commit_on_the_hub_in_the_cache_needs_no_network(
    hub_files: tuple[Path, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, model = hub_files
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    snapshot = tmp_path / "cache" / "models--owner--net" / "snapshots" / COMMIT
    snapshot.parent.mkdir(parents=True)
    folder.rename(snapshot)
    check_hub_model(load_encoder(f"timm:hf-hub:owner/net@{COMMIT}", device="cpu"), model)


@pytest.mark.parametrize("target", ["owner/net", "owner/net@main", "owner/net@0123456", f"net@{COMMIT}", "owner/net@"])
def test_a_model_on_the_hub_needs_a_commit(target: str) -> None:
    with pytest.raises(InputError, match=rf"expected timm:hf-hub:OWNER/NAME@COMMIT .* got timm:hf-hub:{target};"):
        load_encoder(f"timm:hf-hub:{target}", device="cpu")


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize(
    ("spec", "remedy"),
    [
        ("torchvision:squeezenet1_0", "pass weights=PATH .* or weights=none"),
        ("timm:resnet10t", "pass weights=PATH .* or weights=none"),
        (f"timm:hf-hub:owner/absent@{COMMIT}", "copy its files to a folder and use timm:local-dir:FOLDER"),
    ],
)
def test_a_failed_download_raises_a_one_sentence_error_at_once(
    spec: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    message = rf"expected to download the weights of {spec}, got .*; {remedy}"
    with pytest.raises(InputError, match=message):
        load_encoder(spec, device="cpu")
    assert waited == []  # the hub's client would retry for a minute

"""What every detector guarantees: its methods agree with each other and do not depend on the rest of the batch."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from oodattack.auditing.store import Audit
from oodattack.core.errors import InputError
from oodattack.detectors import Classifier, Detector, make_detectors, own_detector
from oodattack.encoders import Encoder
from oodattack.networks import Bottleneck, CifarResNet

CLASSES = 4
NAMES = [
    *("MaxSoftmax", "MaxLogit", "EnergyBased", "Entropy", "GEN", "KLMatching", "TemperatureScaling", "OpenMax"),
    *("Mahalanobis", "RMD", "GMM", "KNN", "SHE", "NNGuide", "ViM", "NCI", "fDBD", "PNML", "GradNorm"),
    *("GradUncertainty", "ReAct", "VRA", "ASH", "SCALE", "LTS", "DICE", "RankFeat", "ODIN", "MahalanobisODIN"),
    *("MCD", "MultiMahalanobis", "Gram", "NACUE", "Rate", "FeatureFlow"),
]


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    body = CifarResNet(1, CLASSES)
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features) / 10
            module.bias.data.normal_(0, 0.3)
    body.eval()
    x, y = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    with torch.no_grad():  # an accurate head: some detectors learn from correctly classified images
        z = body.pooled((x - 0.5) / 0.25)
        z = torch.cat([z, torch.ones(len(z), 1)], dim=1)
        head = torch.linalg.lstsq(z.double(), nn.functional.one_hot(y).double()).solution.float().T
        body.linear.weight.copy_(4 * head[:, :-1])
        body.linear.bias.copy_(4 * head[:, -1])
    if kind == "Rate":
        return Bottleneck(body, CLASSES, width=5)
    if kind == "MCD":
        body.linear = nn.Sequential(nn.Dropout(0.3), body.linear)  # type: ignore[assignment]
    return body


def batches(count: int = 120) -> DataLoader[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(count) % CLASSES
    x = torch.rand(count, 3, 16, 16, generator=generator) / 2 + y[:, None, None, None] / (2 * CLASSES)
    return DataLoader(TensorDataset(x, y), batch_size=32, generator=generator)


def make(name: str) -> Detector:
    encoder = Encoder(network(name), name="mine", input_size=(16, 16), mean=(0.5,) * 3, std=(0.25,) * 3)
    encoder.requires_grad_(False)
    return make_detectors(Classifier(encoder), [name])[0][name]


@pytest.fixture(scope="module")
def fitted() -> Callable[[str], Detector]:
    made: dict[str, Detector] = {}

    def get(name: str) -> Detector:
        if name not in made:
            made[name] = make(name)
            made[name].fit(batches())
        return made[name]

    return get


X = torch.rand(7, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def close(one: Tensor, other: Tensor, share: float = 2e-3) -> bool:
    spread = float((other.max() - other.min()).clamp_min(1e-12))
    return one.shape == other.shape and bool(((one - other).abs() <= share * spread).all())


def test_every_detector_applies_or_is_listed_as_absent() -> None:
    found, absent = make_detectors(Classifier(Encoder(network("plain"), name="mine", input_size=(16, 16))))
    assert {*found, "MCD", "Rate"} == set(NAMES)
    assert {a.name for a in absent} == {"MCM", "WeightedEBO", "MCD", "Rate"}


@pytest.mark.parametrize("name", NAMES)
def test_a_score_does_not_depend_on_the_batch(fitted: Callable[[str], Detector], name: str) -> None:
    detector = fitted(name)
    whole = detector.score(X)
    assert whole.shape == (7,)
    assert whole.isfinite().all()
    assert close(torch.cat([detector.score(X[:1]), detector.score(X[1:4]), detector.score(X[4:])]), whole)
    order = torch.tensor([6, 2, 0, 5, 1, 3, 4])
    assert close(detector.score(X[order]), whole[order])


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_determines_the_score_and_has_a_gradient(fitted: Callable[[str], Detector], name: str) -> None:
    detector = fitted(name)
    x = X.clone().requires_grad_(True)
    reads = detector.reads(x)
    assert reads.ndim == 2
    (gradient,) = torch.autograd.grad(reads.square().sum(), x)
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).abs().amax(1) > 0).all()
    if detector.judge is not None:
        assert close(detector.judge(reads).detach().double(), detector.score(X))
    else:
        assert name == "MCD"  # its score is random


@pytest.mark.parametrize("name", [name for name in NAMES if name != "MCD"])
def test_a_score_has_the_gradient_of_its_formula(fitted: Callable[[str], Detector], name: str) -> None:
    """Even if the library detaches it or leaves torch."""
    if name == "Gram":
        pytest.skip("piecewise linear, with a kink at every bound that a row sum reaches")
    if name in ("KNN", "NACUE"):
        pytest.skip("its gradient is that of an approximation, see test_detectors_slopes.py")
    detector = fitted(name)
    z = detector.reads(X).detach().requires_grad_(True)
    judge = detector.judge
    assert judge is not None
    scores = judge(z)
    (gradient,) = torch.autograd.grad(scores.sum(), z)
    # Along the gradient itself, where differences in float32 are largest.
    direction = gradient / gradient.norm(dim=1, keepdim=True)
    reach = 2e-4 * z.detach().norm(dim=1, keepdim=True)
    with torch.no_grad():
        ahead, behind = judge(z + reach * direction), judge(z - reach * direction)
    differences = (ahead - behind).double() / (2 * reach[:, 0])
    close_ones = ((differences - gradient.norm(dim=1)).abs() <= 0.1 * gradient.norm(dim=1)).sum()
    assert close_ones >= 6, (differences, gradient.norm(dim=1))  # one of seven may be at a kink


@pytest.mark.parametrize("name", NAMES)
def test_a_restored_fit_gives_the_same_scores(fitted: Callable[[str], Detector], name: str, tmp_path: Path) -> None:
    detector, again = fitted(name), make(name)
    fit = detector.state_dict()
    if fit is None:
        assert name in ("ODIN", "MCD", "Rate")  # nothing is fitted
        return
    audit = Audit(tmp_path)
    assert audit.read_fit(name) is None
    audit.write_fit(name, fit)
    state = audit.read_fit(name)
    assert state is not None
    again.load_state_dict(state)
    assert torch.equal(again.score(X), detector.score(X))


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_training_images_does_not_matter(name: str, fitted: Callable[[str], Detector]) -> None:
    if name in ("Gram", "TemperatureScaling", "OpenMax", "KLMatching", "NACUE", "FeatureFlow"):
        pytest.skip("it holds out some images, stops early, or depends on the order of the images")
    if name == "ViM":
        pytest.skip("the smallest of the 64 eigenvalues of these features, and so its subspace, are rounding errors")
    data = batches().dataset
    assert isinstance(data, TensorDataset)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(3))
    x, y = data[order]
    detector = make(name)
    detector.fit(DataLoader(TensorDataset(x, y), batch_size=50))
    # PNML: the library inverts a matrix of features in float32, whose smallest eigenvalues are partly rounding errors.
    assert close(detector.score(X), fitted(name).score(X), share=5e-2 if name == "PNML" else 2e-3)


@pytest.mark.parametrize("name", ["SHE", "Gram"])
def test_a_missing_class_is_reported(name: str) -> None:
    data = batches().dataset
    assert isinstance(data, TensorDataset)
    x, y = data[:]
    some = DataLoader(TensorDataset(x[y > 0], y[y > 0]), batch_size=50)
    with pytest.raises(InputError, match="expected training images of all 4 classes, got 3 of them"):
        make(name).fit(some)


def test_the_users_objects_are_not_changed() -> None:
    net = network("plain").train()
    net.eval()
    encoder = Encoder(net, name="mine", input_size=(16, 16), mean=(0.5,) * 3, std=(0.25,) * 3)
    detectors, _ = make_detectors(Classifier(encoder))
    kept = [(x.clone(), y) for x, y in batches(80)]
    weights = {name: value.clone() for name, value in net.state_dict().items()}

    class Kept:
        def __iter__(self) -> object:
            return iter(kept)

        def __len__(self) -> int:
            return len(kept)

    before = [x.clone() for x, _ in kept]
    loader = Kept()
    for detector in detectors.values():
        detector.fit(loader)  # type: ignore[arg-type]
        detector.score(X)
        detector.reads(X.clone().requires_grad_(True))
    assert all(torch.equal(x, y) and not x.requires_grad for (x, _), y in zip(kept, before, strict=True))
    assert all(torch.equal(net.state_dict()[name], value) for name, value in weights.items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert not any(m._forward_hooks for m in net.modules())
    assert not net.training


def test_an_image_changed_in_place_is_scored_again(fitted: Callable[[str], Detector]) -> None:
    x = X.clone()
    first = fitted("MaxLogit").score(x)
    x.fill_(0.5)
    assert not torch.equal(fitted("MaxLogit").score(x), first)


def test_images_are_scored_in_inference_mode(fitted: Callable[[str], Detector]) -> None:
    detector = fitted("MaxLogit")
    expected = detector.score(X.clone())
    with torch.inference_mode():
        x = X.clone()
        torch.testing.assert_close(detector.score(x), expected)
        x.fill_(0.5)
        assert not torch.equal(detector.score(x), expected)
        y = X.clone()
    torch.testing.assert_close(detector.score(y), expected)
    # What was read in inference mode is not reused, because it cannot be part of a graph.
    x = X.clone()
    with torch.inference_mode():
        detector.reads(x)
    assert not detector.reads(x).is_inference()


def test_a_list_of_batches_is_a_loader() -> None:
    loader = [(x, y) for x, y in batches()]
    listed, loaded = make("Mahalanobis"), make("Mahalanobis")
    listed.fit(loader)
    loaded.fit(batches())
    torch.testing.assert_close(listed.score(X), loaded.score(X))


def test_a_network_that_is_not_a_classifier_is_refused() -> None:
    softmax = nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 4), nn.Softmax(1))
    with pytest.raises(InputError, match="remove its softmax, or use layer=output"):
        Classifier(Encoder(softmax, name="mine", input_size=(16, 16)))
    headless = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    with pytest.raises(InputError, match="expected a classifier with a linear head, got mine without one"):
        Classifier(Encoder(headless, name="mine", input_size=(16, 16)))
    with pytest.raises(InputError, match="expected layers with feature maps, got 'linear'"):
        Classifier(Encoder(network("plain"), name="mine", input_size=(16, 16)), layers=["linear"])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere:Detector", "expected the module 'nowhere' to be importable"),
        ("tests.factories:Nrom", "expected a function in 'tests.factories', got 'Nrom'; nearest: Norm"),
        ("tests.factories", "expected MODULE:FACTORY"),
        ("tests.factories:tiny", "to build a detector, got TypeError"),
        ("builtins:str", "without fit and score and reads"),
    ],
)
def test_invalid_detector_specs_are_refused(spec: str, message: str) -> None:
    classifier = Classifier(Encoder(network("plain"), name="mine", input_size=(16, 16)))
    with pytest.raises(InputError, match=message):
        own_detector(spec, classifier)


def test_a_misspelt_name_is_refused() -> None:
    classifier = Classifier(Encoder(network("plain"), name="mine", input_size=(16, 16)))
    with pytest.raises(InputError, match="got 'Mahalonobis'; did you mean 'Mahalanobis'"):
        make_detectors(classifier, ["Mahalonobis"])

"""Subjects: which detectors apply to each kind, and that a detector reads the same values through each."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from oodattack.core.errors import InputError
from oodattack.detectors import (
    BareEncoder,
    Classifier,
    Detector,
    ImageModel,
    ModelOfImages,
    NotApplicableError,
    Own,
    Subject,
    make_detectors,
    make_subject,
    own_detector,
)
from oodattack.encoders import Encoder, load_encoder
from oodattack.images.labels import Labels

HEADLESS = ("Mahalanobis", "RMD", "GMM", "KNN", "MahalanobisODIN", "MultiMahalanobis", "FeatureFlow")
X = torch.rand(7, 3, 16, 16, generator=torch.Generator().manual_seed(1))
CLASSIFIER, ENCODER = "python:tests.factories:small", "python:tests.factories:small,num_classes=0"


def loader(classes: int) -> DataLoader[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(120) % classes
    x = torch.rand(120, 3, 16, 16, generator=generator) / 2 + y[:, None, None, None] / (2 * classes)
    return DataLoader(TensorDataset(x, y), batch_size=32)


def fitted(subject: Subject, name: str, classes: int = 3) -> Detector:
    detector = make_detectors(subject, [name])[0][name]
    detector.fit(loader(classes))
    return detector


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (CLASSIFIER, "classifier"),
        (ENCODER, "bare encoder"),
        (f"{CLASSIFIER},layer=output", "bare encoder"),
        ("python:tests.factories:dark", "bare encoder"),
        ("python:tests.factories:density", "model of images"),
    ],
)
def test_every_encoder_gets_the_right_subject(spec: str, kind: str) -> None:
    assert make_subject(load_encoder(spec)).kind == kind


def test_a_bare_encoder_has_the_detectors_that_need_no_head() -> None:
    found, absent = make_detectors(make_subject(load_encoder(ENCODER)))
    assert tuple(found) == HEADLESS
    reasons = {a.name: a.reason for a in absent}
    assert len(found) + len(absent) == 37
    assert reasons["MaxSoftmax"] == "it needs logits, and the encoder has no classification head"
    assert reasons["ViM"] == "it needs the classification head, and the encoder has none"
    for name in ("RankFeat", "MCD", "ODIN", "Gram", "NACUE", "SHE"):
        assert "head" in reasons[name], name


@pytest.mark.parametrize("name", HEADLESS)
def test_detectors_score_the_same_with_and_without_the_head(name: str) -> None:
    scores = [fitted(make_subject(load_encoder(spec)), name).score(X) for spec in (CLASSIFIER, ENCODER)]
    assert torch.equal(*scores)


@pytest.mark.parametrize("name", HEADLESS)
def test_what_a_bare_encoders_detector_reads_determines_its_score(name: str) -> None:
    detector = fitted(make_subject(load_encoder(ENCODER)), name)
    x = X.clone().requires_grad_(True)
    reads = detector.reads(x)
    (gradient,) = torch.autograd.grad(reads.square().sum(), x)
    assert (gradient.flatten(1).abs().amax(1) > 0).all()
    assert detector.judge is not None
    torch.testing.assert_close(detector.judge(reads).detach().double().cpu(), detector.score(X), rtol=1e-3, atol=1e-3)


def test_without_classes_one_gaussian_is_fitted() -> None:
    """As in SSD (Sehwag et al. 2021): the Mahalanobis distance to the mean of all training images."""
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    subject = make_subject(Encoder(pooled, name="pooled", input_size=(16, 16)))
    z = torch.cat([subject.features(images) for images, _ in loader(1)]).double().numpy()
    centred = subject.features(X).double().numpy() - z.mean(0)
    covariance = np.cov(z.T, bias=True)
    expected = np.einsum("bi,ij,bj->b", centred, np.linalg.inv(covariance), centred)
    scores = fitted(subject, "Mahalanobis", classes=1).score(X).numpy()
    np.testing.assert_array_equal(np.argsort(scores), np.argsort(expected))
    with pytest.raises(NotApplicableError, match="expected training images of at least 2 classes, got 1"):
        fitted(subject, "RMD", classes=1)


def test_classes_are_numbered_by_the_subject() -> None:
    names = ("cat", "dog", "owl")
    labels = Labels(names, names)
    bare, classifier = make_subject(load_encoder(ENCODER)), make_subject(load_encoder(CLASSIFIER))
    assert bare.class_order(labels) == names
    assert classifier.class_order(labels) is None  # three names for ten logits
    assert bare.class_order(Labels(("cat",), ("cat",))) is None  # a single class carries no information
    assert bare.guess(X).tolist() == [0] * 7
    assert torch.equal(classifier.guess(X), classifier.logits(X).argmax(1))


def test_a_layer_chosen_for_a_headless_network_is_its_latent() -> None:
    subject = make_subject(load_encoder(f"{ENCODER},layer=layer2+layer3"))
    assert isinstance(subject, BareEncoder)
    assert subject.features(X).shape == (7, 32 * 8 * 8 + 64 * 4 * 4)
    x = X.clone().requires_grad_(True)
    torch.testing.assert_close(subject.features(x).detach(), subject.features(X), rtol=1e-4, atol=1e-4)


def test_a_model_of_images_provides_its_own_score() -> None:
    encoder = load_encoder("python:tests.factories:density,mean=0.5/0.4/0.3,std=0.5/0.4/0.3")
    subject = make_subject(encoder)
    detector = make_detectors(subject, ["ModelScore"])[0]["ModelScore"]
    assert isinstance(encoder.model, ImageModel)
    assert next(iter(make_detectors(subject)[0])) == "ModelScore"
    images = torch.rand(5, 3, *encoder.input_size)
    with torch.no_grad():
        expected = encoder.model.judge(encoder.model.reads(encoder.normalise(images)))
    torch.testing.assert_close(detector.score(images).float(), expected)
    x = images.clone().requires_grad_(True)
    assert detector.judge is not None
    (gradient,) = torch.autograd.grad(detector.judge(detector.reads(x)).sum(), x)
    assert (gradient.flatten(1).abs().amax(1) > 0).all()
    with pytest.raises(InputError, match="expected a model with reads"):
        ModelOfImages(load_encoder(CLASSIFIER))


def test_a_head_can_be_removed_once_and_only_with_num_classes_0() -> None:
    classifier, bare = (make_subject(load_encoder(spec)) for spec in (CLASSIFIER, ENCODER))
    assert torch.equal(classifier.features(X), bare.features(X))
    with pytest.raises(InputError, match="expected num_classes=0, which removes the classification head, got '10'"):
        load_encoder(f"{CLASSIFIER},num_classes=10")
    with pytest.raises(InputError, match="without one: omit num_classes=0"):
        load_encoder("python:tests.factories:dark,num_classes=0")
    pytest.importorskip("timm")
    with pytest.warns(UserWarning, match="random weights"):
        encoder = load_encoder("timm:resnet18,weights=none,num_classes=0,size=64")
    assert (encoder.layer, encoder.latent_dim, encoder.classes) == ("output", 512, None)
    assert isinstance(make_subject(encoder), BareEncoder)


class Complete:
    """A user's detector with every optional attribute and without a base class."""

    reading = "mine"
    parts = (1, 2)
    draws = 3

    def fit(self, loader: Any) -> None:
        self.data = loader

    def score(self, images: Tensor) -> Tensor:
        return self.judge(self.reads(images))

    def reads(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))

    def judge(self, reads: Tensor) -> Tensor:
        return reads.sum(1)


class Derived(Detector):
    """A user's detector derived from the base class."""

    def score(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))

    def reads(self, images: Tensor) -> Tensor:
        return images.flatten(1)


class NeedsLogits(Derived):
    def __init__(self, subject: Subject) -> None:
        self.logits = subject.logits


def test_optional_attributes_of_a_users_detector_are_used() -> None:
    inner = Complete()
    detector = Own(inner, "ab" * 32)
    detector.fit(loader(1))
    assert (detector.reading, detector.parts, detector.draws) == ("mine", (1, 2), 3)
    assert isinstance(inner.data, DataLoader)
    assert detector.judge is not None
    assert torch.equal(detector.judge(detector.reads(X)), detector.score(X))
    assert detector.source == "ab" * 32


def test_missing_attributes_of_a_users_detector_have_defaults() -> None:
    detector = Own(Derived(), "")
    assert (detector.reading, detector.parts, detector.judge, detector.draws) == (None,) * 4
    assert detector.state_dict() is None
    assert detector.score(X).shape == (7,)


def test_a_users_detector_that_needs_logits_is_not_applicable_without_them() -> None:
    spec = "tests.test_detectors_subjects:NeedsLogits"
    assert own_detector(spec, Classifier(load_encoder(CLASSIFIER))).source
    with pytest.raises(NotApplicableError, match="it needs logits"):
        own_detector(spec, make_subject(load_encoder(ENCODER)))


def test_detectors_of_feature_maps_are_not_applicable_without_them() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8), nn.ReLU(), nn.Linear(8, 4))
    reasons = {a.name: a.reason for a in make_detectors(make_subject(Encoder(net, name="m", input_size=(16, 16))))[1]}
    assert reasons["RankFeat"] == "the network has no feature maps whose mean is z"
    for name in ("MultiMahalanobis", "Gram", "NACUE"):
        assert reasons[name] == "the network has no layers with feature maps"

"""The description of an audit's subject in its results."""

from typing import Any

import torch

from oodattack.auditing.bench import MAX_BATCH_SIZE, Bench
from oodattack.auditing.data import class_numbers
from oodattack.engines import compute_images, rows_that_fit


def describe(bench: Bench) -> dict[str, Any]:
    """The subject as JSON values.

    ``pipeline``: what every image goes through before the network, or None. ``labels``:
    where the classes of the training images come from. ``train_accuracy`` and ``test_accuracy``: fractions of images
    that the network classifies correctly; None if it is no classifier or the classes are unknown.
    """
    subject, train = bench.subject, bench.inputs.train
    _, labels = subject.collect(subject.features, train)
    accuracies = (None, None) if subject.classes is None else _accuracies(bench)
    return {
        "kind": subject.kind,
        "encoder": subject.encoder.name,
        "pipeline": subject.encoder.pipeline and subject.encoder.pipeline.name,
        "classes": subject.classes,
        "latent_dim": subject.features.exact.latent_dim,
        "layers": list(subject.layer_names),
        "train_images": len(labels),
        "labels": "those of the training images" if train.labelled else subject.labels_without,
        "train_accuracy": accuracies[0],
        "test_accuracy": accuracies[1],
    }


def _accuracies(bench: Bench) -> tuple[float | None, float | None]:
    """Fractions of the training and the held-out images that are classified correctly; None if classes are unknown."""
    subject, train, inside = bench.subject, bench.inputs.train, bench.inputs.inside
    test_labels = class_numbers(bench.inputs.inside_classes, train.order)
    on_train = on_test = None
    if train.labelled:
        logits, labels = subject.collect(subject.logits, train)
        on_train = _share(logits.argmax(1), labels)
    if test_labels is not None:
        size = rows_that_fit(MAX_BATCH_SIZE, subject.encoder.input_size)
        predicted = [
            compute_images(lambda part: subject.logits(part).argmax(1), x).cpu()
            for x in inside.batches(size, subject.device)
        ]
        on_test = _share(torch.cat(predicted), torch.tensor(test_labels))
    return on_train, on_test


def _share(predicted: torch.Tensor, labels: torch.Tensor) -> float:
    return float((predicted == labels).double().mean())

"""The audit: fit, attack, score, compare."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch

from oodattack.attacks.attacks import Attack
from oodattack.audit.attacking import Attacker, plan
from oodattack.audit.data import class_numbers
from oodattack.audit.inputs import Inputs, find_detectors, read_inputs
from oodattack.audit.judging import fit_all, score_all, told, ways_of
from oodattack.audit.outside import open_witnesses, still_outside
from oodattack.audit.store import FORMAT, NAME, Audit, is_begun
from oodattack.audit.tables import Scores, tabulate
from oodattack.core.errors import InputError, WriteError
from oodattack.core.gradient import Autograd
from oodattack.core.pixels import dequantize
from oodattack.detectors import Classifier
from oodattack.encoders import load_encoder
from oodattack.engines.batch_size import measure_batch_size, rows_that_fit
from oodattack.engines.machine import environment, exact
from oodattack.engines.memory import keep_freed_memory
from oodattack.settings.attack import plain
from oodattack.settings.audit import AuditSettings
from oodattack.storage.directory import claim

MOST = 64  # samples at once: what is finished is kept after each batch

# What fits and attacked images depend on; the rest may change from one command to the next.
_DECISIVE = ("encoder", "train", "test", "start", "norm", "limit", "fit_limit", "layers", "seed")


@dataclass(frozen=True)
class Stage:
    """How far an audit is.

    Attributes:
        name: what is being done.
        done: of this stage.
        total: of this stage.
    """

    name: str
    done: int
    total: int


def run_audit(settings: AuditSettings, *, on_progress: Callable[[Stage], None] | None = None) -> Audit:
    """Fit detectors, attack them, and leave a directory with scores and tables; go on with the one that is there.

    Fits and batches of attacks are kept as they are finished, so that after Ctrl-C, a crash or a power cut the same
    command goes on. Detectors, attacks, radii, budgets, natural sets and witnesses may be added to a finished audit in
    the same way: what is there is not computed again.

    Args:
        settings: what to do.
        on_progress: called as each stage goes on.

    Returns:
        The finished audit.

    Raises:
        InputError: bad input; what was computed before is kept.
        KeyboardInterrupt: after Ctrl-C.

    >>> import tempfile
    >>> from pathlib import Path
    >>> images = "torchvision:FakeData"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     audit = run_audit(AuditSettings(
    ...         encoder="python:tests.factories:tiny", train=images, test=images, start=("noise",), limit=2,
    ...         fit_limit=4, detectors=("MaxLogit",), attacks=("latent",), steps=2, out=Path(folder)))
    ...     [row["name"] for row in audit.read_results()["detectors"]]
    ['MaxLogit']
    """
    keep_freed_memory()

    def tell(name: str, done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(Stage(name, done, total))

    tell("loading the encoder", 0, 1)
    encoder = load_encoder(settings.encoder, device=settings.device, trust=settings.trust)
    device = encoder.mean.device
    layers = None if settings.layers is None else settings.layers.split("+")
    classifier = Classifier(encoder, layers=layers)
    detectors, own, absent = find_detectors(settings, classifier)
    witnesses = open_witnesses(settings)
    tell("reading the images", 0, 1)
    inputs = read_inputs(settings, classifier, _fitting(MOST, classifier))
    batch_size = _batch_size(settings, classifier, inputs)
    header = {
        "format": FORMAT,
        "settings": {name: plain(getattr(settings, name)) for name in _DECISIVE},
        "batch_size": batch_size,
        "inputs": {**inputs.digests, "encoder": encoder.digest()},
        "environment": {**environment(device), "pytorch-ood": version("pytorch-ood")},
    }
    with claim(settings.out, NAME, header, is_begun=is_begun), exact():
        audit = Audit(settings.out)
        audit.write_samples(inputs.x_in, inputs.starts)
        absent += fit_all(detectors, own, inputs.train, audit, tell)
        scores = Scores(settings, {"in": inputs.x_in, "starts": inputs.starts, **{s.name: s for s in inputs.natural}})
        for images in scores.sets.values():
            absent += score_all(detectors, images, batch_size, device, scores, tell)
        if not detectors:
            raise InputError("no detector is left: " + "; ".join(f"{a.name}: {a.reason}" for a in absent))
        ways, wayless = ways_of(detectors, inputs, scores, device)
        attacks = plan(settings, detectors, ways, own)
        attacker = Attacker(settings, classifier, detectors, ways, inputs, audit, batch_size)
        failures = _attack(attacker, attacks, tell)
        for attack in attacks:
            if attack.key not in failures:
                attacked = audit.read_images(attack, inputs.starts.names)
                some = {name: d for name, d in detectors.items() if scores.concerns(attack, name, d)}
                faults = score_all(some, attacked, batch_size, device, scores, tell)
                failures |= {f"{attack.key} by {a.name}": a.reason for a in faults}
        tell("measuring", 0, 1)
        done = [attack for attack in attacks if attack.key not in failures]
        results = {
            "settings": {name: plain(value) for name, value in asdict(settings).items()},
            "environment": header["environment"],
            "classifier": _describe(classifier, inputs),
            "sets": {name: len(images.names) for name, images in scores.sets.items()}
            | {attack.key: len(inputs.starts.names) for attack in done},
            "distinct_starts": len(set(inputs.starts.names)),
            "skipped": {
                name: skipped
                for name, skipped in {
                    "train": inputs.train.skipped,
                    **{name: images.skipped for name, images in scores.sets.items()},
                }.items()
                if skipped
            },
            **tabulate(scores, detectors, {**wayless, **{n: w.how for n, w in ways.items()}}, attacks, failures, audit),
            "absent": [asdict(a) for a in absent],
            "failures": failures,
            "outside": still_outside(settings, classifier, witnesses, inputs, audit, done, batch_size),
        }
        names = {
            images: scores.sets[images if images in scores.sets else "starts"].names for _, images in scores.values
        }
        audit.write_scores(scores.values, names)
        audit.write_results(results)
        tell("measuring", 1, 1)
    return audit


def _attack(attacker: Attacker, attacks: Sequence[Attack], tell: Callable[[str, int, int], None]) -> dict[str, str]:
    """Carry attacks out; returns those that failed, by key, with the reason."""
    failures: dict[str, str] = {}
    for attack in attacks:
        try:
            attacker.run(attack, tell)
        except WriteError:
            raise
        except Exception as error:  # noqa: BLE001 -- one detector's fault must not cost the others their result
            failures[attack.key] = told(error)
    return failures


def _fitting(most: int, classifier: Classifier) -> int:
    """As many images as a CPU's memory bears, at most so many."""
    return rows_that_fit(most, classifier.encoder.input_size)


def _batch_size(settings: AuditSettings, classifier: Classifier, inputs: Inputs) -> int:
    """That which was asked for, or that of the audit that is there, else the one that suits encoder and machine."""
    if settings.batch_size is not None:
        return settings.batch_size
    if is_begun(settings.out):
        try:
            return int(json.loads((settings.out / NAME).read_text())["batch_size"])
        except (OSError, ValueError, KeyError, TypeError):  # `claim` says what is wrong
            return MOST
    image = dequantize(inputs.starts.images[:1]).to(classifier.encoder.mean.device)
    samples = min(_fitting(MOST, classifier), len(inputs.x_in.names))
    return measure_batch_size(classifier.features.fast, Autograd(), image, samples=samples, steps=10 * settings.steps)


def _describe(classifier: Classifier, inputs: Inputs) -> dict[str, Any]:
    logits, labels = classifier.collect(classifier.logits, inputs.train)
    test_labels = class_numbers(inputs.x_in_classes, inputs.train.order)
    batches = inputs.x_in.batches(_fitting(MOST, classifier), classifier.encoder.mean.device)
    predicted = torch.cat([classifier.logits(x).argmax(1).cpu() for x in batches])
    right = None if test_labels is None else float((predicted == torch.tensor(test_labels)).double().mean())
    return {
        "encoder": classifier.encoder.name,
        "classes": classifier.classes,
        "latent_dim": classifier.features.exact.latent_dim,
        "layers": list(classifier.layer_names),
        "train_images": len(labels),
        "train_accuracy": float((logits.argmax(1) == labels).double().mean()) if inputs.train.labelled else None,
        "test_accuracy": right,
    }

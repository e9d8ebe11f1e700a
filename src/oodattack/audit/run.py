"""The audit: fit, attack, score, compare."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from oodattack.audit.attacking import Attacker, plan
from oodattack.audit.attacks import Way, find_way
from oodattack.audit.data import ImageSet, TrainImages, class_numbers
from oodattack.audit.inputs import Inputs, find_detectors, own_digests, read_inputs
from oodattack.audit.outside import open_witnesses, still_outside
from oodattack.audit.store import FORMAT, NAME, Audit, is_begun
from oodattack.audit.tables import Scores, tabulate
from oodattack.audit_settings import AuditSettings
from oodattack.detectors import Absent, Classifier, Detector
from oodattack.encoders import load_encoder
from oodattack.engines.batch_size import measure_batch_size
from oodattack.engines.machine import environment, exact
from oodattack.engines.memory import keep_freed_memory
from oodattack.errors import InputError
from oodattack.gradient import Autograd
from oodattack.pixels import dequantize
from oodattack.runs.directory import claim

MOST = 64  # samples at once: what is finished is kept after each batch


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
    layers = None if settings.layers is None else settings.layers.split("+")
    classifier = Classifier(encoder, layers=layers)
    detectors, absent = find_detectors(settings, classifier)
    witnesses = open_witnesses(settings)
    tell("reading the images", 0, 1)
    inputs = read_inputs(settings, classifier, settings.batch_size or MOST)
    header = {
        "format": FORMAT,
        "settings": {name: _plain(getattr(settings, name)) for name in _DECISIVE},
        "inputs": {**inputs.digests, "encoder": encoder.digest(), **own_digests(settings)},
        "environment": environment(encoder.mean.device),
    }
    with claim(settings.out, NAME, header, is_begun=is_begun), exact():
        audit = Audit(settings.out)
        audit.write_samples(inputs.x_in, inputs.starts)
        batch_size = settings.batch_size or _batch_size(classifier, inputs, settings.steps)
        absent += _fit(detectors, inputs.train, audit, tell)
        scores = Scores(settings, {"in": inputs.x_in, "starts": inputs.starts, **{s.name: s for s in inputs.natural}})
        for images in scores.sets.values():
            absent += _score(detectors, images, batch_size, encoder.mean.device, scores, tell)
        ways = _ways(detectors, inputs, scores, encoder.mean.device, absent)
        if not detectors:
            raise InputError("no detector is left: " + "; ".join(f"{a.name}: {a.reason}" for a in absent))
        attacker = Attacker(settings, classifier, detectors, ways, inputs, audit, batch_size)
        failures: dict[str, str] = {}
        attacks = plan(settings, detectors)
        for attack in attacks:
            try:
                attacker.run(attack, tell)
            except Exception as error:  # noqa: BLE001 -- one detector's fault must not cost the others their result
                failures[attack.key] = _told(error)
        attacks = [attack for attack in attacks if attack.key not in failures]
        for attack in attacks:
            scores.attacked(attack, audit, inputs.starts.names)
            some = {name: d for name, d in detectors.items() if scores.concerns(attack, name, d)}
            failures |= {
                f"{attack.key} by {a.name}": a.reason
                for a in _score(some, scores.sets[attack.key], batch_size, encoder.mean.device, scores, tell)
            }
        audit.write_scores(scores.values, {name: images.names for name, images in scores.sets.items()})
        tell("measuring", 0, 1)
        audit.write_results(
            {
                "settings": {name: _plain(value) for name, value in asdict(settings).items()},
                "environment": header["environment"],
                "classifier": _describe(classifier, inputs),
                "sets": {name: len(images.names) for name, images in scores.sets.items()},
                **tabulate(scores, detectors, ways, attacks, audit),
                "absent": [asdict(a) for a in absent],
                "failures": failures,
                "outside": still_outside(settings, classifier, witnesses, inputs, scores, attacks, batch_size),
            }
        )
        tell("measuring", 1, 1)
    return audit


# What fits and attacked images depend on; the rest may change from one command to the next.
_DECISIVE = ("encoder", "train", "test", "start", "norm", "limit", "fit_limit", "layers", "seed")


def _fit(
    detectors: dict[str, Detector], train: TrainImages, audit: Audit, tell: Callable[[str, int, int], None]
) -> list[Absent]:
    """Fit every detector, or take over its fit; those that fail leave ``detectors``, and are returned."""
    absent: list[Absent] = []
    for number, (name, detector) in enumerate(list(detectors.items())):
        tell(f"fitting {name}", number, len(detectors) + len(absent))
        state = audit.read_fit(name)
        try:
            if state is None:
                detector.fit(train)
                if hasattr(detector, "state_dict"):
                    audit.write_fit(name, detector.state_dict())
            else:
                detector.load_state_dict(state)  # type: ignore[attr-defined]
        except Exception as error:  # noqa: BLE001 -- as above
            absent.append(Absent(name, f"its fit failed: {_told(error)}"))
            del detectors[name]
    return absent


def _score(
    detectors: dict[str, Detector],
    images: ImageSet,
    batch_size: int,
    device: torch.device,
    scores: "Scores",
    tell: Callable[[str, int, int], None],
) -> list[Absent]:
    """Every detector's scores of a set; those that fail, or give NaN, leave ``detectors``."""
    found: dict[str, list[Tensor]] = {name: [] for name in detectors}
    absent = []
    for number, batch in enumerate(images.batches(batch_size, device)):
        tell(f"scoring {images.name}", number * batch_size, len(images.names))
        for name, detector in list(detectors.items()):
            try:
                values = detector.score(batch).detach().double().cpu()
                if values.shape != (len(batch),) or bool(values.isnan().any()):
                    raise InputError(
                        f"expected {len(batch)} numbers as scores of {len(batch)} images, got"
                        f" {'NaN among them' if values.shape == (len(batch),) else f'shape {tuple(values.shape)}'}"
                    )
            except Exception as error:  # noqa: BLE001 -- as above
                absent.append(Absent(name, f"it does not score {images.name}: {_told(error)}"))
                del detectors[name], found[name]
            else:
                found[name].append(values)
    scores.values.update({(name, images.name): torch.cat(parts) for name, parts in found.items()})
    return absent


def _ways(
    detectors: dict[str, Detector],
    inputs: Inputs,
    scores: "Scores",
    device: torch.device,
    absent: list[Absent],
) -> dict[str, Way]:
    """How each detector's score is followed."""
    ways = {}
    few = torch.cat([next(images.batches(2, device)) for images in (inputs.x_in, inputs.starts)])
    for name, detector in list(detectors.items()):
        try:
            ways[name] = find_way(detector, few, scores.values[name, "in"])
        except Exception as error:  # noqa: BLE001 -- as above
            absent.append(Absent(name, f"its score cannot be followed: {_told(error)}"))
            del detectors[name]
    return ways


def _batch_size(classifier: Classifier, inputs: Inputs, steps: int) -> int:
    image = dequantize(inputs.starts.images[:1]).to(classifier.encoder.mean.device)
    return measure_batch_size(
        classifier.features.fast, Autograd(), image, samples=min(MOST, len(inputs.x_in.names)), steps=10 * steps
    )


def _describe(classifier: Classifier, inputs: Inputs) -> dict[str, Any]:
    logits, labels = classifier.collect(classifier.logits, inputs.train)
    test_labels = class_numbers(inputs.x_in.names, classifier)
    predicted = torch.cat(
        [classifier.logits(x).argmax(1).cpu() for x in inputs.x_in.batches(MOST, classifier.encoder.mean.device)]
    )
    return {
        "encoder": classifier.encoder.name,
        "classes": classifier.classes,
        "latent_dim": classifier.features.exact.latent_dim,
        "layers": list(classifier.layer_names),
        "train_images": len(labels),
        "train_skipped": inputs.train.skipped,
        "train_accuracy": float((logits.argmax(1) == labels).double().mean()) if inputs.train.labelled else None,
        "test_accuracy": None
        if test_labels is None
        else float((predicted == torch.tensor(test_labels)).double().mean()),
    }


def _told(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
    return f"{kind}{text}"[:300]


def _plain(value: Any) -> Any:
    """A setting as JSON holds it."""
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and value == float("inf"):
        return "inf"
    return value if isinstance(value, Mapping | str | int | float | bool | None) else str(value)

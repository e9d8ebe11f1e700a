"""Detectors at work: fitted, scoring, and what becomes of those that fail."""

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from oodattack.attacks.ways import Way, find_way
from oodattack.audit.data import ImageSet, TrainImages
from oodattack.audit.inputs import Inputs
from oodattack.audit.store import Audit
from oodattack.audit.tables import Scores
from oodattack.core.errors import InputError
from oodattack.detectors import Absent, Detector

Tell = Callable[[str, int, int], None]


def fit_all(
    detectors: dict[str, Detector], own: Collection[str], train: TrainImages, audit: Audit, tell: Tell
) -> list[Absent]:
    """Fit every detector, or take over its fit.

    Args:
        detectors: by name; those that fail leave it, and are returned with the reason.
        own: names of the user's own, whose fits are not kept: their code changes.
        train: what to fit on.
        audit: where fits are kept.
        tell: progress.
    """
    absent: list[Absent] = []
    for number, (name, detector) in enumerate(list(detectors.items())):
        tell(f"fitting {name}", number, len(detectors) + len(absent))
        kept = name not in own and hasattr(detector, "state_dict")
        try:
            state = audit.read_fit(name) if kept else None
            if state is not None:
                detector.load_state_dict(state)  # type: ignore[attr-defined]
                continue
            detector.fit(train)
        except Exception as error:  # noqa: BLE001 -- one detector's fault must not cost the others their result
            absent.append(Absent(name, f"its fit failed: {told(error)}"))
            del detectors[name]
            continue
        if kept:
            audit.write_fit(name, detector.state_dict())  # type: ignore[attr-defined]
    return absent


def score_all(
    detectors: dict[str, Detector],
    images: ImageSet,
    batch_size: int,
    device: torch.device,
    scores: Scores,
    tell: Tell,
) -> list[Absent]:
    """Every detector's scores of a set, to ``scores``; those that fail, or give NaN, leave ``detectors``."""
    found: dict[str, list[Tensor]] = {name: [] for name in detectors}
    absent = []
    for number, batch in enumerate(images.batches(batch_size, device)):
        tell(f"scoring {images.name}", number * batch_size, len(images.names))
        for name, detector in list(detectors.items()):
            try:
                values = detector.score(batch).detach().cpu().double()
                if values.shape != (len(batch),):
                    raise InputError(f"expected {len(batch)} numbers for as many images, got {tuple(values.shape)}")
                if bool(values.isnan().any()):
                    raise InputError("expected numbers, got NaN among them")
            except Exception as error:  # noqa: BLE001 -- as above
                absent.append(Absent(name, f"it does not score {images.name}: {told(error)}"))
                del detectors[name], found[name]
            else:
                found[name].append(values)
    scores.values.update({(name, images.name): torch.cat(parts) for name, parts in found.items()})
    return absent


def ways_of(
    detectors: Mapping[str, Detector], inputs: Inputs, scores: Scores, device: torch.device
) -> tuple[dict[str, Way], dict[str, str]]:
    """How each detector's score is followed, and why others' are not."""
    ways, reasons = {}, {}
    few = torch.cat([next(images.batches(2, device)) for images in (inputs.x_in, inputs.starts)])
    for name, detector in detectors.items():
        try:
            ways[name] = find_way(detector, few, scores.values[name, "in"])
        except Exception as error:  # noqa: BLE001 -- as above
            reasons[name] = told(error)
    return ways, reasons


def told(error: BaseException) -> str:
    r"""An error in one line.

    >>> told(ValueError("two\nlines"))
    'ValueError: two lines'
    """
    text = " ".join(str(error).split())
    kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
    return f"{kind}{text}"[:300]

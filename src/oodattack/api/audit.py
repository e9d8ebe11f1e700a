"""`audit`: the audit of a model, images and detectors that are already in Python."""

import re
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from oodattack.api.progress import audit_bar
from oodattack.auditing.bench import MAX_BATCH_SIZE, Bench, collect_detectors
from oodattack.auditing.inputs import IN_DISTRIBUTION, choose_inputs
from oodattack.auditing.models import open_models
from oodattack.auditing.store import Audit
from oodattack.core.checks import evaluation_mode
from oodattack.core.errors import InputError
from oodattack.detectors import Detector, Own, Subject, make_subject
from oodattack.detectors.own import REQUIRED
from oodattack.encoders import Encoder
from oodattack.encoders.own import declared_size
from oodattack.engines import Progress, open_encoder, rows_that_fit
from oodattack.images import ImageSource, image_source, open_images
from oodattack.images.live import OBJECT
from oodattack.pipelines.audit import audit_bench
from oodattack.settings.audit import AuditSettings

Make = Callable[[Subject], Detector]
_OF_A_NAMED_ENCODER = ("device", "pipeline", "native_size")
_ARGUMENTS = ("encoder", "train", "test", "start", "ood", "detectors", "detector", "out")


def audit(
    model: str | nn.Module,
    train: Any,
    test: Any,
    detectors: str | Iterable[Any] | Mapping[str, Any] = "all",
    *,
    ood: Mapping[str, Any],
    out: str | Path | None = None,
    progress: bool = False,
    **settings: Any,
) -> Audit:
    """Measure which detectors withstand attacks, as `oodattack audit` does, with the same results.

    Args:
        model: maps images (B, 3, H, W) in [0, 1], so that normalisation is its first layer. A module is attacked where
            it is, in eval mode with frozen parameters, and its flags are restored; its input size is its attribute
            ``input_size`` or the size of the first image of ``test``. An `oodattack.encoders.Encoder` also chooses the
            layer, the normalisation and the input size; a string is loaded as by the command.
        train: in-distribution images with classes to fit the detectors on, in one of the forms of
            `oodattack.images.image_source`: a tuple of tensors, a data set, a DataLoader, or the path of a folder.
        test: in-distribution images not used for fitting, likewise.
        detectors: "all", or any of: names of detectors in pytorch-ood; your objects with ``fit``, ``score`` and
            ``reads`` (see `oodattack.detectors.Detector`), which are fitted again here; and functions or classes that
            make one for an `oodattack.detectors.Subject`. Yours are named after their class or function, or by the keys
            of a mapping.
        ood: the sets of images from which attacks start, by name; each as ``train``, or generated: ``"noise"``.
        out: directory of the audit, as written by the command; the same call with it resumes. Attacks on your own
            detectors are repeated, because their parameters may have changed. By default a temporary directory that
            exists as long as the returned object.
        progress: whether to show a progress bar on standard error, in terminals and notebooks.
        **settings: any other setting of `oodattack.settings.AuditSettings`: ``eps``, ``norm``, ``steps``, and so on.

    Returns:
        The finished audit: ``read_results()`` are its tables, ``read_scores()`` all scores.

    Raises:
        InputError: for invalid input; earlier results are kept.

    >>> from tests.factories import tiny
    >>> import torch
    >>> images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> audit(tiny(), images, images, ["MaxLogit"], ood={"noise": "noise"}, steps=2, limit=2, ood_limit=2)
    <Audit of _Tiny, 1 detector: 1 too few starts>
    """
    given = [name for name in _ARGUMENTS if name in settings]
    if given:
        raise InputError(f"expected no setting {given[0]}, which is an argument of audit(); for starts, use ood=")
    if not isinstance(model, str | nn.Module):
        raise InputError(
            "expected the model as a torch.nn.Module, an oodattack.encoders.Encoder or the name of an encoder, got"
            f" {type(model).__name__} {model!r}; pass an instance, not a class or a function"
        )
    if out is None:
        out = Path(tempfile.mkdtemp(prefix="oodattack-"))
        try:
            found = audit(model, train, test, detectors, ood=ood, out=out, progress=progress, **settings)
        except BaseException:
            shutil.rmtree(out, ignore_errors=True)
            raise
        weakref.finalize(found, shutil.rmtree, out, ignore_errors=True)
        return found
    names, own = _detectors(detectors)
    checked = AuditSettings.of(
        {
            "encoder": model if isinstance(model, str) else _file_name(type(model).__name__),
            "train": _spec(train, "train"),
            "test": _spec(test, "test"),
            "ood": [_spec(images, name) for name, images in ood.items()],
            "detectors": names or ["none"],
            "detector": list(own),
            "out": out,
        },
        settings,
    )
    frozen: AbstractContextManager[None] = evaluation_mode(model) if isinstance(model, nn.Module) else nullcontext()
    shown: AbstractContextManager[Callable[[Progress], None] | None] = nullcontext()
    if progress:
        shown = audit_bar(Console(stderr=True))
    with frozen, shown as bar:
        return audit_bench(_open(checked, model, train, test, ood, own), on_progress=bar)


def _open(
    settings: AuditSettings,
    model: str | nn.Module,
    train: Any,
    test: Any,
    ood: Mapping[str, Any],
    own: Mapping[str, Make],
) -> Bench:
    """Make the bench of `oodattack.auditing.bench.open_bench` from objects instead of their names."""
    opened = {name: _source(settings, images, name) for name, images in (("train", train), ("test", test))}
    subject = make_subject(_encoder(settings, model, opened["test"]), layers=settings.layer_names)
    models, digests = open_models(settings.model, subject.encoder)
    found, absent = collect_detectors(settings, subject, models, list(own.items()))
    starts = {
        _set_name(name): images if isinstance(images, str) else _source(settings, images, name)
        for name, images in ood.items()
    }
    batch_size = rows_that_fit(MAX_BATCH_SIZE, subject.encoder.input_size)
    inputs = choose_inputs(settings, subject, batch_size, opened["train"], opened["test"], starts)
    return Bench(settings, subject, found, absent, inputs, digests)


def _encoder(settings: AuditSettings, model: str | nn.Module, test: ImageSource) -> Encoder:
    if isinstance(model, str):
        return open_encoder(settings)
    for name in _OF_A_NAMED_ENCODER:
        if getattr(settings, name) is not None:
            raise InputError(
                f"expected no {name} with a module, got {getattr(settings, name)!r}; prepare the module so"
            )
    if isinstance(model, Encoder):
        return model
    height, width = declared_size(model) or test.read(0).shape[1:]
    return Encoder(model, name=settings.encoder, input_size=(height, width))


def _source(settings: AuditSettings, images: Any, name: str) -> ImageSource:
    if isinstance(images, str | Path):
        return open_images(images, data_root=settings.data_root, download=settings.download)
    return image_source(images, name)


def _spec(images: Any, name: str) -> str:
    """What the audit records as the name of images."""
    return str(images) if isinstance(images, str | Path) else OBJECT + name


def _set_name(name: str) -> str:
    if name in IN_DISTRIBUTION or re.fullmatch(r"\w[\w.+-]*", name) is None:
        raise InputError(
            f"expected the name of a set as letters, digits, _, ., + and -, but none of {', '.join(IN_DISTRIBUTION)},"
            f" got {name!r}"
        )
    return name


def _detectors(detectors: str | Iterable[Any] | Mapping[str, Any]) -> tuple[list[str], dict[str, Make]]:
    """The names of detectors in pytorch-ood, and functions that make the user's own, by name."""
    if isinstance(detectors, str):
        return [detectors], {}
    if isinstance(detectors, Mapping):
        named = list(detectors.items())
    else:
        detectors = list(detectors)
        named = [(getattr(d, "__name__", type(d).__name__), d) for d in detectors if not isinstance(d, str)]
    own: dict[str, Make] = {}
    for given, detector in named:
        name = _file_name(given)
        if name in own:
            raise InputError(f"expected detectors with different names, got two called {name}; pass a mapping of names")
        own[name] = _maker(detector)
    return ([] if isinstance(detectors, Mapping) else [d for d in detectors if isinstance(d, str)]), own


def _maker(detector: Any) -> Make:
    """A function that makes a detector for a subject, from a detector or from a function or class that makes one."""
    version = secrets.token_hex(32)  # attacks on an earlier object of the same name are not reused
    is_detector = not isinstance(detector, type) and all(callable(getattr(detector, name, None)) for name in REQUIRED)
    if is_detector:
        return lambda _subject: Own(detector, version)
    if not callable(detector):
        raise InputError(
            f"expected a detector as a name, an object with {', '.join(REQUIRED)}, or a function or class that makes"
            f" one, got {type(detector).__name__}"
        )
    return lambda subject: Own(detector(subject), version)


def _file_name(name: str) -> str:
    return re.sub(r"\W+", "-", name)

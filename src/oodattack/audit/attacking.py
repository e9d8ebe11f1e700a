"""The attacks of an audit, carried out batch by batch and kept as they are finished."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oodattack.attacks.attacks import (
    CLOSE,
    VIEWS,
    Attack,
    Ball,
    Found,
    Samples,
    lower,
    match,
    read_function,
    reading,
)
from oodattack.attacks.ways import Way
from oodattack.audit.inputs import Inputs
from oodattack.audit.store import Audit
from oodattack.core.pixels import dequantize
from oodattack.detectors import Classifier, Detector
from oodattack.engines.memory import in_batches
from oodattack.engines.seeds import sample_seed
from oodattack.settings.attack import NORMS
from oodattack.settings.audit import AuditSettings

Z = "features"
Tell = Callable[[str, int, int], None]


def plan(
    settings: AuditSettings, detectors: Mapping[str, Detector], ways: Collection[str], own: Mapping[str, str]
) -> list[Attack]:
    """Every attack, those first that others start from.

    What reads z is not attacked again by *informed*: *latent* has done it.

    Args:
        settings: of the audit.
        detectors: by name.
        ways: names of those whose score can be followed.
        own: digests of the sources of the user's own, by name: their code may change.

    >>> from pathlib import Path
    >>> from oodattack.encoders import load_encoder
    >>> from oodattack.detectors import make_detectors
    >>> c = Classifier(load_encoder("python:tests.factories:tiny"))
    >>> some, _ = make_detectors(c, ["KNN", "MaxLogit"])
    >>> s = AuditSettings(encoder="x", train="a", test="b", start=("noise",), out=Path("c"), steps=9, budget=("3",))
    >>> [attack.key for attack in plan(s, some, some, {})]
    ['latent-features-5-9', 'informed-logits-5-9', 'direct-KNN-5-9', 'direct-MaxLogit-5-9', 'latent-features-5-3']
    """
    readings = dict.fromkeys(reading(name, detector) for name, detector in detectors.items())
    # Of several that share what they read, the first is asked for it.
    read = {reading(name, detectors[name]): own[name] for name in reversed(list(detectors)) if name in own}
    versions = {target: digest for target, digest in {**read, **own}.items() if target not in VIEWS}
    targets = [("latent", Z)]
    if "informed" in settings.attacks:
        targets += [("informed", what) for what in readings if what != Z]
    if "direct" in settings.attacks:
        targets += [("direct", name) for name in detectors if name in ways]
    found = [
        Attack(kind, target, eps, settings.steps, versions.get(target, ""))
        for kind, target in targets
        for eps in settings.eps
    ]
    return found + [Attack("latent", Z, max(settings.eps), steps) for steps in settings.budget]


@dataclass(frozen=True)
class Attacker:
    """Who carries them out.

    Attributes:
        settings: of the audit.
        classifier: what is attacked.
        detectors: fitted, by name.
        ways: how each score is followed.
        inputs: the images.
        audit: where results go.
        batch_size: samples at once.
    """

    settings: AuditSettings
    classifier: Classifier
    detectors: Mapping[str, Detector]
    ways: Mapping[str, Way]
    inputs: Inputs
    audit: Audit
    batch_size: int

    def run(self, attack: Attack, tell: Tell) -> None:
        """Attack the samples that are not done yet; each batch is kept when it is finished."""
        count = len(self.inputs.x_in.names)
        done = self.audit.attack_rows(attack)
        label = f"attacking: {attack.kind} {attack.target}, eps {attack.eps:g}, {attack.steps} steps"
        while todo := [row for row in range(count) if row not in done]:
            tell(label, len(done), count)
            stop = next((row for row in range(todo[0], count) if row in done), count)
            chunk = range(todo[0], min(stop, todo[0] + self.batch_size))
            for rows, found in in_batches(chunk, self.batch_size, self._work(attack)):
                self.audit.write_attack(attack, list(rows), found)
                done.update(rows)
        tell(label, count, count)

    def _work(self, attack: Attack) -> Callable[[range], Found]:
        ball = Ball(attack.eps, NORMS[self.settings.norm], attack.steps)
        device = self.classifier.encoder.mean.device

        def work(rows: range) -> Found:
            x_in, starts = (
                dequantize(s.images[rows.start : rows.stop]).to(device) for s in (self.inputs.x_in, self.inputs.starts)
            )
            samples = Samples(x_in, starts, self._seeds(rows))
            if attack.kind == "direct":
                way, detector = self.ways[attack.target], self.detectors[attack.target]
                return lower(way, detector, samples, ball, self._latent(attack, rows, device))
            if attack.kind == "latent":
                return match(self.classifier.features, samples, ball, parts=None, tolerance=0)
            name, detector = next(
                (name, detector)
                for name, detector in self.detectors.items()
                if reading(name, detector) == attack.target
            )
            parts = getattr(detector, "parts", None)
            f = read_function(name, detector, self.classifier)
            return match(f, samples, ball, parts=parts, tolerance=CLOSE)

        return work

    def _seeds(self, rows: range) -> Sequence[int]:
        return [
            sample_seed(self.settings.seed, self.inputs.x_in.names[row], self.inputs.starts.names[row]) for row in rows
        ]

    def _latent(self, attack: Attack, rows: range, device: torch.device) -> Tensor:
        """What the latent attack found in the same ball."""
        names = self.inputs.starts.names[rows.start : rows.stop]
        found = self.audit.read_images(Attack("latent", Z, attack.eps, self.settings.steps), names, rows.start)
        return dequantize(found.images).to(device)

"""Progress bars and log records: what a user sees while it runs, without any effect on results."""

import io
import logging
import subprocess
import sys
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

import oodattack
from oodattack.api.progress import attack_bar
from oodattack.core.attack import attack as core_attack
from oodattack.engines import in_batches
from oodattack.images import encode_png
from oodattack.pipelines.attack import run_attack
from oodattack.pipelines.audit import run_audit
from oodattack.settings import AttackSettings, AuditSettings

GREY = torch.full((2, 3, 4, 4), 0.5)
TARGET = torch.tensor([[0.4, 0.5, 0.6]] * 2)


def means(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def test_the_public_attack_has_the_arguments_of_the_core() -> None:
    of_core, public = (signature(function).parameters for function in (core_attack, oodattack.attack))
    assert dict(of_core) == {name: parameter for name, parameter in public.items() if name != "progress"}
    assert "progress: whether to show" in str(oodattack.attack.__doc__)
    assert "restarts: total number of tries" in str(oodattack.attack.__doc__)


def test_every_argument_reaches_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    received: dict[str, Any] = {}

    def spied(f: Any, start: Tensor, target: Tensor, **options: Any) -> Any:
        received.update(options)
        return core_attack(f, start, target, **options)

    monkeypatch.setattr("oodattack.core.attack.attack", spied)
    figures: list[Tensor] = []
    given: dict[str, Any] = {
        "eps": [0.5, 1.0],
        "norm": float("inf"),
        "steps": 3,
        "method": "plain",
        "step_size": 0.01,
        "restarts": 2,
        "tolerance": 1e-6,
        "seed": [3, 4],
        "pixels": 256,
        "grid_steps": 2,
        "parts": (1, 2),
        "check": False,
        "initial": GREY + 0.1,
        "below": True,
        "gradient": "autograd",
        "callback": lambda _step, figure: figures.append(figure),
    }
    of_core = signature(core_attack).parameters
    assert set(given) == {name for name, parameter in of_core.items() if parameter.kind is parameter.KEYWORD_ONLY}
    expected = core_attack(means, GREY, TARGET, **given)
    calls = len(figures)
    for progress in (False, True):
        found = oodattack.attack(means, GREY, TARGET, **given, progress=progress)
        assert {name: value for name, value in received.items() if name != "callback"}.items() <= given.items()
        assert torch.equal(found.image, expected.image)
    assert len(figures) == 3 * calls > 0


def test_a_bar_appears_in_a_terminal_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    oodattack.attack(means, GREY, TARGET, eps=1.0, steps=3, progress=True)
    assert "attacking" not in capsys.readouterr().err
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    oodattack.attack(means, GREY, TARGET, eps=1.0, steps=3)
    assert capsys.readouterr().err == ""
    oodattack.attack(means, GREY, TARGET, eps=1.0, steps=3, progress=True)
    shown = capsys.readouterr()
    assert "attacking, median" in shown.err
    assert shown.out == ""


def test_the_bar_shows_tries_and_the_median() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=200)
    with attack_bar(console, 2, 3) as bar:
        for _ in range(2):
            for step in (1, 2):
                bar(step, torch.tensor([0.25, float("nan"), 0.25]))
    assert "try 2 of 3, median 0.25" in file.getvalue()
    assert "2/2" in file.getvalue()


def test_the_package_is_silent_unless_logging_is_configured() -> None:
    script = "import logging, oodattack; logging.getLogger('oodattack.engines').warning('a warning')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_smaller_batches_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    def compute(rows: range) -> int:
        if len(rows) > 1:
            raise MemoryError
        return len(rows)

    with pytest.warns(UserWarning, match="not enough memory"):
        list(in_batches(range(2), 2, compute))
    assert [(r.name, r.levelno) for r in caplog.records] == [("oodattack.engines.memory", logging.WARNING)]


def test_a_run_logs_its_shards_and_skipped_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(encode_png(torch.zeros(3, 8, 8, dtype=torch.uint8) + 9))
    (tmp_path / "photos" / "line\nbreak.png").write_bytes(b"no image")
    with caplog.at_level(logging.INFO, "oodattack"):
        run_attack(
            AttackSettings(
                encoder="python:torch.nn:Flatten,size=8,layer=output",
                images=str(tmp_path / "photos"),
                start=("noise",),
                steps=2,
                batch_size=2,
                out=tmp_path / "run",
            )
        )
    texts = [record.getMessage() for record in caplog.records]
    assert "attacking 2 samples, 0 of 1 shards are done" in texts
    assert "shard 0 is done: 2 of 2 samples" in texts
    [skipped] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "skipped an image" in skipped.getMessage()
    assert "\n" not in skipped.getMessage()


def test_an_audit_logs_each_stage_once_and_what_it_lacks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = "torchvision:FakeData"
    settings = AuditSettings(
        encoder="python:tests.factories:tiny",
        train=images,
        test=images,
        start=("noise",),
        detectors=("MaxLogit", "MCM"),
        attacks=("latent",),
        limit=2,
        held_out=9,
        fit_limit=4,
        steps=2,
        ood_limit=2,
        out=tmp_path / "audit",
    )
    with caplog.at_level(logging.INFO, "oodattack"):
        run_audit(settings)
    texts = [record.getMessage() for record in caplog.records if record.name == "oodattack.pipelines.audit"]
    assert len(texts) == len(set(texts))
    assert texts[0] == "loading the encoder and the images"
    assert "attacking: latent features from noise, eps 5, 2 steps" in texts
    assert any(text.startswith("left out MCM: ") for text in texts)

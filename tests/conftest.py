"""Settings and fixtures that all tests share."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# One thread per process, because tests run in parallel; subprocesses inherit it. Set before torch is loaded, which may
# cap it at the number of cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from filelock import FileLock
from hypothesis import settings

from tests.digits import write_digits

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# The same examples in every run, no deadline (a slow machine is not a failure), and no database on disk.
settings.register_profile("oodattack", derandomize=True, deadline=None, database=None)
settings.load_profile("oodattack")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of digits for training and for testing, written once, by the first process to request them."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    with FileLock(root / "digits.lock"):
        if not (root / "digits").exists():
            write_digits(root / "unfinished")
            (root / "unfinished").rename(root / "digits")
    return root / "digits" / "train", root / "digits" / "test"


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figures, for tests that do not need them: drawing takes longer than the run itself."""
    monkeypatch.setattr("oodattack.report.draw_run", lambda *_arguments, **_options: [])


@pytest.fixture(scope="module")
def few_resamples() -> Iterator[None]:
    """Use few resamples, for speed; `test_audit_measures.py` tests the intervals."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("oodattack.auditing.measures.RESAMPLES", 40)
        yield


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run, for the tests of `verify`, which only read it."""
    from tests.verifying import make_run

    return make_run(tmp_path_factory.mktemp("verify"))


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of `finished_run` that a test may break."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """Chromium, for the tests of pages."""
    from tests.browser import chromium

    with chromium() as browser:
        yield browser

"""Settings of the test suite, and what all of it shares."""

import os
from pathlib import Path

# One thread a process, as the tests themselves run in parallel; for every subprocess too. Set before torch is loaded,
# which may cap it at the number of cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from filelock import FileLock
from hypothesis import settings

from tests.digits import write_digits

# The same examples every time, and no clock: a slow machine is not a failure. Nothing is written to disk.
settings.register_profile("oodattack", derandomize=True, deadline=None, database=None)
settings.load_profile("oodattack")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of digits to train on, and to test with; written once, in the process that first asks for them."""
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
    """For runs whose figures are not what the test is about: they take longer to draw than the run takes."""
    monkeypatch.setattr("oodattack.report.draw_run", lambda *_arguments, **_options: [])

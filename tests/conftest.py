"""Settings and fixtures that all tests share."""

import os
from pathlib import Path

# One thread per process, because tests run in parallel. Set before torch reads it, and inherited by subprocesses.
THREADS = int(os.environ.setdefault("OMP_NUM_THREADS", "1"))

import pytest  # noqa: E402 -- after the line above
import torch  # noqa: E402
from filelock import FileLock  # noqa: E402
from hypothesis import settings  # noqa: E402

from tests.digits import write_digits  # noqa: E402

torch.set_num_threads(THREADS)

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

"""Settings of the test suite, and what all of it shares."""

import os
from pathlib import Path

# One thread a process, as the tests themselves run in parallel; before anything reads it, and for every subprocess.
THREADS = int(os.environ.setdefault("OMP_NUM_THREADS", "1"))

import pytest  # noqa: E402 -- after the line above
import torch  # noqa: E402
from filelock import FileLock  # noqa: E402
from hypothesis import settings  # noqa: E402

from tests.digits import write_digits  # noqa: E402

torch.set_num_threads(THREADS)

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

"""Settings and fixtures that all tests share."""

import os
from collections.abc import Callable
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

Shared = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """``shared(name, build)``: a folder that ``build`` fills once per session, in the first process to request it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def get(name: str, build: Callable[[Path], object]) -> Path:
        folder = root / f"shared-{name}"
        with FileLock(f"{folder}.lock"):
            if not (folder / "done").exists():
                folder.mkdir(exist_ok=True)
                build(folder / "content")
                (folder / "done").touch()
        return folder / "content"

    return get


@pytest.fixture(scope="session")
def digits(shared: Shared) -> tuple[Path, Path]:
    """Folders of digits for training and for testing."""
    folder = shared("digits", write_digits)
    return folder / "train", folder / "test"


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figures, for tests that do not need them: drawing takes longer than the run itself."""
    monkeypatch.setattr("oodattack.report.draw_run", lambda *_arguments, **_options: [])

"""Settings of the test suite, and what all of it shares."""

import os
from collections.abc import Callable
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

Shared = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """``shared(name, build)``: a folder that ``build`` fills once a session, in the process that first asks for it."""
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
    """Folders of digits to train on, and to test with."""
    folder = shared("digits", write_digits)
    return folder / "train", folder / "test"


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For runs whose figures are not what the test is about: they take longer to draw than the run takes."""
    monkeypatch.setattr("oodattack.report.draw_run", lambda *_arguments, **_options: [])

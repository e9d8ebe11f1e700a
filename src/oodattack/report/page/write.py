"""Write the page of a run, an audit or a training."""

from pathlib import Path

from oodattack.core.errors import InputError
from oodattack.report.page.destination import Destination, Folder, SingleFile
from oodattack.report.page.run import run_page
from oodattack.runs import open_run
from oodattack.training.layout import round_images


def write_page(directory: Path, *, out: Path | None = None, single_file: bool = False) -> Path:
    """Write the page of a run, an audit or a training with rounds, finished or not.

    Args:
        directory: the directory.
        out: the folder, or with ``single_file`` the file, to write; by default ``page/`` or ``page.html`` in it.
        single_file: whether everything goes into one file, with small images.

    Returns:
        The HTML file to open.

    Raises:
        InputError: if there is nothing to show, or the page cannot be written.

    >>> write_page(Path("no/such/run"))
    Traceback (most recent call last):
        ...
    oodattack.core.errors.InputError: expected the directory of a run, an audit or a training, got no/such/run
    """
    directory = Path(directory)
    check_showable(directory)
    destination: Destination = (
        SingleFile(out or directory / "page.html") if single_file else Folder(out or directory / "page")
    )
    if (directory / "run.json").is_file():
        return run_page(open_run(directory), destination)
    if (directory / "audit.json").is_file():
        from oodattack.report.page.audit import audit_page  # needs libraries that a run does without

        return audit_page(directory, destination)
    from oodattack.report.page.rounds import rounds_page

    return rounds_page(directory, destination)


def check_showable(directory: Path) -> None:
    """Check that a directory has something that a page shows.

    Raises:
        InputError: if it is not that of a run, an audit or a training with rounds.

    >>> check_showable(Path("no/such/run"))
    Traceback (most recent call last):
        ...
    oodattack.core.errors.InputError: expected the directory of a run, an audit or a training, got no/such/run
    """
    if any((directory / name).is_file() for name in ("run.json", "audit.json")):
        return
    if not (directory / "train.json").is_file():
        raise InputError(f"expected the directory of a run, an audit or a training, got {directory}")
    if not round_images(directory):
        raise InputError(
            f"expected a training with rounds, got {directory} without any; a training without --rounds has no page"
        )

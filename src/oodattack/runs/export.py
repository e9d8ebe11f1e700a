"""A run's images as plain PNG files."""

from collections.abc import Sequence
from pathlib import Path

from oodattack.runs.rows import png_name
from oodattack.runs.run import Run
from oodattack.storage.files import write_bytes


def export_pngs(run: Run, folder: Path, shards: Sequence[int] | None = None) -> list[Path]:
    """Write the x_out of every row as a file, byte for byte as in the run.

    Args:
        run: the run.
        folder: the folder to write to; created if it does not exist.
        shards: numbers of the shards to export; by default all that exist.

    Returns:
        The files, one per row.

    Raises:
        InputError: if a shard is damaged or a file cannot be written.

    >>> import tempfile
    >>> from oodattack.pipelines.attack import run_attack
    >>> from oodattack.settings.attack import AttackSettings
    >>> f = "python:torch.nn:Flatten,size=8,layer=output"
    >>> with tempfile.TemporaryDirectory() as out:
    ...     settings = AttackSettings(
    ...         encoder=f, images="torchvision:FakeData", limit=2, start=("noise",), steps=3, out=Path(out) / "run"
    ...     )
    ...     [path.name for path in export_pngs(run_attack(settings), Path(out) / "png")]
    ['000000_fakedata-00000_noise_l2-5.png', '000001_fakedata-00500_noise_l2-5.png']
    """
    files = []
    for number in run.done() if shards is None else shards:
        for row in run.read_shard(number, ["row", "x_in_name", "start_name", "norm", "eps", "image"]).to_pylist():
            path = Path(folder) / png_name(row)
            if not path.exists() or path.read_bytes() != row["image"]["bytes"]:
                write_bytes(path, row["image"]["bytes"])
            files.append(path)
    return files

"""The directory of an audit, which it writes and from which it resumes.

::

    audit.json                  settings, inputs, environment
    samples/mnist.parquet       x_in and start of each row, one file per set of starts
    fits/KNN.pt                 a fitted detector's state: tensors, loaded without executing code
    attacks/mnist/latent-…/00000-00064.parquet   attacked images, one row per sample; one file per range of rows
    scores.parquet              every detector's score of every image
    results.json                the tables
    hashes/                     SHA-256 of each of these files
    figures/                    the figures
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from oodattack.attacks import Found
from oodattack.auditing.data import ImageSet, from_pngs
from oodattack.auditing.layout import ATTACKED, FORMAT, NAME, RESULTS, SAMPLES, SCORES
from oodattack.auditing.notebook import one_line, table
from oodattack.auditing.plan import Shard
from oodattack.core.errors import InputError
from oodattack.images import decode, encode_png
from oodattack.storage import hashes
from oodattack.storage.files import write_text, write_torch
from oodattack.storage.tables import create_table, image_cell, read_table, with_record, write_table

Scores = Mapping[tuple[str, str], Tensor]
"""Scores (N,) in float64, by detector and set. The images of an attack are a set named by its key."""


@dataclass(frozen=True)
class Audit:
    """The directory of an audit."""

    path: Path

    def __repr__(self) -> str:
        return f"<Audit of {one_line(self.read_results())}>" if self.finished else f"<Audit in {self.path}, unfinished>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return table(self.read_results()) if self.finished else f"<p>{escape(repr(self))}</p>"

    @property
    def finished(self) -> bool:
        """Whether there are results. More may have been added since, such as attacks of a larger audit."""
        return (self.path / RESULTS).is_file()

    def read_header(self) -> dict[str, Any]:
        """What ``audit.json`` records: settings, batch size, inputs and environment."""
        header: dict[str, Any] = json.loads((self.path / NAME).read_text())
        return header

    def fits(self) -> set[str]:
        """Names of the detectors whose fits are stored."""
        return {file.stem for file in (self.path / "fits").glob("*.pt")}

    def read_fit(self, detector: str) -> dict[str, Any] | None:
        """The state of a fitted detector, or None if it is not stored.

        Raises:
            InputError: if the file is damaged.
        """
        file = self.path / "fits" / f"{detector}.pt"
        if not file.exists():
            return None
        try:
            with torch.serialization.safe_globals(_plain_types()):
                state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            raise InputError(f"cannot read {file}: {error}; delete it and repeat the command") from error
        return state

    def write_fit(self, detector: str, state: Mapping[str, Any]) -> None:
        """Store the state of a fitted detector."""
        file = self.path / "fits" / f"{detector}.pt"
        with hashes.replacing(self.path, file):
            write_torch(file, dict(state))

    def write_samples(self, x_in: ImageSet, starts: ImageSet) -> None:
        """Store x_in and a set of starts, row by row, at the size that the encoder receives.

        Raises:
            InputError: if the audit has attacks from a set of that name with other starts.
        """
        file = self.path / "samples" / f"{starts.name}.parquet"
        columns: dict[str, list[Any]] = {"row": list(range(len(x_in.names)))}
        for column, images in (("x_in", x_in), ("start", starts)):
            columns[f"{column}_name"] = list(images.names)
            columns[column] = [
                image_cell(encode_png(image), name) for image, name in zip(images.images, images.names, strict=True)
            ]
        table = pa.table(columns, schema=SAMPLES)
        if file.exists():
            before = read_table(file)
            if before.equals(table):
                return
            if any((self.path / "attacks" / starts.name).glob("*/*.parquet")):
                raise InputError(
                    f"expected the set {starts.name} to have the starts of {file}, got others; choose another --out"
                )
        with hashes.replacing(self.path, file):
            write_table(file, table)

    def read_samples(self, starts: str) -> pa.Table:
        """x_in and the start of each row of the attacks from a set of starts.

        Raises:
            InputError: if the file is missing or damaged.
        """
        return read_table(self.path / "samples" / f"{starts}.parquet").sort_by("row")

    def shards(self) -> set[tuple[str, range]]:
        """Every finished shard: key of the attack and range of rows, from a single listing of the directory."""
        found = set()
        for file in (self.path / "attacks").glob("*/*/*.parquet"):
            bounds = re.fullmatch(r"(\d+)-(\d+)", file.stem)
            if bounds is not None:
                key = f"{file.parts[-3]}/{file.parts[-2]}"
                found.add((key, range(int(bounds[1]), int(bounds[2]))))
        return found

    def rows_done(self) -> dict[str, int]:
        """The number of rows of each attack that are on disk, by its key."""
        found: dict[str, int] = {}
        for key, rows in sorted(self.shards(), key=lambda one: one[0]):
            found[key] = found.get(key, 0) + len(rows)
        return found

    def row_count(self, starts: str) -> int:
        """The number of rows that an attack from a set of starts has when it is complete.

        Raises:
            InputError: if the samples of the set are missing or damaged.
        """
        return len(read_table(self.path / "samples" / f"{starts}.parquet", ["row"]))

    def write_shard(self, shard: Shard, parts: Sequence[Found], record: Mapping[str, Any]) -> None:
        """Store the images that an attack found for the rows of a shard; an existing shard is kept.

        Args:
            shard: the shard.
            parts: the results of each batch, in the order of the rows.
            record: how they were computed, as JSON values: batch sizes, machine.

        Raises:
            WriteError: if the file cannot be written.
        """
        images = (image for found in parts for image in found.images)
        names = (f"{shard.attack.key.replace('/', '-')}-{row:05d}.png" for row in shard.rows)
        columns: dict[str, Any] = {
            "row": list(shard.rows),
            "image": [image_cell(encode_png(image), name) for image, name in zip(images, names, strict=True)],
            "mape": torch.cat([found.mape for found in parts]).double().tolist(),
            "distance": torch.cat([found.distance for found in parts]).double().tolist(),
            "gradient_evaluations": torch.cat([found.gradient_evaluations for found in parts]).tolist(),
            "forward_evaluations": torch.cat([found.forward_evaluations for found in parts]).tolist(),
        }
        file = self._file(shard)
        if create_table(file, pa.table(columns, schema=with_record(ATTACKED, record))):
            hashes.record(self.path, file)

    def read_shard(self, shard: Shard) -> Tensor:
        """The images (B, 3, H, W) uint8 of a shard.

        Raises:
            InputError: if the file is missing or damaged.
        """
        file = self._file(shard)
        if not file.exists():
            raise InputError(f"expected the attack {shard.attack.key} to be finished, got no {file}")
        cells = read_table(file, ["image"])["image"].to_pylist()
        return torch.stack([decode(cell["bytes"]) for cell in cells])

    def _file(self, shard: Shard) -> Path:
        name = f"{shard.rows.start:05d}-{shard.rows.stop:05d}.parquet"
        return self.path / "attacks" / shard.attack.key / name

    def read_attack(self, key: str, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of an attack, in order.

        Raises:
            InputError: if there are none, or a file is damaged.
        """
        files = sorted((self.path / "attacks" / key).glob("*.parquet"))
        if not files:
            raise InputError(f"expected images of the attack {key} in {self.path}, got none; repeat the command")
        tables = [read_table(file, columns and ["row", *columns]) for file in files]
        return pa.concat_tables(tables).sort_by("row")

    def read_images(self, key: str, names: Sequence[str]) -> ImageSet:
        """The images that an attack found; ``names`` are those of their starts.

        Raises:
            InputError: as for `read_attack`.
        """
        cells = self.read_attack(key, ["image"])["image"].to_pylist()
        return from_pngs(key, [cell["bytes"] for cell in cells], names)

    def write_scores(self, scores: Scores, names: Mapping[str, Sequence[str]]) -> None:
        """Store the scores, with the names of the images of each set."""
        columns: dict[str, list[Any]] = {name: [] for name in SCORES.names}
        for (detector, images), values in scores.items():
            columns["detector"] += [detector] * len(values)
            columns["set"] += [images] * len(values)
            columns["row"] += range(len(values))
            columns["name"] += names[images]
            columns["score"] += values.tolist()
        file = self.path / "scores.parquet"
        with hashes.replacing(self.path, file):
            write_table(file, pa.table(columns, schema=SCORES))

    def read_scores(self) -> dict[tuple[str, str], Tensor]:
        """All scores, (N,) in float64, by detector and set.

        Raises:
            InputError: if the audit is not finished, or the file is damaged.
        """
        table = read_table(self.path / "scores.parquet", ["detector", "set", "score"])
        found: dict[tuple[str, str], list[float]] = {}
        for detector, images, score in zip(*(table[name].to_pylist() for name in table.column_names), strict=True):
            found.setdefault((detector, images), []).append(score)
        return {key: torch.tensor(values, dtype=torch.float64) for key, values in found.items()}

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Store the tables; NaN and infinity become null in JSON."""
        file = self.path / RESULTS
        with hashes.replacing(self.path, file):
            write_text(file, json.dumps(finite({"format": FORMAT, **results}), indent=2, allow_nan=False) + "\n")

    def read_results(self) -> dict[str, Any]:
        """The tables.

        Raises:
            InputError: if the audit is not finished, or another version wrote them.
        """
        file = self.path / RESULTS
        try:
            results: dict[str, Any] = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {file}: {error}; a finished `oodattack audit` writes it") from error
        if results.get("format") != FORMAT:
            raise InputError(
                f"expected results of format {FORMAT} in {file}, got {results.get('format', 'an older one')};"
                " report.md and the figures beside it can still be read, or audit again with another --out"
            )
        return results


def open_audit(path: Path) -> Audit:
    """Open the directory of an audit to read it.

    Raises:
        InputError: if it is not the directory of an audit.

    >>> open_audit(Path("no/such/audit"))
    Traceback (most recent call last):
        ...
    oodattack.core.errors.InputError: expected the directory of an audit with an audit.json, got no/such/audit
    """
    if not (Path(path) / NAME).is_file():
        raise InputError(f"expected the directory of an audit with an {NAME}, got {path}")
    return Audit(Path(path))


def is_begun(path: Path) -> bool:
    """Whether a directory contains fits or attacks."""
    return (
        any(path.glob("fits/*.pt")) or any(path.glob("attacks/*/*.parquet")) or any(path.glob("attacks/*/*/*.parquet"))
    )


def begun_header(path: Path) -> dict[str, Any] | None:
    """The header of an audit that can be resumed; None if there is nothing to resume, or the header cannot be read.

    Raises:
        InputError: if the audit has a format that can only be read, or its batch size or number of threads is not
            usable.
    """
    if not is_begun(path):
        return None
    try:
        header: dict[str, Any] = json.loads((path / NAME).read_text())
        format_ = header["format"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # `claim` reports it
    if format_ != FORMAT:
        raise InputError(
            f"expected an audit of format {FORMAT} in {path}, got format {format_}, which this version cannot resume;"
            " choose another --out"
        )
    environment = header.get("environment")
    threads = environment.get("threads") if isinstance(environment, dict) else None
    for name, value in (("batch_size", header.get("batch_size")), ("environment.threads", threads)):
        if type(value) is not int or value < 1:
            raise InputError(f"expected {name} to be at least 1 in {path / NAME}, got {value!r}; choose another --out")
    return header


def finite(value: Any) -> Any:
    """A JSON value with NaN and infinity replaced by None, since JSON has neither.

    >>> finite({"low": [0.5, math.nan], "threshold": math.inf})
    {'low': [0.5, None], 'threshold': None}
    """
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain_types() -> list[Any]:
    """Types that a fit may contain besides tensors and numbers: NumPy arrays, and the containers of pytorch-ood."""
    import numpy as np
    from numpy._core import multiarray
    from pytorch_ood.detector.nac import _LayerStats
    from pytorch_ood.detector.openmax.libnotmr import LibNotMR
    from pytorch_ood.detector.openmax.numpy import OpenMax

    arrays = [np.ndarray, np.dtype, multiarray._reconstruct, multiarray.scalar]
    kinds = [type(np.dtype(name)) for name in ("float32", "float64", "int64", "bool")]
    return [*arrays, *kinds, torch.nn.ParameterDict, _LayerStats, LibNotMR, OpenMax, range]

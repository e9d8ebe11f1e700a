"""What an audit leaves on disk, and finds there when it goes on.

::

    audit.json                  settings, inputs, environment
    samples.parquet             x_in and start of each row
    fits/KNN.pt                 what a detector was fitted to: tensors, loaded without executing code
    attacks/latent-…/00000.parquet   attacked images, one row a sample, written whole
    scores.parquet              every score of every image by every detector
    results.json                the tables
    figures/                    the pictures
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from oodattack.attacks.attacks import Attack, Found
from oodattack.audit.data import ImageSet, from_pngs
from oodattack.core.errors import InputError
from oodattack.images import encode_png
from oodattack.storage.files import write_text, write_torch, write_whole
from oodattack.storage.tables import IMAGE, image_cell, read_table

NAME = "audit.json"
FORMAT = 1

_ATTACKED = pa.schema(
    [
        ("row", pa.int64()),
        ("image", IMAGE),
        ("mape", pa.float64()),
        ("distance", pa.float64()),
        ("gradient_evaluations", pa.int64()),
        ("forward_evaluations", pa.int64()),
    ]
)
_SAMPLES = pa.schema(
    [
        ("row", pa.int64()),
        ("x_in_name", pa.string()),
        ("x_in", IMAGE),
        ("start_name", pa.string()),
        ("start", IMAGE),
    ]
)
_SCORES = pa.schema(
    [
        ("detector", pa.string()),
        ("set", pa.string()),  # "in", "starts", a natural set, or the key of an attack
        ("row", pa.int64()),
        ("name", pa.string()),  # of the image
        ("score", pa.float64()),  # higher is more out-of-distribution
    ]
)


@dataclass(frozen=True)
class Audit:
    """The directory of an audit."""

    path: Path

    def read_fit(self, detector: str) -> dict[str, Any] | None:
        """What a detector was fitted to, or None.

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
            raise InputError(f"cannot read {file}: {error}; delete it and give the command again") from error
        return state

    def write_fit(self, detector: str, state: Mapping[str, Any]) -> None:
        """Keep what a detector was fitted to."""
        write_torch(self.path / "fits" / f"{detector}.pt", dict(state))

    def write_samples(self, x_in: ImageSet, starts: ImageSet) -> None:
        """Keep what the attacks go from and to, as the encoder gets it."""
        columns: dict[str, list[Any]] = {"row": list(range(len(x_in.names)))}
        for column, images in (("x_in", x_in), ("start", starts)):
            columns[f"{column}_name"] = list(images.names)
            columns[column] = [
                image_cell(encode_png(image), name) for image, name in zip(images.images, images.names, strict=True)
            ]
        table = pa.table(columns, schema=_SAMPLES)
        write_whole(self.path / "samples.parquet", lambda partial: pq.write_table(table, partial))

    def attack_rows(self, attack: Attack) -> set[int]:
        """The samples that an attack is done with."""
        done: set[int] = set()
        for file in self._shards(attack):
            done.update(read_table(file, ["row"])["row"].to_pylist())
        return done

    def write_attack(self, attack: Attack, rows: Sequence[int], found: Found) -> None:
        """Keep a batch of attacked images."""
        table = pa.Table.from_pylist(
            [
                {
                    "row": row,
                    "image": image_cell(encode_png(found.images[i]), f"{attack.key}-{row:05d}.png"),
                    "mape": float(found.mape[i]),
                    "distance": float(found.distance[i]),
                    "gradient_evaluations": int(found.gradient_evaluations[i]),
                    "forward_evaluations": int(found.forward_evaluations[i]),
                }
                for i, row in enumerate(rows)
            ],
            schema=_ATTACKED,
        )
        file = self.path / "attacks" / attack.key / f"{rows[0]:05d}.parquet"
        write_whole(file, lambda partial: pq.write_table(table, partial))

    def read_attack(self, attack: Attack) -> pa.Table:
        """All attacked images, by row."""
        tables = [read_table(file) for file in self._shards(attack)]
        return pa.concat_tables(tables).sort_by("row") if tables else _ATTACKED.empty_table()

    def read_images(self, attack: Attack, names: Sequence[str], first: int = 0) -> ImageSet:
        """What an attack made of the samples from ``first`` on; ``names``: of their starts."""
        cells = self.read_attack(attack)["image"].slice(first, len(names)).to_pylist()
        return from_pngs(attack.key, [cell["bytes"] for cell in cells], names)

    def _shards(self, attack: Attack) -> list[Path]:
        return sorted((self.path / "attacks" / attack.key).glob("*.parquet"))

    def write_scores(self, scores: Mapping[tuple[str, str], Tensor], names: Mapping[str, Sequence[str]]) -> None:
        """Keep the scores (N,) by detector and set, with the names of the images of each set."""
        columns: dict[str, list[Any]] = {name: [] for name in _SCORES.names}
        for (detector, images), values in scores.items():
            columns["detector"] += [detector] * len(values)
            columns["set"] += [images] * len(values)
            columns["row"] += range(len(values))
            columns["name"] += names[images]
            columns["score"] += values.tolist()
        table = pa.table(columns, schema=_SCORES)
        write_whole(self.path / "scores.parquet", lambda partial: pq.write_table(table, partial))

    def read_scores(self) -> dict[tuple[str, str], Tensor]:
        """All scores, by detector and set."""
        table = read_table(self.path / "scores.parquet", ["detector", "set", "score"])
        found: dict[tuple[str, str], list[float]] = {}
        for detector, images, score in zip(*(table[name].to_pylist() for name in table.column_names), strict=True):
            found.setdefault((detector, images), []).append(score)
        return {key: torch.tensor(values, dtype=torch.float64) for key, values in found.items()}

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Keep the tables; what is no number, or without end, is null in JSON."""
        write_text(self.path / "results.json", json.dumps(_finite(results), indent=2, allow_nan=False) + "\n")

    def read_results(self) -> dict[str, Any]:
        """The tables.

        Raises:
            InputError: if the audit is not finished.
        """
        file = self.path / "results.json"
        try:
            results: dict[str, Any] = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {file}: {error}; `oodattack audit` makes it when it is finished") from error
        return results


def open_audit(path: Path) -> Audit:
    """Open the directory of an audit to read it.

    Raises:
        InputError: if it is none.

    >>> open_audit(Path("no/such/audit"))
    Traceback (most recent call last):
        ...
    oodattack.core.errors.InputError: expected the directory of an audit with an audit.json, got no/such/audit
    """
    if not (Path(path) / NAME).is_file():
        raise InputError(f"expected the directory of an audit with an {NAME}, got {path}")
    return Audit(Path(path))


def is_begun(path: Path) -> bool:
    """Whether a directory holds fits or attacks."""
    return any(path.glob("fits/*.pt")) or any(path.glob("attacks/*/*.parquet"))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain_types() -> list[Any]:
    """What a fit may hold beside tensors and numbers: numpy's arrays, and the containers of pytorch-ood itself."""
    import numpy as np
    from numpy._core import multiarray
    from pytorch_ood.detector.nac import _LayerStats
    from pytorch_ood.detector.openmax.libnotmr import LibNotMR
    from pytorch_ood.detector.openmax.numpy import OpenMax

    arrays = [np.ndarray, np.dtype, multiarray._reconstruct, multiarray.scalar]
    kinds = [type(np.dtype(name)) for name in ("float32", "float64", "int64", "bool")]
    return [*arrays, *kinds, torch.nn.ParameterDict, _LayerStats, LibNotMR, OpenMax, range]

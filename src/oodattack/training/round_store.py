"""What the rounds of a training store of their attacks: figures and images; reading them needs no torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from oodattack.core.errors import InputError
from oodattack.storage import hashes
from oodattack.storage.tables import read_record, read_table, with_record, write_table
from oodattack.training.layout import ATTACKED_IN_ROUND, NAME, ROUND_IMAGES, round_images


@dataclass(frozen=True)
class Round:
    """A finished round.

    Attributes:
        path: its folder.
        figures: what `oodattack.pipelines.rounds.run_rounds` returns for it.
        settings: the settings of the command that computed it.
    """

    path: Path
    figures: Mapping[str, Any]
    settings: Mapping[str, Any]

    def read_images(self) -> pa.Table:
        """The attacked images, with x_in, starts and scores.

        Raises:
            InputError: if the file is damaged.
        """
        return read_table(self.path / ROUND_IMAGES, ATTACKED_IN_ROUND.names)

    def read_environment(self) -> dict[str, Any]:
        """Versions and device of the training.

        Raises:
            InputError: if the file is missing or damaged.
        """
        file = self.path / NAME
        try:
            environment: dict[str, Any] = json.loads(file.read_text())["environment"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"cannot read {file}: {error}; copy it from the directory of the training") from error
        return environment


def write_round(
    folder: Path, figures: Mapping[str, Any], settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Store a round: ``rows`` have the columns of `ATTACKED_IN_ROUND`.

    Raises:
        WriteError: if the file cannot be written.
    """
    schema = with_record(ATTACKED_IN_ROUND, {"figures": figures, "settings": settings})
    file = folder / ROUND_IMAGES
    with hashes.replacing(folder.parent, file):
        write_table(file, pa.Table.from_pylist(list(rows), schema=schema))


def read_round(folder: Path) -> Round:
    """A round that `write_round` stored.

    Raises:
        InputError: if the file is missing or damaged.
    """
    return Round(folder, **read_record(folder / ROUND_IMAGES))


def read_rounds(training: Path) -> list[Round]:
    """The finished rounds of a training, beginning with the network before the first.

    Raises:
        InputError: if a file is damaged.
    """
    return [read_round(file.parent) for file in round_images(training)]

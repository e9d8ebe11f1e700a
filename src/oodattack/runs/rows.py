"""The columns of a shard, which has one row per sample.

The schema's metadata names the features of Hugging Face's `datasets`, which then shows image columns as images.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from oodattack.storage.tables import IMAGE

_VECTOR = pa.list_(pa.float32())

_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("row", pa.int64()),  # number within the run
    ("x_in_name", pa.string()),
    ("start_source", pa.string()),  # which --start; rows of one source and eps form a group
    ("start_name", pa.string()),
    ("eps", pa.float64()),  # radius of the ball, pixels in [0, 1]
    ("norm", pa.string()),
    ("seed", pa.int64()),
    ("pipeline", pa.string()),  # what the PNG went through before its MAPE was measured; null for nothing
    ("image", IMAGE),  # x_out, 8-bit
    ("x_in", IMAGE),
    ("start", IMAGE),  # x'_out
    ("mape", pa.float64()),  # of the decoded PNG, by the original module; null if undefined
    ("mape_float", pa.float64()),  # before rounding to 8 bits
    ("mape_before", pa.float64()),  # of the start
    ("mape_note", pa.string()),  # why the MAPE is undefined or the attack stopped early, else ""
    ("mape_parts", pa.list_(pa.float64())),  # of each layer, if z concatenates several; null if undefined
    ("distance", pa.float64()),  # from the start to the decoded PNG, in the norm
    ("distance_float", pa.float64()),
    ("distance_before", pa.float64()),
    ("gradient_evaluations", pa.int64()),
    ("forward_evaluations", pa.int64()),
    ("restart", pa.int64()),
    ("class_in", pa.string()),  # top-1 of x_in, or null without a head
    ("class_start", pa.string()),
    ("class_out", pa.string()),
    ("probability_in", pa.float32()),
    ("probability_start", pa.float32()),
    ("probability_out", pa.float32()),
    ("z_in", _VECTOR),
    ("z_start", _VECTOR),
    ("z_out", _VECTOR),
    ("history", _VECTOR),  # MAPE after n gradient evaluations of the best try
]


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """The name of a column's type in `datasets`."""
    if kind == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "Sequence"}
    return {"dtype": {"double": "float64", "float": "float32"}.get(str(kind), str(kind)), "_type": "Value"}


SCHEMA = pa.schema(_COLUMNS).with_metadata(
    {"huggingface": json.dumps({"info": {"features": {name: _feature(kind) for name, kind in _COLUMNS}}})}
)


def png_name(row: Mapping[str, Any]) -> str:
    """File name of a row's x_out: row number, x_in, start, norm and eps.

    >>> png_name({"row": 7, "x_in_name": "cats/tom.jpg", "start_name": "noise", "norm": "l2", "eps": 5.0})
    '000007_cats-tom_noise_l2-5.png'
    """
    x_in = re.sub(r"\.[A-Za-z0-9]{1,5}$", "", row["x_in_name"])
    parts = [f"{row['row']:06d}", x_in, row["start_name"], f"{row['norm']}-{row['eps']:.6g}"]
    return "_".join(re.sub(r"[^\w.+-]+", "-", part).encode()[-60:].decode(errors="ignore") for part in parts) + ".png"

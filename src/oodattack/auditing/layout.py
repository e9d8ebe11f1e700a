"""The files of an audit and their columns; reading them needs no torch."""

import pyarrow as pa

from oodattack.storage.layout import Layout
from oodattack.storage.tables import IMAGE

NAME, RESULTS = "audit.json", "results.json"
# To be raised when files or attacks change. Since 4, digests of images are of their contents, and files have hashes;
# since 5, FPR95 with OOD as the positive class has an interval; since 6, models of images are among the inputs.
FORMAT = 6

ATTACKED = pa.schema(
    [
        ("row", pa.int64()),
        ("image", IMAGE),
        ("mape", pa.float64()),
        ("distance", pa.float64()),
        ("gradient_evaluations", pa.int64()),
        ("forward_evaluations", pa.int64()),
    ]
)
SAMPLES = pa.schema(
    [
        ("row", pa.int64()),
        ("x_in_name", pa.string()),
        ("x_in", IMAGE),
        ("start_name", pa.string()),
        ("start", IMAGE),
    ]
)
SCORES = pa.schema(
    [
        ("detector", pa.string()),
        ("set", pa.string()),  # "in", "targets", a set of starts, or the key of an attack
        ("row", pa.int64()),
        ("name", pa.string()),  # name of the image
        ("score", pa.float64()),  # higher is more out-of-distribution
    ]
)
LAYOUT = Layout(
    "audit",
    FORMAT,
    documents={NAME: "audit", RESULTS: "results"},
    tables={"samples/*.parquet": SAMPLES, "attacks/*/*/*.parquet": ATTACKED, "scores.parquet": SCORES},
    others=("fits/*.pt",),
)

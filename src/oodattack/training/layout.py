"""The files of a training; reading them needs no torch."""

import pyarrow as pa

from oodattack.storage.layout import Layout
from oodattack.storage.tables import IMAGE

NAME, CHECKPOINT, WEIGHTS, RESULTS = "train.json", "checkpoint.pt", "model.safetensors", "results.json"
FORMAT = 2  # since 2, digests of images are of their contents, and files have hashes
LAYOUT = Layout("training", FORMAT, documents={NAME: "train", RESULTS: None}, others=(WEIGHTS,))

ROUND_IMAGES = "images.parquet"
ATTACKED_IN_ROUND = pa.schema(
    [
        ("attack", pa.string()),  # "new" or "direct"
        ("row", pa.int32()),
        ("x_in_name", pa.string()),
        ("x_in", IMAGE),
        ("start_name", pa.string()),
        ("start", IMAGE),
        ("image", IMAGE),
        ("mape", pa.float64()),
        ("score_before", pa.float64()),  # energy of the start; higher is more out-of-distribution
        ("score", pa.float64()),  # energy of the image
    ]
)
ROUNDS = Layout(
    "series of rounds",
    4,  # since 4, the images of the measured attacks are stored
    documents={"rounds.json": None},
    tables={f"*/{ROUND_IMAGES}": ATTACKED_IN_ROUND},
    others=(f"*/{NAME}", f"*/{WEIGHTS}"),
)

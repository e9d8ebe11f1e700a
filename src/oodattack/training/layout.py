"""The files of a training; reading them needs no torch."""

from pathlib import Path

import pyarrow as pa

from oodattack.storage.layout import Layout
from oodattack.storage.tables import IMAGE

NAME, CHECKPOINT, WEIGHTS, RESULTS = "train.json", "checkpoint.pt", "model.safetensors", "results.json"
SAMPLES = "samples.png"  # images drawn from a trained flow or score network
FORMAT = 3  # since 3, classifiers are not the only networks
LAYOUT = Layout("training", FORMAT, documents={NAME: "train", RESULTS: None}, others=(WEIGHTS, SAMPLES))

ROUNDS_FOLDER, ROUND_IMAGES = "rounds", "images.parquet"
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


def has_epochs(training: Path) -> bool:
    """Whether a training has finished an epoch.

    >>> has_epochs(Path("no/such/training"))
    False
    """
    return (training / CHECKPOINT).exists()


def round_folder(training: Path, number: int) -> Path:
    """The folder of a round, of which number 0 is the network before the first.

    >>> round_folder(Path("net"), 2).as_posix()
    'net/rounds/002'
    """
    return training / ROUNDS_FOLDER / f"{number:03d}"


def round_images(training: Path) -> list[Path]:
    """The files with the images of the rounds that are stored, in order.

    >>> round_images(Path("no/such/training"))
    []
    """
    return sorted(training.glob(f"{ROUNDS_FOLDER}/*/{ROUND_IMAGES}"))

"""The files of a training; reading them needs no torch."""

from oodattack.storage.layout import Layout

NAME, CHECKPOINT, WEIGHTS, RESULTS = "train.json", "checkpoint.pt", "model.safetensors", "results.json"
FORMAT = 2  # since 2, digests of images are of their contents, and files have hashes
ROUNDS = Layout("series of rounds", 3, documents={"rounds.json": None})
LAYOUT = Layout("training", FORMAT, documents={NAME: "train"}, others=(WEIGHTS, RESULTS))

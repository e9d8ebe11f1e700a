"""A dataset card: the README.md with which the Hugging Face Hub shows the rows of a run.

Its front matter holds nothing but constants. Names that a user or a file chose appear in the text only, with every sign
escaped that means something in Markdown or HTML.
"""

from oodattack.runs.run import Run
from oodattack.storage.files import create_text

NAME = "README.md"
_CARD = """\
---
configs:
- config_name: default
  data_files:
  - split: train
    path: shards/*.parquet
tags:
- out-of-distribution
- adversarial
---

# Images attacked by oodattack

Each row is an image `image` near `start`, for which the encoder gives nearly the latent of `x_in`. `mape` is the
distance of the two latents, as a fraction, measured on the stored PNG.

| | |
| --- | --- |
{rows}

`oodattack verify` compares these files with the hashes in `hashes/`. Every column is described in docs/usage.md of
oodattack.
"""


def write_card(run: Run) -> bool:
    """Write the card of a run, unless there is one already, which may have been edited; returns whether it was written.

    Raises:
        WriteError: if it cannot be written.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from oodattack.pipelines.attack import run_attack
    >>> from oodattack.settings.attack import AttackSettings
    >>> f = "python:torch.nn:Flatten,size=8,layer=output"
    >>> with tempfile.TemporaryDirectory() as out:
    ...     run = run_attack(AttackSettings(
    ...         encoder=f, images="torchvision:FakeData", limit=2, start=("noise",), steps=3, out=Path(out) / "run"))
    ...     write_card(run), "| seed | 0 |" in (run.path / "README.md").read_text()
    (False, True)
    """
    settings, inputs = run.header["settings"], run.header["inputs"]
    facts = {
        "encoder": settings["encoder"],
        "layer": inputs["layer"],
        "pipeline": inputs["pipeline"] or "none",
        "images": settings["images"],
        "starts": ", ".join(settings["start"]),
        "norm and eps": f"{settings['norm']}, {', '.join(map(str, settings['eps']))} (pixels in [0, 1])",
        "method and steps": f"{settings['method']}, {settings['steps']}",
        "seed": str(settings["seed"]),
        "SHA-256 of the encoder": inputs["encoder"],
    }
    rows = "\n".join(f"| {name} | {escaped(value)} |" for name, value in facts.items())
    return create_text(run.path / NAME, _CARD.format(rows=rows))


def escaped(text: str) -> str:
    r"""Text on one line for Markdown, in which it means nothing but itself.

    >>> escaped("a|b <script>\n`c`")
    'a&#124;b &#60;script&#62; &#96;c&#96;'
    """
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return "".join(sign if sign.isalnum() or sign in " ,./=-()" else f"&#{ord(sign)};" for sign in line)

"""Colours, labels and titles shared by all figures."""

import textwrap
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from oodattack.runs import summary
from oodattack.settings.ball import NORM_NAMES

IN, OUT, BEFORE = "#1f5fb4", "#d62728", "#8a8a8a"
COLOURS = ("#d62728", "#1f5fb4", "#2a9d4a", "#8e44ad", "#e08e0b", "#148f9c", "#7f4f24", "#c2185b")
SMALL_MAPE = 100 * summary.SMALL_MAPE  # per cent; below it, the paper calls a MAPE small


def describe(header: Mapping[str, Any]) -> str:
    """Summarise in one line what was attacked, and how.

    >>> settings = {"encoder": "embedded", "method": "fast", "norm": "l2", "steps": 9}
    >>> describe({"settings": settings, "inputs": {"layer": "fc"}})
    'embedded (z = fc), method fast, L2 ball, 9 steps'
    """
    settings, pipeline = header["settings"], header["inputs"].get("pipeline")
    behind = "" if pipeline is None else f" behind {pipeline}"
    return (
        f"{short_encoder(settings['encoder'])} (z = {header['inputs']['layer']}){behind}, method {settings['method']},"
        f" {NORM_NAMES[settings['norm']]} ball, {settings['steps']} steps"
    )


def entitle(figure: Figure, title: str, size: float) -> None:
    """Add a title to a figure, with lines wrapped to the figure's width."""
    max_characters = int(figure.get_figwidth() * 72 / (0.6 * size))  # a character is at most 0.6 font sizes wide
    wrapped = (textwrap.fill(line, max_characters, break_on_hyphens=False) for line in title.splitlines())
    figure.suptitle("\n".join(wrapped), fontsize=size)


def short_encoder(spec: str) -> str:
    """An encoder's name and its weights file, without folders or other options.

    >>> short_encoder("python:nets:resnet20,weights=/home/me/w.pth,mean=0.5/0.5/0.5,size=32")
    'python:nets:resnet20, weights=w.pth'
    >>> short_encoder("trained:runs/net"), short_encoder("torchvision:resnet18,weights=none")
    ('trained:net', 'torchvision:resnet18, weights=none')
    """
    name, *options = spec.split(",")
    kind, colon, rest = name.partition(":")
    short = f"{kind}{colon}{PurePath(rest).name}" if kind in ("file", "trained") else name
    weights = [option.removeprefix("weights=") for option in options if option.startswith("weights=")]
    return ", ".join([short, *(f"weights={PurePath(path).name}" for path in weights)])


def log_if_decades(axes: Axes, axis: str, values: np.ndarray) -> bool:
    """Make an axis logarithmic if its positive values span a decade or more; tick labels remain plain numbers."""
    positive = values[np.isfinite(values) & (values > 0)]
    if len(positive) == 0 or positive.max() < 10 * positive.min():
        return False
    setter = axes.set_xscale if axis == "x" else axes.set_yscale
    setter("log")
    (axes.xaxis if axis == "x" else axes.yaxis).set_major_formatter(lambda value, _: f"{value:g}")
    return True

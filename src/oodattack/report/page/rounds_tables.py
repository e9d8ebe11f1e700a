"""The tables of the rounds of a training: a line per set of images, a column per round."""

from collections.abc import Callable

from markupsafe import Markup

from oodattack.report.numbers import share, significant
from oodattack.report.page.elements import Cell, Table
from oodattack.report.page.traced import Traced

SCORES = {"EnergyBased": "energy score", "MaxSoftmax": "maximum softmax probability"}
MEANINGS = {
    "new": "outliers that are never trained on, attacked to the latents of test images (Algorithm 1)",
    "longer": "the same, with four times the steps",
    "larger": "the same, in a ball of twice the radius",
    "direct": "attacks on the energy score itself, in the ball of “new”: the figure of the headline",
    "natural": "the same outliers as they are",
    "old": "the images of “new” of the round before",
}
SETS = tuple(MEANINGS)
MISSING = Markup("–")


def pass_rates(traced: Traced) -> Table:
    """Who passes by the energy score after each round, the accuracy, and how close the attacks come."""
    rows = _by_set(traced, "EnergyBased", lambda *path: traced.share_interval(*path, "fpr95_in_positive"))
    rounds = range(len(traced.at("rounds")))
    mape = (traced.number("rounds", number, "mape", "new", text=share) for number in rounds)
    accuracy = (traced.number("rounds", number, "accuracy", text=share) for number in rounds)
    rows += [["new: MAPE", *mape], ["accuracy", *accuracy]]
    note = (
        "Share of images that pass, with 95 % intervals: the lower, the better the defence. MAPE: median difference of"
        " the latents of x_out and x_in. Round 0 is the network before the first round."
    )
    return Table("Share of images that pass", ["images", *_rounds(traced)], rows, note=note)


def aurocs(traced: Traced, score: str) -> Table:
    """The AUROC of every set, and the other convention of FPR95 for two of them, by one score."""
    rows = _by_set(traced, score, lambda *path: traced.interval(*path, "auroc"))
    numbers = range(len(traced.at("rounds")))
    for name in ("natural", "direct"):
        places = (("rounds", number, score, name, "fpr95_out_positive") for number in numbers)
        rows.append([f"FPR95-out of {name}", *(traced.share_interval(*place) for place in places)])
    limits = (traced.number("rounds", number, score, "natural", "threshold", text=significant) for number in numbers)
    rows.append(["threshold", *limits])
    note = (
        "AUROC of each set against test images, with 95 % intervals; 0.5 is chance. FPR95-out: share of test images"
        " flagged at the threshold that flags 95 % of the set, as in OpenOOD. threshold: accepts 95 % of test images."
    )
    return Table(f"AUROC and FPR95 by the {SCORES[score]}", ["images", *_rounds(traced)], rows, note=note)


def _rounds(traced: Traced) -> list[str]:
    return [f"round {number}" for number in range(len(traced.at("rounds")))]


def _by_set(traced: Traced, score: str, shown: Callable[..., Cell]) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    for name in SETS:
        cells = (
            shown("rounds", number, score, name) if name in figures[score] else MISSING
            for number, figures in enumerate(traced.at("rounds"))
        )
        rows.append([name, *cells])
    return rows

"""The page of a training with rounds: does training on attacked images help?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from oodattack.auditing.verdict import BROKEN_AUROC
from oodattack.report.numbers import ball_label, count, count_label, eps_label, share
from oodattack.report.page import rounds_charts as charts
from oodattack.report.page import rounds_tables as tables
from oodattack.report.page.command import command
from oodattack.report.page.destination import Destination
from oodattack.report.page.elements import shown_count
from oodattack.report.page.page import Page, render_page
from oodattack.report.page.rounds_gallery import gallery
from oodattack.report.page.traced import Traced
from oodattack.settings.train import TrainSettings
from oodattack.training.round_store import Round, read_rounds

SAYS_NOT = (
    "That attacks still pass does not show that no training can help. These rounds attack once per round;"
    " adversarial training attacks in every step, and is a different method.",
    "That attacks are rejected does not show that the network withstands them: a stronger attack, or one on another"
    " score, may pass. An audit (oodattack audit --encoder trained:DIR/rounds/NNN) measures more of both.",
    "The figures hold for one training with one seed. Another seed gives other figures; the intervals (95 %) allow for"
    " the number of images only, and take different outlier files as independent, even if they show the same thing.",
    "Thresholds are set anew for each network, so that 95 % of test images that are never attacked pass.",
)


def rounds_page(directory: Path, destination: Destination) -> Path:
    """Write the page of a training with rounds, finished or not.

    Args:
        directory: the directory of the training, with at least one round.
        destination: where the page goes.

    Returns:
        The HTML file.

    Raises:
        InputError: if a file is damaged, or the page cannot be written.
    """
    rounds = read_rounds(directory)
    traced = Traced({"rounds": [one.figures for one in rounds]})
    settings = rounds[-1].settings
    html = render_page(
        "rounds.html",
        _page(directory, rounds, traced),
        destination,
        gallery(rounds, destination),
        facts=_facts(settings),
        passing=tables.pass_rates(traced),
        meanings=tables.MEANINGS,
        curves=[
            charts.pass_rates(traced),
            *(charts.aurocs(traced, score) for score in tables.SCORES),
            charts.mapes(traced),
        ],
        measures=[tables.aurocs(traced, score) for score in tables.SCORES],
    )
    return destination.write(html)


def _page(directory: Path, rounds: Sequence[Round], traced: Traced) -> Page:
    settings = rounds[-1].settings
    heading = _verdict(traced, len(rounds) - 1)
    return Page(
        kind="oodattack: training on attacked images, in rounds",
        title=heading.striptags(),
        verdict=heading,
        lead=_lead(traced, len(rounds) - 1),
        command=command("train", TrainSettings, settings, str(directory)),
        says_not=SAYS_NOT,
        notices=_notices(rounds, traced),
        versions=rounds[-1].read_environment(),
    )


def _verdict(traced: Traced, last: int) -> Markup:
    """The result in one sentence."""
    if not last:
        return Markup("No round has finished yet; before the first, {} attacks on the energy score pass").format(
            _passing(traced, 0)
        )
    return Markup(
        "After {} of training on attacked images, {} new attacks on the energy score pass; before the first, {} did"
    ).format(count_label(last, "round"), _passing(traced, last), _passing(traced, 0))


def _passing(traced: Traced, number: int) -> Markup:
    """How many images of the attack on the score pass in a round."""
    found = traced.at("rounds", number, "EnergyBased", "direct")
    passing = round(found["fpr95_in_positive"]["value"] * found["count"])
    return Markup("{} of {}").format(
        shown_count(f"passing/{number}", passing), traced.count("rounds", number, "EnergyBased", "direct", "count")
    )


def _lead(traced: Traced, last: int) -> Markup:
    """What a round is, and what changed, with intervals."""
    text = Markup(
        "Each round attacks the network, adds the attacked images to the outliers that it learns to reject, and trains"
        " it further. Then it is attacked again, from outliers that it was never trained on. An image passes if its"
        " energy score is below the threshold that accepts 95 % of test images."
    )
    if last:
        text += Markup(
            " The share of attacks on the score that pass went from {} to {}, and the accuracy from {} to {}. Of all"
            " images that were attacked in the round before, whether they passed then or not, {} pass now."
        ).format(
            *(
                traced.share_interval("rounds", number, "EnergyBased", "direct", "fpr95_in_positive")
                for number in (0, last)
            ),
            *(traced.number("rounds", number, "accuracy", text=share) for number in (0, last)),
            traced.share_interval("rounds", last, "EnergyBased", "old", "fpr95_in_positive"),
        )
    return text


def _notices(rounds: Sequence[Round], traced: Traced) -> list[str | Markup]:
    found: list[str | Markup] = []
    planned, done = rounds[-1].settings["rounds"], len(rounds) - 1
    if done < planned:
        found.append(
            f"This training is not finished: {count(done)} of {count_label(planned, 'round')} are here. Repeat the"
            " command below to resume it."
        )
    auroc = traced.at("rounds", 0, "EnergyBased", "natural", "auroc")
    if auroc["low"] <= BROKEN_AUROC:
        found.append(
            Markup(
                "Before the first round, the energy score did not recognise the outliers as they are: its AUROC was {}."
                " An attack had nothing to break, so what the rounds changed is no defence of a detector that worked."
            ).format(traced.interval("rounds", 0, "EnergyBased", "natural", "auroc"))
        )
    return found


def _facts(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("network", f"{settings['network']}, {settings['size']} × {settings['size']} pixels"),
        ("first training", f"{settings['method']}, {count_label(settings['epochs'], 'epoch')}"),
        ("training images", settings["train"]),
        ("test images", settings["test"]),
        ("outliers", ", ".join(settings["outliers"])),
        ("ball", f"{ball_label('L2', settings['eps'])}, larger: {eps_label(2 * settings['eps'])}, pixels in [0, 1]"),
        ("each round", f"{count_label(settings['round_epochs'], 'epoch')}"),
        ("seed", str(settings["seed"])),
    ]

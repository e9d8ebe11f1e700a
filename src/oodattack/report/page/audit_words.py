"""An audit in words: one sentence for all detectors, one for each, and what is missing."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from oodattack.auditing.store import Audit
from oodattack.auditing.verdict import NOT_WORKING, worst_set
from oodattack.report.audit_short import radii
from oodattack.report.numbers import ball_label, count_label
from oodattack.report.page.elements import shown_count, shown_eps
from oodattack.report.page.traced import Traced
from oodattack.settings.ball import NORM_NAMES

Row = Mapping[str, Any]

LEAD = (
    "A detector of out-of-distribution (OOD) images gives each image a score and rejects those above a threshold,"
    " here the one that accepts 95 % of held-out in-distribution images. The attacks change images that do not belong,"
    " within a small ball around each, until the detector lets them through. A detector is broken if it worked before"
    " the attack, and can no longer tell attacked images from in-distribution ones: its AUROC, with the whole interval,"
    " is at or below 0.55. Attacked images may pass a detector that is not broken, so pass rates are given as well."
)
SAYS_NOT = (
    "“Held” says that these attacks, at this eps and with this many steps, did not break the detector. It is not a"
    " proof: a stronger attack may exist.",
    "“Blind” says that the detector did not recognise these images before any attack, so there was nothing to break."
    " It may work on other images.",
    "The figures hold for this network, these images and this threshold. Another network may give another order of"
    " detectors.",
    "Intervals (95 %) allow for the number of images and of different starts, not for another choice of data sets.",
    "That an attacked image still looks like its start is a matter of eps and of the reader's eye: look at the images,"
    " and at the table of similarities.",
)


def norm(results: Row) -> str:
    """Name of the ball's norm."""
    return NORM_NAMES[results["settings"]["norm"]]


def verdict(results: Row) -> Markup:
    """The result in one sentence.

    >>> at = {"eps": 2.0, "verdict": "broken", "auroc": {"value": 0.1}}
    >>> row = {"name": "KNN", "verdict": "broken", "sets": {"scans": {"falls_at": 2.0, "radii": [at]}}}
    >>> verdict({"settings": {"norm": "l2"}, "detectors": [row]}).striptags()
    'The only detector that works is broken within L2 2: KNN falls at 2 from scans'
    """
    rows = results["detectors"]
    working = [row for row in rows if row["verdict"] not in NOT_WORKING]
    broken = [row for row in working if row["verdict"] == "broken"]
    within = ball_label(norm(results), radii(results)[-1])
    if not working:
        which = "The only detector does not work" if len(rows) == 1 else f"None of the {len(rows)} detectors works"
        return Markup("{} on these images, so there is nothing to break").format(which)
    if not broken and len(working) == 1:
        return Markup("The only detector that works is not broken {}").format(within)
    if not broken:
        return Markup("None of the {} that work is broken {}").format(_detectors(len(working)), within)
    if len(working) == 1:
        sentence = Markup("The only detector that works is broken {}").format(within)
    else:
        sentence = Markup("{} of {} that work {} broken {}").format(
            shown_count("verdict/broken", len(broken)),
            _detectors(len(working)),
            "is" if len(broken) == 1 else "are",
            within,
        )
    return sentence + _first(broken, radii(results)[-1])


def _detectors(number: int) -> Markup:
    return Markup("{} detectors").format(shown_count("verdict/working", number))


def _first(broken: list[Row], largest: float) -> Markup:
    """Which falls first, and from which starts; nothing if several fall within the largest radius only."""
    falls = [
        (float(found["falls_at"]), row["name"], name)
        for row in broken
        for name, found in row["sets"].items()
        if found["falls_at"] is not None
    ]
    least = min(eps for eps, _, _ in falls)
    names = list(dict.fromkeys(name for eps, name, _ in falls if eps == least))
    sets = list(dict.fromkeys(starts for eps, _, starts in falls if eps == least))
    if least == largest and len(broken) > 1:
        return Markup("")
    eps = shown_eps("verdict/first", least)
    places = f" from {sets[0]}" if len(sets) == 1 else ""
    if len(names) == 1:
        return Markup("{} falls at {}{}").format(
            f": {names[0]}" if len(broken) == 1 else f"; the first, {names[0]},", eps, places
        )
    if len(names) == len(broken):
        return Markup("; all of them already at {}{}").format(eps, places)
    return Markup("; {} of them already at {}{}").format(shown_count("verdict/first_count", len(names)), eps, places)


def sentence(traced: Traced, number: int) -> Markup:
    """The verdict on one detector in a sentence.

    Args:
        traced: the results.
        number: the detector's number among them.
    """
    row, place = traced.at("detectors", number), ("detectors", number)
    name = worst_set(row)
    found, here = row["sets"][name], (*place, "sets", name)
    last = len(found["radii"]) - 1
    before = traced.auroc(*here, "before", "auroc")
    after = traced.interval(*here, "radii", last, "auroc")
    within = ball_label(norm(traced.results), radii(traced.results)[-1])
    fell = Markup("From {}, its AUROC goes from {} to {} {}").format(name, before, after, within)
    rejected = traced.count(*here, "radii", last, "rejected")
    if rejected.value:
        passing = traced.share(*here, "radii", last, "rejected_pass")
        starts = "start" if rejected.value == 1 else "starts"
        fell += Markup("; of the {} {} it rejects, {} pass once attacked").format(rejected, starts, passing)
    if row["verdict"] == "broken":
        return Markup("Falls at {}. {}.").format(_falls(traced, number), fell)
    if row["verdict"] == "bent":
        return Markup("Weakened, not broken. {}.").format(fell)
    if row["verdict"] == "held":
        return Markup("Not broken by these attacks; a stronger one may exist. {}.").format(fell)
    if row["verdict"] == "not attacked adaptively":
        return Markup("Not broken, which says little: the attack on its own score could not run ({}). {}.").format(
            row["applicable"]["direct"], fell
        )
    if row["verdict"] == "unfinished":
        return Markup("Not known: an attack on it failed, and the others did not break it. {}.").format(fell)
    if row["verdict"] == "blind":
        return Markup(
            "Nothing to break: before any attack, its AUROC on {} is {}, and it rejects {} of {} starts."
        ).format(
            name,
            traced.interval(*here, "clean", "auroc"),
            traced.count(*here, "before", "rejected"),
            traced.count(*here, "before", "count"),
        )
    return Markup("Nothing follows from {} different starts; give it more images.").format(
        traced.count(*here, "before", "clusters")
    )


def _falls(traced: Traced, number: int) -> Markup:
    """The smallest radius from each set from which the detector falls, smallest first."""
    sets = traced.at("detectors", number, "sets")
    by_eps: dict[float, list[str]] = {}
    for name, found in sets.items():
        if found["falls_at"] is not None:
            by_eps.setdefault(float(found["falls_at"]), []).append(name)
    parts = []
    for _, names in sorted(by_eps.items()):
        eps = traced.eps("detectors", number, "sets", names[0], "falls_at")
        parts.append(Markup("{} from {}").format(eps, " and ".join(names) if len(names) < 3 else ", ".join(names)))
    return Markup("; ").join(parts)


def notices(audit: Audit, results: Row, unreadable: Mapping[str, str]) -> list[Markup]:
    """What is missing from a finished audit.

    Args:
        audit: the audit.
        results: its results.
        unreadable: attacks whose images cannot be read, with the reason.
    """
    found = []
    if unreadable:
        found.append(
            Markup('The images of {} cannot be read; <a href="#unreadable-title">the reasons</a>.').format(
                count_label(len(unreadable), "attack")
            )
        )
    if results["failures"]:
        found.append(
            Markup('{} failed; <a href="#failures-title">the reasons</a>. Verdicts are without them.').format(
                count_label(len(results["failures"]), "attack or score", "attacks or scores")
            )
        )
    if results["absent"]:
        found.append(
            Markup('{} not audited; <a href="#absent-title">the reasons</a>.').format(
                count_label(len(results["absent"]), "detector was", "detectors were")
            )
        )
    skipped = sum(map(len, results["skipped"].values()))
    if skipped:
        found.append(
            Markup('{} not be decoded; <a href="#skipped-title">the reasons</a>.').format(
                count_label(skipped, "image could", "images could")
            )
        )
    newer = {key for key, _ in audit.shards()} - set(results["attacks"]) - set(results["failures"])
    if newer:
        found.append(
            Markup(
                "{} on disk not in these results: the audit is being extended (repeat the command to finish it), or was"
                " repeated with fewer attacks."
            ).format(count_label(len(newer), "attack is", "attacks are"))
        )
    return found

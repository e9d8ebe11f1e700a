"""The page that compares audits."""

from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup

from oodattack.report.compare import Audits, Progress
from oodattack.report.intervals import Interval
from oodattack.report.numbers import eps_label, fixed
from oodattack.report.page.audit_words import norm, verdict
from oodattack.report.page.charts import Dot, dots
from oodattack.report.page.charts.dots import MAX_ROWS
from oodattack.report.page.compare import ABSENT, SETTINGS_SAY, Comparison, with_interval, write_comparison
from oodattack.report.page.elements import Cell, Figure, Shown, Table, shown_count
from oodattack.report.page.traced import Traced

LEAD = Markup(
    "AUROC is how well a detector separates images that do not belong from in-distribution ones: 1 separates all of"
    " them, 0.5 is chance, and below it attacked images look more in-distribution than real ones."
)
SAYS_NOT = (
    SETTINGS_SAY,
    "Intervals of differences treat the two audits as independent. Where the same images were attacked, they are wider"
    " than necessary, so that a difference whose interval contains 0 may still be real.",
)


def compare_audits(found: Audits, out: Path) -> Path:
    """Write the page that compares audits.

    Returns:
        The HTML file.
    """
    verdicts = {name: verdict(one).striptags() for name, one in zip(found.names, found.results, strict=True)}
    return write_comparison(
        Comparison(
            kind="audit",
            names=found.all_names,
            paths=found.paths,
            states=[
                verdicts[name] if name in verdicts else _progress(name, found.unfinished[name])
                for name in found.all_names
            ],
            settings=found.settings,
            results=audit_table(found),
            figure=_figure(found),
            lead=_lead(found),
            says_not=SAYS_NOT,
            notices=_notices(found),
            missing=_missing(found),
        ),
        out,
    )


def _progress(letter: str, found: Progress) -> Markup:
    """How far an unfinished audit has got."""
    key = f"progress/{letter}"
    return Markup("not finished: {} fitted, {} complete and {} begun; the figures come last").format(
        _counted(f"{key}/fits", found.fits, "detector"),
        _counted(f"{key}/attacks", found.attacks, "attack"),
        shown_count(f"{key}/begun", found.begun),
    )


def _counted(key: str, number: int, noun: str) -> Markup:
    return Markup("{} {}").format(shown_count(key, number), noun if number == 1 else f"{noun}s")


def _notices(found: Audits) -> list[str]:
    notices = []
    if found.unfinished:
        which, several = ", ".join(found.unfinished), len(found.unfinished) > 1
        notices.append(
            f"{which} {'are' if several else 'is'} not finished and {'have' if several else 'has'} no figures yet. Some"
            " settings, such as steps and eps, are recorded with the figures. Repeat the command that began an audit to"
            " finish it."
        )
    if len(found.names) < 2:
        notices.append("Fewer than two of these audits are finished, so only their settings are compared.")
    elif not found.rows:
        notices.append("No detector was audited on a set of starts of the same name in two of these audits.")
    elif found.eps is None:
        notices.append(
            "These audits have no eps of the same norm in common, so only what was before the attacks is compared."
        )
    return notices


def _missing(found: Audits) -> list[str]:
    both = list(zip(found.names, found.results, strict=True))
    absent = [
        f"{letter}: {one['name']} was not audited: {one['reason']}"
        for letter, results in both
        for one in results["absent"]
    ]
    failed = [
        f"{letter}: {what} failed: {reason}" for letter, results in both for what, reason in results["failures"].items()
    ]
    return absent + failed


def _lead(found: Audits) -> Markup:
    """What AUROC is, and for each audit after the first how many AUROCs differ by more than their intervals."""
    sentences, every = [LEAD], found.differences()
    for letter in found.names[1:]:
        differences = [one for (name, _, _), one in every.items() if name == letter]
        if differences:
            sentences.append(
                Markup(
                    "Under attack it is higher in {} than in {} for {} of {} pairs of detector and set of starts, and"
                    " lower for {}, by more than the 95 % interval."
                ).format(
                    letter,
                    found.names[0],
                    shown_count(f"difference/{letter}/higher", sum(one.low > 0 for one in differences)),
                    shown_count(f"difference/{letter}/pairs", len(differences)),
                    shown_count(f"difference/{letter}/lower", sum(one.high < 0 for one in differences)),
                )
            )
    return Markup(" ").join(sentences)


def audit_table(found: Audits) -> Table:
    """The same detectors side by side, with the difference of each audit to the first that is finished."""
    traced = [Traced(results, name) for name, results in zip(found.names, found.results, strict=True)]
    head = ["detector", "from", *(f"{name}: before" for name in found.names)]
    differences = found.differences()
    if found.eps is not None:
        head += [f"{name}: within {eps_label(found.eps)}" for name in found.names]
        head += [f"{name} − {found.names[0]}" for name in found.names[1:]]
    rows: list[list[Cell]] = []
    for detector, starts, places in found.rows:
        before: list[Cell] = []
        after: list[Cell] = []
        for number, (one, place) in enumerate(zip(traced, places, strict=True)):
            here = ("detectors", place or 0, "sets", starts)
            before.append(ABSENT if place is None else one.auroc(*here, "before", "auroc"))
            if found.eps is not None:
                radius = ("radii", found.place(number), "auroc")
                after.append(ABSENT if place is None else one.interval(*here, *radius))
        if found.eps is not None:
            after += [_difference(differences, letter, detector, starts) for letter in found.names[1:]]
        rows.append([detector, starts, *before, *after])
    note = (
        "from: the set of starts. before: AUROC of the starts as they are. within: AUROC under the strongest attack on"
        " each image within the largest eps that these audits have in common, with its 95 % interval. Then the"
        " differences, with theirs. Bold: the interval does not contain 0."
    )
    return Table("AUROC side by side", head, rows, sortable=True, note=note)


def _difference(differences: Mapping[tuple[str, str, str], Interval], letter: str, detector: str, starts: str) -> Cell:
    found = differences.get((letter, detector, starts))
    if found is None:
        return ABSENT
    value, low, high = (
        Shown(f"difference/{letter}/{detector}/{starts}/{end}", number, f"{'+' * (number > 0)}{fixed(number)}")
        for end, number in (("value", found.value), ("low", found.low), ("high", found.high))
    )
    return with_interval(value, low, high, bold=found.low > 0 or found.high < 0)


def _figure(found: Audits) -> Figure | None:
    """AUROC before the attacks and under them."""
    if found.eps is None or not found.rows:
        return None
    rows = []
    for detector, starts, places in found.rows:
        row: list[Dot | None] = []
        for number, (results, place) in enumerate(zip(found.results, places, strict=True)):
            if place is None:
                row.append(None)
                continue
            at = results["detectors"][place]["sets"][starts]
            after = at["radii"][found.place(number)]["auroc"]
            row.append(Dot(after["value"], after["low"], after["high"], at["before"]["auroc"]["value"]))
        rows.append((f"{detector} from {starts}", row))
    names = dict(zip(found.all_names, found.paths, strict=True))
    within = f"{norm(found.results[0])} {eps_label(found.eps)}"
    return dots(
        "auroc",
        f"AUROC before the attacks, and under them within {within}",
        "For each detector, set of starts and audit, the AUROC before and under attack; 0.5 is chance.",
        rows=rows,
        series=[(name, names[name].name) for name in found.names],
        label="AUROC",
        text=lambda value: fixed(value, 2),
        interval="95 %",
        limits=(0.0, 1.0),
        line=(0.5, "chance"),
        note="Ring: before. Dot: under attack, with its 95 % interval."
        + f" The first {MAX_ROWS} of {len(rows)} rows of the table." * (len(rows) > MAX_ROWS),
    )

"""The page that compares audits."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from oodattack.auditing.verdict import NOT_WORKING
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
DID_NOT_WORK = "†"
BEFORE = "of the attacked starts, before the attack; the heat map of an audit's page has the whole set"
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


def _works(found: Audits, number: int, place: int, starts: str) -> bool:
    """Whether there was anything to break: a detector of one of the audits recognised the starts before any attack."""
    verdict: str = found.results[number]["detectors"][place]["sets"][starts]["verdict"]
    return verdict not in NOT_WORKING


def _works_in_each(found: Audits, number: int) -> dict[tuple[str, str], tuple[bool, bool]]:
    """Whether each detector works on each set of starts in the first audit, and in another, if both audited it."""
    return {
        (detector, starts): (_works(found, 0, places[0], starts), _works(found, number, other, starts))
        for detector, starts, places in found.rows
        if places[0] is not None and (other := places[number]) is not None
    }


def _lead(found: Audits) -> Markup:
    """What AUROC is, and for each audit after the first how many AUROCs differ, of the detectors that work in both."""
    sentences, differences = [LEAD], found.differences()
    for number, letter in enumerate(found.names[1:], 1):
        works = _works_in_each(found, number)
        if differences and works:
            both = [differences[letter, *pair] for pair, which in works.items() if all(which)]
            key, first = f"difference/{letter}", found.names[0]
            sentences.append(
                Markup(
                    "In {} of {} pairs of detector and set of starts, the detector works before the attack in both {}"
                    " and {}; under attack, its AUROC is higher in {} for {} of these, and lower for {}: the 95 %"
                    " interval of the difference does not contain 0."
                ).format(
                    shown_count(f"{key}/pairs", len(both)),
                    shown_count(f"{key}/compared", len(works)),
                    *(first, letter, letter),
                    shown_count(f"{key}/higher", sum(one.low > 0 for one in both)),
                    shown_count(f"{key}/lower", sum(one.high < 0 for one in both)),
                )
            )
            only_first, only_other = (list(works.values()).count(which) for which in ((True, False), (False, True)))
            if only_first or only_other:
                sentences.append(
                    Markup("In {}, it works only in {}, and in {}, only in {}; these are not counted.").format(
                        *(shown_count(f"{key}/only_first", only_first), first),
                        *(shown_count(f"{key}/only_other", only_other), letter),
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
    works = {letter: _works_in_each(found, number) for number, letter in enumerate(found.names)}
    rows: list[list[Cell]] = []
    for detector, starts, places in found.rows:
        before: list[Cell] = []
        after: list[Cell] = []
        for number, (one, place) in enumerate(zip(traced, places, strict=True)):
            here = ("detectors", place or 0, "sets", starts)
            mark = DID_NOT_WORK if place is not None and not _works(found, number, place, starts) else ""
            before.append(ABSENT if place is None else Markup("{}{}").format(one.auroc(*here, "before", "auroc"), mark))
            if found.eps is not None:
                radius = ("radii", found.place(number), "auroc")
                after.append(ABSENT if place is None else one.interval(*here, *radius) + mark)
        for letter in found.names[1:] if found.eps is not None else ():
            both = all(works[letter].get((detector, starts), (False,)))
            after.append(_difference(differences, (letter, detector, starts), works=both))
        rows.append([detector, starts, *before, *after])
    note = Markup(
        "from: the set of starts. before: AUROC {}. within: AUROC under the strongest attack on each image within the"
        " largest eps that these audits have in common, with its 95 % interval. Then the differences, with theirs."
        " Bold: the interval does not contain 0, and the detector works in both. {}: did not work before the attack."
        " Attacked images: {}."
    ).format(BEFORE, DID_NOT_WORK, _attacked(found, traced))
    return Table("AUROC side by side", head, rows, sortable=True, note=note)


def _attacked(found: Audits, traced: Sequence[Traced]) -> Markup:
    """How many images each audit attacked from each set of starts."""
    sets = []
    for starts in dict.fromkeys(starts for _, starts, _ in found.rows):
        counts = [
            Markup("{} in {}").format(one.count("detectors", 0, "sets", starts, "before", "count"), letter)
            for letter, one in zip(found.names, traced, strict=True)
            if starts in one.at("detectors", 0, "sets")
        ]
        sets.append(Markup("from {}, {}").format(starts, Markup(", ").join(counts)))
    return Markup("; ").join(sets)


def _difference(
    differences: Mapping[tuple[str, str, str], Interval], which: tuple[str, str, str], *, works: bool
) -> Cell:
    found = differences.get(which)
    if found is None:
        return ABSENT
    value, low, high = (
        Shown(f"difference/{'/'.join(which)}/{end}", number, f"{'+' * (number > 0)}{fixed(number)}")
        for end, number in (("value", found.value), ("low", found.low), ("high", found.high))
    )
    return with_interval(value, low, high, bold=works and (found.low > 0 or found.high < 0))


def _figure(found: Audits) -> Figure | None:
    """AUROC before the attacks and under them."""
    if found.eps is None or not found.rows:
        return None
    rows = []
    for detector, starts, places in found.rows:
        row: list[Dot | None] = []
        marked = []
        for number, (results, place) in enumerate(zip(found.results, places, strict=True)):
            if place is None:
                row.append(None)
                continue
            if not _works(found, number, place, starts):
                marked.append(found.names[number])
            at = results["detectors"][place]["sets"][starts]
            after = at["radii"][found.place(number)]["auroc"]
            row.append(Dot(after["value"], after["low"], after["high"], at["before"]["auroc"]["value"]))
        mark = f" ({DID_NOT_WORK} in {', '.join(marked)})" if marked else ""
        rows.append((f"{detector}{mark} from {starts}", row))
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
        note=f"Ring: {BEFORE}. Dot: under attack, with its 95 % interval. {DID_NOT_WORK}: did not work before it."
        + f" The first {MAX_ROWS} of {len(rows)} rows of the table." * (len(rows) > MAX_ROWS),
    )

"""The tables of an audit."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from oodattack.report.audit_short import EXPLANATION, radii, short_rows
from oodattack.report.numbers import eps_label, share, significant
from oodattack.report.page.elements import Cell, Table, shown_count, shown_share
from oodattack.report.page.traced import Traced

Row = Mapping[str, Any]


def short(results: Row) -> Table:
    """Over all detectors that work: how many fall, and how many rejected images pass."""
    head = ["from", "detectors that work", "starts that pass before", "attacks on rejected starts"]
    for eps in radii(results):
        head += [f"broken within {eps_label(eps)}", f"pass within {eps_label(eps)}"]
    rows: list[list[Cell]] = []
    for found in short_rows(results):
        key = f"short/{found.starts}"
        cells: list[Cell] = [
            found.starts,
            shown_count(f"{key}/working", found.working),
            shown_share(f"{key}/passing", found.passing),
            "–" if found.rejected is None else shown_count(f"{key}/rejected", found.rejected),
        ]
        for number, (broken, passing) in enumerate(found.within):
            cells += [shown_count(f"{key}/broken/{number}", broken), shown_share(f"{key}/pass/{number}", passing)]
        rows.append(cells)
    return Table("In short", head, rows, note=EXPLANATION)


def measures(traced: Traced, number: int, name: str, place: int) -> list[Sequence[Cell]]:
    """Each measure of a detector on a set of starts within a ball: on the whole set, and before and after the attacks.

    Args:
        traced: the results.
        number: the detector's number.
        name: the set of starts.
        place: the number of the radius.
    """
    here = ("detectors", number, "sets", name)
    columns = (*((*here, which) for which in ("clean", "before")), (*here, "radii", place))
    intervals = [
        ("AUROC", "auroc", traced.interval),
        ("two-sided AUROC", "two_sided", traced.interval),
        ("pass (FPR95-in)", "fpr95_in_positive", traced.share_interval),
        ("FPR95-out", "fpr95_out_positive", traced.share_interval),
    ]
    found: list[Sequence[Cell]] = [
        [title, *(shown(*column, measure) for column in columns)] for title, measure, shown in intervals
    ]
    found.append(["pass, start rejected", "", "", traced.share_interval(*columns[2], "rejected_pass")])
    for title, measure, text in (
        ("AUPR-in", "aupr_in", significant),
        ("AUPR-out", "aupr_out", significant),
        ("images", "count", significant),
        ("start rejected", "rejected", significant),
        ("different starts", "clusters", significant),
        ("threshold", "threshold", significant),
    ):
        found.append([title, *(traced.number(*column, measure, text=text) for column in columns)])
    return found


def all_measures(traced: Traced) -> Table:
    """The measures of every detector on every set of starts, before the attacks and within the largest ball."""
    rows: list[list[Cell]] = []
    for number, detector in enumerate(traced.at("detectors")):
        for name, found in detector["sets"].items():
            here = ("detectors", number, "sets", name)
            before, after = (*here, "before"), (*here, "radii", len(found["radii"]) - 1)
            rows.append(
                [
                    detector["name"],
                    name,
                    *(traced.interval(*at, "auroc") for at in (before, after)),
                    *(traced.interval(*at, "two_sided") for at in (before, after)),
                    *(traced.share_interval(*at, "fpr95_in_positive") for at in (before, after)),
                    traced.count(*after, "rejected"),
                    traced.share_interval(*after, "rejected_pass"),
                    *(traced.share_interval(*at, "fpr95_out_positive") for at in (before, after)),
                ]
            )
    head = ["detector", "from", "AUROC before", "after", "two-sided AUROC before", "after"]
    head += ["FPR95-in before", "after", "rejected starts", "of these pass", "FPR95-out before", "after"]
    note = (
        f"Before the attacks, of the attacked starts, and under the strongest attack on each within eps"
        f" {eps_label(radii(traced.results)[-1])}, with 95 % intervals; the panels of the heat map have the other eps,"
        " and AUPR. two-sided AUROC: of a detector that flags abnormally low scores as well. FPR95-in: share of OOD"
        " images accepted at 95 % TPR, with in-distribution as the positive class, which is the pass rate. FPR95-out:"
        " share of in-distribution images flagged at 95 % TPR, with OOD as the positive class, as in OpenOOD."
    )
    return Table("All measures", head, rows, sortable=True, note=note)


def budgets(traced: Traced) -> Table | None:
    """AUROC against the number of steps; None if the audit has one number of steps only."""
    first = next(iter(traced.at("detectors", 0, "sets").values()))
    if not first["budgets"]:
        return None
    rows: list[list[Cell]] = []
    for number, detector in enumerate(traced.at("detectors")):
        for name, found in detector["sets"].items():
            here = ("detectors", number, "sets", name)
            after = (traced.interval(*here, "budgets", place, "auroc") for place in range(len(found["budgets"])))
            rows.append([detector["name"], name, traced.auroc(*here, "before", "auroc"), *after])
    head = ["detector", "from", "before", *(f"{at['steps']} steps" for at in first["budgets"])]
    note = "If the last column is still below the one before it, more steps would help the attack."
    return Table("AUROC at the largest eps, against the number of steps", head, rows, sortable=True, note=note)


def jointly(traced: Traced) -> Table | None:
    """Images that several detectors accept at once; None if they were not attacked jointly."""
    found = traced.at("jointly")
    if found is None:
        return None
    first = next(iter(found["sets"].values()))
    rows: list[list[Cell]] = []
    for name, at in found["sets"].items():
        here = ("jointly", "sets", name)
        rows.append(
            [
                name,
                traced.share_interval(*here, "before"),
                Markup("{} of {}").format(traced.count(*here, "rejected"), traced.count(*here, "count")),
                *(traced.share_interval(*here, "radii", place) for place in range(len(at["radii"]))),
            ]
        )
    head = ["from", "before", "rejected", *(f"within {eps_label(float(at['eps']))}" for at in first["radii"])]
    note = Markup(
        "Images that all of these accept at once, each at its own threshold: {}. Together they accept {} of the"
        " held-out images. before: share of the starts; then, of the starts that one of them rejects, the share from"
        " which such an image was found."
    ).format(", ".join(found["members"]), traced.number("jointly", "in_distribution", text=share))
    return Table("One image for all detectors", head, rows, note=note)


def outside(traced: Traced) -> Table | None:
    """Similarity of x_out to its start and to x_in, by pixels and by encoders; None if nothing was compared."""
    rows: list[list[Cell]] = []
    for key, found in traced.at("outside").items():
        for name in found["encoders"]:
            here, judged = ("outside", key), ("outside", key, "encoders", name)
            rows.append(
                [
                    traced.at("attacks", key, "starts"),
                    traced.eps("attacks", key, "eps"),
                    *(traced.number(*here, what) for what in ("distance_l2", "distance_linf", "ssim_start", "ssim_in")),
                    name,
                    *(traced.number(*judged, what, text=share) for what in ("mape", "mape_before")),
                    *(
                        traced.number(*judged, what, text=share)
                        for what in ("nearer_start", "flagged", "flagged_start")
                    ),
                ]
            )
    head = ["from", "eps", "L2 to start", "Linf to start", "SSIM to start", "SSIM to x_in", "encoder", "MAPE"]
    head += ["MAPE of the start", "nearer to start", "flagged", "starts flagged"]
    note = (
        "Images of the latent attack. SSIM: 1 means equal; undefined for images smaller than 11 pixels. MAPE: of z_out"
        " and of the start's latent, against z_in. nearer to start: share of images whose latent is nearer to that of"
        " the start than to that of x_in. flagged: share that the distance to the 50th nearest neighbour among training"
        " images flags as OOD. The first encoder was attacked; the others are witnesses, which were not."
    )
    return Table("Is x_out still OOD?", head, rows, sortable=True, note=note) if rows else None


def shared_attacks(traced: Traced) -> Table:
    """The attacks that do not aim at one detector; the others are in the panels of that detector."""
    keys = [key for key, attack in traced.at("attacks").items() if attack["kind"] in ("latent", "informed")]
    note = (
        "MAPE of what was matched and distance: medians over the images. Evaluations and passes: means. Attacks on the"
        " score of one detector (direct, aimed) are listed in its panels."
    )
    return Table(
        "Attacks on what several detectors read", _ATTACK_HEAD, _attacks(traced, keys), sortable=True, note=note
    )


def attacks_on(traced: Traced, number: int, starts: str, eps: float) -> Table:
    """The attacks on a detector from a set of starts within a ball, each with what it achieves alone."""
    attacked = traced.at("detectors", number, "attacked")
    keys = [key for key, at in attacked.items() if at["starts"] == starts and float(at["eps"]) <= eps]
    rows = _attacks(traced, keys)
    for key, row in zip(keys, rows, strict=True):
        here = ("detectors", number, "attacked", key)
        row[1:1] = [traced.interval(*here, "auroc"), traced.share(*here, "fpr95_in_positive")]
    head = [_ATTACK_HEAD[0], "AUROC alone", "pass", *_ATTACK_HEAD[1:]]
    return Table("Attacks within this eps", head, rows, note="Medians of MAPE and distance, means of the work.")


_ATTACK_HEAD = ("attack", "MAPE", "distance", "gradient evaluations", "forward passes")


def _attacks(traced: Traced, keys: Sequence[str]) -> list[list[Cell]]:
    return [
        [
            key,
            traced.number("attacks", key, "mape", text=share),
            *(
                traced.number("attacks", key, what)
                for what in ("distance", "gradient_evaluations", "forward_evaluations")
            ),
        ]
        for key in keys
    ]


def reasons(title: str, what: str, found: Sequence[tuple[str, str]]) -> Table | None:
    """A table of names and reasons; None if there are none."""
    return Table(title, [what, "reason"], [list(one) for one in found]) if found else None

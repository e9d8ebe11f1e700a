"""The report of an audit, in Markdown."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oodattack.auditing.store import Audit
from oodattack.auditing.verdict import VERDICTS
from oodattack.report.audit_short import short_table
from oodattack.report.markdown import cell, head, line
from oodattack.report.numbers import count_label, eps_label
from oodattack.settings.ball import NORM_NAMES
from oodattack.storage.files import write_text

Row = Mapping[str, Any]


def write_audit(audit: Audit) -> Path:
    """Write ``report.md`` into a finished audit's directory, and return its path.

    Raises:
        InputError: if the audit is not finished.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from oodattack.pipelines.audit import run_audit
    >>> from oodattack.settings import AuditSettings
    >>> images = "torchvision:FakeData"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     audit = run_audit(AuditSettings(
    ...         encoder="python:tests.factories:tiny", train=images, test=images, start=("noise",), limit=2,
    ...         held_out=9, fit_limit=4, detectors=("MaxLogit",), attacks=("latent",), steps=2, out=Path(folder)))
    ...     write_audit(audit).read_text()[:7]
    '# Audit'
    """
    path = audit.path / "report.md"
    write_text(path, audit_markdown(audit.read_results()))
    return path


def audit_markdown(results: Row) -> str:
    """The results of an audit as Markdown: every detector, every set of starts and every attack, with intervals.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from oodattack.pipelines.audit import run_audit
    >>> from oodattack.settings import AuditSettings
    >>> images = "torchvision:FakeData"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     audit = run_audit(AuditSettings(
    ...         encoder="python:tests.factories:tiny", train=images, test=images, start=("noise",), limit=2,
    ...         held_out=9, fit_limit=4, detectors=("MaxLogit",), attacks=("latent",), steps=2, out=Path(folder)))
    ...     "## From noise" in audit_markdown(audit.read_results())
    True
    """
    settings, sets = results["settings"], results["sets"]
    environment = results["environment"]
    steps = count_label(settings["steps"], "step")
    lines = [
        "# Audit",
        "",
        f"{_subject(results['subject'])} Thresholds from {sets['in']} held-out in-distribution images. From each set,"
        f" {sets['targets']} attacks, each with another in-distribution image as x_in.",
        "",
        f"{NORM_NAMES[settings['norm']]} ball, {steps} per try in floating point (and more on the 8-bit grid, see the"
        f" table of attacks), {count_label(settings['restarts'], 'try', 'tries')} per attack, seed"
        f" {settings['seed']}; oodattack {environment['oodattack']}, torch {environment['torch']},"
        f" {environment['device']}, {count_label(environment['threads'], 'thread')}.",
        "",
        *_verdict_table(results),
        "",
        *(f"- {name}: {meaning}." for name, meaning in VERDICTS.items()),
        "",
        *short_table(results),
        *_flags(results),
        *_joint_table(results),
        *(line for name in results["detectors"][0]["sets"] for line in _set_tables(results, name)),
        *_measures_table(results),
        *_attack_table(results),
        *_outside_table(results),
        *_left_out(results),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _subject(subject: Row) -> str:
    """What was audited, in a few sentences."""
    facts = [
        cell(subject["encoder"]),
        *([] if subject["pipeline"] is None else [f"every image through the pipeline {cell(subject['pipeline'])}"]),
        *([] if subject["classes"] is None else [count_label(subject["classes"], "class", "classes")]),
        f"{subject['latent_dim']}-dimensional z",
        *([f"layers {cell(', '.join(subject['layers']))}"] if subject["layers"] else []),
        *(
            f"accuracy on the {what} images {100 * value:.1f} %"
            for what, value in (("training", subject["train_accuracy"]), ("held-out", subject["test_accuracy"]))
            if value is not None
        ),
    ]
    labels = "" if subject["labels"] is None else f"; classes of the training images: {subject['labels']}"
    return (
        f"{subject['kind'].capitalize()}: {', '.join(facts)}. Detectors fitted on"
        f" {count_label(subject['train_images'], 'training image')}{labels}."
    )


def _verdict_table(results: Row) -> list[str]:
    names = list(results["detectors"][0]["sets"])
    lines = [
        "## At which radius does which detector fall, from which starts?",
        "",
        "For each set of starts, the smallest eps at which the detector is broken; if it is not, its verdict at the"
        f" largest, {eps_label(_largest(results))}. In brackets, the AUROC before the attack. The verdict on a"
        " detector is the worst over the sets.",
        "",
        *head(["detector", "reads", "verdict", *names]),
    ]
    for row in results["detectors"]:
        cells = [f"{falls(found)} ({found['clean']['auroc']['value']:.2f})" for found in row["sets"].values()]
        lines.append(line([cell(row["name"]), cell(row["reads"]), f"**{row['verdict']}**", *map(cell, cells)]))
    return lines


def falls(found: Row) -> str:
    """Where a detector falls on a set of starts: an eps, or its verdict at the largest.

    >>> falls({"falls_at": 0.5, "verdict": "broken"}), falls({"falls_at": None, "verdict": "held"})
    ('0.5', 'held')
    """
    return found["verdict"] if found["falls_at"] is None else eps_label(float(found["falls_at"]))


def _set_tables(results: Row, name: str) -> list[str]:
    """What the attacks from one set of starts did: AUROC and pass rates against eps."""
    first = results["detectors"][0]["sets"][name]
    radii = [eps_label(float(at["eps"])) for at in first["radii"]]
    images = count_label(first["clean"]["clusters"], "image")
    lines = [
        f"## From {cell(name)}",
        "",
        f"AUROC before (all {images} of the set) and under the strongest attack on each image within each eps, with"
        " 95 % intervals; 0.5 is chance, 0 means that attacked images look more in-distribution than all others."
        " *two-sided*: of a detector that flags abnormally low scores as well, before and, at the largest eps, under"
        " the attack that is strongest against it.",
        "",
        *head(["detector", "before", *radii, "two-sided: before", f"{radii[-1]}"]),
    ]
    for row in results["detectors"]:
        found = row["sets"][name]
        values = [_share(at["auroc"]) for at in found["radii"]]
        two_sided = [_share(at["two_sided"]) for at in (found["clean"], found["radii"][-1])]
        lines.append(line([cell(row["name"]), _share(found["clean"]["auroc"]), *values, *two_sided]))
    lines += [
        "",
        "Share of the starts that pass at the threshold that accepts 95 % of held-out images (*before*); of those"
        " attacks whose start was *rejected*, the share that pass within each eps:",
        "",
        *head(["detector", "before", "rejected", *radii, "verdict"]),
    ]
    for row in results["detectors"]:
        found = row["sets"][name]
        last = found["radii"][-1]
        lines.append(
            line(
                [
                    cell(row["name"]),
                    _percent(found["clean"]["fpr95_in_positive"]),
                    f"{last['rejected']} of {last['count']}",
                    *(_percent(at["rejected_pass"]) for at in found["radii"]),
                    found["verdict"],
                ]
            )
        )
    lines.append("")
    if first["budgets"]:
        lines += [f"AUROC at eps {radii[-1]}, against the number of steps:", ""]
        lines += head(["detector", "before", *(str(at["steps"]) for at in first["budgets"])])
        for row in results["detectors"]:
            found = row["sets"][name]
            values = [f"{at['auroc']['value']:.3f}" for at in found["budgets"]]
            lines.append(line([cell(row["name"]), f"{found['clean']['auroc']['value']:.3f}", *values]))
        lines.append("")
    return lines


def _joint_table(results: Row) -> list[str]:
    found = results["jointly"]
    if found is None:
        return []
    radii = [eps_label(float(at["eps"])) for at in next(iter(found["sets"].values()))["radii"]]
    lines = [
        "## One image for all detectors",
        "",
        f"Images that {count_label(len(found['members']), 'detector')} accept at once, each at its own threshold:"
        f" {cell(', '.join(found['members']))}. They accept {100 * found['in_distribution']:.0f} % of the held-out"
        " images. *before*: share of the set; then, of the attacks whose start one of them *rejects*, the share that"
        " found such an image within each eps. The row *jointly* of the other tables scores images by the largest rank,"
        " with a threshold of its own that accepts 95 %.",
        "",
        *head(["from", "before", "rejected", *radii]),
    ]
    for name, at in found["sets"].items():
        cells = [_percent(at["before"]), f"{at['rejected']} of {at['count']}", *map(_percent, at["radii"])]
        lines.append(line([cell(name), *cells]))
    return [*lines, ""]


def _flags(results: Row) -> list[str]:
    settings = results["settings"]
    found = [f"- {cell(row['name'])}, {cell(flag)}." for row in results["detectors"] for flag in row["flags"]]
    if not settings["budget"]:
        found.append("- Not checked: whether more steps would lower AUROCs (`--budget`).")
    if _largest(results) < math.inf:
        found.append("- Not checked: whether AUROCs reach 0 without a bound (`--eps inf`).")
    work = [at["gradient_evaluations"] for row in results["detectors"] for at in _last(row)]
    return [
        "Signs that an attack was too weak:",
        "",
        *(found or ["- None."]),
        "",
        f"The strongest attack within the largest eps is the best of all attacks within smaller ones, too: in all"
        f" {min(work):.0f} to {max(work):.0f} gradient evaluations per image.",
        "",
    ]


def _last(row: Row) -> list[Row]:
    """The figures of a detector at the largest eps, for every set of starts."""
    return [found["radii"][-1] for found in row["sets"].values()]


def _measures_table(results: Row) -> list[str]:
    """FPR95 and AUPR of the starts, and under the strongest attack."""
    lines = [
        "## More measures",
        "",
        f"Before the attack and under the strongest one at eps {eps_label(_largest(results))}. FPR95-in: share of OOD"
        " images accepted at 95 % TPR, with in-distribution as the positive class; FPR95-out: share of in-distribution"
        " images flagged at 95 % TPR, with OOD as the positive class (as in OpenOOD). AUPR-in and AUPR-out: with"
        " in-distribution and with OOD as the positive class.",
        "",
        *head(
            [
                *("detector", "starts", "FPR95-in, before", "after", "FPR95-out, before", "after"),
                *("AUPR-in, before", "after", "AUPR-out, before", "after"),
            ]
        ),
    ]
    for row in results["detectors"]:
        for name, found in row["sets"].items():
            pairs = [
                (at["fpr95_in_positive"]["value"], at["fpr95_out_positive"]["value"], at["aupr_in"], at["aupr_out"])
                for at in (found["clean"], found["radii"][-1])
            ]
            cells = [f"{value:.3f}" for both in zip(*pairs, strict=True) for value in both]
            lines.append(line([cell(row["name"]), cell(name), *cells]))
    lines += ["", "How the direct attack follows each score:", ""]
    lines += [f"- {cell(row['name'])}: {cell(row['applicable']['direct'])}." for row in results["detectors"]]
    return [*lines, ""]


def _attack_table(results: Row) -> list[str]:
    lines = [
        "## The attacks",
        "",
        "MAPE of what was matched and distance: medians over the images. Evaluations and passes: means.",
        "",
        *head(["from", "attack", "on", "eps", "steps", "MAPE", "distance", "gradient evaluations", "forward passes"]),
    ]
    for attack in results["attacks"].values():
        mape = "–" if attack["mape"] is None else f"{100 * attack['mape']:.3g} %"
        target = "z" if attack["target"] == "features" else attack["target"]
        lines.append(
            line(
                [
                    *(cell(attack["starts"]), attack["kind"], cell(target)),
                    *(eps_label(float(attack["eps"])), str(attack["steps"]), mape),
                    *(f"{attack['distance']:.3g}", f"{attack['gradient_evaluations']:.0f}"),
                    f"{attack['forward_evaluations']:.0f}",
                ]
            )
        )
    return [*lines, ""]


def _outside_table(results: Row) -> list[str]:
    if not results["outside"]:
        return []
    lines = [
        "## Is x_out still OOD?",
        "",
        "For the images of the latent attack. MAPE: of z_out (and of the start's latent) against z_in in each encoder;"
        " the first encoder was attacked, the others were not. *nearer*: share of images nearer to the start than to"
        " x_in in that encoder's latent space; *flagged*: share flagged as OOD by the distance to the 50th nearest"
        " neighbour there, at a threshold that flags 5 % of the held-out images.",
        "",
        *head(
            [
                *("from", "eps", "L2 to start", "Linf", "SSIM to start", "SSIM to x_in", "encoder"),
                *("MAPE", "MAPE of the start", "nearer", "flagged", "starts flagged"),
            ]
        ),
    ]
    for key, found in results["outside"].items():
        pixels = [
            "–" if found[name] is None else f"{found[name]:.3g}"
            for name in ("distance_l2", "distance_linf", "ssim_start", "ssim_in")
        ]
        attack = results["attacks"][key]
        for name, judged in found["encoders"].items():
            shares = [f"{100 * judged[n]:.0f} %" for n in ("nearer_start", "flagged", "flagged_start")]
            mapes = ["–" if judged[n] is None else f"{100 * judged[n]:.3g} %" for n in ("mape", "mape_before")]
            eps = eps_label(float(attack["eps"]))
            lines.append(line([cell(attack["starts"]), eps, *pixels, cell(name), *mapes, *shares]))
    return [*lines, ""]


def _left_out(results: Row) -> list[str]:
    lines: list[str] = []
    if results["skipped"]:
        lines += ["## Images that could not be decoded", ""]
        lines += [f"- {cell(reason)}" for found in results["skipped"].values() for reason in found.values()]
        lines.append("")
    if results["absent"]:
        lines += ["## Detectors not audited", ""]
        lines += [f"- {cell(absent['name'])}: {cell(absent['reason'])}" for absent in results["absent"]]
        lines.append("")
    if results["failures"]:
        lines += ["## Failures", ""]
        lines += [f"- {cell(what)}: {cell(reason)}" for what, reason in results["failures"].items()]
    return lines


def _largest(results: Row) -> float:
    return max(map(float, results["settings"]["eps"]))


def _share(share: Row) -> str:
    """A fraction and its interval, such as 0.913 (0.88–0.94)."""
    if share["value"] is None:
        return "–"
    return f"{share['value']:.3f} ({share['low']:.2f}–{share['high']:.2f})"


def _percent(share: Row) -> str:
    """The same in per cent."""
    if share["value"] is None:
        return "–"
    return f"{100 * share['value']:.0f} % ({100 * share['low']:.0f}–{100 * share['high']:.0f})"

"""The report of an audit, in Markdown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oodattack.audit.measures import VERDICTS
from oodattack.audit.store import Audit
from oodattack.report.style import count_label, eps_label
from oodattack.settings.audit import ATTACKS
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
    ...         fit_limit=4, detectors=("MaxLogit",), attacks=("latent",), steps=2, out=Path(folder)))
    ...     write_audit(audit).read_text()[:7]
    '# Audit'
    """
    path = audit.path / "report.md"
    write_text(path, audit_markdown(audit.read_results()))
    return path


def made(settings: Row) -> list[str]:
    """The kinds of attacks that an audit runs.

    >>> made({"attacks": ["direct"]})
    ['latent', 'direct']
    """
    return [kind for kind in ATTACKS if kind == "latent" or kind in settings["attacks"]]


def audit_markdown(results: Row) -> str:
    """The results of an audit as Markdown: every detector and every attack, with intervals.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from oodattack.pipelines.audit import run_audit
    >>> from oodattack.settings import AuditSettings
    >>> images = "torchvision:FakeData"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     audit = run_audit(AuditSettings(
    ...         encoder="python:tests.factories:tiny", train=images, test=images, start=("noise",), limit=2,
    ...         fit_limit=4, detectors=("MaxLogit",), attacks=("latent",), steps=2, out=Path(folder)))
    ...     audit_markdown(audit.read_results()).count("| MaxLogit |")
    2
    """
    settings = results["settings"]
    largest = max(map(float, settings["eps"]))
    natural = [name for name in results["detectors"][0]["clean"] if name != "starts"]
    lines = [
        "# Audit",
        "",
        f"{_subject(results['subject'])} {results['sets']['in']} x_in,"
        f" {count_label(results['distinct_starts'], 'start')}: {_cell(', '.join(settings['start']))}.",
        "",
        f"{NORM_NAMES[settings['norm']]} ball, {count_label(settings['steps'], 'step')} (then half as many on the 8-bit"
        f" grid, at most 50; above 400 steps, an eighth), seed {settings['seed']}; oodattack"
        f" {results['environment']['oodattack']}, torch {results['environment']['torch']},"
        f" {results['environment']['device']}, {count_label(results['environment']['threads'], 'thread')}.",
        "",
        *_main_table(results, natural, largest),
        "",
        *(f"- {name}: {meaning}." for name, meaning in VERDICTS.items()),
        "",
        *_measures_table(results, largest),
        *_curve_table(results, largest),
        *_attack_table(results),
        *_outside_table(results),
        *_left_out(results),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _subject(subject: Row) -> str:
    """What was audited, in a few sentences."""
    facts = [
        _cell(subject["encoder"]),
        *([] if subject["classes"] is None else [count_label(subject["classes"], "class", "classes")]),
        f"{subject['latent_dim']}-dimensional z",
        *([f"layers {_cell(', '.join(subject['layers']))}"] if subject["layers"] else []),
        *(
            f"accuracy on the {what} images {100 * value:.1f} %"
            for what, value in (("training", subject["train_accuracy"]), ("test", subject["test_accuracy"]))
            if value is not None
        ),
    ]
    labels = "" if subject["labels"] is None else f"; classes of the training images: {subject['labels']}"
    return (
        f"{subject['kind'].capitalize()}: {', '.join(facts)}. Detectors fitted on"
        f" {count_label(subject['train_images'], 'training image')}{labels}."
    )


def _main_table(results: Row, natural: Sequence[str], eps: float) -> list[str]:
    settings = results["settings"]
    kinds = made(settings)
    heading = [
        "detector",
        "reads",
        *natural,
        "starts",
        *kinds,
        "strongest (95 % interval)",
        "pass (95 % interval)",
        "verdict",
    ]
    lines = [
        f"## AUROC at eps {eps_label(eps)}",
        "",
        "Natural OOD sets and the starts, then the attacked starts; 0.5 is chance. *strongest*: the strongest of the"
        " attacks on each image; *pass*: share of these images that pass at the threshold that accepts 95 % of x_in.",
        "",
        *_head(heading),
    ]
    for row in results["detectors"]:
        found = {m["kind"]: m for m in at(row, eps, settings["steps"])}
        same = {"informed": "= latent"} if row["reads"] == "z" else {}
        worst = row["strongest"]
        lines.append(
            _line(
                [
                    _cell(row["name"]),
                    _cell(row["reads"]),
                    *(f"{row['clean'][name]['auroc']:.3f}" for name in (*natural, "starts")),
                    *(f"{found[k]['auroc']:.3f}" if k in found else same.get(k, "–") for k in kinds),
                    f"{worst['auroc']:.3f} ({worst['auroc_low']:.3f}–{worst['auroc_high']:.3f})",
                    f"{100 * worst['fpr95_in_positive']:.0f} %"
                    f" ({100 * worst['fpr95_low']:.0f}–{100 * worst['fpr95_high']:.0f})",
                    f"**{row['verdict']}**" if row["verdict"] == "held" else row["verdict"],
                ]
            )
        )
    return lines


def _measures_table(results: Row, eps: float) -> list[str]:
    """FPR95 and AUPR, for the starts and under the strongest attack."""
    lines = [
        "## More measures",
        "",
        f"For the starts before the attack, and under the strongest attack at eps {eps_label(eps)}. FPR95: share of OOD"
        " images accepted at 95 % TPR, with in-distribution as the positive class. AUPR-in and AUPR-out: with"
        " in-distribution and with OOD as the positive class.",
        "",
        *_head(
            [
                *("detector", "FPR95, before", "after", "AUPR-in, before", "after", "AUPR-out, before", "after"),
                *("direct attack by",),
            ]
        ),
    ]
    for row in results["detectors"]:
        before, after = row["clean"]["starts"], row["strongest"]
        cells = [f"{m[name]:.3f}" for name in ("fpr95_in_positive", "aupr_in", "aupr_out") for m in (before, after)]
        lines.append(_line([_cell(row["name"]), *cells, _cell(row["applicable"]["direct"])]))
    return [*lines, ""]


def _curve_table(results: Row, largest: float) -> list[str]:
    """AUROC under the strongest attack against eps, and under the latent one against its budget."""
    settings = results["settings"]
    radii, budgets = sorted(map(float, settings["eps"])), sorted(map(int, settings["budget"]))
    lines: list[str] = []
    if len(radii) > 1:
        lines += ["## AUROC under the strongest attack, against eps", ""]
        lines += _head(["detector", "0 (starts)", *map(eps_label, radii)])
        for row in results["detectors"]:
            least = {float(found["eps"]): found["auroc"] for found in row["worst"]}
            values = [least.get(eps) for eps in radii]
            cells = [f"{row['clean']['starts']['auroc']:.3f}", *("–" if v is None else f"{v:.3f}" for v in values)]
            lines.append(_line([_cell(row["name"]), *cells]))
        lines.append("")
    if budgets:
        steps = [*budgets, settings["steps"]]
        lines += [f"## AUROC under the latent attack at eps {eps_label(largest)}, against its budget", ""]
        lines += _head(["detector", "0 (starts)", *(count_label(n, "step") for n in steps)])
        for row in results["detectors"]:
            found = {n: [m for m in at(row, largest, n) if m["kind"] == "latent"] for n in steps}
            cells = [f"{m[0]['auroc']:.3f}" if m else "–" for m in found.values()]
            lines.append(_line([_cell(row["name"]), f"{row['clean']['starts']['auroc']:.3f}", *cells]))
        lines.append("")
    return lines


def _attack_table(results: Row) -> list[str]:
    lines = [
        "## The attacks",
        "",
        "MAPE of what was matched (direct: how far the rank of the score remained above its target, relative to the"
        " target) and distance: medians over the images. Evaluations and passes: means.",
        "",
        *_head(["attack", "on", "eps", "steps", "MAPE", "distance", "gradient evaluations", "forward passes"]),
    ]
    for attack in results["attacks"].values():
        mape = "–" if attack["mape"] is None else f"{100 * attack['mape']:.3g} %"
        lines.append(
            _line(
                [
                    *(attack["kind"], _cell("z" if attack["target"] == "features" else attack["target"])),
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
        " neighbour there, at a threshold that flags 5 % of x_in.",
        "",
        *_head(
            [
                *("eps", "L2 to start", "Linf", "SSIM to start", "SSIM to x_in", "encoder"),
                *("MAPE", "MAPE of the start", "nearer", "flagged", "starts flagged"),
            ]
        ),
    ]
    for key, found in results["outside"].items():
        pixels = [
            "–" if found[name] is None else f"{found[name]:.3g}"
            for name in ("distance_l2", "distance_linf", "ssim_start", "ssim_in")
        ]
        for name, judged in found["encoders"].items():
            shares = [f"{100 * judged[n]:.0f} %" for n in ("nearer_start", "flagged", "flagged_start")]
            mapes = ["–" if judged[n] is None else f"{100 * judged[n]:.3g} %" for n in ("mape", "mape_before")]
            eps = eps_label(float(results["attacks"][key]["eps"]))
            lines.append(_line([eps, *pixels, _cell(name), *mapes, *shares]))
    return [*lines, ""]


def _left_out(results: Row) -> list[str]:
    lines: list[str] = []
    if results["skipped"]:
        lines += ["## Images that could not be decoded", ""]
        lines += [f"- {_cell(reason)}" for found in results["skipped"].values() for reason in found.values()]
        lines.append("")
    if results["absent"]:
        lines += ["## Detectors not audited", ""]
        lines += [f"- {_cell(absent['name'])}: {_cell(absent['reason'])}" for absent in results["absent"]]
        lines.append("")
    if results["failures"]:
        lines += ["## Failures", ""]
        lines += [f"- {_cell(what)}: {_cell(reason)}" for what, reason in results["failures"].items()]
    return lines


def at(row: Row, eps: float, steps: int) -> list[Row]:
    """A detector's figures for the attacks in one ball with that number of steps.

    >>> at({"attacked": {"a": {"eps": "inf", "steps": 3}}}, float("inf"), 3)
    [{'eps': 'inf', 'steps': 3}]
    """
    return [m for m in row["attacked"].values() if float(m["eps"]) == eps and m["steps"] == steps]


def _head(cells: Sequence[str]) -> list[str]:
    return [_line([_cell(cell) for cell in cells]), _line(["---"] * len(cells))]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(text: str) -> str:
    """Untrusted text with Markdown and HTML escaped."""
    for sign in "\\`*_|<>[]":
        text = text.replace(sign, f"&#{ord(sign)};" if sign in "<>|" else f"\\{sign}")
    return " ".join(text.split())

"""Level 1: do the rows of a run, the scores of an audit and the rounds of a training agree with what describes them?"""

from collections.abc import Mapping
from typing import Any

from oodattack.auditing.layout import NAME, RESULTS
from oodattack.core.errors import InputError
from oodattack.pipelines.verify.findings import EXPECTED, Findings
from oodattack.pipelines.verify.leaves import dotted, leaves
from oodattack.runs import Run
from oodattack.storage.tables import read_record, read_table
from oodattack.training.layout import ROUND_IMAGES, round_folder

BY_SETTINGS = ("stored", "by the settings")


def check_run(run: Run, findings: Findings) -> None:
    """Compare the columns of every row that follow from the settings."""
    settings, pipeline = run.header["settings"], run.header["inputs"].get("pipeline")
    radii = [float(eps) for eps in settings["eps"]]
    done = run.done()
    own = {run.shard(number).name for number in done}
    for file in sorted((run.path / "shards").glob("*.parquet")):
        if file.name not in own:
            findings.differ(
                f"shards/{file.name}", "file", "a shard", f"{run.shard_count} shards, numbered from 0", words=EXPECTED
            )
    if len(done) < run.shard_count:
        findings.unchecked.append(f"the run is unfinished: {len(done)} of {run.shard_count} shards exist")
    for number in done:
        name, previous = f"shards/{run.shard(number).name}", run.shard_rows(number).start - 1
        try:
            table = run.read_shard(number, ["row", "eps", "norm", "pipeline"]).to_pylist()
        except InputError:
            continue  # `check_files` has reported it
        for row in table:
            if not findings.present(name, row, ("row",)):
                continue
            place = row["row"]
            if not (place > previous and place in run.shard_rows(number)):
                rows = run.shard_rows(number)
                findings.differ(
                    name, "row", place, f"increasing from {rows.start} to {rows.stop - 1}", place, words=EXPECTED
                )
            previous = place
            findings.equal(name, "eps", row["eps"], radii[place % len(radii)], place, words=BY_SETTINGS)
            findings.equal(name, "norm", row["norm"], settings["norm"], place, words=BY_SETTINGS)
            findings.equal(name, "pipeline", row["pipeline"], pipeline, place, words=BY_SETTINGS)
        findings.checked["rows by the settings"] += len(table)


def check_audit(documents: Mapping[str, Any], findings: Findings) -> bool:
    """Compare the settings in the header with those of the tables, and the numbers of rows of every set.

    Args:
        documents: the valid ones among audit.json and results.json.
        findings: receives what is found.

    Returns:
        Whether there is one score for each detector and image of the tables, so that they can be computed again.
    """
    header, results = documents.get(NAME), documents.get(RESULTS)
    if header is None or results is None:
        return False
    for key, value in header["settings"].items():
        findings.equal(RESULTS, f"settings.{key}", results["settings"].get(key), value, words=("stored", f"in {NAME}"))
    findings.checked["settings in two files"] += len(header["settings"])
    for name, digest in header["inputs"].items():
        if name in results["digests"]:
            findings.equal(RESULTS, f"digests.{name}", results["digests"][name], digest, words=("stored", f"in {NAME}"))
    attacked = results["sets"]["targets"]
    for key in results["attacks"]:
        rows: list[int] = []
        for file in sorted((findings.path / "attacks" / key).glob("*.parquet")):
            try:
                rows += read_table(file, ["row"])["row"].to_pylist()
            except InputError:
                break  # `check_files` has reported it
        else:
            findings.equal(f"attacks/{key}", "rows", sorted(rows), list(range(attacked)), words=EXPECTED)
        findings.checked["rows of attacks"] += len(rows)
    before = len(findings.differences)
    _check_scores(results, findings)
    return len(findings.differences) == before


def check_rounds(documents: Mapping[str, Any], findings: Findings) -> None:
    """Compare the rounds in the results of a training with the figures recorded beside their images.

    Args:
        documents: the valid ones among train.json and results.json.
        findings: receives what is found.
    """
    rows = documents.get(RESULTS, {}).get("rounds")
    for number, row in enumerate(rows if isinstance(rows, list) else ()):
        file = round_folder(findings.path, number) / ROUND_IMAGES
        if not file.is_file():
            continue  # rounds before format 4
        try:
            recorded = dict(leaves(read_record(file).get("figures")))
        except InputError:
            continue  # `check_files` has reported it
        stored = dict(leaves(row))
        for path in sorted({*stored, *recorded}, key=str):
            words = ("stored", f"in {file.relative_to(findings.path).as_posix()}")
            findings.equal(
                RESULTS, dotted(("rounds", number, *path)), stored.get(path), recorded.get(path), words=words
            )
        findings.checked["rounds in two files"] += 1


def _check_scores(results: Mapping[str, Any], findings: Findings) -> None:
    """Check that scores.parquet has a score of every detector for every image, in the order of the rows."""
    try:
        table = read_table(findings.path / "scores.parquet").to_pylist()
    except InputError as error:
        findings.differ("scores.parquet", "Parquet", str(error), "a readable table", words=EXPECTED)
        return
    places: dict[tuple[str, str], list[int]] = {}
    for row in table:
        if findings.present("scores.parquet", row, ("detector", "set", "row", "score")):
            places.setdefault((row["detector"], row["set"]), []).append(row["row"])
    for row in results["detectors"]:
        for images in (*results["sets"], *row["attacked"]):
            count = results["sets"].get(images, results["sets"]["targets"])
            rows = places.pop((row["name"], images), [])
            if rows != list(range(count)):
                what = f"rows of {row['name']} on {images}"
                findings.differ("scores.parquet", what, f"{len(rows)} rows", f"{count} rows, in order", words=EXPECTED)
    for detector, images in places:
        findings.differ(
            "scores.parquet", f"rows of {detector} on {images}", "scores", "a set of results.json", words=EXPECTED
        )
    findings.checked["rows of scores"] += len(table)

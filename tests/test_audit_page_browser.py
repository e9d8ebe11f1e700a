"""The page of an audit, in a browser: it shows what the audit found, all of it, and it harms nobody."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Browser

from oodattack.pipelines.audit import run_audit
from oodattack.report.compare import read_audits
from oodattack.report.intervals import Interval, difference
from oodattack.report.page import write_page
from oodattack.report.page.compare_audits import compare_audits
from oodattack.settings import AuditSettings
from tests.audit_pages import ExpectedAudit, assert_shows
from tests.browser import HOSTILE_NAMES, Visit, read_table, visit
from tests.digits import write_photographs
from tests.pages import parse

pytestmark = pytest.mark.usefixtures("few_resamples")
PHONE = {"width": 320, "height": 700}
ROWS, CELLS = 10, 2 * 2 * 3
HOSTILE = [*HOSTILE_NAMES, "{{ 7 * 7 }}"]


@pytest.fixture(scope="module")
def audit(digits: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two detectors, two sets of starts, three radii of which one is infinite, budgets, and an ensemble left out."""
    root = tmp_path_factory.mktemp("page")
    run_audit(
        AuditSettings(
            encoder="python:tests.factories:small",
            train=str(digits[0]),
            test=str(digits[1]),
            start=("noise",),
            ood=(str(write_photographs(root / "photographs", 9)),),
            detectors=("MaxSoftmax", "KNN"),
            detector=("tests.test_audit:FitFails",),
            eps=(0.5, 4.0, float("inf")),
            steps=4,
            budget=(2,),
            limit=ROWS,
            held_out=30,
            ood_limit=10,
            fit_limit=100,
            batch_size=10,
            out=root / "audit",
        )
    )
    return root / "audit"


@pytest.fixture(scope="module")
def folder(audit: Path) -> Path:
    return write_page(audit)


@pytest.fixture(scope="module")
def single(audit: Path) -> Path:
    return write_page(audit, single_file=True)


@pytest.fixture(scope="module")
def imperfect(audit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with hostile names, failures, undefined numbers, and an attack that is not in the results yet."""
    copy = Path(
        shutil.copytree(audit, tmp_path_factory.mktemp("imperfect") / "audit", ignore=shutil.ignore_patterns("page*"))
    )
    results = json.loads((copy / "results.json").read_text())
    results["subject"]["encoder"] = results["settings"]["encoder"] = HOSTILE[0]
    results["absent"] = [{"name": f"Detector{n}", "reason": text} for n, text in enumerate(HOSTILE)]
    results["failures"] = {f"noise/{text}": text for text in HOSTILE[:3]}
    results["skipped"] = {"noise": {HOSTILE[1]: HOSTILE[4]}}
    found = results["detectors"][0]["sets"]["noise"]
    for at in (found["clean"], found["before"], *found["radii"]):
        at["threshold"] = None
        at["rejected_pass"] = dict.fromkeys(("value", "low", "high"))
        at["rejected"] = 0
    results["detectors"][0]["flags"] = [HOSTILE[5]]
    gone = next(iter(results["outside"]))
    encoders = results["outside"][gone]["encoders"]
    results["outside"][gone]["encoders"] = {HOSTILE[2]: next(iter(encoders.values()))}
    results["outside"][gone]["ssim_start"] = None
    (copy / "results.json").write_text(json.dumps(results))
    newer = copy / "attacks" / "noise" / "latent-features-9-4"
    shutil.copytree(copy / "attacks" / "noise" / "latent-features-0.5-4", newer)
    shutil.rmtree(copy / "attacks" / some_strongest(audit, "photographs"))
    samples = copy / "samples" / "noise.parquet"
    table = pq.read_table(samples)
    for column, names in (("x_in_name", HOSTILE), ("start_name", HOSTILE[::-1])):
        values = pa.array(np.resize(np.array(names, dtype=object), ROWS).tolist(), pa.string())
        table = table.set_column(table.schema.get_field_index(column), column, values)
    pq.write_table(table, samples)
    return copy


def some_strongest(audit: Path, starts: str) -> str:
    """The key of an attack that reaches a lower score than all others, and than the start, on some image."""
    expected = ExpectedAudit(audit)
    for number, (row, name, eps) in enumerate(expected.cells):
        if name == starts and np.isinf(eps):
            keys = [key for key, at in row["attacked"].items() if at["starts"] == starts]
            scores = np.stack([expected.before(number), *(expected.scores_of(row["name"], key) for key in keys)])
            lowest, second = np.sort(scores, 0)[:2]
            for place in np.flatnonzero(lowest < second):
                best = int(scores[:, place].argmin())
                if best:
                    return str(keys[best - 1])
    pytest.fail("no attack lowered a score")


def numbers(here: Visit, root: str) -> list[list[str]]:
    """Key, value and text of all numbers within an element."""
    found: list[list[str]] = here.page.locator(root).evaluate(
        "root => [...root.querySelectorAll('data')].map(one => [one.dataset.key, one.value, one.textContent])"
    )
    return found


def open_cell(here: Visit, number: int) -> None:
    here.page.evaluate("row => { location.hash = `row=${row}` }", number)
    here.page.locator(f"#panel [data-row='{number}'][aria-current]").wait_for()


def images(here: Visit) -> list[int]:
    """The rows whose images are visible in the panel."""
    return sorted(
        map(int, here.page.locator("[data-image]:visible").evaluate_all("all => all.map(one => one.dataset.image)"))
    )


@pytest.mark.parametrize("form", ["folder", "single"])
def test_every_number_is_that_of_the_audit(
    form: str, audit: Path, browser: Browser, request: pytest.FixtureRequest
) -> None:
    expected, seen = ExpectedAudit(audit), set()
    assert len(expected.cells) == CELLS
    with visit(browser, request.getfixturevalue(form)) as here:
        for cell in [None, *range(CELLS)]:
            if cell is not None:
                open_cell(here, cell)
            for key, value, text in numbers(here, "body" if cell is None else "#panel"):
                seen.add(key)
                if not key.startswith("charts/scores-"):  # counts of bars: see below
                    assert_shows(expected(key), key, value, text)
        pictures = here.page.locator("img")
        pictures.evaluate_all("all => Promise.all(all.map(one => one.decode()))")
        assert pictures.count() >= 3 * ROWS
    for number in range(2):
        for name in ("noise", "photographs"):
            for place in range(3):
                here_ = f"results/detectors/{number}/sets/{name}/radii/{place}"
                for measure in (
                    "auroc/value",
                    "auroc/low",
                    "two_sided/high",
                    "rejected_pass/value",
                    "fpr95_out_positive/high",
                ):
                    assert f"{here_}/{measure}" in seen
            assert f"results/detectors/{number}/sets/{name}/budgets/0/auroc/value" in seen
    assert {f"scores/{cell}/after/{row}" for cell in range(CELLS) for row in range(ROWS)} <= seen


def test_the_heat_map_has_each_number_in_its_place(audit: Path, browser: Browser, folder: Path) -> None:
    results = ExpectedAudit(audit).results
    with visit(browser, folder) as here:
        table = here.page.locator("#heatmap")
        sets = table.locator("[scope=colgroup]").all_inner_texts()
        cells = {
            row.locator("th").inner_text(): [parse(cell) for cell in row.locator("td data").all_text_contents()]
            for row in table.locator("tbody tr").all()
        }
        for row in results["detectors"]:
            shown = iter(cells[row["name"]])
            for name in sets:
                found = row["sets"][name]
                for at in (found["clean"], *found["radii"]):
                    assert next(shown) == pytest.approx(at["auroc"]["value"], abs=0.00501)
        heads = table.locator("thead tr:last-child button")
        for column in range(1, 9):
            for order in (1, -1):
                heads.nth(column).click()
                values = [
                    float(row.locator("td").nth(column - 1).locator("data").get_attribute("value") or "nan")
                    for row in table.locator("tbody tr").all()
                ]
                assert values == sorted(values)[::order]
        here.page.locator("#eps label", has_text="4").click()
        assert table.locator("tbody tr:first-child td:visible").count() == 2 * 2
        assert here.page.evaluate("location.hash") == "#eps=1"
        here.page.reload()
        assert table.locator("tbody tr:first-child td:visible").count() == 2 * 2


def test_bars_show_the_images_whose_scores_they_count(audit: Path, browser: Browser, folder: Path) -> None:
    expected = ExpectedAudit(audit)
    with visit(browser, folder) as here:
        for cell in (0, 4, CELLS - 1):
            open_cell(here, cell)
            after, limit = expected.after(cell), expected.limit(cell)
            assert images(here) == np.flatnonzero(after <= limit).tolist()
            here.page.locator("[data-show] [value=all]").check()
            assert images(here) == list(range(ROWS))
            in_bars: list[int] = []
            edges: list[tuple[float, float]] = []
            for bar in here.page.locator("#panel [data-bar]").all():
                bar.click()
                shown, label = images(here), bar.get_attribute("aria-label") or ""
                assert label.startswith(f"{len(shown)} image")
                assert len({bool(after[row] <= limit) for row in shown}) == 1  # no bar has both
                low, high = map(parse, label.split(", ", 1)[1].split(" to "))
                edges.append((low, high))
                margin = 0.01 * (high - low) + 5e-3 * max(abs(low), abs(high))
                inner = after[shown]
                if len(edges) > 1:
                    assert inner.min() >= low - margin
                in_bars += shown
            assert sorted(in_bars) == list(range(ROWS))
            order = np.concatenate([[after[row] for row in in_bars]])
            assert edges == sorted(edges)
            assert len(order) == ROWS
            counts = [(k, float(v)) for k, v, _ in numbers(here, "#panel") if k.startswith("charts/scores-")]
            for series, total in (
                ("in-distribution, held out", 30),
                ("starts, before", ROWS),
                ("after the strongest attack", ROWS),
            ):
                assert sum(value for key, value in counts if f"/{series}/" in key) == total


def test_a_link_restores_the_panel(browser: Browser, folder: Path) -> None:
    with visit(browser, folder) as here:
        here.page.locator("#eps [value='2']").check()
        here.page.locator("#heatmap td:visible [data-row]").first.click()
        here.page.locator("#panel [data-bar]").first.click()
        title, shown = here.page.locator("#panel-title").inner_text(), images(here)
        here.page.reload()
        here.page.locator("#panel-title").wait_for()
        assert here.page.locator("#panel-title").inner_text() == title
        assert "without a bound" in title
        assert images(here) == shown
        assert here.page.locator("#panel [aria-pressed=true]").count() == 1
        assert here.page.locator("#eps [value='2']").is_checked()


def test_panels_work_by_keyboard(browser: Browser, folder: Path) -> None:
    with visit(browser, folder) as here:
        page = here.page
        page.locator("#heatmap [data-row='1']").focus()
        page.keyboard.press("Enter")
        page.locator("#panel [data-row='1'][aria-current]").wait_for()
        assert page.evaluate("document.querySelector('#panel').contains(document.activeElement)")
        page.locator("#panel [data-row='2']").press("Enter")
        page.locator("#panel [data-row='2'][aria-current]:focus").wait_for()
        page.locator("#panel [data-bar]").first.focus()
        page.keyboard.press("ArrowRight")  # to the next bar, not to the next panel
        page.keyboard.press("Enter")
        assert page.locator("#panel [aria-pressed=true]").count() == 1
        assert "row=2" in page.url
        page.locator("#next").press("ArrowRight")
        page.locator("#panel [data-row='3'][aria-current]").wait_for()
        page.keyboard.press("Escape")
        page.locator("#heatmap [data-row='3']:focus").wait_for()
        assert "row=" not in page.url
        assert "bar=" not in page.url


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(scheme: str, browser: Browser, folder: Path, imperfect: Path, tmp_path: Path) -> None:
    compared = compare_audits(read_audits([folder.parent.parent, imperfect]), tmp_path / "c.html")
    with visit(browser, compared, color_scheme=scheme) as here:
        here.page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
        assert here.violations() == []
    with visit(browser, folder, color_scheme=scheme) as here:
        here.page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
        assert here.violations() == []
        open_cell(here, 3)
        here.page.locator("#panel details").evaluate_all("all => all.forEach(one => one.open = true)")
        here.page.locator("#panel [data-bar]").first.click()
        assert here.violations() == []


def test_all_measures_are_below_their_headings(audit: Path, browser: Browser, folder: Path) -> None:
    columns = ["AUROC before", "after", "two-sided AUROC before", "after", "FPR95-in before", "after"]
    columns += ["rejected starts", "of these pass", "FPR95-out before", "after"]
    measures = dict(
        zip(
            ("AUROC", "two-sided AUROC", "FPR95-in", "FPR95-out"),
            ("auroc", "two_sided", "fpr95_in_positive", "fpr95_out_positive"),
            strict=True,
        )
    )
    detectors = ExpectedAudit(audit).results["detectors"]
    with visit(browser, folder) as here:
        shown = read_table(here, "All measures", headings=2)
    assert set(shown) == {(row["name"], starts) for row in detectors for starts in row["sets"]}
    for row in detectors:
        for starts, found in row["sets"].items():
            cells = shown[row["name"], starts]
            assert [cell.heading for cell in cells] == columns
            before, after, measure = found["before"], found["radii"][-1], ""
            for cell in cells:
                if cell.heading == "rejected starts":
                    assert cell.numbers == [after["rejected"]]
                    continue
                if cell.heading == "of these pass":
                    expected = after["rejected_pass"]
                else:
                    if cell.heading != "after":
                        measure = measures[cell.heading.removesuffix(" before")]
                    expected = (after if cell.heading == "after" else before)[measure]
                ends = [expected[end] for end in ("value", "low", "high")]
                assert cell.numbers == (ends if ends[0] is not None else [None]), cell


def test_compared_numbers_are_below_their_headings(browser: Browser, audit: Path, tmp_path: Path) -> None:
    """Every AUROC is another number, so that none can stand for another; the second audit has other detectors first."""
    other = Path(shutil.copytree(audit, tmp_path / "other", ignore=shutil.ignore_patterns("page*")))
    paths, numbers_ = [Path(shutil.copytree(other, tmp_path / "one")), other], iter(range(1, 1000))
    for path in paths:
        results = json.loads((path / "results.json").read_text())
        results["detectors"] = results["detectors"][:: 1 if path == other else -1]
        for row in results["detectors"]:
            for found in row["sets"].values():
                found["verdict"] = "held"
                for at in (found["clean"], found["before"], *found["radii"]):
                    value = next(numbers_) / 100
                    at["auroc"] = {"value": value, "low": value - 0.003, "high": value + 0.004}
        (path / "results.json").write_text(json.dumps(results))
    found = [
        {
            (row["name"], starts): at
            for row in json.loads((path / "results.json").read_text())["detectors"]
            for starts, at in row["sets"].items()
        }
        for path in paths
    ]
    with visit(browser, compare_audits(read_audits(paths), tmp_path / "c.html")) as here:
        shown = read_table(here, "AUROC side by side", headings=2)
    assert set(shown) == set(found[0])
    for name, cells in shown.items():
        before = [one[name]["before"]["auroc"]["value"] for one in found]
        after = [one[name]["radii"][-1]["auroc"] for one in found]
        less = difference(Interval(**after[0]), Interval(**after[1]))
        expected = {
            **{f"{letter}: before": [value] for letter, value in zip("AB", before, strict=True)},
            **{f"{letter}: within inf": list(at.values()) for letter, at in zip("AB", after, strict=True)},
            "B − A": pytest.approx([less.value, less.low, less.high]),
        }
        assert {cell.heading: cell.numbers for cell in cells} == expected


def test_hostile_names_are_shown_and_do_nothing(browser: Browser, audit: Path, imperfect: Path, tmp_path: Path) -> None:
    compared = compare_audits(read_audits([audit, imperfect]), tmp_path / "c.html")
    too_wide = "element => element.scrollWidth - element.clientWidth"
    for path in (write_page(imperfect), write_page(imperfect, single_file=True), compared):
        with visit(browser, path, viewport=PHONE) as here:
            page = here.page
            assert page.locator("html").evaluate(too_wide) == 0
            text = page.locator("main").text_content() or ""
            for number, reason in enumerate(HOSTILE):
                assert f"Detector{number}" in text
                assert reason in text
            if path != compared:
                open_cell(here, 0)
                page.locator("[data-show] [value=all]").check()
                assert page.locator("#panel").evaluate(too_wide) == 0
                panel = page.locator("#panel").text_content() or ""
                assert all(name in panel for name in HOSTILE)
            assert page.evaluate("window.hacked") is None


def test_nothing_is_missing(browser: Browser, audit: Path, imperfect: Path) -> None:
    results = ExpectedAudit(imperfect)
    with visit(browser, write_page(imperfect)) as here:
        notices = " ".join(here.page.locator(".notice").all_inner_texts())
        assert "3 attacks or scores failed" in notices
        assert "6 detectors were not audited" in notices
        assert "1 image could not be decoded" in notices
        assert "1 attack is on disk not in these results" in notices
        assert "The images of 1 attack cannot be read" in notices
        assert here.page.locator("#failures-title ~ .scroll tbody tr").count() == 3
        assert here.page.locator("#skipped-title ~ .scroll tbody tr").count() == 1
        assert HOSTILE[5] in (here.page.locator("#attacks-title + ul").text_content() or "")
        for key, value, text in numbers(here, "body"):
            assert_shows(results(key), key, value, text)
    with visit(browser, write_page(audit)) as here:
        text = here.page.locator("main").inner_text()
        assert "FitFails" in text
        assert "no covariance today" in text


def test_an_unfinished_audit_has_a_page(browser: Browser, audit: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(audit, tmp_path / "audit", ignore=shutil.ignore_patterns("page*", "results.json")))
    shards = list((copy / "attacks").glob("*/*/*.parquet"))
    with visit(browser, write_page(copy)) as here:
        assert here.page.locator("h1").inner_text() == "This audit is not finished"
        found: dict[str, Any] = {key: float(value) for key, value, _ in numbers(here, "body")}
        assert found["unfinished/fits"] == 2
        assert found["unfinished/sets"] == 2
        assert found["unfinished/attacks"] == len({path.parent for path in shards})
        assert sum(value for key, value in found.items() if "/rows/" in key) == ROWS * len(shards)
        assert "KNN, MaxSoftmax" in here.page.locator("main").inner_text()
        assert here.violations() == []


@pytest.mark.parametrize("form", ["folder", "single"])
def test_without_javascript_the_results_remain(form: str, browser: Browser, request: pytest.FixtureRequest) -> None:
    with visit(browser, request.getfixturevalue(form), java_script_enabled=False) as here:
        page = here.page
        assert "work" in page.locator("h1").inner_text()
        assert page.locator("#heatmap td:visible").count() == 2 * 2 * 4 + 1
        assert page.locator(".sentences tbody tr:visible").count() >= 3
        assert page.locator("svg.chart:visible").count() == 2
        assert not page.locator("#eps").is_visible()
        page.emulate_media(media="print")
        assert page.locator("h1").is_visible()


def test_a_comparison_shows_both_audits_and_their_differences(
    browser: Browser, audit: Path, imperfect: Path, tmp_path: Path
) -> None:
    both = [ExpectedAudit(audit), ExpectedAudit(imperfect)]
    other = json.loads((imperfect / "results.json").read_text())
    for row in other["detectors"]:
        for at in row["sets"]["noise"]["radii"]:
            at["auroc"] = {"value": 0.25, "low": 0.2, "high": 0.35}
    (imperfect / "results.json").write_text(json.dumps(other))
    both[1] = ExpectedAudit(imperfect)
    seen, drawn, counts = 0, 0, dict[str, float]()
    compared = read_audits([audit, imperfect])
    here_rows = [(detector, starts) for detector, starts, _ in compared.rows]
    with visit(browser, compare_audits(compared, tmp_path / "c.html")) as here:
        for key, value, text in numbers(here, "body"):
            letter, _, rest = key.partition("/")
            if letter in "AB":
                assert_shows(both["AB".index(letter)](f"results/{rest}"), key, value, text)
                continue
            if letter == "charts":
                number, name, end = rest.split("/")[1:]
                detector, starts = here_rows[int(number)]
                found = both["AB".index(name)].results["detectors"]
                at = next(row for row in found if row["name"] == detector)["sets"][starts]
                auroc = at["before"]["auroc"]["value"] if end == "before" else at["radii"][-1]["auroc"][end]
                assert_shows(auroc, key, value, text)
                drawn += 1
                continue
            if key.count("/") == 2:
                counts[key.rpartition("/")[2]] = float(value)
                continue
            _, _, detector, starts, end = key.split("/")
            first, second = (
                next(row for row in one.results["detectors"] if row["name"] == detector)["sets"][starts]["radii"][-1][
                    "auroc"
                ]
                for one in both
            )
            assert_shows(getattr(difference(Interval(**first), Interval(**second)), end), key, value, text)
            seen += 1
        assert seen == 2 * 2 * 3
        assert drawn == 2 * 2 * 2 * 4
        bold = here.page.locator("#results-title ~ .scroll td b").count()
        assert counts["compared"] == 2 * 2
        assert counts["higher"] + counts["lower"] == bold
        settings = here.page.locator("#settings-title ~ .scroll tbody th").all_inner_texts()
        assert settings == ["encoder"]

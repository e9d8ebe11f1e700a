"""The page of a run, in a browser: what it shows is what the run contains, and it harms nobody."""

import json
import re
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator

from oodattack.pipelines.attack import run_attack
from oodattack.report.compare import read_runs
from oodattack.report.page import write_page
from oodattack.report.page.compare_runs import compare_runs
from oodattack.runs import ShardRecord, open_run
from oodattack.settings.attack import AttackSettings
from tests.browser import HOSTILE_NAMES, Visit, read_table, visit
from tests.pages import Expected, parse

ROWS = 30
HOSTILE = [*(f"{name}.png" for name in HOSTILE_NAMES), "file:etc.png", "=1+1,2.png"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two starts, three radii of which one is infinite, five images.

    Their MAPEs are replaced by spread ones, so that each histogram has several bars, whatever the attack reaches here.
    """
    out = tmp_path_factory.mktemp("page") / "run"
    run_attack(
        AttackSettings(
            encoder="python:tests.factories:tiny",
            images="torchvision:FakeData",
            limit=5,
            start=("noise", "spiral"),
            eps=(0.2, 1.0, float("inf")),
            steps=15,
            batch_size=12,
            device="cpu",
            out=out,
        )
    )
    opened = open_run(out)
    for number in opened.done():
        rows = opened.read_shard(number).to_pylist()
        opened.shard(number).unlink()
        spread = [{**row, "mape": 0.05 * 10.0 ** -(row["row"] % 7 / 2)} for row in rows]
        opened.write_shard(number, spread, ShardRecord())
    return out


@pytest.fixture(scope="module")
def folder(run: Path) -> Path:
    return write_page(run)


@pytest.fixture(scope="module")
def single(run: Path) -> Path:
    return write_page(run, single_file=True)


@pytest.fixture(scope="module")
def imperfect(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that lacks its last shard, with undefined, infinite and exact MAPEs, and with a skipped image."""
    copy = Path(shutil.copytree(run, tmp_path_factory.mktemp("imperfect") / "run"))
    opened = open_run(copy)
    opened.shard(opened.shard_count - 1).unlink()
    rows = opened.read_shard(0).to_pylist()
    for place, (mape, note) in enumerate(
        [(None, "z_in is all zeros"), (float("inf"), ""), (0.0, ""), (None, "<b>why")]
    ):
        rows[place] |= {"mape": mape, "mape_note": note}
    opened.shard(0).unlink()
    opened.write_shard(0, rows, ShardRecord({"<i>broken.png": "<i>broken.png: cannot be decoded"}))
    return copy


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run whose images, classes and encoder have names that try to be markup; returns it with the names."""
    root = tmp_path_factory.mktemp("<b>hostile'")
    generator = np.random.default_rng(0)
    for name in HOSTILE:
        path = root / "x" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    classes = root / "classes.txt"
    classes.write_text("\n".join(["<script>window.hacked=3</script>", "'\"`${1}`", "{{ 7 * 7 }}", "c&lt;d", "-2+3"]))
    run_attack(
        AttackSettings(
            encoder=f"python:tests.factories:tiny,classes={classes}",
            images=str(root / "x"),
            start=("noise", str(root / "x" / HOSTILE[0])),
            steps=3,
            device="cpu",
            out=root / "run",
        )
    )
    return root / "run", pd.read_parquet(root / "run" / "shards")["x_in_name"].unique().tolist()


@pytest.mark.parametrize("form", ["folder", "single"])
def test_a_page_needs_nothing_but_itself(form: str, browser: Browser, request: pytest.FixtureRequest) -> None:
    """`visit` refuses messages on the console, exceptions, and requests to anything but files of the page."""
    with visit(browser, request.getfixturevalue(form)) as here:
        assert len(here.rows()) == ROWS
        here.open_row(17)
        images = here.page.locator("img")
        images.evaluate_all("images => images.forEach(image => image.loading = 'eager')")
        images.evaluate_all("images => Promise.all(images.map(image => image.decode()))")
        assert images.evaluate_all("images => images.filter(image => !image.naturalWidth).length") == 0
        assert images.count() >= 3 * ROWS + 3


@pytest.mark.parametrize("form", ["folder", "single"])
def test_every_number_is_that_of_the_run(
    form: str, run: Path, browser: Browser, request: pytest.FixtureRequest
) -> None:
    expected = Expected(run, ROWS)
    seen: set[str] = set()
    with visit(browser, request.getfixturevalue(form)) as here:
        here.rows()
        for number in [None, *range(ROWS)]:
            if number is not None:
                here.open_row(number)
            root = here.page.locator("html" if number is None else "#panel")
            for key, value, text in root.evaluate(
                "root => [...root.querySelectorAll('data')].map(one => [one.dataset.key, one.value, one.textContent])"
            ):
                seen.add(key)
                if not key.startswith("charts/mape-"):
                    _assert_shows(expected(key), key, value, text)
    for number in range(ROWS):
        for column in (
            "mape",
            "mape_before",
            "mape_float",
            "distance",
            "eps",
            "gradient_evaluations",
            "probability_out",
        ):
            assert f"rows/{number}/{column}" in seen
    assert {f"groups/{number}/median" for number in range(6)} <= seen
    assert {"verdict/below", "verdict/count", "verdict/median", "verdict/starts/1/below"} <= seen
    assert any(key.startswith("charts/convergence/") for key in seen)
    assert any(key.startswith("charts/eps/") for key in seen)


def test_the_verdict_counts_all_and_each_start(run: Path, browser: Browser, folder: Path) -> None:
    frame = pd.read_parquet(run / "shards")
    frame = frame[np.isinf(frame["eps"])]
    below = (frame["mape"] < 0.001).groupby(frame["start_source"]).sum()
    with visit(browser, folder) as here:
        text = here.page.locator("h1").inner_text().replace("\N{NO-BREAK SPACE}", " ")
    assert text == (
        f"{below.sum()} of 10 images reach a MAPE below 0.1 % without a bound on the change, as PNG:"
        f" {below['noise']} of 5 from noise, {below['spiral']} of 5 from spiral"
    )


def test_results_per_start_and_eps_are_below_their_headings(run: Path, browser: Browser, folder: Path) -> None:
    frame = pd.read_parquet(run / "shards")
    with visit(browser, folder) as here:
        shown = read_table(here, "Results per start and eps", headings=2)
    expected: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for (start, eps), rows in frame.groupby(["start_source", "eps"]):
        lower, median, upper = rows["mape"].quantile([0.25, 0.5, 0.75])
        numbers = {
            "images": [len(rows)],
            "MAPE before": [rows["mape_before"].median()],
            "MAPE in floating point": [rows["mape_float"].median()],
            "MAPE as PNG": [median],
            "quartiles": [lower, upper],
            "below 0.1 %": [(rows["mape"] < 0.001).mean()],
            "distance": [rows["distance"].median()],
            "evaluations": [rows["gradient_evaluations"].mean()],
        }
        if rows["class_in"].notna().any():
            numbers["class of x_in"] = [(rows["class_in"] == rows["class_out"]).mean()]
        expected[start, f"{eps:g}"] = numbers
    assert set(shown) == set(expected)
    for name, cells in shown.items():
        longer = {"in floating point": "MAPE in floating point", "as PNG": "MAPE as PNG"}
        found = {longer.get(cell.heading, cell.heading): cell.numbers for cell in cells}
        assert set(found) == set(expected[name])
        for heading, values in found.items():
            assert values == pytest.approx(expected[name][heading]), (name, heading)


def test_every_bar_filters_the_gallery(run: Path, browser: Browser, folder: Path) -> None:
    frame = pd.read_parquet(run / "shards")
    with visit(browser, folder) as here:
        everything = here.rows()
        assert everything == frame["row"].tolist()
        charts = here.page.locator("svg:has([data-bar])")
        assert charts.count() == 6
        for number, (_, group) in enumerate(
            sorted(frame.groupby(["start_source", "eps"]), key=lambda one: one[1].index[0])
        ):
            in_chart: list[int] = []
            bars = charts.nth(number).locator("[data-bar]")
            for place in range(bars.count()):
                bar = bars.nth(place)
                bar.click()
                shown = here.rows()
                assert bar.get_attribute("aria-pressed") == "true"
                assert here.page.locator("#matching").inner_text() == str(len(shown))
                _assert_in_range(shown, group, bar)
                in_chart += shown
            assert sorted(in_chart) == sorted(group["row"])
            here.page.locator("#clear").click()
            assert here.rows() == everything
            assert bars.last.get_attribute("aria-pressed") == "false"


def test_the_table_of_a_histogram_counts_what_its_bars_show(run: Path, browser: Browser, folder: Path) -> None:
    frame = pd.read_parquet(run / "shards")
    groups = [rows for _, rows in sorted(frame.groupby(["start_source", "eps"]), key=lambda one: one[1].index[0])]
    with visit(browser, folder) as here:
        for number, rows in enumerate(groups):
            figure = here.page.locator(f"figure:has([aria-labelledby^='mape-{number}-t'])")
            cells = figure.locator("data").evaluate_all("all => all.map(one => [one.dataset.key, Number(one.value)])")
            for series in ("before", "after, as PNG"):
                assert sum(value for key, value in cells if f"/{series}/" in key) == len(rows)


def test_text_lists_and_order_are_those_of_pandas(run: Path, browser: Browser, folder: Path) -> None:
    frame = pd.read_parquet(run / "shards")
    with visit(browser, folder) as here:
        page = here.page
        page.locator("[data-filter=start_source]").select_option("spiral")
        page.locator("[data-filter=eps]").select_option("1")
        assert here.rows() == frame[(frame["start_source"] == "spiral") & (frame["eps"] == 1)]["row"].tolist()
        page.locator("[data-filter=eps]").select_option("inf")
        page.locator("#sort").select_option("-mape")
        chosen = frame[(frame["start_source"] == "spiral") & np.isinf(frame["eps"])]
        assert here.rows() == chosen.sort_values("mape", ascending=False)["row"].tolist()
        page.locator("#clear").click()
        page.locator("#find").fill(frame["x_in_name"].iloc[20].upper() + " NOISE")
        named = (frame["x_in_name"] == frame["x_in_name"].iloc[20]) & (frame["start_source"] == "noise")
        assert here.rows() == frame[named]["row"].tolist()
        page.locator("#find").fill("nothing is called so")
        assert here.rows() == []


def test_a_selection_is_saved_as_csv(run: Path, browser: Browser, folder: Path) -> None:
    frame = pd.read_parquet(run / "shards")
    with visit(browser, folder, "#sort=-mape&eps=Infinity") as here:
        with here.page.expect_download() as download:
            here.page.locator("#csv").click()
        saved = pd.read_csv(download.value.path())
    expected = frame[np.isinf(frame["eps"])].sort_values("mape", ascending=False)[saved.columns]
    assert {"row", "x_in_name", "mape", "distance", "class_out"} <= set(saved.columns)
    for column in saved.columns.drop(["mape_note", "class_in", "class_start", "class_out"]):
        assert saved[column].tolist() == expected[column].tolist(), column


def test_a_link_restores_what_it_was_copied_from(browser: Browser, folder: Path) -> None:
    with visit(browser, folder) as here:
        here.page.locator("[data-filter=start_source]").select_option("noise")
        here.page.locator("#sort").select_option("mape")
        here.page.locator("#find").fill("fakedata")
        here.page.locator("[data-chart=mape-2]").first.click()
        shown = here.rows()
        assert 0 < len(shown) < 5
        here.page.locator(".card").last.click()
        here.page.locator("#panel-title").wait_for()
        title = here.page.locator("#panel-title").inner_text()
        here.page.reload()
        here.page.locator("#panel-title").wait_for()
        assert here.page.locator("#panel-title").inner_text() == title
        assert here.rows() == shown
        assert here.page.locator("#find").input_value() == "fakedata"
        assert here.page.locator("#sort").input_value() == "mape"
        assert here.page.locator("[aria-pressed=true]").count() == 1


def test_all_of_it_works_by_keyboard(browser: Browser, folder: Path) -> None:
    with visit(browser, folder) as here:
        page = here.page
        everything = len(here.rows())
        _tab_to(here, "[data-chart=mape-2]")
        first = _focused(here)
        page.keyboard.press("End")
        assert _focused(here) != first
        page.keyboard.press("Enter")
        assert len(here.rows()) < everything
        page.keyboard.press("Space")
        assert len(here.rows()) == everything
        _tab_to(here, "#clear")
        _tab_to(here, ".card")
        page.keyboard.press("Tab")
        opener = _focused(here)
        page.keyboard.press("Enter")
        page.locator("#panel-title", has_text="Row 1:").wait_for()
        assert page.evaluate("document.querySelector('#panel').contains(document.activeElement)")
        page.keyboard.press("Escape")
        page.locator("#panel").wait_for(state="hidden")
        assert _focused(here) == opener
        page.keyboard.press("Enter")
        page.locator("#panel-title", has_text="Row 1:").wait_for()
        page.keyboard.press("ArrowRight")
        page.locator("#panel-title", has_text="Row 2:").wait_for()
        page.locator("#close").press("Enter")
        page.locator(".card[data-row='2']:focus").wait_for()
        assert "row=" not in page.url


def test_the_difference_is_that_of_the_two_images(run: Path, browser: Browser, folder: Path) -> None:
    """At four times its brightness, averaged over blocks, because the browser enlarges the image."""
    row = pd.read_parquet(run / "shards").iloc[5]
    x_out, start = (
        np.asarray(Image.open(BytesIO(row[name]["bytes"])), dtype=np.float64) for name in ("image", "start")
    )
    with visit(browser, folder) as here:
        here.open_row(5)
        here.page.locator("[data-gain]").fill("1")
        shot = Image.open(BytesIO(here.page.locator(".difference").screenshot())).convert("RGB")
        assert here.page.locator("output").inner_text() == "1 ×"
        here.page.locator("[data-gain]").fill("4")
        bright = Image.open(BytesIO(here.page.locator(".difference").screenshot())).convert("RGB")
    expected = np.abs(x_out - start).reshape(4, 8, 4, 8, 3).mean((1, 3))
    assert expected.max() > 20
    found = np.asarray(shot.resize((4, 4), Image.Resampling.BOX), dtype=np.float64)
    np.testing.assert_allclose(found, expected, atol=8)
    assert np.asarray(bright, dtype=np.float64).mean() > 2 * np.asarray(shot, dtype=np.float64).mean()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(scheme: str, browser: Browser, folder: Path, imperfect: Path, tmp_path: Path) -> None:
    compared = compare_runs(read_runs([folder.parent.parent, imperfect]), tmp_path / "c.html")
    with visit(browser, compared, color_scheme=scheme) as here:
        here.page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
        assert here.violations() == []
    with visit(browser, folder, color_scheme=scheme) as here:
        background = here.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == (scheme == "dark")
        here.page.locator("[data-bar]").first.click()
        here.page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
        assert here.violations() == []
        here.page.locator(".card").first.click()
        here.page.locator("#panel-title").wait_for()
        here.page.locator("#panel details").evaluate_all("all => all.forEach(one => one.open = true)")
        assert here.violations() == []


def test_nothing_is_wider_than_a_phone(browser: Browser, folder: Path, hostile: tuple[Path, list[str]]) -> None:
    for path in (folder, write_page(hostile[0])):
        with visit(browser, path, viewport={"width": 320, "height": 700}) as here:
            too_wide = "element => element.scrollWidth - element.clientWidth"
            assert here.page.locator("html").evaluate(too_wide) == 0
            here.open_row(1)
            assert here.page.locator("#panel").evaluate(too_wide) == 0


@pytest.mark.parametrize("single_file", [False, True])
def test_hostile_names_are_shown_and_do_nothing(
    single_file: bool, browser: Browser, hostile: tuple[Path, list[str]]
) -> None:
    run, names = hostile
    assert len(names) == len(HOSTILE)
    rows = pd.read_parquet(run / "shards")
    header = json.loads((run / "run.json").read_text())
    with visit(browser, write_page(run, single_file=single_file)) as here:
        everything = here.rows()
        cards = here.page.locator(".card")
        for row, text in zip(rows.to_dict("records"), cards.all_text_contents(), strict=True):
            for name in ("x_in_name", "start_name", "class_start", "class_out"):
                assert row[name] in text
        for number in everything:
            here.open_row(number)
            assert rows["x_in_name"][number] in (here.page.locator("#panel-title").text_content() or "")
        here.page.locator("#close").click()
        assert header["settings"]["encoder"] in (here.page.locator("header").text_content() or "")
        here.page.locator("#find").fill(HOSTILE[1])
        assert here.rows() == rows[rows["x_in_name"] == HOSTILE[1]]["row"].tolist()
        here.page.locator("#clear").click()
        with here.page.expect_download() as download:
            here.page.locator("#csv").click()
        cells = pd.read_csv(download.value.path(), dtype=str)["x_in_name"].tolist()
        assert cells == [f"'{name}" if name[0] in "=+-@" else name for name in rows["x_in_name"]]
        assert here.page.evaluate("window.hacked") is None


@pytest.mark.parametrize("form", ["folder", "single"])
def test_without_javascript_the_results_remain(form: str, browser: Browser, request: pytest.FixtureRequest) -> None:
    with visit(browser, request.getfixturevalue(form), java_script_enabled=False) as here:
        page = here.page
        assert "images reach a MAPE below 0.1" in page.locator("h1").inner_text().replace("\N{NO-BREAK SPACE}", " ")
        assert page.locator("#results-title ~ .scroll table").is_visible()
        assert page.locator("svg.chart").count() == 2 + 6 + 2
        assert all(page.locator("svg.chart").nth(place).is_visible() for place in range(10))
        assert page.locator(".card").count() == ROWS
        assert page.locator("noscript .notice").is_visible()
        assert not page.locator("#filters").is_visible()
        spiral = page.locator(".card[data-row='3'] img").nth(1)
        assert np.asarray(Image.open(BytesIO(spiral.screenshot())).convert("RGB")).std() > 30


def test_it_can_be_printed(browser: Browser, folder: Path) -> None:
    with visit(browser, folder) as here:
        here.page.emulate_media(media="print", color_scheme="dark")
        assert here.page.locator("h1").is_visible()
        assert here.page.locator(".card").first.is_visible()
        assert not here.page.locator("#filters").is_visible()
        assert here.page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
        assert here.page.evaluate("getComputedStyle(document.documentElement).color") == "rgb(0, 0, 0)"
        assert here.page.pdf().count(b"/Type /Page\n") >= 2


def test_what_is_missing_is_on_the_page(imperfect: Path, browser: Browser) -> None:
    frame = pd.read_parquet(imperfect / "shards")
    with visit(browser, write_page(imperfect)) as here:
        notices = " ".join(here.page.locator(".notice").all_inner_texts())
        assert f"{len(frame)} of {ROWS} rows are here" in notices
        assert "1 image could not be used" in notices
        assert "3 images are without a MAPE" in notices
        assert "<i>broken.png: cannot be decoded" in here.page.locator("#skipped-title + .scroll").inner_text()
        undefined = frame[~np.isfinite(frame["mape"].astype(float))]
        shown = []
        for bar in here.page.locator("[data-bar][aria-label$='undefined']").all():
            bar.click()
            shown += here.rows()
        assert sorted(shown) == undefined["row"].tolist()
        here.page.locator("#clear").click()
        texts = here.page.locator(".card").all_inner_texts()
        assert "MAPE undefined" in texts[0]
        assert "MAPE infinite" in texts[1]
        here.page.locator("#sort").select_option("mape")
        order = here.rows()
        assert order[0] == 2  # the exact one
        assert set(order[-3:]) == {0, 1, 3}
        here.open_row(3)
        assert here.page.locator("#panel .notice").inner_text() == "<b>why"
        expected = Expected(imperfect, ROWS)
        for key, value, text in here.page.locator("data").evaluate_all(
            "all => all.map(one => [one.dataset.key, one.value, one.textContent])"
        ):
            if not key.startswith("charts/mape-"):
                _assert_shows(expected(key), key, value, text)


def test_none_one_and_many_rows(run: Path, browser: Browser, tmp_path: Path) -> None:
    empty, one, many = (Path(shutil.copytree(run, tmp_path / name)) for name in ("empty", "one", "many"))
    for path in (empty, one, many):
        shutil.rmtree(path / "shards")
    header = json.loads((run / "run.json").read_text())
    source = pq.read_table(run / "shards" / "00000.parquet")
    for path, rows in ((one, 1), (many, 1000)):
        (path / "run.json").write_text(json.dumps({**header, "rows": rows, "rows_per_shard": rows}))
        table = pa.concat_tables([source] * 100).slice(0, rows)
        open_run(path).write_shard(0, [{**row, "row": n} for n, row in enumerate(table.to_pylist())], ShardRecord())
    with visit(browser, write_page(empty)) as here:
        assert here.page.locator("h1").inner_text() == "No attack has finished yet"
        assert f"0 of {ROWS} rows are here" in here.page.locator(".notice").inner_text()
    with visit(browser, write_page(one)) as here:
        assert "1 image reaches" in here.page.locator("h1").inner_text().replace("0 of ", "")
        assert here.rows() == [0]
    with visit(browser, write_page(many)) as here:
        assert here.page.locator(".card").count() == 48
        assert here.page.locator("#more").inner_text() == "Show 48 more"
        here.page.locator("#more").click()
        assert here.page.locator(".card").count() == 96
        assert here.page.evaluate("document.activeElement.dataset.row") == "48"
        assert here.rows() == list(range(1000))
        here.open_row(999)
        assert here.page.locator("#panel-place").inner_text() == "1000 of 1000"


def _assert_shows(expected: float, key: str, value: str, text: str) -> None:
    """The exact value is that of the run, and the text is that value to three digits."""
    if not np.isfinite(expected):
        assert value == "", key
        assert text in ("undefined", "infinite", "inf"), key
        return
    assert float(value) == pytest.approx(expected, rel=1e-12, abs=1e-300), key
    shown = expected + 1 if key.endswith("/restart") else expected  # tries are counted from one
    assert parse(text) == pytest.approx(shown, rel=5.1e-3, abs=1e-300), key


def _assert_in_range(shown: list[int], group: pd.DataFrame, bar: Locator) -> None:
    """The shown rows are those of the group whose MAPE is in the range that the bar is named after."""
    label = bar.get_attribute("aria-label") or ""
    low, high = map(parse, label.split(", ", 1)[1].split(" to "))
    mape = group["mape"]
    margin = 0.005  # edges are rounded to three digits
    surely = group[(mape > low * (1 + margin)) & (mape < high * (1 - margin))]
    perhaps = group[(mape >= low * (1 - margin)) & (mape <= high * (1 + margin))]
    assert set(surely["row"]) <= set(shown) <= set(perhaps["row"])
    assert label.startswith(f"{len(shown)} images")


def _tab_to(here: Visit, selector: str) -> None:
    for _ in range(100):
        here.page.keyboard.press("Tab")
        if here.page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    pytest.fail(f"the Tab key does not reach {selector}")


def _focused(here: Visit) -> str:
    return str(here.page.evaluate("document.activeElement.outerHTML.slice(0, 200)"))

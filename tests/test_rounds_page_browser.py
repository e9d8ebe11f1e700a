"""The page of a training with rounds, in a browser."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import Browser

from oodattack.core.errors import InputError
from oodattack.pipelines import rounds as rounds_pipeline
from oodattack.pipelines.train import train
from oodattack.report.page import write_page
from oodattack.settings.train import TrainSettings
from oodattack.training.round_store import read_rounds
from tests.audit_pages import assert_shows, at_pointer
from tests.browser import visit
from tests.digits import SIDE, write_photographs

ROUNDS, IMAGES = 2, 10
HOSTILE = ["<img src=x onerror=window.hacked=1>.png", "a#b%41?c&amp;d'e\"f.png", "\u202egnp.txt\u2066.png"]


@pytest.fixture(scope="module")
def training(digits: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory, few_resamples: None) -> TrainSettings:
    """Two rounds of ten images, with outliers whose names try to be markup."""
    root = tmp_path_factory.mktemp("rounds")
    photographs = write_photographs(root / "photographs", 12)
    # Every other outlier is held out, and only those are shown.
    for file, name in zip(sorted(photographs.iterdir())[1::2], HOSTILE, strict=False):
        file.rename(photographs / name)
    settings = TrainSettings(
        train=str(digits[1]),
        test=str(digits[1]),
        outliers=(str(photographs),),
        network="resnet8",
        size=SIDE,
        epochs=1,
        rounds=ROUNDS,
        round_epochs=1,
        round_images=IMAGES,
        eps=1.0,
        out=root / "net",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds_pipeline, "STEPS", 3)
        train(settings)
    return settings


@pytest.fixture(scope="module")
def images(training: TrainSettings) -> pd.DataFrame:
    """The rows of the gallery, as the rounds stored them."""
    stored = read_rounds(training.out)
    frames = [
        one.read_images().to_pandas().assign(round=number, limit=one.figures["EnergyBased"]["natural"]["threshold"])
        for number, one in enumerate(stored)
    ]
    frame = pd.concat(frames, ignore_index=True)
    frame["outcome"] = ["passes" if score <= limit else "rejected" for score, limit in frame[["score", "limit"]].values]
    return frame


@pytest.mark.parametrize("single_file", [False, True])
def test_every_number_is_that_of_the_rounds(
    single_file: bool, training: TrainSettings, images: pd.DataFrame, browser: Browser
) -> None:
    results = json.loads((training.out / "results.json").read_text())
    assert len(images) == 2 * IMAGES * (ROUNDS + 1)
    seen: set[str] = set()
    with visit(browser, write_page(training.out, single_file=single_file)) as here:
        assert here.rows() == list(range(len(images)))
        for number in [None, *images.index]:
            if number is not None:
                here.open_row(number)
            root = here.page.locator("body" if number is None else "#panel")
            for key, value, text in root.locator("data").evaluate_all(
                "all => all.map(one => [one.dataset.key, one.value, one.textContent])"
            ):
                seen.add(key)
                kind, _, rest = key.partition("/")
                if kind == "results":
                    expected = at_pointer(results, rest)
                elif kind == "passing":
                    of_it = images[(images["round"] == int(rest)) & (images["attack"] == "direct")]
                    expected = (of_it["outcome"] == "passes").sum()
                elif kind == "rounds":
                    row, column = rest.split("/")
                    expected = images.loc[int(row), column]
                else:
                    chart, name, _, place = rest.split("/")
                    figures = results["rounds"][int(place)]
                    if chart == "mape":
                        expected = figures["mape"][name]
                    elif chart == "pass":
                        expected = figures["EnergyBased"][name]["fpr95_in_positive"]["value"]
                    else:
                        expected = figures[chart.removeprefix("auroc-")][name]["auroc"]["value"]
                assert_shows(expected, key, value, text)
        pictures = here.page.locator("img")
        pictures.evaluate_all("all => all.forEach(one => one.loading = 'eager')")
        pictures.evaluate_all("all => Promise.all(all.map(one => one.decode()))")
    for number in range(ROUNDS + 1):
        for name in ("natural", *(["old"] if number else []), "new", "longer", "larger", "direct"):
            assert f"results/rounds/{number}/EnergyBased/{name}/fpr95_in_positive/value" in seen
            assert f"results/rounds/{number}/MaxSoftmax/{name}/auroc/high" in seen
    assert {f"rounds/{row}/{column}" for row in images.index for column in ("score", "score_before", "limit")} <= seen


def test_numbers_stand_where_their_headings_say(
    training: TrainSettings, images: pd.DataFrame, browser: Browser
) -> None:
    figures = json.loads((training.out / "results.json").read_text())["rounds"]

    def expected(title: str, row: str, number: int) -> float | None:
        found = figures[number]
        score = "MaxSoftmax" if "softmax" in title else "EnergyBased"
        if row == "accuracy":
            return float(found["accuracy"])
        if row == "new: MAPE":
            return float(found["mape"]["new"])
        if row == "threshold":
            return float(found[score]["natural"]["threshold"])
        if row.startswith("FPR95-out of "):
            return float(found[score][row.removeprefix("FPR95-out of ")]["fpr95_out_positive"]["value"])
        if row not in found[score]:
            return None
        return float(found[score][row]["auroc" if "AUROC" in title else "fpr95_in_positive"]["value"])

    passing = [
        int(((images["round"] == number) & (images["attack"] == "direct") & (images["outcome"] == "passes")).sum())
        for number in (0, ROUNDS)
    ]
    with visit(browser, write_page(training.out)) as here:
        assert here.page.locator("h1").inner_text() == (
            f"After {ROUNDS} rounds of training on attacked images, {passing[1]} of {IMAGES} new attacks on the energy"
            f" score pass; before the first, {passing[0]} of {IMAGES} did"
        )
        tables = here.page.locator("section > .scroll")
        assert tables.count() == 3
        for table in tables.all():
            title = table.get_attribute("aria-label") or ""
            for row in table.locator("tbody tr").all():
                name = row.locator("th").inner_text()
                for number, cell in enumerate(row.locator("td").all()):
                    value = expected(title, name, number)
                    first = cell.locator("data").first.get_attribute("value") if value is not None else None
                    assert (cell.inner_text() == "–") == (value is None), (title, name, number)
                    assert first is None or float(first) == pytest.approx(value, rel=1e-12), (title, name, number)


def test_lists_choose_rounds_attacks_and_outcomes(
    training: TrainSettings, images: pd.DataFrame, browser: Browser
) -> None:
    with visit(browser, write_page(training.out)) as here:
        here.page.locator("[data-filter=round]").select_option("1")
        here.page.locator("[data-filter=attack]").select_option("direct")
        chosen = images[(images["round"] == 1) & (images["attack"] == "direct")]
        assert here.rows() == chosen.index.tolist()
        here.page.locator("#clear").click()
        for outcome in images["outcome"].unique():
            here.page.locator("[data-filter=outcome]").select_option(outcome)
            assert here.rows() == images.index[images["outcome"] == outcome].tolist()
            here.open_row(here.rows()[-1])
            assert f"x_out {outcome}, " in here.page.locator("#panel").inner_text()
            here.page.locator("#close").click()
        here.page.locator("#clear").click()
        here.page.locator("#find").fill(HOSTILE[0])
        assert here.rows() == images.index[images["start_name"] == HOSTILE[0]].tolist() != []
        assert HOSTILE[0] in (here.page.locator(".card").first.text_content() or "")
        assert here.page.evaluate("window.hacked") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(scheme: str, training: TrainSettings, browser: Browser) -> None:
    with visit(browser, write_page(training.out), color_scheme=scheme) as here:
        here.page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
        assert here.violations() == []
        here.page.locator(".card").first.click()
        here.page.locator("#panel-title").wait_for()
        assert here.violations() == []


def test_nothing_is_wider_than_a_phone(training: TrainSettings, browser: Browser) -> None:
    with visit(browser, write_page(training.out), viewport={"width": 320, "height": 700}) as here:
        too_wide = "element => element.scrollWidth - element.clientWidth"
        assert here.page.locator("html").evaluate(too_wide) == 0
        here.open_row(1)
        assert here.page.locator("#panel").evaluate(too_wide) == 0


def test_without_javascript_the_results_remain(training: TrainSettings, browser: Browser) -> None:
    with visit(browser, write_page(training.out), java_script_enabled=False) as here:
        assert f"After {ROUNDS} rounds of training on attacked images" in here.page.locator("h1").inner_text()
        assert here.page.locator("svg.chart").count() == 4
        assert all(here.page.locator("svg.chart").nth(place).is_visible() for place in range(4))
        assert here.page.locator("#overview-title ~ .scroll table").is_visible()


def test_an_unfinished_training_has_a_page(training: TrainSettings, browser: Browser, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(training.out, tmp_path / "net"))
    shutil.rmtree(copy / "rounds" / "002")
    with visit(browser, write_page(copy)) as here:
        assert "not finished: 1 of 2 rounds are here" in here.page.locator(".notice").first.inner_text()
        command = here.page.locator("footer code").inner_text()
        assert f"--test {training.test}" in command
        assert "--rounds 2 --round-epochs 1 --round-images 10 --eps 1" in command
    header = copy / "rounds" / "001" / "train.json"
    header.write_text(header.read_text()[:20])
    with pytest.raises(InputError, match=r"cannot read .*train\.json: .*; copy it from the directory of the training"):
        write_page(copy)
    shutil.rmtree(copy / "rounds" / "001")
    with visit(browser, write_page(copy)) as here:
        assert "No round has finished yet" in here.page.locator("h1").inner_text()
    shutil.rmtree(copy / "rounds")
    with pytest.raises(InputError, match=r"expected a training with rounds, got .* a training without --rounds has no"):
        write_page(copy)

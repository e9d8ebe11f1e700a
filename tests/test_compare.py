"""Comparisons of runs: which images pair, and every number on the page against the shards."""

import json
import re
import shutil
from collections.abc import Callable
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from oodattack.pipelines.attack import run_attack
from oodattack.report.compare import read_runs
from oodattack.report.intervals import Interval, difference, fraction, paired_difference, ratio
from oodattack.report.page.compare_runs import compare_runs
from oodattack.report.paired import Against, Mapes, against
from oodattack.runs import ShardRecord, open_run
from oodattack.settings import AttackSettings
from tests.audit_pages import assert_shows
from tests.cli import oodattack

SMALL, NOISE = 0.001, 1e-6
Attacked = Callable[..., Path]


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Attacked:
    """Make a small run with other settings than usual."""

    def make(**changes: object) -> Path:
        out = tmp_path_factory.mktemp("compare") / "run"
        settings = {"images": "torchvision:FakeData", "start": ("noise", "spiral"), "eps": (0.2, float("inf"))}
        fixed = {"encoder": "python:tests.factories:tiny", "limit": 9, "steps": 12, "batch_size": 12, "device": "cpu"}
        run_attack(AttackSettings.of({**fixed, **settings, **changes, "out": out}))
        return out

    return make


@pytest.fixture(scope="module")
def first(attacked: Attacked) -> Path:
    return attacked()


@pytest.fixture(scope="module")
def others(attacked: Attacked, first: Path) -> list[Path]:
    """Starts in another order with fewer steps, other noise, and an imperfect copy."""
    copy = Path(shutil.copytree(first, attacked(steps=1).parent / "copy"))
    opened = open_run(copy)
    opened.shard(opened.shard_count - 1).unlink()
    rows = opened.read_shard(0).to_pylist()
    for place, mape in ((0, None), (5, 0.0), (6, None), (8, 1e-12)):
        rows[place]["mape"] = mape
    opened.shard(0).unlink()
    opened.write_shard(0, rows, ShardRecord())
    return [attacked(start=("spiral", "noise"), steps=3), attacked(seed=1), copy]


def numbers(page: Path) -> list[tuple[str, str, str]]:
    """Key, value and text of all numbers on a page."""
    found = re.findall(r'<data value="([^"]*)" data-key="([^"]*)">([^<]*)</data>', page.read_text())
    return [(unescape(key), value, unescape(text)) for value, key, text in found]


class ExpectedRuns:
    """The value of each number on the page that compares runs, by its key."""

    def __init__(self, runs: list[Path], independent: set[tuple[str, str]]) -> None:
        self.frames = {letter: pd.read_parquet(run / "shards") for letter, run in zip("ABCDEF", runs, strict=False)}
        self.independent = independent
        keys = [key for frame in self.frames.values() for key in self.groups(frame)]
        self.rows = list(dict.fromkeys(keys))

    def groups(self, frame: pd.DataFrame) -> list[tuple[str, float]]:
        return list(frame[["start_source", "eps"]].drop_duplicates().itertuples(index=False, name=None))

    def of(self, letter: str, row: int) -> pd.DataFrame:
        start, eps = self.rows[row]
        frame = self.frames[letter]
        return frame[(frame["start_source"] == start) & (frame["eps"] == eps)].set_index("x_in_name")

    def against(self, letter: str, row: int) -> tuple[pd.Series, pd.Series, bool]:
        """The defined MAPEs of A and of another run, and whether they pair."""
        one, other = (self.of(name, row)["mape"].dropna() for name in ("A", letter))
        paired = (letter, self.rows[row][0]) not in self.independent
        if paired:
            names = one.index.intersection(other.index)
            one, other = one[names], other[names]
        return one, other, paired

    def ratio(self, letter: str, row: int) -> Interval:
        one, other, paired = self.against(letter, row)
        logs = [np.log(np.maximum(values, NOISE)) for values in (one, other)]
        found = stats.ttest_rel(logs[1], logs[0]) if paired else stats.ttest_ind(logs[1], logs[0], equal_var=False)
        middle = logs[1].mean() - logs[0].mean()
        ends = found.confidence_interval()
        return Interval(*np.exp([middle, ends.low, ends.high]))

    def below(self, letter: str, row: int) -> Interval:
        hits = self.of(letter, row)["mape"].dropna() < SMALL
        ends = stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
        return Interval(hits.mean(), ends.low, ends.high)

    def difference(self, letter: str, row: int) -> Interval:
        one, other, paired = self.against(letter, row)
        hits = [(values < SMALL).to_numpy() for values in (one, other)]
        return paired_difference(*hits) if paired else difference(fraction(hits[0]), fraction(hits[1]))

    def __call__(self, key: str) -> float:
        letter, rest = key.split("/", 1)
        if letter == "charts":
            _, place, letter, which = rest.split("/")
            column = {"value": "median", "low": "lower", "high": "upper"}.get(which, which)
            return self(f"{letter}/{place}/{column}")
        if rest in ("ratios", "smaller", "larger"):
            ratios = [self.ratio(letter, row) for row in range(len(self.rows))]
            return {
                "ratios": len(ratios),
                "smaller": sum(one.high < 1 for one in ratios),
                "larger": sum(one.low > 1 for one in ratios),
            }[rest]
        row, name, *end = rest.split("/")
        if end:
            return float(getattr(getattr(self, name)(letter, int(row)), end[0]))
        rows = self.of(letter, int(row))
        if name == "pairs":
            return len(self.against(letter, int(row))[0])
        return float(
            {
                "eps": self.rows[int(row)][1],
                "count": len(rows),
                "median": rows["mape"].median(),
                "lower": rows["mape"].quantile(0.25),
                "upper": rows["mape"].quantile(0.75),
                "before": rows["mape_before"].median(),
                "gradient_evaluations": rows["gradient_evaluations"].mean(),
            }[name]
        )


def test_every_number_of_a_comparison_is_that_of_the_runs(first: Path, others: list[Path], tmp_path: Path) -> None:
    expected = ExpectedRuns([first, *others], independent={("C", "noise")})
    page = compare_runs(read_runs([first, *others]), tmp_path / "c.html")
    shown = numbers(page)
    assert {"B/0/ratio/low", "C/0/ratio/high", "D/3/difference/value", "charts/mape/0/A/before"} <= {
        key for key, _, _ in shown
    }
    for key, value, text in shown:
        assert_shows(expected(key), key, value, text)
    pairs = {key for key, _, _ in shown if key.endswith("/pairs")}
    assert pairs == {f"{letter}/{row}/pairs" for letter in "BCD" for row in range(4)} - {"C/0/pairs", "C/1/pairs"}
    text = page.read_text()
    assert text.count("<td>independent</td>") == 2
    assert "C and A did not attack the same images from the same starts in 2 rows of the table" in text
    assert "B and A did not attack" not in text
    assert "D is not finished." in text


def test_images_of_the_same_names_pair_only_if_they_are_the_same(attacked: Attacked, tmp_path: Path) -> None:
    for folder, seed in (("one", 0), ("other", 1)):
        (tmp_path / folder).mkdir()
        for number in range(3):
            pixels = np.random.default_rng([seed, number]).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{number}.png")
    one, other = (attacked(images=str(tmp_path / folder), start=("spiral",), eps=(1.0,)) for folder in ("one", "other"))
    copy = Path(shutil.copytree(one, tmp_path / "copy"))
    header = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**header, "format": 3}))  # whose digests are not of contents
    found = read_runs([one, other, one, copy])
    pairs = [found.against(0, number) for number in (1, 2, 3)]
    assert [one and one.pairs for one in pairs] == [None, 3, None]


def test_a_single_pair_and_no_mape_at_all(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = Path(shutil.copytree(first, tmp_path / "copy"))
    opened = open_run(copy)
    for number in opened.done():
        rows = opened.read_shard(number).to_pylist()
        opened.shard(number).unlink()
        kept = [row | {"mape": None} if row["start_source"] == "noise" or row["row"] >= 4 else row for row in rows]
        opened.write_shard(number, kept, ShardRecord())
    outcome = oodattack(capsys, "compare", first, copy, "--out", tmp_path / "c.html")
    assert outcome.code == 0, outcome.err
    shown = {key: (value, text) for key, value, text in numbers(tmp_path / "c.html")}
    assert shown["B/2/ratio/value"] == ("1.0", "1")
    assert shown["B/2/ratio/low"] == ("0.0", "0")
    assert shown["B/2/ratio/high"] == ("", "infinite")
    assert shown["B/0/difference/value"] == ("", "undefined")
    assert "B/0/ratio/value" not in shown


@pytest.mark.parametrize("digests", ["same", "others"])
def test_an_infinite_mape_has_no_ratio_but_is_not_below(digests: str) -> None:
    part, contents = ("noise", 1.0), ("images", "starts")
    one = Mapes({part: {0: 0.0001, 1: 0.0001, 2: 0.0001}}, {"noise": contents})
    other = Mapes({part: {0: float("inf"), 1: 0.01, 2: 0.01}}, {"noise": contents if digests == "same" else ("", "")})
    found = against(one, other, part)
    assert found is not None
    assert found.ratio is not None
    assert found.ratio.value == pytest.approx(100)
    assert found.below.value == -1
    assert against(one, Mapes({part: {0: float("inf")}}, one.contents), part) == Against(
        None, paired_difference(np.array([True]), np.array([False])), 1
    )


def test_shares_are_compared_image_by_image_only_if_images_pair() -> None:
    part, mapes = ("noise", 1.0), {number: 0.01 * (number % 2) for number in range(20)}
    one = Mapes({part: mapes}, {"noise": ("images", "starts")})
    same = Mapes({part: dict(reversed(mapes.items()))}, one.contents)
    paired, independent = against(one, same, part), against(one, Mapes({part: mapes}, {}), part)
    assert paired is not None
    assert independent is not None
    assert (paired.pairs, independent.pairs) == (20, None)
    assert paired.below.value == independent.below.value == 0
    assert paired.below.high < 0.7 * independent.below.high
    assert paired.ratio == Interval(1, 1, 1)


def test_published_intervals_of_paired_differences() -> None:
    """Newcombe (Stat. Med. 17, 1998, 2635-2650), Table III, and Fagerland, Lydersen and Laake (2014)."""
    for counts, expected in (((36, 12, 2, 0), (0.0569, 0.3404)), ((1, 1, 7, 12), (-0.507, -0.026))):
        both, only_second, only_first, neither = counts
        first = np.repeat([True, False, True, False], [both, only_second, only_first, neither])
        second = np.repeat([True, True, False, False], [both, only_second, only_first, neither])
        found = paired_difference(first, second)
        assert (found.low, found.high) == pytest.approx(expected, abs=6e-4)


def test_ratios_of_mapes() -> None:
    random = np.random.default_rng(0)
    images = np.exp(random.normal(-6, 1, 40))
    better = images * np.exp(random.normal(-0.2, 0.1, 40))
    paired, independent = (ratio(images, better, paired=paired) for paired in (True, False))
    assert paired.value == pytest.approx(independent.value)
    assert paired.high < 1 < independent.high
    zero = ratio(np.array([0.0, 1e-9, 0.1]), np.array([1e-12, 0.0, 0.1]), paired=True)
    assert (zero.value, zero.low, zero.high) == (1, 1, 1)
    single = ratio(np.array([0.1]), np.array([0.2, 0.2]), paired=False)
    assert single.value == pytest.approx(2)
    assert (single.low, single.high) == (0, float("inf"))

"""The benchmarks on tiny networks: what they count, choose, store and print."""

import doctest
import importlib
import importlib.util
import json
import math
import runpy
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from operator import le
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks import ablation, families, precision, smallest_ball, speed
from benchmarks import compare as compare_program
from benchmarks.attackers import Attacker, Counter, art_images, attackers
from benchmarks.compare import compare, parse_budgets
from benchmarks.inputs import Case, load_case
from benchmarks.measure import Measured, Results, measure
from benchmarks.plot import draw
from benchmarks.table import Row, Side, best_step, page, rows_of, side
from torch import Tensor, nn

from oodattack import attack
from oodattack.core.ball import distance
from oodattack.core.errors import InputError
from oodattack.core.gradient import Autograd
from oodattack.core.methods import Fast
from oodattack.core.metrics import mape
from oodattack.core.problem import make_problem
from oodattack.settings.attack import AttackSettings
from oodattack.speed import prepare

needs_art = pytest.mark.skipif(
    importlib.util.find_spec("art") is None, reason="ART is not installed: pip install 'oodattack[benchmark]'"
)
TINY: dict[str, Any] = {
    "encoder": "python:tests.factories:tiny",
    "images": "torchvision:FakeData",
    "start": "noise",
    "limit": 3,
    "out": "unused",
    "eps": 2.0,
    "device": "cpu",
}


def case(**changes: Any) -> Case:
    return load_case(AttackSettings.of({**TINY, **changes}))


@pytest.mark.parametrize("pixels", [None, 256])
@pytest.mark.parametrize("method", ["paper", "plain", "fast"])
def test_the_counter_agrees_with_the_attacks_own_count(method: str, pixels: int | None) -> None:
    tiny = case()
    f = Counter(tiny.prepared)
    result = attack(
        f, tiny.start, tiny.target, eps=tiny.eps, steps=7, method=method, pixels=pixels, restarts=2, check=False
    )
    assert f.backwards == int(result.gradient_evaluations.sum())
    assert f.forwards == f.backwards + int(result.forward_evaluations.sum())


def test_results_are_measured_on_the_decoded_image_by_the_original_encoder() -> None:
    tiny = case()
    seen: list[Tensor] = []

    def nearly(f: nn.Module, at: Case, rows: slice, steps: int, step_size: float | None, pixels: int | None) -> Tensor:
        seen.append(f(at.start[rows]))
        return at.start[rows] * 0.9 + 0.0007

    exact, saved = (
        measure(tiny, Attacker("n", "n", nearly), slice(1, 3), 4, None, saved=saved) for saved in (False, True)
    )
    image = tiny.start[1:3] * 0.9 + 0.0007
    for one, there in ((exact, image), (saved, (image * 255).round() / 255)):
        expected = mape(tiny.encoder(there), tiny.target[1:3])
        np.testing.assert_allclose(one.mape, expected.tolist(), rtol=1e-5)
        np.testing.assert_allclose(one.distance, distance(there, tiny.start[1:3], 2))
    assert exact.mape != saved.mape
    assert (exact.forwards, exact.backwards, exact.first) == (2, 0, 1)
    torch.testing.assert_close(seen[0], tiny.encoder(tiny.start[1:3]), rtol=1e-4, atol=1e-5)


@needs_art
def test_art_is_run_correctly_and_counted() -> None:
    tiny = case(norm="linf", eps="10.6/255")  # rounding to the nearest of 256 levels would leave this ball
    (art,) = (one for one in attackers(tiny) if one.name == "art")
    assert art.step_sizes == pytest.approx([10.6 / 255 / part for part in (20, 10, 4)])
    one = measure(tiny, art, slice(0, 3), 20, art.step_sizes[1], saved=False)
    assert (one.backwards, one.forwards) == (20 * 3, 2 * 20 * 3)
    assert max(one.distance) <= tiny.eps * (1 + 1e-5)
    before = mape(tiny.encoder(tiny.start), tiny.target)
    assert np.median(one.mape) < 0.9 * float(before.median())
    saved = measure(tiny, art, slice(0, 3), 20, art.step_sizes[1], saved=True)
    levels = 255 * np.array(saved.distance)
    np.testing.assert_allclose(levels, levels.round(), atol=1e-3)
    assert max(saved.distance) <= tiny.eps * (1 + 1e-5)
    f = Counter(tiny.prepared)
    art_images(f, tiny.start, tiny.x_in, tiny.eps, max_iter=5, step_size=0.01)
    assert len(f._forward_hooks) == 1  # ART leaves one for every layer that it is given by number


@needs_art
def test_the_optimiser_mode_of_art_leaves_its_ball() -> None:
    tiny = case(norm="linf", eps="16/255")
    found = art_images(tiny.prepared, tiny.start, tiny.x_in, 0.05, max_iter=35, optimizer=torch.optim.Adam, lr=0.1)
    assert float((found - tiny.start).abs().max()) > 1.5 * 0.05


def test_art_is_run_for_linf_only() -> None:
    assert [one.label for one in attackers(case())] == ["paper", "paper-tuned", "plain-tuned", "fast"]


def test_the_published_step_is_one_of_those_tried() -> None:
    paper, tuned, plain, fast = attackers(case(eps=5))
    assert paper.step_sizes == pytest.approx([0.05])
    assert paper.step_sizes[0] in tuned.step_sizes
    assert plain.step_sizes[3] == pytest.approx(0.25)
    assert list(tuned.step_sizes) == sorted(tuned.step_sizes)  # type: ignore[type-var]
    assert fast.step_sizes == (None,)


@pytest.mark.parametrize("pixels", [None, 256])
def test_our_methods_receive_the_case_and_the_step_size(pixels: int | None) -> None:
    tiny = case(norm="linf", eps="8/255", seed=5)
    for attacker, step_size in zip(attackers(tiny)[1:3], (0.004, 0.02), strict=True):
        found = attacker.run(tiny.prepared, tiny, slice(1, 3), 6, step_size, pixels)
        expected = attack(
            tiny.prepared, tiny.start[1:3], tiny.target[1:3], eps=8 / 255, norm=math.inf, steps=6, seed=[6, 7],
            method=attacker.name, step_size=step_size, pixels=pixels,
        )  # fmt: skip
        torch.testing.assert_close(found, expected.image)


def test_the_grid_search_is_within_the_budget() -> None:
    """The total number of evaluations is no larger than that of a method without a grid search."""
    tiny = case(eps=0.2)
    (fast,) = (attacker for attacker in attackers(tiny) if attacker.name == "fast")
    for steps in (9, 30, 100):
        found = measure(tiny, fast, slice(0, 3), steps, None, saved=True)
        assert 3 * (steps - steps // 3) < found.backwards <= 3 * steps


def test_the_whole_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    compare_program.main(TINY["encoder"], "noise", out, TINY["images"], eps="2", steps="8,3", limit=3, batch_size=2)
    assert sorted(path.name for path in out.iterdir()) == ["compare.png", "results.json", "table.md"]
    content = json.loads((out / "results.json").read_text())
    keys = {tuple(line[k] for k in ("name", "step_size", "steps", "saved", "first")) for line in content["measured"]}
    assert len(keys) == len(content["measured"])
    # Two budgets, two batches; the published step is used by `paper` and `paper-tuned`, and may be the best one.
    assert sum(not saved for *_, saved, _ in keys) == 2 * 2 * (7 + 7 + 1)
    assert 2 * 2 * 3 <= sum(saved for *_, saved, _ in keys) <= 2 * 2 * 4
    text = (out / "table.md").read_text()
    assert text in capsys.readouterr().out
    for steps in (3, 8):
        for label in ("paper", "paper-tuned", "plain-tuned", "fast"):
            assert f"| {steps} | `{label}` |" in text
    assert {"cpu", "cores", "threads", "torch"} <= set(content["header"]["machine"])
    for secret in (str(tmp_path), str(Path.cwd()), str(Path.home())):
        assert secret not in json.dumps(content)


def test_paths_are_not_recorded(tmp_path: Path) -> None:
    weights = tmp_path / "tiny.pth"
    torch.save(case().encoder.model.state_dict(), weights)
    header = case(encoder=f"{TINY['encoder']},weights={weights},mean=0.4/0.4/0.4").header
    assert header["encoder"] == "python:tests.factories:tiny,weights=tiny.pth,mean=0.4/0.4/0.4"


def test_an_interruption_loses_nothing_and_the_next_start_does_the_rest(tmp_path: Path) -> None:
    tiny = case()
    methods = attackers(tiny)
    methods = [methods[0], methods[3]]
    whole = compare(tiny, methods, [4], tmp_path / "whole", batch_size=2)

    calls = 0

    def cut(*arguments: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:  # after the warm-up and the first batch
            raise KeyboardInterrupt
        return methods[1].run(*arguments)

    with pytest.raises(KeyboardInterrupt):
        compare(tiny, [methods[0], replace(methods[1], run=cut)], [4], tmp_path / "cut", batch_size=2)
    path = tmp_path / "cut" / "results.json"
    before = json.loads(path.read_text())["measured"]
    assert [(line["name"], line["first"]) for line in before] == [("paper", 0), ("fast", 0), ("paper", 2)]
    rows = compare(tiny, methods, [4], tmp_path / "cut", batch_size=2)
    assert json.loads(path.read_text())["measured"][:3] == before  # including the times, so they were not run again
    for mine, other in zip(rows, whole, strict=True):
        np.testing.assert_array_equal(mine.float.percent, other.float.percent)
        np.testing.assert_array_equal(mine.saved.percent, other.saved.percent)


def test_another_comparison_is_not_resumed(tmp_path: Path) -> None:
    compare(case(limit=1), attackers(case())[-1:], [2], tmp_path)
    with pytest.raises(InputError, match=r"another eps; choose another --out"):
        compare(case(limit=1, eps=3), attackers(case())[-1:], [2], tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(InputError, match=r"expected the results of a comparison"):
        compare(case(limit=1), attackers(case())[-1:], [2], tmp_path)


def results(tmp_path: Path, *lines: Measured) -> Results:
    found = Results(tmp_path / "results.json", {})
    for line in lines:
        found.add(line)
    return found


def line(step_size: float | None, mapes: list[float], *, first: int = 0, saved: bool = False) -> Measured:
    return Measured("m", step_size, 10, saved, first, 3.0, 18, 15, mapes, [1.0] * len(mapes))


def test_batches_are_combined_and_work_is_counted_in_evaluations(tmp_path: Path) -> None:
    found = side(
        results(tmp_path, line(None, [0.03, 0.01]), line(None, [0.02], first=2)), "m", None, 10, [0, 2], saved=False
    )
    assert found.percent.tolist() == pytest.approx([3, 1, 2])
    assert found.quartiles.tolist() == pytest.approx([1.5, 2, 2.5])
    # 36 forward and 30 backward passes of 3 images: 30 evaluations and 6 forward passes alone.
    assert found.evaluations == pytest.approx((30 + 6 / 3) / 3)
    assert found.seconds == pytest.approx(6 / 3)


def test_the_best_step_is_chosen_and_one_at_the_edge_is_marked(tmp_path: Path) -> None:
    figures = {0.1: [0.03, 0.03, 0.0], 0.3: [0.02, 0.02, 0.9], 1.0: [0.025, 0.025, 0.025]}
    found = results(
        tmp_path,
        *(line(step, mapes) for step, mapes in figures.items()),
        *(line(step, mapes, saved=True) for step, mapes in figures.items()),
    )
    method = Attacker("m-tuned", "m", attackers(case())[0].run, (0.1, 0.3, 1.0))
    assert best_step(found, method, 10, [0]) == 0.3
    (row,) = rows_of(found, [method], [10], [0])
    assert (row.step_size, row.at_the_edge) == (0.3, False)
    (row,) = rows_of(found, [replace(method, step_sizes=(0.1, 0.3))], [10], [0])
    assert row.at_the_edge
    (row,) = rows_of(found, [replace(method, step_sizes=(0.3,))], [10], [0])
    assert not row.at_the_edge


def row(label: str, steps: int, exact: float, saved: float) -> Row:
    def figures(median: float) -> Side:
        return Side(np.array([0.5, 1, 2]) * median, np.ones(3), steps + 1.0, steps / 50)

    return Row(label, steps, None, False, figures(exact), figures(saved))


ROWS = [
    *(row("paper", 10, 8.0, 8.0), row("fast", 10, 4.0, 5.0)),
    *(row("paper", 100, 4.0, 4.2), row("fast", 100, 0.15, 0.3)),
]
HEADER = {
    "encoder": "e",
    "layer": "l",
    "latent_dim": 5,
    "images": ["a"] * 3,
    "start": "noise",
    "norm": "linf",
    "eps": 8 / 255,
    "seed": 0,
    "batch_size": 2,
    "machine": {"cpu": "c", "cores": 2, "threads": 1, "torch": "2", "python": "3"},
}


def test_the_ratios_of_the_page() -> None:
    text = page(ROWS, HEADER)
    assert "| 10 | `paper` | 2.0 | 1.6 | 10 | 1.0 | 1.0 |" in text
    # `paper` at 100 steps is as close as `fast` at 10: (101 / 11) times less work, 10 times less time.
    assert "| 100 | `paper` | 26.7 | 14.0 | 10 | 9.2 | 10.0 |" in text
    assert "| 100 | `fast` | own | 101.0 | 2e+03 | 0.15 | 0.112 – 0.225 | 33 % | 1 | 0.3 |" in text
    assert "Linf ball of 8/255" in text
    worse = page([*ROWS[:2], row("paper", 100, 0.01, 0.01), ROWS[3]], HEADER)
    assert "| 100 | `paper` | 0.1 | 0.0 | - | - | - |" in worse


def test_the_figure_draws_the_medians_against_work_and_time() -> None:
    work, time = draw(ROWS, HEADER).axes
    for axes, x in ((work, [11, 101]), (time, [0.2, 2.0])):
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        paper, paper_png, fast, fast_png = axes.lines[:4]
        for drawn, medians in ((paper, [8, 4]), (paper_png, [8, 4.2]), (fast, [4, 0.15]), (fast_png, [5, 0.3])):
            np.testing.assert_allclose(np.asarray(drawn.get_xdata(), dtype=float), x)
            np.testing.assert_allclose(np.asarray(drawn.get_ydata(), dtype=float), medians)


@pytest.mark.parametrize("text", ["0", "10,", "ten", "-1"])
def test_budgets_are_whole_numbers(text: str) -> None:
    with pytest.raises(InputError, match=r"expected --steps as whole numbers"):
        parse_budgets(text)


@pytest.mark.parametrize(
    ("program", "options", "message"),
    [
        ("compare", ["--start", "noise", "--images", "torchvision:FakeData", "--eps", "1,2", "--out", "{}"], "one eps"),
        ("compare", ["--start", "xray", "--images", "torchvision:FakeData", "--eps", "1", "--out", "{}"], "xray"),
        ("speed", ["--rounds", "0"], "expected rounds >= 1, got 0"),
        ("speed", ["--batch-size", "0"], "expected batch_size >= 1, got 0"),
    ],
)
def test_a_users_mistake_is_one_sentence(
    program: str,
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [option.format(tmp_path / "out") for option in options]
    monkeypatch.setattr(sys, "argv", [program, "--encoder", TINY["encoder"], *given])
    monkeypatch.delitem(sys.modules, f"benchmarks.{program}")  # as `python -m` would find it
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"benchmarks.{program}", run_name="__main__")
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_speed_measures_and_prints_three_tables(capsys: pytest.CaptureFixture[str]) -> None:
    speed.main([TINY["encoder"]], batch_size=2, rounds=1)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(f"| `{TINY['encoder']}` |") for line in lines) == 1 + 2 + 1
    ratio, slow, fast = (float(cell) for cell in lines[4].split("|")[2:5])
    assert fast / slow == pytest.approx(ratio, rel=0.1, abs=0.02)
    assert all(math.isfinite(float(cell)) for cell in lines[-1].split("|")[2:-1])


def test_a_ball_without_a_finite_radius_is_refused() -> None:
    with pytest.raises(InputError, match=r"expected a positive and finite eps, got inf"):
        case(eps="inf")


def test_an_all_zero_latent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a latent that is not all zeros"):
        case(encoder="python:tests.factories:dark,layer=output", images=str(black(tmp_path)), start="solid:white")


def black(folder: Path) -> Path:
    from PIL import Image

    path = folder / "black.png"
    Image.new("RGB", (32, 32)).save(path)
    return path


def counting(succeeds: Callable[[int], bool], probes: list[int]) -> Callable[[int], bool]:
    def ask(k: int) -> bool:
        probes.append(k)
        return succeeds(k)

    return ask


def test_bisection_finds_the_first_success() -> None:
    for low, high in ((-5, 30), (0, 3), (2, 16)):
        for least in range(low - 2, high + 3):
            probes: list[int] = []
            found = smallest_ball.first_success(counting(partial(le, least), probes), low, high)
            assert found == (None if least > high else max(low, least))
            assert low <= min(probes)
            assert max(probes) <= high
            assert len(probes) == len(set(probes))


def test_success_only_in_the_middle_is_found() -> None:
    assert smallest_ball.first_success(lambda k: 6 <= k <= 20, 0, 40) == 6


def test_the_smallest_ball_of_the_identity_reaches_x_in(capsys: pytest.CaptureFixture[str]) -> None:
    identity = {"encoder": "python:torch.nn:Flatten,size=8,layer=output", "images": TINY["images"], "start": "noise"}
    smallest_ball.main(**identity, method=["fast"], steps=100, limit=1, lowest=0.5, highest=20)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("fast: ")
    there = case(**identity, limit=1)
    apart = float((there.x_in - there.start).norm())
    assert abs(math.log(float(last.removeprefix("fast: ")) / apart, 1.1)) < 1.1


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(InputError, match=r"got 'papr'; did you mean 'paper'"):
        smallest_ball.main(TINY["encoder"], TINY["images"], "noise", method=["papr"], limit=1)


def test_each_family_has_a_line_in_the_table(tmp_path: Path) -> None:
    families.main(TINY["images"], "noise", tmp_path, family=["vit"], steps=2, limit=1)
    text = (tmp_path / "families.md").read_text()
    head, _, line = text.splitlines()[2:]
    assert line.startswith("| ViT-Tiny 64x64, random weights | ")
    assert line.count("|") == head.count("|")
    assert (tmp_path / "vit" / "results.json").exists()


def test_ratios_of_the_families() -> None:
    rows = [row("paper", 100, 4.0, 4.2), row("plain-tuned", 100, 1.0, 1.1), row("fast", 100, 0.5, 0.6)]
    assert (
        families.table({"Net": rows}).splitlines()[-1] == "| Net | 4 / 4.2 | 1 / 1.1 | 0.5 / 0.6 | 8 / 7 | 2 / 1.83 |"
    )


def test_families_without_their_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected --data, a folder whose weights/ contains the weights of resnet20"):
        families.main(TINY["images"], "noise", tmp_path, family=["resnet20"])
    with pytest.raises(InputError, match=r"did you mean 'glow'"):
        families.main(TINY["images"], "noise", tmp_path, family=["glw"])


def test_each_precision_has_a_line_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    precision.main("python:tests.factories:resnet20", TINY["images"], "noise", 5.0, steps=10, limit=3, batch_size=3)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [line[0] for line in lines] == ["32 bits", "gradients in bfloat16", "and a twin"]
    assert lines[0][1] == "1.00"
    shares = [int(line[3].rstrip("%")) for line in lines]
    assert shares[:2] == [0, 0]
    assert 0 < shares[2] <= 50  # neither the first step nor the last 40 %; of the others, those far from their target
    torch.manual_seed(0)  # the same weights again
    tiny = case(encoder="python:tests.factories:resnet20", eps=5.0)
    f = prepare(tiny.encoder, half=False, rough=False)
    result = attack(f, tiny.start, tiny.target, eps=5.0, steps=10, check=False)
    errors = 100 * mape(tiny.encoder(result.image), tiny.target).detach()
    assert float(lines[0][4]) == pytest.approx(float(errors.median()), rel=0.01)
    assert float(lines[0][5]) == pytest.approx(float(errors.log().mean().exp()), rel=0.01)


def test_each_part_is_removed_alone() -> None:
    """Each class overrides one verb of `fast`, or one part of its memory."""
    assert ablation.PARTS["nothing"] is Fast
    for method in list(ablation.PARTS.values())[1:]:
        changed = [name for name in vars(method) if not (name.startswith("__") and name != "__post_init__")]
        assert len(changed) == 1, changed
    start, problem = torch.zeros(1, 3, 2, 2), make_problem
    made = [
        method(
            nn.Flatten(),
            problem(start, start.flatten(1), torch.ones(1, 12), torch.ones(1), 2),
            Autograd(),
            [0],
            100,
            torch.tensor([0.1]),
        )
        for method in (Fast, ablation.PARTS["the schedule"])
    ]
    for attempt, last in zip(made, (0.0, 0.05), strict=True):
        steps = [float(attempt.nadam.step(torch.ones(1, 1))) for _ in range(100)]
        assert steps[-1] == pytest.approx(last, abs=1e-3)


def test_each_part_has_a_line_in_the_ablation_table(capsys: pytest.CaptureFixture[str]) -> None:
    ablation.main(TINY["encoder"], TINY["images"], "noise", "5", steps="10", limit=3, batch_size=3)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    lines = {row[1]: row for row in rows}
    assert list(lines) == list(ablation.PARTS)
    whole, rounded = lines["nothing"], lines["the search on the grid"]
    assert whole[3] == whole[5] == "1 (1–1)"
    assert rounded[2] == whole[2]  # the grid search runs after this is measured
    tiny = case()
    for line, grid_steps in ((whole, None), (rounded, 0)):
        result = attack(
            tiny.prepared, tiny.start, tiny.target, eps=5.0, steps=10, seed=tiny.seeds, pixels=256,
            grid_steps=grid_steps, check=False,
        )  # fmt: skip
        assert float(line[2]) == pytest.approx(100 * float(result.float_mape.median()), rel=0.02)
        assert float(line[4]) == pytest.approx(100 * float(result.mape.median()), rel=0.02)
        assert float(line[6]) == pytest.approx(float(result.distance.median()), rel=0.02)
    assert rounded[4] != whole[4]


@pytest.mark.parametrize("program", [ablation, precision])
def test_empty_batches_are_refused(program: Any) -> None:
    with pytest.raises(InputError, match="expected batch_size >= 1, got 0"):
        program.main(TINY["encoder"], TINY["images"], "noise", "5", batch_size=0)


def test_a_single_image_is_refused() -> None:
    with pytest.raises(InputError, match="expected at least 2 images, got 1"):
        ablation.main(TINY["encoder"], TINY["images"], "noise", "5", limit=1)


def test_errors_are_compared_image_by_image() -> None:
    errors, reference = torch.tensor([0.03, 0.2, 0.0]), torch.tensor([0.01, 0.1, 0.0])
    logs = np.log([3.0, 2.0, 1.0])  # two zeros have ratio 1
    margin = 1.96 * logs.std(ddof=1) / math.sqrt(3)
    middle, low, high = np.exp([logs.mean(), logs.mean() - margin, logs.mean() + margin])
    assert ablation.error_ratio(errors, reference) == f"{middle:.3g} ({low:.3g}–{high:.3g})"


def test_the_glow_learns_and_loads(tmp_path: Path) -> None:
    pytest.importorskip("normflows", reason="normflows is not installed: pip install 'oodattack[benchmark]'")
    from benchmarks.glow import glow, train_glow

    generator = torch.Generator().manual_seed(0)
    smooth = torch.rand(3, 6, 6, generator=generator)
    from torchvision.transforms.functional import to_pil_image

    to_pil_image(smooth).resize((96, 96)).save(tmp_path / "smooth.png")
    bits = [train_glow(tmp_path, tmp_path / f"{steps}.pt", steps=steps, batch_size=4) for steps in (1, 3)]
    assert all(0 < value < math.inf for value in bits)
    first, later = (torch.load(tmp_path / f"{steps}.pt", weights_only=True) for steps in (1, 3))
    assert any(not torch.equal(first[name], later[name]) for name in first)
    found = case(encoder=f"python:benchmarks.glow:glow,weights={tmp_path}/3.pt,layer=output", limit=1)
    model = glow()
    model.load_state_dict(later)
    with torch.no_grad():
        torch.testing.assert_close(found.target[:, 0], model.eval()(found.x_in))


@pytest.mark.parametrize("name", ["ablation", "attackers", "compare", "inputs", "smallest_ball"])
def test_the_examples_run(name: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(f"benchmarks.{name}"))
    assert (failed, tried > 0) == (0, True)

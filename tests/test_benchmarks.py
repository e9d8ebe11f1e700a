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
from benchmarks import ablation, adv_lib_attacks, families, frozen, precision, smallest_ball, speed
from benchmarks import compare as compare_program
from benchmarks.adam_cosine import AdamCosine
from benchmarks.art_attack import art_images
from benchmarks.attackers import Attacker, attackers, search_share
from benchmarks.compare import compare, parse_budgets
from benchmarks.counter import Counter
from benchmarks.inputs import Case, load_case
from benchmarks.measure import Measured, Results, measure
from benchmarks.plot import draw
from benchmarks.ratio import FLOOR, equal_weights, log_ratios, paired_ratio
from benchmarks.table import Row, Side, best_step, page, rows_of, side
from torch import Tensor, nn

from oodattack import attack
from oodattack.core.ball import distance, project
from oodattack.core.errors import InputError
from oodattack.core.gradient import Autograd
from oodattack.core.methods import Fast, Method
from oodattack.core.metrics import mape
from oodattack.core.problem import make_problem
from oodattack.settings.attack import AttackSettings
from oodattack.speed import prepare

needs_art = pytest.mark.skipif(
    importlib.util.find_spec("art") is None, reason="ART is not installed: pip install 'oodattack[benchmark]'"
)
needs_adv_lib = pytest.mark.skipif(
    not adv_lib_attacks.AVAILABLE, reason="adv-lib is not installed: pip install --no-deps adv-lib==0.2.8"
)
needs_scipy = pytest.mark.skipif(
    importlib.util.find_spec("scipy") is None, reason="SciPy is not installed: pip install 'oodattack[benchmark]'"
)
LABELS = ["paper", "paper-tuned", "adam-cosine", *(["apgd"] if adv_lib_attacks.AVAILABLE else []), "fast"]
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
    tiny = case(eps=20)  # a ball that no rounding leaves
    seen: list[Tensor] = []

    def nearly(f: nn.Module, at: Case, rows: slice, steps: int, step_size: float | None, grid_steps: int) -> Tensor:
        seen.append(f(at.start[rows]))
        assert (steps, grid_steps) == (4, 0)
        return at.start[rows] * 0.9 + 0.0007

    one = measure(tiny, Attacker("n", "n", nearly), slice(1, 3), 4, None, searched=False)
    image = tiny.start[1:3] * 0.9 + 0.0007
    for errors, apart, there in (
        (one.mape, one.distance, image),
        (one.png_mape, one.png_distance, (image * 255).round() / 255),
    ):
        expected = mape(tiny.encoder(there), tiny.target[1:3])
        np.testing.assert_allclose(errors, expected.tolist(), rtol=1e-5)
        np.testing.assert_allclose(apart, distance(there, tiny.start[1:3], 2))
    assert one.mape != one.png_mape
    assert (one.forwards, one.backwards, one.first) == (2, 0, 1)
    torch.testing.assert_close(seen[0], tiny.encoder(tiny.start[1:3]), rtol=1e-4, atol=1e-5)


@needs_art
def test_art_is_run_correctly_and_counted() -> None:
    tiny = case(norm="linf", eps="10.6/255")  # rounding to the nearest of 256 levels would leave this ball
    (art,) = (one for one in attackers(tiny) if one.name == "art")
    assert art.step_sizes == pytest.approx([10.6 / 255 / part for part in (20, 10, 4)])
    one = measure(tiny, art, slice(0, 3), 20, art.step_sizes[1], searched=False)
    assert (one.backwards, one.forwards) == (20 * 3, 2 * 20 * 3)
    assert max(one.distance) <= tiny.eps * (1 + 1e-5)
    before = mape(tiny.encoder(tiny.start), tiny.target)
    assert np.median(one.mape) < 0.9 * float(before.median())
    levels = 255 * np.array(one.png_distance)
    np.testing.assert_allclose(levels, levels.round(), atol=1e-3)
    assert max(one.png_distance) <= tiny.eps * (1 + 1e-5)
    f = Counter(tiny.prepared)
    art_images(f, tiny.start, tiny.x_in, tiny.eps, max_iter=5, step_size=0.01)
    assert len(f._forward_hooks) == 1  # ART leaves one for every layer that it is given by number


@needs_art
def test_the_optimiser_mode_of_art_leaves_its_ball() -> None:
    tiny = case(norm="linf", eps="16/255")
    found = art_images(tiny.prepared, tiny.start, tiny.x_in, 0.05, max_iter=35, optimizer=torch.optim.Adam, lr=0.1)
    assert float((found - tiny.start).abs().max()) > 1.5 * 0.05


def test_linf_has_more_competitors() -> None:
    assert [one.label for one in attackers(case())] == LABELS
    linf = [one.label for one in attackers(case(norm="linf", eps="8/255"))]
    installed = [
        name for name, module in (("lbfgsb", "scipy"), ("art-tuned", "art")) if importlib.util.find_spec(module)
    ]
    assert linf == [*LABELS[:-1], *installed, "fast"]


def test_the_published_step_is_one_of_those_tried() -> None:
    paper, tuned, adam, *_, fast = attackers(case(eps=5))
    assert paper.step_sizes == pytest.approx([0.05])
    assert paper.step_sizes[0] in tuned.step_sizes
    for one in (tuned, adam):
        assert list(one.step_sizes) == sorted(one.step_sizes)  # type: ignore[type-var]
        assert len(one.step_sizes) > 3
    assert fast.step_sizes == (None,)


@pytest.mark.parametrize("grid_steps", [0, 3])
def test_our_methods_receive_the_case_and_the_step_size(grid_steps: int) -> None:
    tiny = case(norm="linf", eps="8/255", seed=5)
    methods: tuple[str | type[Method], ...] = ("paper", AdamCosine)
    for attacker, method, step_size in zip(attackers(tiny)[1:3], methods, (0.004, 0.02), strict=True):
        found = attacker.run(tiny.prepared, tiny, slice(1, 3), 9, step_size, grid_steps)
        expected = attack(
            tiny.prepared, tiny.start[1:3], tiny.target[1:3], eps=8 / 255, norm=math.inf, steps=9 - grid_steps,
            seed=[6, 7], method=method, step_size=step_size, pixels=256 if grid_steps else None,
            grid_steps=grid_steps or None,
        )  # fmt: skip
        torch.testing.assert_close(found, expected.image)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_every_method_stays_in_its_ball_and_its_budget(norm: str) -> None:
    """With and without the search; no method does much less work than its budget either."""
    tiny = case(norm=norm, eps={"l2": 1.0, "linf": "8/255"}[norm])
    for attacker in attackers(tiny):
        for steps in (9, 30, 100):
            for searched in (False, True):
                found = measure(tiny, attacker, slice(0, 3), steps, attacker.step_sizes[0], searched=searched)
                assert found.backwards <= 3 * steps, attacker.label
                assert found.backwards > 3 * (steps - search_share(steps) - 2), attacker.label
                for apart in (found.distance, found.png_distance):
                    assert max(apart) <= tiny.eps * (1 + 1e-5), attacker.label


def test_the_search_returns_images_on_the_grid_for_every_method() -> None:
    tiny = case(norm="linf", eps="8/255")
    for attacker in attackers(tiny):
        levels = 255 * attacker.run(tiny.prepared, tiny, slice(0, 3), 30, attacker.step_sizes[0], 10)
        torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)


class Linear(nn.Module):
    """f(x) = A x, with orthonormal rows, so that every optimum has a closed form."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.rows: Tensor
        self.register_buffer("rows", torch.linalg.qr(torch.randn(192, 6, generator=generator))[0].T)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x.flatten(1) @ self.rows.T
        return found


def linear_problem() -> tuple[Linear, Tensor, Tensor, Tensor]:
    """f, starts in the middle of the box, targets at an L2 distance of 0.5, and the nearest images that reach them."""
    f = Linear()
    start = torch.full((2, 3, 8, 8), 0.5)
    generator = torch.Generator().manual_seed(1)
    move = torch.randn(2, 6, generator=generator)
    move = 0.5 * move / move.norm(dim=1, keepdim=True)
    return f, start, f(start) + move, start + (move @ f.rows).view_as(start)


@pytest.mark.parametrize("norm", [2, math.inf])
def test_adam_reaches_a_linear_target(norm: float) -> None:
    f, start, target, _ = linear_problem()
    found = attack(
        f, start, target, eps=1.0 if norm == 2 else 0.3, norm=norm, steps=200, step_size=0.02, method=AdamCosine
    )
    assert float(found.mape.max()) < 1e-3


def test_adam_computes_the_steps_of_torch() -> None:
    """Before the projection, in a ball that no step leaves: torch's Adam on the same directions."""
    f, start, target, _ = linear_problem()
    x = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
    losses = []
    for _ in range(6):
        loss = (f(x) - target).square().sum(1)
        losses.append(loss.detach())
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        x.grad = gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        optimizer.step()
        schedule.step()
    found = attack(f, start, target, eps=10.0, steps=6, step_size=0.01, method=AdamCosine)
    assert bool(((f(x) - target).square().sum(1) < torch.stack(losses).amin(0)).all())  # so the last is the best
    torch.testing.assert_close(found.image, x.detach(), atol=1e-5, rtol=0)


@needs_adv_lib
@pytest.mark.parametrize(("norm", "eps"), [(2.0, 0.25), (math.inf, 0.02)])
def test_apgd_reaches_the_optimum_of_a_linear_problem_and_returns_its_best_image(norm: float, eps: float) -> None:
    """The targets are out of reach: half-way there in L2, and in Linf where projected gradients end."""
    f, start, target, nearest = linear_problem()
    seen: list[Tensor] = []

    class Recording(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach().clone())
            found: Tensor = f(x)
            return found

    found = adv_lib_attacks.apgd(Recording(), start, target, eps=eps, norm=norm, steps=100, seed=0)
    losses = torch.stack([(f(x) - target).square().sum(1) for x in seen])
    assert len(seen) == 100
    torch.testing.assert_close((f(found) - target).square().sum(1), losses.amin(0))
    best = (start + nearest) / 2 if norm == 2 else start.clone()
    if norm == math.inf:
        for _ in range(2000):
            gradient = ((f(best) - target) @ f.rows).view_as(best)
            best = project(best - gradient, start, torch.full((2,), eps), norm)
    optimum = (f(best) - target).square().sum(1)
    assert bool((losses.amin(0) < 1.05 * optimum).all())
    again = adv_lib_attacks.apgd(f, start, target, eps=eps, norm=norm, steps=100, seed=0)
    torch.testing.assert_close(found, again)


@needs_adv_lib
def test_the_order_of_small_losses_survives_in_apgd() -> None:
    """The cross-entropy of unscaled logits would be log 2 for all of them."""
    target = torch.full((4, 3), 0.5)
    x = (target + torch.tensor([[1e-6], [1e-5], [1e-4], [1e-3]])).view(4, 3, 1, 1)
    logits = adv_lib_attacks.MatchOrNot(nn.Flatten(), target)(x)
    losses = nn.functional.cross_entropy(logits, torch.zeros(4, dtype=torch.long), reduction="none")
    assert bool((losses[1:] > 10 * losses[:-1]).all())


@needs_adv_lib
def test_ddn_finds_the_nearest_image_of_a_linear_problem() -> None:
    f, start, target, nearest = linear_problem()
    tolerance = 0.05
    found = adv_lib_attacks.ddn(f, start, target, tolerance=tolerance, steps=1000)
    levels = 255 * found
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
    assert float(mape(f(found), target).max()) < tolerance
    apart, least = distance(found, start, 2), distance(nearest, start, 2)
    spared = tolerance * 6 * target.abs().amax(1)  # a bound on the L2 norm of an error within the tolerance
    assert bool((apart >= least - spared).all())
    assert bool((apart < least).all())


@needs_scipy
def test_l_bfgs_b_reaches_the_optimum_of_a_linear_problem_within_its_budget() -> None:
    from benchmarks.lbfgsb import lbfgsb

    f, start, target, _ = linear_problem()
    counter = Counter(f)
    found = lbfgsb(counter, start, target, eps=0.02, steps=60)
    best = start.clone()
    for _ in range(2000):
        gradient = ((f(best) - target) @ f.rows).view_as(best)
        best = project(best - gradient, start, torch.full((2,), 0.02), math.inf)
    optimum, reached = ((f(x) - target).square().sum(1) for x in (best, found))
    assert bool((reached <= 1.001 * optimum).all())
    assert float((found - start).abs().max()) <= 0.02 * (1 + 1e-5)
    assert counter.backwards <= 2 * 60
    one = Counter(f)
    early = lbfgsb(one, start[:1], target[:1], eps=0.02, steps=3)
    assert one.backwards == 3
    assert float((f(early) - target[:1]).square().sum()) < float((f(start[:1]) - target[:1]).square().sum())


@needs_scipy
def test_l_bfgs_b_returns_its_best_image_even_in_the_middle_of_a_line_search() -> None:
    from benchmarks.lbfgsb import lbfgsb

    linear, start, target, _ = linear_problem()
    losses: list[float] = []

    class Wavy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            latent: Tensor = linear(x + 0.2 * torch.sin(40 * x))
            losses.append(float((latent.detach() - target[:1]).square().sum()))
            return latent

    f = Wavy()
    last_is_best = []
    for steps in range(1, 16):
        losses.clear()
        image = lbfgsb(f, start[:1], target[:1], eps=0.3, steps=steps)
        seen = list(losses)
        assert float((f(image) - target[:1]).square().sum()) == pytest.approx(min(seen), rel=1e-4)
        last_is_best.append(seen[-1] == min(seen))
    assert not all(last_is_best)


def test_the_whole_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    compare_program.main(TINY["encoder"], "noise", out, TINY["images"], eps="2", steps="8,3", limit=3, batch_size=2)
    assert sorted(path.name for path in out.iterdir()) == ["compare.png", "results.json", "table.md"]
    content = json.loads((out / "results.json").read_text())
    keys = {tuple(line[k] for k in ("name", "step_size", "steps", "searched", "first")) for line in content["measured"]}
    assert len(keys) == len(content["measured"])
    # Two budgets: six steps of `paper`, which include the published one, and six of Adam, on the first batch; then on
    # the second batch the best of each and, of `paper`, the published one. 8-bit runs of both batches.
    others = len(LABELS) - 3
    floats = {key for key in keys if not key[3]}
    assert sum(key[4] == 0 for key in floats) == 2 * (6 + 6 + others)
    assert 2 * (2 + others) <= sum(key[4] == 2 for key in floats) <= 2 * (3 + others)
    assert 2 * 2 * (2 + others) <= len(keys - floats) <= 2 * 2 * (3 + others)
    text = (out / "table.md").read_text()
    assert text in capsys.readouterr().out
    for steps in (3, 8):
        for label in LABELS:
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
    methods = [methods[0], methods[-1]]
    whole = compare(tiny, methods, [4], tmp_path / "whole", batch_size=2)

    calls = 0

    def cut(*arguments: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:  # after the warm-up and the first run
            raise KeyboardInterrupt
        return methods[1].run(*arguments)

    with pytest.raises(KeyboardInterrupt):
        compare(tiny, [methods[0], replace(methods[1], run=cut)], [4], tmp_path / "cut", batch_size=2)
    path = tmp_path / "cut" / "results.json"
    before = json.loads(path.read_text())["measured"]
    done = [(line["name"], line["searched"], line["first"]) for line in before]
    assert done == [("paper", False, 0), ("fast", False, 0), ("paper", True, 0)]
    rows = compare(tiny, methods, [4], tmp_path / "cut", batch_size=2)
    assert json.loads(path.read_text())["measured"][:3] == before  # including the times, so they were not run again
    for mine, other in zip(rows, whole, strict=True):
        np.testing.assert_array_equal(mine.float.percent, other.float.percent)
        np.testing.assert_array_equal(mine.searched.percent, other.searched.percent)


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


def line(step_size: float | None, mapes: list[float], *, first: int = 0, searched: bool = False) -> Measured:
    png = [2 * value for value in mapes]
    return Measured(
        "m", step_size, 10, searched, first, 3.0, 18, 15, mapes, [1.0] * len(mapes), png, [3.0] * len(mapes)
    )


def method(*step_sizes: float | None) -> Attacker:
    return Attacker("m-tuned", "m", attackers(case())[0].run, step_sizes)


def test_batches_are_combined_and_work_is_counted_in_evaluations(tmp_path: Path) -> None:
    found = results(
        tmp_path, line(None, [0.03, 0.01]), line(None, [0.02], first=2), line(None, [0.5, 0.5], searched=True)
    )
    exact, rounded = (side(found, method(None), None, 10, [0, 2], kind) for kind in ("float", "rounded"))
    assert rounded.percent.tolist() == pytest.approx([6, 2, 4])
    assert (rounded.distance[0], exact.distance[0]) == (3, 1)
    assert side(found, method(None), None, 10, [0], "searched").percent.tolist() == pytest.approx([100, 100])
    assert exact.percent.tolist() == pytest.approx([3, 1, 2])
    assert exact.quartiles.tolist() == pytest.approx([1.5, 2, 2.5])
    # 36 forward and 30 backward passes of 3 images: 30 evaluations and 6 forward passes alone.
    assert exact.evaluations == pytest.approx((30 + 6 / 3) / 3)
    assert exact.seconds == pytest.approx(6 / 3)


def test_the_best_step_is_chosen_and_one_at_the_edge_is_marked(tmp_path: Path) -> None:
    figures = {0.1: [0.03, 0.03, 0.0], 0.3: [0.02, 0.02, 0.9], 1.0: [0.025, 0.025, 0.025]}
    found = results(
        tmp_path,
        *(line(step, mapes) for step, mapes in figures.items()),
        *(line(step, mapes, searched=True) for step, mapes in figures.items()),
    )
    tuned = method(0.1, 0.3, 1.0)
    assert best_step(found, tuned, 10) == 0.3
    for steps, at_the_edge in (((0.1, 0.3, 1.0), False), ((0.1, 0.3), True), ((0.3,), False)):
        (row,) = rows_of(found, [method(*steps)], [10], [0])
        assert (row.step_size, row.at_the_edge) == (0.3, at_the_edge)


def row(label: str, steps: int, exact: float, saved: float) -> Row:
    def figures(median: float) -> Side:
        return Side(np.array([0.5, 1, 2]) * median, np.ones(3), steps + 1.0, steps / 50)

    return Row(label, steps, None, False, figures(exact), figures(saved), figures(1.5 * saved))


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
    assert "| 10 | `paper` | 2 (2–2) | 1.6 (1.6–1.6) | 10 | 1.0 | 1.0 |" in text
    # `paper` at 100 steps is as close as `fast` at 10: (101 / 11) times less work, 10 times less time.
    assert "| 100 | `paper` | 26.7 (26.7–26.7) | 14 (14–14) | 10 | 9.2 | 10.0 |" in text
    assert "| 100 | `fast` | own | 101.0 | 2e+03 | 0.15 | 0.112 – 0.225 | 33 % | 1 | 0.3 | 0.45 |" in text
    assert "Linf ball of 8/255" in text
    worse = page([*ROWS[:2], row("paper", 100, 0.01, 0.01), ROWS[3]], HEADER)
    assert "| 100 | `paper` | 0.0667 (0.0667–0.0667) | 0.0333 (0.0333–0.0333) | - | - | - |" in worse
    assert "**best**" not in text
    two = page([*ROWS, row("apgd", 100, 3.0, 5.0)], HEADER)  # closer in floating point, farther as a PNG
    assert "| 100 | **best** (`apgd`, `paper`) | 20 (20–20) | 14 (14–14) | | | |" in two


def test_the_better_kind_of_png_counts() -> None:
    assert ROWS[0].saved is ROWS[0].rounded
    assert replace(ROWS[0], searched=ROWS[2].rounded).saved is ROWS[2].rounded


def test_ratios_are_paired_and_do_not_divide_by_noise() -> None:
    ours, factor = np.geomspace(1e-3, 10, 64), np.linspace(2, 4, 64)
    ratio = paired_ratio(factor * ours, ours)  # the images differ by far more than the methods
    assert ratio.middle == pytest.approx(np.exp(np.log(factor).mean()))
    assert 0.8 * ratio.middle < ratio.low < ratio.middle < ratio.high < 1.25 * ratio.middle
    assert log_ratios(np.array([1.0, 1e-9]), np.array([1e-12, 0.0])).tolist() == pytest.approx([-math.log(FLOOR), 0])
    # As wide as the normal approximation of the mean of the logarithms.
    logs = np.log(factor)
    margin = 1.96 * logs.std() / 8
    assert math.log(ratio.high / ratio.low) == pytest.approx(2 * margin, rel=0.1)
    many, few = np.full(100, math.log(2.0)), np.full(3, math.log(8.0))
    assert equal_weights([many, few]).middle == pytest.approx(4)


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


@needs_adv_lib
def test_only_images_that_ddn_brought_within_the_tolerance_have_a_distance() -> None:
    tiny = case()
    images = adv_lib_attacks.ddn(tiny.prepared, tiny.start, tiny.target, tolerance=0.04, steps=100)
    errors = mape(tiny.encoder(images), tiny.target)
    assert bool((errors < 0.04).all())
    apart = distance(images, tiny.start, 2)
    found = smallest_ball.nearest_by_ddn(tiny, 0.04, 100, 3)
    assert found == pytest.approx(float(apart.median()), rel=0.05)
    assert smallest_ball.nearest_by_ddn(tiny, 0.04, 1, 3) == math.inf


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(InputError, match=r"got 'papr'; did you mean 'paper'"):
        smallest_ball.main(TINY["encoder"], TINY["images"], "noise", method=["papr"], limit=1)


def test_each_family_has_a_line_in_the_table(tmp_path: Path) -> None:
    families.main(TINY["images"], "noise", tmp_path, family=["vit"], steps=3, limit=1)
    text = (tmp_path / "families.md").read_text()
    head, _, line = text.splitlines()[3:]
    assert line.startswith("| ViT-Tiny 64x64, random weights | ")
    assert line.count("|") == head.count("|")
    assert (tmp_path / "vit" / "results.json").exists()


def test_ratios_of_the_families() -> None:
    rows = [row("paper-tuned", 100, 4.0, 4.2), row("adam-cosine", 100, 1.0, 1.1), row("fast", 100, 0.5, 0.6)]
    assert families.table({"Net": rows}).splitlines()[-1] == (
        "| Net | 4 / 4.2 / 6.3 | 1 / 1.1 / 1.65 | 0.5 / 0.6 / 0.9 | `adam-cosine` / `adam-cosine` "
        "| 2 (2–2) / 1.83 (1.83–1.83) |"
    )


def frozen_seeds(exact: float, saved: float) -> list[list[Row]]:
    """Errors of the other method, in hundredths of a per cent; those of `fast` are 1."""
    return [[row("adam-cosine", 37, exact / 100, k * saved / 100), row("fast", 37, 0.01, 0.01)] for k in (1, 2, 4)]


def test_frozen_families_have_equal_weight() -> None:
    found = {"resnet18": frozen_seeds(2, 3), "convnext": frozen_seeds(8, 3), "acet": frozen_seeds(100, 50)}
    text = frozen.table(found)
    assert "| other families (2) | 4 (4–4) | 6 (" in text
    assert "| CIFAR-10 ResNets (1) | 100 (100–100) | 100 (" in text
    assert "| 3, 6, 12 |" in text
    # Whether a target is in reach, the other methods decide.
    assert "| targets out of reach (1) | 600 (" in frozen.table({"resnet18": frozen_seeds(600, 1)})


def test_the_shares_of_the_seeds_are_disjoint() -> None:
    whole = case(limit=7)
    shares = [frozen.share(whole, seed) for seed in range(3)]
    assert [len(one.start) for one in shares] == [3, 2, 2]
    assert sorted(name for one in shares for name in one.header["images"]) == sorted(whole.header["images"])
    assert len({seed for one in shares for seed in one.seeds}) == 7
    for one in shares:
        torch.testing.assert_close(one.encoder(one.x_in), one.target)


@needs_adv_lib
def test_the_frozen_settings_run_and_tune_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    for folder in ("in", "out"):
        (data / folder).mkdir(parents=True)
        for i in range(6):
            (data / folder / f"{i}.png").write_bytes(noisy_png(seed=i + 10 * (folder == "in")))
    tiny = frozen.Setting("tiny", frozen.OTHER, TINY["encoder"], "in", "out", "l2", "1.5", 6, 2, 2)
    monkeypatch.setitem(frozen.SETTINGS, "tiny", tiny)
    frozen.main(data, tmp_path / "runs", ["tiny"])
    text = (tmp_path / "runs" / "frozen.md").read_text()
    assert "| tiny | out | L2 1.5 | 6 | 6 |" in text
    runs = [
        json.loads((tmp_path / "runs" / "tiny" / str(i) / "results.json").read_text())["measured"] for i in range(3)
    ]
    tried = [{line["step_size"] for line in lines if line["name"] == "adam-cosine"} for lines in runs]
    assert len(tried[0]) == 6
    assert len(tried[1]) == 1
    assert tried[1] == tried[2] < tried[0]
    with pytest.raises(InputError, match="did you mean 'provable'"):
        frozen.main(data, tmp_path / "runs", ["provabel"])


def noisy_png(seed: int) -> bytes:
    from oodattack.images import encode_png

    return encode_png(torch.randint(256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)))


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


@pytest.mark.parametrize(
    "name", ["ablation", "adam_cosine", "compare", "counter", "inputs", "lbfgsb", "ratio", "smallest_ball"]
)
def test_the_examples_run(name: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(f"benchmarks.{name}"))
    assert (failed, tried > 0) == (0, True)

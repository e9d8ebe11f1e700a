from pathlib import Path
from oodattack.runs import Run
def draw_run(run: Run, folder: Path, samples=None) -> list[Path]:
    return []

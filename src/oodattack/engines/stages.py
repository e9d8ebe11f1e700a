"""Stages of a command: logged once each, and passed on to whoever shows the progress."""

import logging
from collections.abc import Callable

from oodattack.engines.engine import OnStage, Progress


def logged_stages(logger: logging.Logger, on_progress: Callable[[Progress], None] | None) -> OnStage:
    """A function that reports the stage of a command; a stage is logged when it begins.

    Args:
        logger: where stages are logged, at level INFO.
        on_progress: called with every report; None if nobody shows the progress.

    >>> on_stage = logged_stages(logging.getLogger("oodattack.example"), print)
    >>> on_stage("fitting KNN", 0, 2)
    Progress(name='fitting KNN', done=0, total=2)
    """
    last = ""

    def on_stage(name: str, done: int, total: int) -> None:
        nonlocal last
        stage = name.partition(", loss")[0]  # a loss is not a new stage
        if stage != last:
            logger.info("%s", stage)
            last = stage
        if on_progress is not None:
            on_progress(Progress(name, done, total))

    return on_stage

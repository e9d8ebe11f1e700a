"""The engine that runs everything in the calling process."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from oodattack.engines.engine import Chunk, OnStep, Result, Work, ignore, never


@dataclass(frozen=True)
class LocalEngine:
    """Runs one chunk after another in this process.

    >>> list(LocalEngine().map(lambda rows, _report: sum(rows), [range(2), range(2, 4)]))
    [(range(0, 2), 1), (range(2, 4), 5)]
    """

    def map(
        self,
        work: Work[Chunk, Result],
        chunks: Iterable[Chunk],
        *,
        stop: Callable[[], bool] = never,
        on_step: OnStep[Chunk] = ignore,
    ) -> Iterator[tuple[Chunk, Result]]:
        """See `Engine.map`; results come in the order of the chunks."""
        for chunk in chunks:
            if stop():
                return
            yield chunk, work(chunk, partial(on_step, chunk))

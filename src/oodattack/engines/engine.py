"""The contract between work and the engine that runs it.

Work is any picklable callable. It computes one chunk, writes the result to disk itself, and returns little. A chunk is
a small picklable value that names a fixed part of the job, such as the number of a shard, so no result depends on
which worker computed which chunk. Anything that is expensive to load, such as an encoder, belongs in a `PerProcess`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Step:
    """Progress within a chunk.

    Attributes:
        rows_done: number of rows whose batches are finished.
        running: number of rows in the current batch.
        share: fraction of the current batch's steps that are done, 0 to 1.
    """

    rows_done: int
    running: int
    share: float


Report = Callable[[Step], None]
OnStep = Callable[[Chunk, Step], None]


@dataclass(frozen=True)
class Progress:
    """Progress of an audit or a training.

    Attributes:
        name: what is being done.
        done: how much of it is done.
        total: the total to be done.
    """

    name: str
    done: int
    total: int


OnStage = Callable[[str, int, int], None]
"""Reports the stage of a command: its name, how much of it is done, and the total."""
Work = Callable[[Chunk, Report], Result]


def never() -> bool:
    """The default for `stop`: run every chunk.

    >>> never()
    False
    """
    return False


def ignore(chunk: object, step: Step) -> None:
    """The default for `on_step`: discard progress.

    >>> ignore(0, Step(0, 1, 0.5))
    """


class Engine(Protocol):
    """Runs work on chunks: in this process, in several, or on a cluster."""

    def map(
        self,
        work: Work[Chunk, Result],
        chunks: Iterable[Chunk],
        *,
        stop: Callable[[], bool] = never,
        on_step: OnStep[Chunk] = ignore,
    ) -> Iterator[tuple[Chunk, Result]]:
        """Run the work on every chunk and yield each result as soon as it is available, in any order.

        An engine with worker processes unpickles the work once per process, not once per chunk.

        Args:
            work: called as ``work(chunk, report)``.
            chunks: what to compute; they are consumed lazily.
            stop: polled before each chunk; once it returns true, no further chunk is started, and the iteration ends
                when the chunks in progress are finished.
            on_step: called in the calling process when work reports progress. An engine whose workers run elsewhere
                may omit these calls.

        Raises:
            Exception: the first error that the work raises; results of earlier chunks have been yielded.
        """
        ...


def run_one(engine: Engine, work: Work[Chunk, Result], chunk: Chunk) -> Result:
    """Run the work on a single chunk and return its result.

    >>> from oodattack.engines.local import LocalEngine
    >>> run_one(LocalEngine(), lambda rows, _report: sum(rows), range(4))
    6
    """
    [(_, result)] = engine.map(work, [chunk])
    return result

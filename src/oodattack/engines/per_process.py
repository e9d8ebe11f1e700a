"""Values that are too large to send to workers: each process makes its own."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """A value that is made on first use and pickled as the function that makes it.

    Args:
        make: makes the value, for instance by loading an encoder. It must be picklable: a module-level function or a
            `functools.partial` of one.
        here: the value in this process, if it exists already.

    >>> import pickle
    >>> loaded = PerProcess(list, here=["loaded by the driver"])
    >>> loaded.get(), pickle.loads(pickle.dumps(loaded)).get()
    (['loaded by the driver'], [])
    """

    def __init__(self, make: Callable[[], T], here: T | None = None) -> None:
        self.make = make
        self._here = here

    def get(self) -> T:
        """The value of this process."""
        if self._here is None:
            self._here = self.make()
        return self._here

    def __reduce__(self) -> tuple[Any, ...]:
        return PerProcess, (self.make,)

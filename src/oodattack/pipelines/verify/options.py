"""How level 2 scores the images again."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from oodattack.core.errors import InputError

OnStage = Callable[[str, int, int], None]
"""Called with the name of a stage, the steps done and their number."""


@dataclass(frozen=True)
class Rescoring:
    """How to score the images again.

    Attributes:
        encoder: the encoder, if it has another name here than in the directory; its weights must be the same.
        device: compute device; by default the best available.
        trust: whether code that the directory names may run, and model files may execute code.
    """

    encoder: str | None = None
    device: str | None = None
    trust: bool = False

    def applied(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a directory with these options.

        Raises:
            InputError: if the directory names code to be run, and it is not trusted.

        >>> Rescoring().applied({"encoder": "python:os:abort", "pipeline": None})
        Traceback (most recent call last):
            ...
        oodattack.core.errors.InputError: the directory names code that would run here: python:os:abort; pass --trust \
if you trust it, or --encoder with your own name of the encoder
        """
        found = {**settings, "device": self.device, "trust": self.trust, "download": False}
        named = [*settings.get("detector", ()), *settings.get("witness", ()), settings.get("pipeline")]
        if self.encoder is None:
            named.append(settings["encoder"])
        else:
            found["encoder"] = self.encoder
        code = [name for name in named if name is not None and _is_code(name, settings)]
        if code and not self.trust:
            raise InputError(
                f"the directory names code that would run here: {', '.join(code)}; pass --trust if you trust it, or"
                " --encoder with your own name of the encoder"
            )
        return found


@contextmanager
def opening() -> Iterator[None]:
    """Add a remedy to the error if an encoder or images that a directory names cannot be opened here.

    >>> with opening():
    ...     raise InputError("got no w.pth")
    Traceback (most recent call last):
        ...
    oodattack.core.errors.InputError: got no w.pth; relative paths begin in the directory where the command ran: \
run this there, or name the encoder with --encoder
    """
    try:
        yield
    except InputError as error:
        raise InputError(
            f"{error}; relative paths begin in the directory where the command ran: run this there, or name the encoder"
            " with --encoder"
        ) from error


def _is_code(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether a setting names a Python function: an encoder, a pipeline, or your own detector."""
    return "python:" in name or "factory=" in name or name in settings.get("detector", ())

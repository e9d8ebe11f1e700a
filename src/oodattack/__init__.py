"""oodattack: does a detector of out-of-distribution images withstand an attack?

Implements the attack of arXiv 2009.08016 on any differentiable encoder. `attack` attacks a batch of images, `audit` the
detectors of a model; `encoders`, `images`, `engines`, `runs` and `report` are what they are built from.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

from oodattack._version import __version__

if TYPE_CHECKING:
    from oodattack.api.attack import attack
    from oodattack.api.audit import audit
    from oodattack.core.checks import check_health
    from oodattack.core.errors import InputError
    from oodattack.core.gradient import Autograd, Spsa
    from oodattack.core.methods import Method
    from oodattack.core.metrics import mape
    from oodattack.core.pixels import dequantize, quantize
    from oodattack.core.result import AttackResult

logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent unless the user configures logging

_HOMES = {
    "AttackResult": "core.result",
    "Autograd": "core.gradient",
    "InputError": "core.errors",
    "Method": "core.methods",
    "Spsa": "core.gradient",
    "attack": "api.attack",
    "audit": "api.audit",
    "check_health": "core.checks",
    "dequantize": "core.pixels",
    "mape": "core.metrics",
    "quantize": "core.pixels",
}

__all__ = [
    "AttackResult",
    "Autograd",
    "InputError",
    "Method",
    "Spsa",
    "__version__",
    "attack",
    "audit",
    "check_health",
    "dequantize",
    "mape",
    "quantize",
]


def __getattr__(name: str) -> Any:
    """Import on first use, so that the command line can answer `--help` without loading torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'oodattack' has no attribute {name!r}")
    return getattr(importlib.import_module(f"oodattack.{_HOMES[name]}"), name)

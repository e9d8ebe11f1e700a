"""What a command does from end to end: attack a folder, audit detectors, train a network."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oodattack.pipelines.attack import run_attack
    from oodattack.pipelines.audit import run_audit

__all__ = ["run_attack", "run_audit"]

_MODULES = {"run_attack": "attack", "run_audit": "audit"}


def __getattr__(name: str) -> Any:
    """Import on first use: an attack needs none of the libraries of an audit."""
    if name not in _MODULES:
        raise AttributeError(f"module 'oodattack.pipelines' has no attribute {name!r}")
    return getattr(importlib.import_module(f"oodattack.pipelines.{_MODULES[name]}"), name)

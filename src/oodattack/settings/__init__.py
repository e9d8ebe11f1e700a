"""Settings: one frozen dataclass a verb; needs no torch, so that a wrong value is reported at once."""

from oodattack.settings.attack import AttackSettings
from oodattack.settings.audit import AuditSettings
from oodattack.settings.train import TrainSettings

__all__ = ["AttackSettings", "AuditSettings", "TrainSettings"]

"""Settings: one frozen dataclass per verb. They do not import torch, so mistakes are reported immediately."""

from oodattack.settings.attack import AttackSettings
from oodattack.settings.audit import AuditSettings
from oodattack.settings.base import Settings
from oodattack.settings.saved import identity
from oodattack.settings.train import TrainSettings

VERBS: dict[str, type[Settings]] = {"attack": AttackSettings, "audit": AuditSettings, "train": TrainSettings}

__all__ = ["VERBS", "AttackSettings", "AuditSettings", "Settings", "TrainSettings", "identity"]

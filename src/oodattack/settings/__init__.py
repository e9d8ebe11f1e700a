"""Settings: one frozen dataclass per command. They do not import torch, so mistakes are reported immediately."""

from oodattack.settings.attack import AttackSettings
from oodattack.settings.audit import AuditSettings
from oodattack.settings.base import Settings
from oodattack.settings.saved import identity
from oodattack.settings.train import TrainSettings

COMMANDS: dict[str, type[Settings]] = {"attack": AttackSettings, "audit": AuditSettings, "train": TrainSettings}

__all__ = ["COMMANDS", "AttackSettings", "AuditSettings", "Settings", "TrainSettings", "identity"]

"""Detectors before and after the attack: which of them hold when someone tries."""

from oodattack.audit.measures import Measure, measure
from oodattack.audit.run import Stage, run_audit
from oodattack.audit.store import Audit, open_audit
from oodattack.audit_settings import AuditSettings

__all__ = ["Audit", "AuditSettings", "Measure", "Stage", "measure", "open_audit", "run_audit"]

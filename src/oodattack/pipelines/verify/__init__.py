"""Verify a directory of results: its files (level 1), and what was measured on its images (level 2)."""

from oodattack.pipelines.verify.findings import Difference, Findings
from oodattack.pipelines.verify.options import Rescoring
from oodattack.pipelines.verify.verify import verify

__all__ = ["Difference", "Findings", "Rescoring", "verify"]

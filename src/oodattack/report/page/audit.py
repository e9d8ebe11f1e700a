"""The page of an audit."""

from pathlib import Path

from oodattack.core.errors import InputError
from oodattack.report.page.destination import Destination


def audit_page(directory: Path, destination: Destination) -> Path:
    """Write the page of an audit."""
    raise InputError(f"pages of audits are not available yet, got {directory} for {type(destination).__name__}")

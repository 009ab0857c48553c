"""Where the files are that belong to the package but are no Python."""

from pathlib import Path


def resource_dir(name: str) -> Path:
    """``conf`` or ``experiments``: next to the package in a checkout, inside it once installed."""
    package = Path(__file__).parent.parent
    installed = package / name
    return installed if installed.is_dir() else package.parent / name

"""Fields of the configuration that carry their range."""

from dataclasses import field
from typing import Any


def number(default: Any, *, traced: bool = False, **bounds: float) -> Any:
    """A numeric field with its range (``gt``, ``ge``, ``lt``, ``le``) and whether it is traced."""
    return field(default=default, metadata={"traced": traced, "bounds": bounds})

"""Fathom's Python interface under the name of its command: ``import fathom``.

Everything is that of the package ``research``, and is imported when it is first used.
"""

import difflib
from typing import TYPE_CHECKING, Any

import research
from research import __version__ as __version__

if TYPE_CHECKING:
    from research import Monitor as Monitor
    from research import load as load
    from research import preflight as preflight
    from research import sweep as sweep
    from research import tap as tap
    from research import train as train
    from research import watch as watch


def __getattr__(name: str) -> Any:
    """The attribute of ``research`` with this name."""
    if name.startswith("_"):  # Python asks for these itself
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name not in dir(research):
        names = research.INTERFACE
        hint = difflib.get_close_matches(name, names, n=1)
        end = f"; it has {', '.join(names)}"
        if hint:
            end = f"; did you mean fathom.{hint[0]}?"
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{end}")
    return getattr(research, name)


def __dir__() -> list[str]:
    return dir(research)

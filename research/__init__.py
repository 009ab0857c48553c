"""Fathom: how gradients travel through deep networks, measured in every layer inside the train
step.

The rooms of the package import downwards only: ``cli`` and ``benchmark`` on top, then
``reproduce``, ``sweeps``, ``runner`` and ``reporting``, then ``training``, ``diagnosis``,
``models``, ``records`` and ``data``, and at the bottom ``gauges``, ``theory``, ``parallel`` and
``config``. ``interface`` holds ``load``, ``train`` and ``sweep``, for notebooks and scripts.
``watching`` measures other people's models; ``watch``, ``Monitor``, ``tap`` and ``preflight`` are
its interface.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from research.interface.runs import load as load
    from research.interface.training import sweep as sweep
    from research.interface.training import train as train
    from research.watching.marks import tap as tap
    from research.watching.monitor import Monitor as Monitor
    from research.watching.preflight import preflight as preflight
    from research.watching.watch import watch as watch

__version__ = "0.2.0"

_MODULES = {
    "load": "research.interface.runs",
    "train": "research.interface.training",
    "sweep": "research.interface.training",
    "watch": "research.watching.watch",
    "tap": "research.watching.marks",
    "preflight": "research.watching.preflight",
    "Monitor": "research.watching.monitor",
}
INTERFACE = tuple(_MODULES)


def __getattr__(name: str) -> Any:
    """The Python interface, imported when it is first used, so that commands start fast."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]

"""Profiles and runs whose verdict is known, for the tests of the verdict."""

import numpy as np

from research.config import schema as config
from research.diagnosis.verdict import judge

DEPTH = 32


def settings(**changes):
    """The default configuration by dotted path, changed; a double underscore stands for a dot."""
    by_path = config.flatten(config.Config())
    for name, value in changes.items():
        by_path[name.replace("__", ".")] = value
    return by_path


def geometric(factor, depth=DEPTH):
    """‖∂L/∂h_l‖ whose square changes by ``factor`` a layer towards the input."""
    layers_above = np.arange(depth, -1, -1.0)
    return np.sqrt(factor) ** layers_above


HEALTHY = geometric(1.0)
VANISHING = geometric(0.5)
EXPLODING = geometric(2.0)
SILENT = np.zeros(DEPTH + 1)


def judge_rows(*rows, **options):
    """Judges profiles that were measured at the steps 0, 1, 2, …"""
    signal = np.array(rows)
    options.setdefault("settings", settings())
    return judge(np.arange(len(rows)), signal, **options)


def repeat(profile, times):
    """A profile that was measured ``times`` times."""
    return [profile] * times

"""The scanned network against the loop over its layers, forward, backward and in every gauge."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from research import config
from research.training.precision import scope

B = 6
GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((B, 5))
COTANGENT = GENERATOR.standard_normal((B, 4))
NUMBERS = {"skip.branch_scale": 0.7, "skip.shortcut_scale": 0.9}
SINGLE, DOUBLE = 1e-5, 1e-11  # rounding through three layers, forward and backward, in float32 and in float64


def names(enum):
    return [option.name for option in enum]


def combinations():
    """Every skip × norm × placement, and with them every pair of these and an activation."""
    groups = [names(config.SkipKind), names(config.NormKind), names(config.Placement)]
    missing = {(option, phi) for group in groups for option in group for phi in names(config.ActivationKind)}
    cases = [case for case in itertools.product(*groups) if case[1] != "none" or case[2] == "pre"]
    for case in itertools.cycle(cases):
        phi = max(names(config.ActivationKind), key=lambda phi: sum((option, phi) in missing for option in case))  # noqa: B023
        yield (phi, *case)
        missing -= {(option, phi) for option in case}
        cases = [other for other in cases if other != case] or cases
        if not missing and len(cases) == 1:
            return

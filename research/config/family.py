"""Families of networks: which settings of an architecture one compiled program takes as numbers.

The program of a fully connected network loops over its layers. The number of layers, the two
factors of an affine shortcut s·h + a·F(h), and the nonlinearity can then be arguments, like the
learning rate. Networks that differ in nothing else are a family and can share one program.
"""

import dataclasses
from typing import Any

from research.config.options import (
    Activation,
    FeedForward,
    ModelKind,
    Parametrization,
    ScaledSkip,
    Skip,
    SkipKind,
)
from research.config.schema import Config

AFFINE_SKIPS = (SkipKind.none, SkipKind.identity, SkipKind.scaled, SkipKind.inv_sqrt_depth)


def has_family(config: Config) -> bool:
    """Whether depth, shortcut and activation can be arguments of the run's program.

    Inspections differentiate the network in ways that the loop does not support, and
    ``model.recompute`` asks for a particular way through the layers.
    """
    is_mlp = config.model.kind is ModelKind.mlp
    is_affine = config.skip.kind in AFFINE_SKIPS
    parametrization = getattr(config.model, "parametrization", Parametrization.standard)
    # Factors of other parametrizations depend on the depth.
    is_standard = parametrization is Parametrization.standard
    inspections: Any = getattr(config.measure, "inspect", ())
    is_usual = is_affine and is_standard and not config.model.recompute
    if config.precision.layers:  # their formats are chosen layer by layer inside a scan
        return False
    return is_mlp and is_usual and not inspections


def to_family(config: Config, depth: int = FeedForward().depth) -> Config:
    """The configuration with the settings of its family in place of its own.

    Args:
        config: a run that has a family.
        depth: the greatest number of layers that the program has room for.
    """
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, depth=depth),
        skip=ScaledSkip(),
        activation=Activation(),
    )


def affine_factors(skip: Skip, depth: int) -> tuple[float, float]:
    """The factors s and a of the shortcut s·h + a·F(h).

    Args:
        skip: an affine shortcut.
        depth: the number of layers N, for ``inv_sqrt_depth``, where a = N^-½.
    """
    match skip:
        case ScaledSkip(shortcut_scale=shortcut_scale, branch_scale=branch_scale):
            return shortcut_scale, branch_scale
        case Skip(kind=SkipKind.none):
            return 0.0, 1.0
        case Skip(kind=SkipKind.identity):
            return 1.0, 1.0
        case Skip(kind=SkipKind.inv_sqrt_depth):
            return 1.0, depth**-0.5
    raise ValueError(f"skip must be affine, got {skip.kind.name}")

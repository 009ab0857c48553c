"""The variance of initial weights by scheme."""

from dataclasses import dataclass
from typing import Any

from research.config.options import GaussianInit, Init, InitKind, ScaledInit, SchurInit
from research.theory.nonnormal import power_growth


@dataclass(frozen=True)
class VarianceScaling:
    """Var W = scale / fan, as ``jax.nn.initializers.variance_scaling`` takes it."""

    scale: float
    mode: Any
    distribution: Any


VARIANCE_SCALING = {
    InitKind.he: VarianceScaling(2.0, "fan_in", "normal"),  # He et al. 2015, eq. 10
    InitKind.glorot: VarianceScaling(1.0, "fan_avg", "normal"),  # Glorot & Bengio 2010, eq. 12
    InitKind.glorot_uniform: VarianceScaling(1.0, "fan_avg", "uniform"),  # ibid., eq. 16
    InitKind.lecun: VarianceScaling(1.0, "fan_in", "normal"),  # LeCun et al. 1998, eq. 16
    # U(±1/√fan_in): Glorot & Bengio 2010, eq. 1
    InitKind.old_uniform: VarianceScaling(1 / 3, "fan_in", "uniform"),
    # times sigma_w: Poole et al. 2016, eq. 1
    InitKind.gaussian: VarianceScaling(1.0, "fan_in", "normal"),
}


def weight_scale(init: Init) -> Any:
    """The factor on what the scheme draws: ``gain``, and of ``gaussian`` also ``sigma_w``."""
    match init:
        case GaussianInit(gain=gain, sigma_w=sigma_w):
            return gain * sigma_w
        case ScaledInit(gain=gain):
            return gain
    return 1.0


def theoretical_variance(
    init: Init,
    fan_in: int,
    fan_out: int,
) -> float:
    """σ_w² = fan_in · E[W²] of a layer, the number that mean-field theory speaks of.

    Args:
        init: the option.
        fan_in: inputs of the layer.
        fan_out: outputs of the layer.
    """
    scale = float(weight_scale(init))
    squared = scale * scale  # becomes infinite where ** would raise an OverflowError
    if isinstance(init, SchurInit):
        return squared * (_schur_variance(init, fan_in) if fan_in == fan_out else 1.0)
    match init.kind:
        case InitKind.zeros:
            return 0.0
        case InitKind.orthogonal | InitKind.delta_orthogonal:
            return squared * min(1.0, fan_in / fan_out)
    scaling = VARIANCE_SCALING[init.kind]
    ratio = 1.0 if scaling.mode == "fan_in" else 2 * fan_in / (fan_in + fan_out)
    return squared * scaling.scale * ratio


def _schur_variance(init: SchurInit, width: int) -> float:
    growth = power_growth(
        1,
        spectral_radius=init.spectral_radius,
        nonnormality=init.nonnormality,
        width=width,
    )
    return float(growth[1])

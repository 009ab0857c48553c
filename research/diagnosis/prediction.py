"""What theory expects of a run before it starts."""

import numpy as np

from research.config.options import (
    DEPTH_SCALED,
    FeedForward,
    ModelKind,
    ScaledSkip,
    SkipInit,
    SkipKind,
    has_scaled_norm,
)
from research.config.schema import Config
from research.diagnosis.verdict import skipped_layers
from research.theory import profiles
from research.theory.variance import theoretical_variance


def skip_scales(config: Config) -> tuple[float, float] | None:
    """Initial factors of a block's branch and shortcut; None for skips without such numbers."""
    match config.skip:
        case ScaledSkip(branch_scale=branch, shortcut_scale=shortcut):
            return branch, shortcut
        case SkipInit(branch_scale=branch):
            return branch, 1.0
    match config.skip.kind:
        case SkipKind.none:
            return 1.0, 0.0
        case SkipKind.identity:
            return 1.0, 1.0
        case SkipKind.inv_sqrt_depth:
            return config.model.depth**-0.5, 1.0
        case SkipKind.rezero:
            return 0.0, 1.0
    return None


def predicted_profile(
    config: Config,
    *,
    inputs: int,
    mean_square: float,
    batch_size: int,
) -> np.ndarray | None:
    """What mean-field theory expects of the backward signal at initialisation.

    Args:
        config: the run.
        inputs: numbers of an example.
        mean_square: mean square of an element of the standardised inputs.
        batch_size: examples of an update.

    Returns:
        ln(‖∂L/∂h_l‖² / ‖∂L/∂h_N‖²) for l = 0..N, [N+1]; None where there is no theory.
    """
    model = config.model
    scales = skip_scales(config)
    if not isinstance(model, FeedForward) or model.kind is not ModelKind.mlp:
        return None
    if scales is None or model.dropout or model.parametrization in DEPTH_SCALED:
        return None
    branch_scale, shortcut_scale = scales
    sigma_b2 = config.init.sigma_b * config.init.sigma_b if model.bias else 0.0
    embedding = theoretical_variance(config.init, inputs, model.width)
    return profiles.predict_profile(
        activation=config.activation.kind.name,
        sigma_w2=theoretical_variance(config.init, model.width, model.width),
        sigma_b2=sigma_b2,
        depth=model.depth,
        q0=embedding * mean_square + sigma_b2,
        branch_scale=branch_scale,
        shortcut_scale=shortcut_scale,
        norm=config.norm.kind.name,
        placement=config.norm.placement.name,
        batch=batch_size,
        scales_norm=has_scaled_norm(config.norm),
    )


def predicted_factor(
    config: Config,
    *,
    inputs: int,
    mean_square: float,
    batch_size: int,
) -> float | None:
    """The predicted factor a layer at initialisation, fitted over the layers that the verdict fits.

    Args:
        config: the run.
        inputs: see ``predicted_profile``.
        mean_square: see ``predicted_profile``.
        batch_size: see ``predicted_profile``.
    """
    profile = predicted_profile(
        config, inputs=inputs, mean_square=mean_square, batch_size=batch_size
    )
    if profile is None:
        return None
    layers = len(profile) - 1
    return profiles.factor_per_layer(profile, skipped_layers(layers))

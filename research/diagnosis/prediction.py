"""What theory expects of a run before it starts."""

import contextlib
import dataclasses
import enum
import functools
import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from research.config.options import (
    ActivationKind,
    FeedForward,
    ModelKind,
    NormKind,
    ScaledSkip,
    SchurInit,
    SkipInit,
    SkipKind,
    has_scaled_norm,
)
from research.config.schema import OPTIONS, Config, is_group, make_option, selector_of
from research.diagnosis.depth import RANDOM_WALK_SLOPE_VARIANCE, skipped_layers
from research.diagnosis.observed import Theory
from research.theory import profiles
from research.theory.variance import theoretical_variance

THEORY_GROUPS = ("train", "model", "skip", "norm", "activation", "init")
TYPICAL_INPUTS = 64  # numbers of an example, where nothing is known of the data
LAYER_VARIANCE = 5.0  # of ln‖∂L/∂h‖² from layer to layer, times the width (Hanin & Nica 2020)
LIKELY_DEVIATIONS = 1.96
# From which sensitivity to the first layer's variance on a fixed point counts as unstable; it is 1
# for rectifiers, up to the error of a difference quotient.
UNSTABLE_SENSITIVITY = 1.05


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
            # The other shortcuts are not allowed with a parametrization that scales branches.
            return getattr(config.model, "branch_factor", 1.0), 1.0
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
    if scales is None or model.dropout or not _has_random_weights(config):
        return None
    if getattr(model, "branch_weights", 1) != 1:
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
        bias_mean=config.init.bias_mean if model.bias else 0.0,
        special_layer=config.init.layer,
        special_gain=config.init.layer_gain,
    )


def _has_random_weights(config: Config) -> bool:
    """Whether the weights mix their inputs as independent random ones do, as theory takes it.

    ``init=schur`` draws ρI + νM with such an M. The multiple of the identity leaves each unit where
    it was, so that what the nonlinearity, a norm or a shortcut did to it adds up over the layers. A
    linear network without them has neither.
    """
    if not isinstance(config.init, SchurInit) or config.init.spectral_radius == 0:
        return True
    is_linear = config.activation.kind is ActivationKind.linear
    is_plain = config.skip.kind is SkipKind.none and config.norm.kind is NormKind.none
    return is_linear and is_plain


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


def predict(
    config: Config,
    *,
    inputs: int,
    mean_square: float,
    batch_size: int,
) -> Theory | None:
    """The predicted factor a layer, and by how much 95 % of networks of this width differ from it.

    The logarithm of the squared gradient is a random walk over layers with variance 5/n a layer
    (Hanin & Nica 2020), so a fitted slope over m layers has the variance 1.2·5/(n·m). Where the
    fixed point of the signal's variance is unstable, the finite width of the first layer alone
    changes the factor: it is predicted again with its variance changed by two standard deviations.

    Args:
        config: the run.
        inputs: see ``predicted_profile``.
        mean_square: see ``predicted_profile``.
        batch_size: see ``predicted_profile``.
    """
    factors = []
    spread = min(0.9, 2 * math.sqrt(LAYER_VARIANCE / config.model.width))
    for change in (1.0, 1 - spread, 1 + spread):
        factors.append(
            predicted_factor(
                config,
                inputs=inputs,
                mean_square=change * mean_square,
                batch_size=batch_size,
            )
        )
    factor = factors[0]
    if factor is None:
        return None
    layers = config.model.depth - skipped_layers(config.model.depth)
    variance = RANDOM_WALK_SLOPE_VARIANCE * LAYER_VARIANCE / (config.model.width * max(1, layers))
    walk = LIKELY_DEVIATIONS * math.sqrt(variance)
    logs = [math.log(other) for other in factors if other]
    sensitivity = max(logs) - min(logs) if logs else 0.0
    margin = factor * math.hypot(walk, sensitivity)
    return Theory(factor, margin, _has_unstable_fixed_point(config, inputs, mean_square))


def _has_unstable_fixed_point(
    config: Config,
    inputs: int,
    mean_square: float,
) -> bool:
    """Whether a small difference of the first layer's variance grows over the layers."""
    scales = skip_scales(config)
    has_usual_layers = not config.init.bias_mean and config.init.layer is None
    if config.norm.kind is not NormKind.none or scales is None or not has_usual_layers:
        return False
    branch_scale, shortcut_scale = scales
    width = config.model.width
    sigma_b2 = config.init.sigma_b * config.init.sigma_b if config.model.bias else 0.0
    sensitivity = profiles.variance_sensitivity(
        activation=config.activation.kind.name,
        sigma_w2=theoretical_variance(config.init, width, width),
        sigma_b2=sigma_b2,
        depth=config.model.depth,
        q0=theoretical_variance(config.init, inputs, width) * mean_square + sigma_b2,
        branch_scale=branch_scale,
        shortcut_scale=shortcut_scale,
    )
    return sensitivity > UNSTABLE_SENSITIVITY


def config_from_settings(
    settings: Mapping[str, Any],
    groups: Collection[str] | None = None,
) -> Config:
    """A configuration from a run's settings; the rest are defaults.

    Args:
        settings: by dotted path.
        groups: the groups and settings of the root that are read; None for all.
    """
    config = Config()
    changes = {}
    for item in dataclasses.fields(config):
        if groups is not None and item.name not in groups:
            continue
        value = getattr(config, item.name)
        if is_group(value):
            changes[item.name] = _option_from_settings(item.name, value, settings)
        elif settings.get(item.name) is not None:
            recorded = settings[item.name]
            if item.name == "tags":  # earlier versions recorded tags=[1] as a number
                recorded = [str(tag) for tag in recorded]
            changes[item.name] = _to_type_of(value, recorded)
    return dataclasses.replace(config, **changes)


def _option_from_settings(
    group: str,
    default: Any,
    settings: Mapping[str, Any],
) -> Any:
    """The option of one group, with its settings."""
    selector = selector_of(group)
    option = default
    name = settings.get(f"{group}.{selector}")
    if group in OPTIONS and name in OPTIONS[group]:
        option = make_option(group, str(name))
    values = {}
    for item in dataclasses.fields(option):
        value = settings.get(f"{group}.{item.name}")
        if value is None or (item.name == selector and group in OPTIONS):
            continue
        usual = getattr(option, item.name)
        values[item.name] = _to_type_of(usual, value)
    return dataclasses.replace(option, **values)


def _to_type_of(usual: Any, value: Any) -> Any:
    """A recorded value as its setting has it, whose usual value is given."""
    if value is None:
        return None
    if isinstance(usual, enum.Enum):
        return type(usual)[str(value)]
    if isinstance(usual, tuple):
        return tuple(value)
    is_number = isinstance(usual, int | float) and not isinstance(usual, bool)
    return type(usual)(value) if is_number else value


def with_change(settings: Mapping[str, Any], change: str) -> dict[str, Any]:
    """Settings with overrides such as ``skip=inv_sqrt_depth init.gain=2``.

    Choosing another option keeps the settings that both options have.

    Args:
        settings: by dotted path.
        change: overrides, separated by spaces.
    """
    changed = dict(settings)
    for override in change.split():
        path, _, value = override.partition("=")
        if path in OPTIONS:
            selector = f"{path}.{selector_of(path)}"
            changed[selector] = value
            option = make_option(path, value)
            valid = {item.name for item in dataclasses.fields(option)}
            for old in list(changed):
                group, _, name = old.partition(".")
                if group == path and name not in valid:
                    del changed[old]
        else:
            changed[path] = parse_value(value)
    return changed


def parse_value(value: str) -> Any:
    """A number, a truth value or no value where the text is one."""
    if value == "null":
        return None
    if value in ("true", "false"):
        return value == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(value)
    return value


def factor_with(settings: Mapping[str, Any], change: str = "") -> float | None:
    """The predicted factor a layer at initialisation of a run with a change.

    Args:
        settings: the run's configuration by dotted path.
        change: overrides, separated by spaces; empty for the run as it is.

    Returns:
        The factor; None where theory has no prediction.
    """
    config = config_from_settings(with_change(settings, change), THEORY_GROUPS)
    return _typical_factor(config)


def profile_with(settings: Mapping[str, Any]) -> np.ndarray | None:
    """The predicted backward signal at initialisation, on standardised inputs.

    Args:
        settings: the run's configuration by dotted path.

    Returns:
        See ``predicted_profile``; None for a record with a value that this version does not know.
    """
    try:
        config = config_from_settings(settings, THEORY_GROUPS)
    except (KeyError, ValueError):
        return None
    return predicted_profile(
        config,
        inputs=TYPICAL_INPUTS,
        mean_square=1.0,
        batch_size=config.train.batch_size,
    )


@functools.lru_cache(maxsize=4096)
def _typical_factor(config: Config) -> float | None:
    """The predicted factor a layer of a run on standardised inputs."""
    return predicted_factor(
        config,
        inputs=TYPICAL_INPUTS,
        mean_square=1.0,
        batch_size=config.train.batch_size,
    )

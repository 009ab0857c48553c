"""The numbers of a run that enter the compiled program as arguments, as one typed pytree."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from research.config import options
from research.config.family import affine_factors, to_family
from research.config.fields import Setting, replace_traced, traced_names, without_traced_values
from research.config.schema import OPTIONS, Config


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Variant:
    """Which network of a family a run trains.

    The factors of its shortcut are those of ``HParams.skip``.

    Attributes:
        depth: the number of layers, int32.
        activation: the place of its nonlinearity in ``Architecture.family``, int32.
    """

    depth: Any
    activation: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HParams:
    """The options of a run with arrays in place of their traced numbers.

    The arrays are the leaves of the pytree: scalars inside the program, [M] for M runs outside. All
    other settings of an option are static, so code may branch on them: ``hp.optimizer.schedule``.
    """

    seed: Any  # uint32
    train: options.Train  # with ``steps``: how many updates the run has in all
    model: options.Model
    skip: options.Skip
    norm: options.Norm
    activation: options.Activation
    init: options.Init
    optimizer: options.Optimizer
    precision: options.Precision
    loss: options.Loss
    variant: Variant | None = None  # of a network of a family
    # For each layer 0, or k for the k-th of ``Architecture.layer_formats``: int32 [N].
    layer_formats: Any = None

    @property
    def total_steps(self) -> Any:
        """How many updates the run has, int32."""
        return self.train.steps

    @property
    def num_layers(self) -> Any:
        """The number of layers where it is a hyperparameter, else None."""
        return None if self.variant is None else self.variant.depth

    @property
    def dropout_rate(self) -> Any:
        """The dropout rate; 0 for a model that has none."""
        return getattr(self.model, "dropout", 0.0)


OTHER_FIELDS = ("seed", "variant", "layer_formats")
GROUPS = tuple(item.name for item in dataclasses.fields(HParams) if item.name not in OTHER_FIELDS)


def _register_options() -> None:
    """Makes every option a pytree: traced numbers are its leaves, all other settings static."""
    classes: dict[type, None] = {options.Train: None}
    for group in GROUPS:
        classes |= dict.fromkeys(OPTIONS.get(group, {}).values())
    for cls in classes:
        data_fields = traced_names(cls)
        names = [item.name for item in dataclasses.fields(cls)]
        meta_fields = [name for name in names if name not in data_fields]
        jax.tree_util.register_dataclass(cls, data_fields, meta_fields)


_register_options()


def make_hparams(
    configs: Sequence[Config],
    *,
    steps: int,
    dtype: type,
    num_copies: int = 0,
    family: Sequence[options.ActivationKind] = (),
    layer_formats: np.ndarray | None = None,
) -> HParams:
    """The hyperparameters [M] of runs that differ only in traced numbers, on the host.

    Args:
        configs: the configurations of the M runs.
        steps: how many updates each of them has.
        dtype: the format of real numbers: float32 or float64.
        num_copies: how many runs, the last ones, fill up devices and have no step.
        family: see ``Architecture.family``.
        layer_formats: see ``HParams.layer_formats``, [M, N].
    """
    variant = None
    if family:
        variant = _make_variant(configs, family)
        configs = [_in_family(config) for config in configs]
    run_steps = [steps] * (len(configs) - num_copies) + [0] * num_copies
    groups = {}
    for group in GROUPS:
        variants: list[Any] = [getattr(config, group) for config in configs]
        if group == "train":
            variants = list(map(_only_traced, variants, run_steps))
        if group == "precision":
            variants = list(map(without_layers, variants))
        groups[group] = _stack_options(variants, dtype)
    seeds = np.asarray([config.seed for config in configs], np.uint32)
    return HParams(seed=seeds, variant=variant, layer_formats=layer_formats, **groups)


def _make_variant(
    configs: Sequence[Config],
    family: Sequence[options.ActivationKind],
) -> Variant:
    depths = [config.model.depth for config in configs]
    activations = [family.index(config.activation.kind) for config in configs]
    return Variant(np.asarray(depths, np.int32), np.asarray(activations, np.int32))


def _in_family(config: Config) -> Config:
    """The configuration as the family's program takes it: with the factors of its shortcut."""
    shortcut_scale, branch_scale = affine_factors(config.skip, config.model.depth)
    skip = options.ScaledSkip(branch_scale=branch_scale, shortcut_scale=shortcut_scale)
    return dataclasses.replace(to_family(config), skip=skip)


def _only_traced(train: options.Train, steps: int) -> options.Train:
    """Its traced settings, with ``steps`` filled in; the others at their defaults."""
    values = {name: getattr(train, name) for name in traced_names(options.Train)}
    return options.Train(**(values | {"steps": steps}))


def without_layers(precision: options.Precision) -> options.Precision:
    """The option without ``precision.layers``, which ``HParams.layer_formats`` holds instead."""
    return dataclasses.replace(precision, layers=())


def _stack_options(variants: Sequence[Any], dtype: type) -> Any:
    def stack(
        name: str,
        declared: Setting,
        value: Any,
    ) -> np.ndarray:
        del declared
        values = [getattr(variant, name) for variant in variants]
        if isinstance(value, int):
            return np.asarray(values, np.int32)
        with np.errstate(over="ignore"):  # too large a number is infinite, and the run diverges
            return np.asarray(values, dtype)

    return replace_traced(variants[0], stack)


def static_train(train: options.Train) -> options.Train:
    """What the compiled program depends on, such as whether inputs get noise."""
    return without_traced_values(_only_traced(train, 0))

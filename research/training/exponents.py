"""The exponents of one step's gradients, counted in a separate backward pass, so that steps do not
become slower.

The pass is that of the step: the same weights, batch and random numbers. Where the run computes in
less than float32, a second pass in float32 separates what the format lost from what is zero in
exact arithmetic.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from research.gauges.exponents import exponent_counts
from research.gauges.table import GRAD_NORM, SIGNAL_GRAD
from research.models.architecture import Architecture
from research.models.block_rounding import round_kernels
from research.models.hparams import HParams
from research.models.layer import ACTIVATION_COUNTS
from research.parallel.collectives import psum_tree
from research.theory.formats import BINS
from research.training.layer_params import MATRIX_NAMES, path_names, stages_of
from research.training.objective import make_objective, next_batch
from research.training.program_config import ProgramConfig
from research.training.state import TrainState, without_loss_scale

Counts = dict[str, Array]


def count_exponents(
    spec: ProgramConfig,
    state: TrainState,
    hp: HParams,
    data: Mapping[str, Array],
) -> dict[str, Counts]:
    """Counts of the next step's gradients, as ``gauges.exponents`` gives them.

    Args:
        spec: the program.
        state: the state before the step.
        hp: the hyperparameters.
        data: the training examples.

    Returns:
        ``signal`` [N+1, bins] of the backward signal, ``grad`` [N, bins] of the parameters'
        gradient, ``activation`` [N, bins] of what each layer reads and ``weight`` [N, bins] of its
        matrices; under ``run`` as the run computes them, gradients times the loss scale, and under
        ``float32`` in float32 with a loss scale of 1, where that differs.
    """
    counts = {"run": _count(spec, state, hp, data)}
    arch = spec.architecture
    wide_dtype = str(jnp.promote_types(arch.dtype, jnp.float32))
    wide = arch.in_one_format(wide_dtype)
    if wide != arch:
        wide_spec = dataclasses.replace(spec, architecture=wide)
        counts["float32"] = _count(wide_spec, without_loss_scale(state), hp, data)
    return counts


def trim_counts(counts: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """The counts of a network's N layers, where the arrays have room for more layers."""
    trimmed = {}
    for format_, of_format in counts.items():
        of_layers = {}
        for name, counts_of_layers in of_format.items():
            length = layers + 1 if name == "signal" else layers
            of_layers[name] = counts_of_layers[:length]
        trimmed[format_] = of_layers
    return trimmed


def _count(
    spec: ProgramConfig,
    state: TrainState,
    hp: HParams,
    data: Mapping[str, Array],
) -> Counts:
    arch = spec.architecture
    gauges = [SIGNAL_GRAD, GRAD_NORM] if arch.shares_weights else [SIGNAL_GRAD]
    slots = {}
    for gauge in gauges:
        shape = gauge.length(arch.layers), BINS + 2
        slots[gauge.name] = jnp.zeros(shape, jnp.float32)
    batch = next_batch(spec, state, data)
    objective = make_objective(spec, state, hp, batch, counts_exponents=True)
    gradient = jax.grad(objective, (0, 1), has_aux=True)
    (grads, slot_counts), outputs = gradient(state.params, slots)
    activation = outputs.statistics[ACTIVATION_COUNTS]
    parts = (grads, slot_counts[SIGNAL_GRAD.name], activation)
    grads, signal, activation = psum_tree(parts)
    counts = {"signal": signal, "activation": activation, "weight": _count_weights(arch, state)}
    if arch.shares_weights:
        return counts | {"grad": slot_counts[GRAD_NORM.name]}
    return counts | {"grad": _count_by_layer(stages_of(arch, grads))}


def _count_weights(arch: Architecture, state: TrainState) -> Array:
    """The counts [N, bins] of the matrices of each layer in the format that it multiplies with."""
    stages = []
    for stage in stages_of(arch, state.params):
        stages.append([_matrices(arch, stack) for stack in stage])
    counts = _count_by_layer(stages)
    if arch.shares_weights:
        return jnp.broadcast_to(counts, (arch.layers, BINS + 2))
    return counts


def _matrices(arch: Architecture, stack: Any) -> list[Array]:
    if arch.block_scale and arch.rounds_weights:
        stack = round_kernels(stack, arch.block_scale)
    matrices = []
    for path, leaf in jax.tree.leaves_with_path(stack):
        names = path_names(path)
        if any(name in MATRIX_NAMES for name in names):
            matrices.append(leaf.astype(arch.dtype))
    return matrices


def _count_by_layer(stages: list[list[Any]]) -> Array:
    """The counts [N, bins] of trees whose leaves are stacked over the blocks of a stage."""
    counts = []
    for stage in stages:
        part_counts = [exponent_counts(stack, 1) for stack in stage]
        in_forward_order = jnp.stack(part_counts, axis=1)
        counts.append(in_forward_order.reshape(-1, BINS + 2))
    return jnp.concatenate(counts)

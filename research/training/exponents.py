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
from research.models.hparams import HParams
from research.parallel.collectives import psum_tree
from research.theory.formats import BINS
from research.training.layer_params import stages_of
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
        ``signal`` [N+1, bins] of the backward signal and ``grad`` [N, bins] of the parameters'
        gradient; under ``run`` as the run computes them, times the loss scale, and under
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
        signal = of_format["signal"][: layers + 1]
        trimmed[format_] = {"signal": signal, "grad": of_format["grad"][:layers]}
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
    objective = make_objective(spec, state, hp, next_batch(spec, state, data))
    gradient = jax.grad(objective, (0, 1), has_aux=True)
    (grads, slot_counts), _ = gradient(state.params, slots)
    grads, signal = psum_tree((grads, slot_counts[SIGNAL_GRAD.name]))
    if arch.shares_weights:
        return {"signal": signal, "grad": slot_counts[GRAD_NORM.name]}
    counts = []
    for stage in stages_of(arch, grads):
        part_counts = [exponent_counts(stack, 1) for stack in stage]
        in_forward_order = jnp.stack(part_counts, axis=1)
        counts.append(in_forward_order.reshape(-1, BINS + 2))
    return {"signal": signal, "grad": jnp.concatenate(counts)}

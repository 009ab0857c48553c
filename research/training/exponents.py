"""The exponents of one step's gradients, counted in a backward pass of its own: nothing is added to the step.

The pass is that of the step: the same weights, batch and random numbers. Where the run computes in less than float32, a
second pass in float32 tells what the format lost from what is zero in exact arithmetic.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array

from research.gauges.exponents import exponent_counts
from research.parallel.collectives import psum_tree
from research.theory.formats import BINS
from research.training.layer_params import stages_of
from research.training.objective import HP, make_objective, next_batch
from research.training.program_config import ProgramConfig
from research.training.state import LossScale, TrainState

Counts = dict[str, Array]


def count_exponents(
    spec: ProgramConfig, state: TrainState, hp: HP, data: Mapping[str, Array]
) -> dict[str, Counts]:
    """Counts of the step that comes next, as ``gauges.exponents`` gives them.

    ``signal`` [N+1, bins] of the backward signal, ``grad`` [N, bins] of the parameters' gradient, both below ``own`` as
    the run computes them, times the loss scale, and below ``exact`` in float32 with a loss scale of 1.
    """
    arch = spec.architecture
    wide = dataclasses.replace(
        arch, dtype=str(jnp.promote_types(arch.dtype, jnp.float32)), rounding=""
    )
    found = {"own": _counts(spec, state, hp, data)}
    if wide != arch:
        unscaled = LossScale(jnp.ones_like(state.loss_scale.value), state.loss_scale.finite_streak)
        exact = (
            dataclasses.replace(spec, architecture=wide),
            dataclasses.replace(state, loss_scale=unscaled),
        )
        found["exact"] = _counts(*exact, hp, data)
    return found


def _counts(spec: ProgramConfig, state: TrainState, hp: HP, data: Mapping[str, Array]) -> Counts:
    arch = spec.architecture
    lengths = {"signal_grad": arch.layers + 1} | ({"grad_norm": arch.layers} if arch.shared else {})
    slots = {name: jnp.zeros((length, BINS + 2), jnp.float32) for name, length in lengths.items()}
    objective = make_objective(spec, state, hp, next_batch(spec, state, data))
    grads, counted = jax.grad(objective, (0, 1), has_aux=True)(state.params, slots)[0]
    grads, signal = psum_tree((grads, counted["signal_grad"]))
    if arch.shared:
        return {"signal": signal, "grad": counted["grad_norm"]}
    layers = [
        jnp.stack([exponent_counts(stack, 1) for stack in stage], axis=1)
        for stage in stages_of(arch, grads)
    ]
    return {
        "signal": signal,
        "grad": jnp.concatenate([stage.reshape(-1, BINS + 2) for stage in layers]),
    }

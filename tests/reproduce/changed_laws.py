"""Reproduces an experiment after one law of the networks was changed.

Usage: python changed_laws.py LAW EXPERIMENT
"""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

from research.cli import main as cli
from research.config.options import Clip, SkipKind
from research.models import block_rounding, feed_forward, streams
from research.models.activation import ACTIVATIONS
from research.models.architecture import Architecture
from research.models.attention import Attention
from research.models.skip import INITIAL_ALPHA, Skip
from research.training import inspections, optimizers, program

MORE_VARIANCE = 1.05


def enlarge_weights(patch):
    """All initial weights get 5 % more variance."""
    initializers = jax.nn.initializers
    variance_scaling = initializers.variance_scaling
    orthogonal = initializers.orthogonal

    def enlarged_variance_scaling(scale, *arguments):
        return variance_scaling(MORE_VARIANCE * scale, *arguments)

    def enlarged_orthogonal():
        return orthogonal(scale=MORE_VARIANCE**0.5)

    patch.setattr(initializers, "variance_scaling", enlarged_variance_scaling)
    patch.setattr(initializers, "orthogonal", enlarged_orthogonal)


def enlarge_branches(patch):
    """All branches are multiplied by 1.25 before they are added to their shortcut."""
    call = Skip.__call__

    def call_with_enlarged_branch(self, h, branch, *arguments):
        return call(self, h, 1.25 * branch, *arguments)

    patch.setattr(Skip, "__call__", call_with_enlarged_branch)


def normalise(x, axis, norm):
    """Normalises ``x`` without a gradient through its mean and variance."""
    mean = jnp.mean(x, axis, keepdims=True)
    variance = jnp.var(x, axis, keepdims=True)
    centred = x - jax.lax.stop_gradient(mean)
    inverse_deviation = jax.lax.rsqrt(variance + norm.epsilon)
    normalised = centred * jax.lax.stop_gradient(inverse_deviation)
    return normalised * norm.scale[...] + norm.bias[...]


def cut_gradient_of_statistics(patch):
    """Batch norm and layer norm pass no gradient through their statistics."""
    evaluate_batch_norm = nnx.BatchNorm.__call__

    def batch_norm(self, x, use_running_average):
        if use_running_average:
            return evaluate_batch_norm(self, x, use_running_average=True)
        return normalise(x, tuple(range(x.ndim - 1)), self)

    def layer_norm(self, x):
        return normalise(x, -1, self)

    patch.setattr(nnx.BatchNorm, "__call__", batch_norm)
    patch.setattr(nnx.LayerNorm, "__call__", layer_norm)


def begin_scales_above_zero(patch):
    """ReZero's learned scales begin at 1e-4."""
    patch.setitem(INITIAL_ALPHA, SkipKind.rezero, 1e-4)


def overflow_in_softmax(patch):
    """The logarithm of the softmax exponentiates the logits as they are."""

    def log_softmax(logits):
        powers = jnp.exp(logits)
        return jnp.log(powers / jnp.sum(powers, axis=-1, keepdims=True))

    patch.setattr(jax.nn, "log_softmax", log_softmax)


def change_slope(patch, name, factor):
    """The derivative of a nonlinearity is multiplied by a factor."""
    activation = ACTIVATIONS[name]

    @jax.custom_jvp
    def changed(z):
        return activation(z)

    @changed.defjvp
    def derivative(primals, tangents):
        z, slope = jax.jvp(activation, primals, tangents)
        return z, factor * slope

    patch.setitem(ACTIVATIONS, name, changed)


def turn_rectifier(patch):
    """The derivative of a rectifier has the wrong sign."""
    change_slope(patch, "relu", -1.0)


def steepen_tanh(patch):
    """The derivative of tanh is a millionth too large."""
    change_slope(patch, "tanh", 1 + 1e-6)


def leave_averages_biased(patch):
    """Adam divides its averages by no correction for their start at zero."""

    def scale_by_adam(beta1, beta2, epsilon):
        corrected = original(beta1, beta2, epsilon)

        def update(updates, state, params=None):
            _, state = corrected.update(updates, state, params)
            assert isinstance(state, optax.ScaleByAdamState)

            def direction(m, v):
                return m / (jnp.sqrt(v) + epsilon)

            return jax.tree.map(direction, state.mu, state.nu), state

        return optax.GradientTransformation(corrected.init, update)

    original = optax.scale_by_adam
    patch.setattr(optax, "scale_by_adam", scale_by_adam)


def switch_biases_on(patch):
    """Linear maps have biases also where the model has none."""
    linear_kwargs = Architecture.linear_kwargs

    def with_bias(self, hp, rngs, **overrides):
        return linear_kwargs(self, hp, rngs, **(overrides | {"bias": True}))

    patch.setattr(Architecture, "linear_kwargs", with_bias)


def leave_dropout_unscaled(patch):
    """Dropout does not divide what it keeps by the probability of keeping it."""
    scaled = feed_forward.dropout

    def dropout(arch, z, ctx, layer):
        if not (arch.has_dropout and ctx.train):
            return z
        keep = 1 - ctx.hp.dropout_rate
        return scaled(arch, z, ctx, layer) * keep.astype(z.dtype)

    patch.setattr(feed_forward, "dropout", dropout)


def probe_wrong_layer(patch):
    """Probes read the layers in reverse order."""
    features = inspections.Snapshot.features

    def reversed_features(self, x):
        return features(self, x)[::-1]

    patch.setattr(inspections.Snapshot, "features", reversed_features)


def leave_filters_unscaled(patch):
    """The directions of a loss surface have norm 1 as a whole; no filter is scaled to its norm."""

    def random_direction(params, key):
        flat, restore = ravel_pytree(params)
        direction = jax.random.normal(key, flat.shape, flat.dtype)
        return restore(direction / jnp.linalg.norm(direction))

    patch.setattr(inspections, "filter_normalized", random_direction)


def clip_each_value(patch):
    """What is asked to be clipped by its global norm is clipped element by element."""
    clip_gradient = optimizers.clip_gradient

    def by_value(optimizer, *arguments):
        if optimizer.clip is Clip.global_norm:
            optimizer = dataclasses.replace(optimizer, clip=Clip.value)
        return clip_gradient(optimizer, *arguments)

    for module in (program, inspections):
        patch.setattr(module, "clip_gradient", by_value)


def attend_to_padding(patch):
    """Attention mixes the vectors of padding into those of the words."""
    call = Attention.__call__

    def call_without_mask(self, z, ctx, layer):
        unmasked = dataclasses.replace(ctx, padding_mask=None)
        return call(self, z, unmasked, layer)

    patch.setattr(Attention, "__call__", call_without_mask)


def decay_more(patch):
    """Weight decay is a quarter stronger than asked for."""
    add_decayed_weights = optax.add_decayed_weights

    def stronger(weight_decay, mask=None):
        return add_decayed_weights(1.25 * weight_decay, mask)

    patch.setattr(optax, "add_decayed_weights", stronger)


def change_adam(patch, change):
    """Adam has other numbers than those asked for."""
    scale_by_adam = optax.scale_by_adam

    def changed(beta1, beta2, epsilon):
        return scale_by_adam(*change(beta1, beta2, epsilon))

    patch.setattr(optax, "scale_by_adam", changed)


def enlarge_epsilon(patch):
    """Adam adds 5 % more to its denominator."""

    def change(beta1, beta2, epsilon):
        return beta1, beta2, 1.05 * epsilon

    change_adam(patch, change)


def average_fewer_gradients(patch):
    """Adam's average of gradients forgets twice as fast."""

    def change(beta1, beta2, epsilon):
        return beta1**2, beta2, epsilon

    change_adam(patch, change)


def sharpen_softmax(patch):
    """A softmax multiplies its scores by 1.25."""
    softmax = jax.nn.softmax

    def sharper(scores):
        return softmax(1.25 * scores)

    patch.setattr(jax.nn, "softmax", sharper)


def leave_mixing_unconstrained(patch):
    """Sinkhorn's iteration divides neither rows nor columns by their sums."""

    def exponentiate(logits):
        return jnp.exp(logits - streams.INITIAL_LOGIT)

    for module in (streams, inspections):
        patch.setattr(module, "sinkhorn", exponentiate)


def scale_no_branch(patch):
    """No branch is divided by a power of the depth."""
    call = Skip.__call__

    def call_with_whole_branch(self, h, branch, ctx, layer):
        if self.arch.skip.kind is SkipKind.identity:
            branch = branch / self.arch.branch_factor
        return call(self, h, branch, ctx, layer)

    patch.setattr(Skip, "__call__", call_with_whole_branch)


def round_gradients_to_nearest(patch):
    """Gradients in 4 bits are rounded to nearest, whatever the configuration says."""
    round_in_blocks = block_rounding.round_in_blocks

    def to_nearest(x, block_scale, key=None):
        return round_in_blocks(x, block_scale)

    patch.setattr(block_rounding, "round_in_blocks", to_nearest)


LAWS = {
    "weights": enlarge_weights,
    "branches": enlarge_branches,
    "statistics": cut_gradient_of_statistics,
    "scales": begin_scales_above_zero,
    "softmax": overflow_in_softmax,
    "rectifier": turn_rectifier,
    "tanh": steepen_tanh,
    "averages": leave_averages_biased,
    "biases": switch_biases_on,
    "dropout": leave_dropout_unscaled,
    "probe": probe_wrong_layer,
    "filters": leave_filters_unscaled,
    "clip": clip_each_value,
    "padding": attend_to_padding,
    "decay": decay_more,
    "epsilon": enlarge_epsilon,
    "momentum": average_fewer_gradients,
    "attention": sharpen_softmax,
    "mixing": leave_mixing_unconstrained,
    "depth": scale_no_branch,
    "noise": round_gradients_to_nearest,
}


if __name__ == "__main__":
    law, experiment = sys.argv[1:]
    with pytest.MonkeyPatch.context() as patch:
        LAWS[law](patch)
        code = cli.run(["reproduce", experiment, "tracker=none"])
    sys.exit(code)

"""An ``mlp`` written out layer by layer; it shares no code with the package."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

SELU_SCALE = 1.0507009873554805
SELU_ALPHA = 1.6732632423543772


def relu(z):
    return jnp.where(z > 0, z, 0)


def tanh(z):
    return 1 - 2 / (jnp.exp(2 * z) + 1)


def sigmoid(z):
    return 1 / (1 + jnp.exp(-z))


def gelu(z):
    return z * 0.5 * (1 + jax.scipy.special.erf(z / 2**0.5))


def silu(z):
    return z / (1 + jnp.exp(-z))


def elu(z):
    return jnp.where(z > 0, z, jnp.exp(jnp.minimum(z, 0)) - 1)


def selu(z):
    negative_part = SELU_ALPHA * (jnp.exp(jnp.minimum(z, 0)) - 1)
    return SELU_SCALE * jnp.where(z > 0, z, negative_part)


def softsign(z):
    return z / (1 + jnp.abs(z))


def linear(z):
    return z


ACTIVATIONS = {
    "relu": relu,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "gelu": gelu,
    "silu": silu,
    "elu": elu,
    "selu": selu,
    "softsign": softsign,
    "linear": linear,
}


def do_nothing(h):
    return h


@dataclass(frozen=True)
class Shortcut:
    """What the formula of a layer's shortcut depends on.

    Attributes:
        hp: the hyperparameters.
        layer: the layer's number, from 0.
        layers: N.
        depth: ``model.depth``.
        learned: the parameters of the shortcut.
        num_active: with ``dense``, how many units hold a value.
        kept: the value of the random mask; None for its mean.
        normalize: the normalisation of a projected shortcut.
    """

    hp: Any
    layer: int
    layers: int
    depth: int
    learned: Mapping[str, Any]
    num_active: int = 0
    kept: Any = None
    normalize: Callable = do_nothing

    def gate(self, h):
        z = apply_linear(h, self.learned["gate"])
        return 1 / (1 + jnp.exp(-z))

    def mask(self, rate):
        return 1 - rate if self.kept is None else self.kept


def combine(kind, h, branch, at):
    """The output of a layer.

    Args:
        kind: the name of the shortcut.
        h: the layer's input.
        branch: F(h).
        at: what else the formula depends on.
    """
    match kind:
        case "none":
            return branch
        case "identity":
            return h + branch
        case "scaled":
            scales = at.hp.skip
            return scales.shortcut_scale * h + scales.branch_scale * branch
        case "inv_sqrt_depth":
            return h + branch / at.layers**0.5
        case "rezero" | "skipinit" | "fixup":
            return h + at.learned["alpha"] * branch
        case "highway":
            return at.gate(h) * branch + (1 - at.gate(h)) * h
        case "gated":
            return branch + (1 - at.gate(h)) * h
        case "projection":
            projected = h @ at.learned["projection"]["kernel"]
            return at.normalize(projected) + branch
        case "dropout":
            return at.mask(at.hp.skip.rate) * h + branch
        case "stochastic_depth":
            rate = at.hp.skip.rate * (at.layer + 1) / at.layers
            return h + at.mask(rate) * branch
        case "deepnorm":
            return (2 * at.depth) ** 0.25 * h + branch
        case "hyper" | "mhc":
            maps = stream_maps(kind, at.learned["streams"])
            outputs = []
            for row, weight in zip(maps.mixing, maps.writing, strict=True):
                mixed = sum(m * each for m, each in zip(row, streams_of(h, maps), strict=True))
                outputs.append(mixed + weight * branch)
            return jnp.concatenate(outputs, axis=-1)
        case "dense":
            end = at.num_active + branch.shape[-1]
            parts = [h[..., : at.num_active], branch, h[..., end:]]
            return jnp.concatenate(parts, axis=-1)
    raise ValueError(f"no formula for {kind}")


@dataclass(frozen=True)
class StreamMaps:
    """What a layer does with n streams: the weights a and b and the matrix M."""

    reading: Any
    mixing: Any
    writing: Any


def stream_maps(kind, learned):
    """The maps of ``hyper`` or ``mhc`` from their parameters."""
    reading = learned["reading"]
    mixing = learned["mixing"]
    writing = learned["writing"]
    if kind == "hyper":
        return StreamMaps(reading, mixing, writing)
    matrix = jnp.exp(mixing)
    for _ in range(20):
        matrix = matrix / jnp.sum(matrix, 1)[:, None]
        matrix = matrix / jnp.sum(matrix, 0)[None]
    return StreamMaps(sigmoid(reading), matrix, 2 * sigmoid(writing))


def streams_of(h, maps):
    return jnp.split(h, len(maps.reading), axis=-1)


def read_streams(kind, h, learned):
    """What the branch reads."""
    maps = stream_maps(kind, learned["streams"])
    return sum(
        weight * each for weight, each in zip(maps.reading, streams_of(h, maps), strict=True)
    )


@dataclass
class Trace:
    """What a network computes from its input to its output.

    Attributes:
        signals: the N+1 signals between layers, [B, D] each, without units that hold no value.
        activation_inputs: the inputs of the nonlinearities, in forward order.
        moments: mean and mean square of each normalisation.
    """

    signals: list = field(default_factory=list)
    activation_inputs: list = field(default_factory=list)
    moments: list = field(default_factory=list)


def _moments(norm, h):
    """What a norm subtracts, and the mean square that it divides by."""
    match norm.kind.name:
        case "rms":
            return 0, jnp.mean(h**2, 1, keepdims=True)
        case "group":
            units_per_group = h.shape[1] // norm.groups
            grouped = h.reshape(len(h), norm.groups, -1)
            mean = jnp.repeat(jnp.mean(grouped, 2), units_per_group, 1)
            variance = jnp.repeat(jnp.var(grouped, 2), units_per_group, 1)
            return mean, variance
        case "layer":
            axis = 1
        case "batch":
            axis = 0
    return jnp.mean(h, axis, keepdims=True), jnp.var(h, axis, keepdims=True)


def _normalize(
    norm,
    h,
    params,
    running,
    trace,
    name="norm",
):
    """The norm of an option.

    Args:
        norm: the option.
        h: its input [B, D].
        params: a tree with the norm's parameters, if there are any, under ``name``.
        running: the same tree of running statistics; empty for the statistics of the batch.
        trace: where the moments are added.
        name: where the norm's parameters are.
    """
    kind = norm.kind.name
    if kind == "none":
        return h
    learned = params.get(name, {})
    out = _standardize(norm, h, learned, running.get(name) if running else None, trace)
    if not norm.affine:
        return out
    out = out * learned["scale"][None]
    if kind == "rms":
        return out
    return out + learned["bias"][None]


def _standardize(
    norm,
    h,
    learned,
    running,
    trace,
):
    kind = norm.kind.name
    if kind == "dyt":
        return jnp.tanh(learned["alpha"] * h)
    mean, square = _moments(norm, h)
    trace.moments.append((mean, square))
    if kind == "batch" and running:
        mean = running["mean"][None]
        square = running["var"][None]
    epsilon = 1e-5 if kind == "batch" else 1e-6
    return (h - mean) / jnp.sqrt(square + epsilon)


def has_norm_at(place, placement):
    """Whether a norm is before a branch (``pre``), at its end (``branch``) or after the sum."""
    if placement == "peri":
        return place in ("pre", "branch")
    return place == placement


def norm_name(place, placement):
    """Where the parameters of a norm are."""
    is_second = placement == "peri" and place == "branch"
    return "end_norm" if is_second else "norm"


def norm_scale(norm, layer):
    """The factor on the output of the norm before the branch of layer l = 0, 1, …"""
    is_scaled = norm.kind.name != "none" and norm.scale.name == "inv_sqrt_layer"
    return (layer + 1) ** -0.5 if is_scaled else 1.0


def branch_multiplier(model):
    """The factor on every branch: a power of the base depth over the depth."""
    exponent = {"depth_mup": 0.5, "complete_p": 1.0}.get(model.parametrization.name, 0.0)
    return (model.base_depth / model.depth) ** exponent


def head_multiplier(model):
    """The factor on what the head reads: the base width over the width."""
    is_standard = model.parametrization.name == "standard"
    return 1.0 if is_standard else model.base_width / model.width


def apply_linear(h, params):
    """h W + b over the last axis; without b where there is none."""
    out = h @ params["kernel"]
    if "bias" not in params:
        return out
    units_last = (1,) * (h.ndim - 1) + (-1,)
    return out + params["bias"].reshape(units_last)


def _branch(
    arch,
    z,
    params,
    num_active,
    trace,
):
    """W φ(z) over the units that hold a value, or W_2 φ(W_1 φ(z)); ``fixup`` adds a number before
    each φ and each W.
    """
    z = z[:, :num_active]
    has_shifts = arch.skip.kind.name == "fixup"
    for index, weight in enumerate(params["weights"].values()):
        rows = {"kernel": weight["kernel"][:num_active]}
        if has_shifts:
            z = z + params["shifts"][index, 0]
        trace.activation_inputs.append(z)
        activated = ACTIVATIONS[arch.activation.kind.name](z)
        if has_shifts:
            activated = activated + params["shifts"][index, 1]
        z = apply_linear(activated, weight | rows)
    return z


def unrolled(
    arch,
    params,
    x,
    hp,
    *,
    perturbations=None,
    running=None,
    kept=None,
):
    """The logits of a network, and its ``Trace``.

    Args:
        arch: the architecture of an ``mlp``.
        params: its parameters.
        x: inputs [B, inputs].
        hp: the hyperparameters.
        perturbations: arrays that are added where gauges measure the gradient. The gradient with
            respect to one is what the gauge of that name measures: ``signal_grad`` [N+1, B, D],
            ``branch_grad`` and ``skip_grad`` [N, B, D].
        running: running statistics, for batch norm to use instead of those of the batch.
        kept: the values [N] of the random masks; None for their means.
    """
    trace = Trace()
    running = running or {}
    kind = arch.skip.kind.name
    depth = arch.model.depth
    growth = arch.skip.growth if kind == "dense" else 0

    def perturb(name, layer, h):
        if perturbations is None:
            return h
        return h + perturbations[name][layer]

    placement = arch.norm.placement.name

    def normalize_at(place, h, params, running):
        if not has_norm_at(place, placement):
            return h
        name = norm_name(place, placement)
        return _normalize(arch.norm, h, params, running, trace, name)

    def shortcut(number, layer, layer_running, num_active):
        learned = layer.get("skip", {})
        norm_running = layer_running.get("skip")

        def normalize(h):
            return _normalize(arch.norm, h, learned, norm_running, trace)

        mask = None if kept is None else kept[number]
        return Shortcut(hp, number, depth, depth, learned, num_active, mask, normalize)

    num_active = arch.model.width
    h = apply_linear(x, params["embed"])
    h = jnp.pad(h, ((0, 0), (0, depth * growth)))
    streams = arch.skip.streams if kind in ("hyper", "mhc") else 1
    h = jnp.tile(h, (1, streams))
    num_active = num_active * streams
    h = perturb("signal_grad", 0, h)
    trace.signals.append(h[:, :num_active])
    (stage,) = params["stages"].values()
    for number in range(depth):
        layer = take_layer(stage, number)
        layer_running = take_layer(running["stages"][0], number) if running else {}
        z = perturb("branch_grad", number, h)
        if kind in ("hyper", "mhc"):
            z = read_streams(kind, z, layer["skip"])
        z = normalize_at("pre", z, layer, layer_running) * norm_scale(arch.norm, number)
        branch = _branch(arch, z, layer["branch"], num_active, trace)
        branch = normalize_at("branch", branch, layer, layer_running)
        branch = branch_multiplier(arch.model) * branch
        h = perturb("skip_grad", number, h)
        h = combine(kind, h, branch, shortcut(number, layer, layer_running, num_active))
        h = normalize_at("post", h, layer, layer_running)
        h = perturb("signal_grad", number + 1, h)
        num_active += growth
        trace.signals.append(h[:, :num_active])
    if streams > 1:
        h = sum(jnp.split(h, streams, axis=-1)) / streams
    h = normalize_at("pre", h, params, running)
    activated = ACTIVATIONS[arch.activation.kind.name](h)
    return apply_linear(head_multiplier(arch.model) * activated, params["head"]), trace


def take_layer(stage, number):
    """The parameters of one layer of a stage."""
    return jax.tree.map(lambda leaf: leaf[number], stage)

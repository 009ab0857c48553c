"""The network written out layer by layer in float64. It shares no line with the package."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SELU_SCALE = 1.0507009873554805
SELU_ALPHA = 1.6732632423543772


def _relu(z):
    return jnp.where(z > 0, z, 0)


def _tanh(z):
    return 1 - 2 / (jnp.exp(2 * z) + 1)


def _sigmoid(z):
    return 1 / (1 + jnp.exp(-z))


def _gelu(z):
    return z * 0.5 * (1 + jax.scipy.special.erf(z / 2**0.5))


def _silu(z):
    return z / (1 + jnp.exp(-z))


def _elu(z):
    negative = jnp.exp(jnp.minimum(z, 0)) - 1
    return jnp.where(z > 0, z, negative)


def _selu(z):
    negative = SELU_ALPHA * (jnp.exp(jnp.minimum(z, 0)) - 1)
    return SELU_SCALE * jnp.where(z > 0, z, negative)


def _softsign(z):
    return z / (1 + jnp.abs(z))


def _linear(z):
    return z


ACTIVATIONS = {
    "relu": _relu,
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "gelu": _gelu,
    "silu": _silu,
    "elu": _elu,
    "selu": _selu,
    "softsign": _softsign,
    "linear": _linear,
}


@dataclass
class Shortcut:
    """What the formula of a shortcut needs besides h and the branch, at layer ``layer`` = 0..N-1.

    ``learned`` holds the parameters of the shortcut. ``written`` units of h have a value where it
    grows from layer to layer. ``kept`` is the value of a random mask, instead of its mean.
    ``normed`` normalises the projected shortcut.
    """

    hp: Mapping[str, Any]
    layer: int
    layers: int
    depth: int
    learned: Mapping[str, Any]
    written: int = 0
    kept: Any = None
    normed: Callable = _linear

    def gate(self, h):
        gate = self.learned["gate"]
        bias_shape = (1,) * (h.ndim - 1) + (-1,)
        return _sigmoid(h @ gate["kernel"] + gate["bias"].reshape(bias_shape))

    def mask(self, rate):
        return 1 - rate if self.kept is None else self.kept


def _none(h, branch, at):
    return branch


def _identity(h, branch, at):
    return h + branch


def _scaled(h, branch, at):
    return at.hp["skip.shortcut_scale"] * h + at.hp["skip.branch_scale"] * branch


def _inv_sqrt_depth(h, branch, at):
    return h + branch / np.sqrt(at.layers)


def _learned_scale(h, branch, at):
    return h + at.learned["alpha"] * branch


def _highway(h, branch, at):
    gate = at.gate(h)
    return gate * branch + (1 - gate) * h


def _gated(h, branch, at):
    return branch + (1 - at.gate(h)) * h


def _projection(h, branch, at):
    projected = h @ at.learned["projection"]["kernel"]
    return at.normed(projected) + branch


def _dropout(h, branch, at):
    return at.mask(at.hp["skip.rate"]) * h + branch


def _stochastic_depth(h, branch, at):
    rate = at.hp["skip.rate"] * (at.layer + 1) / at.layers
    return h + at.mask(rate) * branch


def _deepnorm(h, branch, at):
    return (2 * at.depth) ** 0.25 * h + branch


def _dense(h, branch, at):
    before = h[..., : at.written]
    after = h[..., at.written + branch.shape[-1] :]
    return jnp.concatenate([before, branch, after], axis=-1)


SKIPS: dict[str, Callable[[Any, Any, Shortcut], Any]] = {
    "none": _none,
    "identity": _identity,
    "scaled": _scaled,
    "inv_sqrt_depth": _inv_sqrt_depth,
    "rezero": _learned_scale,
    "skipinit": _learned_scale,
    "fixup": _learned_scale,
    "highway": _highway,
    "gated": _gated,
    "projection": _projection,
    "dropout": _dropout,
    "stochastic_depth": _stochastic_depth,
    "deepnorm": _deepnorm,
    "dense": _dense,
}


def _moments(kind, h, groups):
    """The value that a norm subtracts, and the mean square by which it divides."""
    if kind == "rms":
        return 0, jnp.mean(h**2, 1, keepdims=True)
    if kind == "group":
        units_per_group = h.shape[1] // groups
        grouped = h.reshape(len(h), groups, -1)
        mean = jnp.repeat(jnp.mean(grouped, 2), units_per_group, 1)
        variance = jnp.repeat(jnp.var(grouped, 2), units_per_group, 1)
        return mean, variance
    axis = {"layer": 1, "batch": 0}[kind]
    mean = jnp.mean(h, axis, keepdims=True)
    variance = jnp.var(h, axis, keepdims=True)
    return mean, variance


def _apply_linear(h, params):
    out = h @ params["kernel"]
    if "bias" in params:
        out = out + params["bias"][None]
    return out


def _layer_of(tree, n):
    """The parameters of layer ``n`` from parameters that are stacked over layers."""
    return jax.tree.map(lambda leaf: leaf[n], tree)


class _Network:
    """The forward pass; ``seen`` collects what it computes."""

    def __init__(self, arch, hp, nudges, running, kept):
        self.arch = arch
        self.hp = hp
        self.nudges = nudges
        self.running = running or {}
        self.kept = kept
        self.activation = ACTIVATIONS[arch.activation]
        self.growth = arch.growth if arch.skip == "dense" else 0
        self.seen = {"signals": [], "into_branch": [], "moments": []}

    def nudge(self, name, layer, h):
        if self.nudges is None:
            return h
        return h + self.nudges[name][layer]

    def norm(self, h, params, running):
        kind = self.arch.norm
        if kind == "none":
            return h
        norm = params["norm"]
        scale = norm["scale"][None]
        if kind == "dyt":
            return scale * jnp.tanh(norm["alpha"] * h) + norm["bias"][None]
        mean, square = _moments(kind, h, self.arch.groups)
        self.seen["moments"].append((mean, square))
        if kind == "batch" and running:
            mean = running["norm"]["mean"][None]
            square = running["norm"]["var"][None]
        epsilon = 1e-5 if kind == "batch" else 1e-6
        out = (h - mean) / jnp.sqrt(square + epsilon) * scale
        if kind == "rms":
            return out
        return out + norm["bias"][None]

    def norm_at(self, placement, h, params, running):
        if placement != self.arch.placement:
            return h
        return self.norm(h, params, running)

    def branch(self, z, params, written):
        """W φ(z) of the first ``written`` units; Fixup shifts z before φ and before W."""
        before = 0
        after = 0
        if self.arch.skip == "fixup":
            before, after = params["shifts"][0]
        z = z[:, :written] + before
        self.seen["into_branch"].append(z)
        (weight,) = params["weights"].values()
        weight = weight | {"kernel": weight["kernel"][:written]}
        return _apply_linear(self.activation(z) + after, weight)

    def shortcut(self, n, params, running, written):
        def norm_of_shortcut(h):
            return self.norm(h, params["skip"], running.get("skip"))

        return Shortcut(
            hp=self.hp,
            layer=n,
            layers=self.arch.model.depth,
            depth=self.arch.model.depth,
            learned=params.get("skip", {}),
            written=written,
            kept=None if self.kept is None else self.kept[n],
            normed=norm_of_shortcut,
        )

    def layer(self, n, h, params, running):
        written = self.arch.model.width + n * self.growth
        z = self.nudge("branch_grad", n, h)
        z = self.norm_at("pre", z, params, running)
        branch = self.branch(z, params["branch"], written)
        branch = self.norm_at("branch", branch, params, running)
        shortcut = self.shortcut(n, params, running, written)
        h = self.nudge("skip_grad", n, h)
        h = SKIPS[self.arch.skip](h, branch, shortcut)
        h = self.norm_at("post", h, params, running)
        h = self.nudge("signal_grad", n + 1, h)
        self.seen["signals"].append(h[:, : written + self.growth])
        return h

    def __call__(self, params, x):
        width = self.arch.model.width
        h = _apply_linear(x, params["embed"])
        h = jnp.pad(h, ((0, 0), (0, self.arch.model.depth * self.growth)))
        h = self.nudge("signal_grad", 0, h)
        self.seen["signals"].append(h[:, :width])
        (stage,) = params["stages"].values()
        for n in range(self.arch.model.depth):
            running = _layer_of(self.running["stages"][0], n) if self.running else {}
            h = self.layer(n, h, _layer_of(stage, n), running)
        h = self.norm_at("pre", h, params, self.running)
        return _apply_linear(self.activation(h), params["head"])


def unrolled(arch, params, x, hp, *, nudges=None, running=None, kept=None):
    """The network of an ``Architecture`` as a loop over layers.

    Args:
        arch: the architecture.
        params: the parameters as a tree.
        x: the input.
        hp: the traced settings.
        nudges: what is added where the gauges are. The gradient with respect to a nudge is what the
            gauge of its name measures: ``signal_grad`` [N+1, B, D], ``branch_grad`` and
            ``skip_grad`` [N, B, D].
        running: the network's other state; batch norm then uses its running statistics.
        kept: the masks of random shortcuts [N]. Without them shortcuts are as in evaluation.

    Returns:
        The logits, and what was computed on the way by name: ``signals``, ``into_branch``,
        ``moments``.
    """
    network = _Network(arch, hp, nudges, running, kept)
    logits = network(params, x)
    return logits, network.seen

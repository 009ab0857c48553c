"""The network written out layer by layer in float64, sharing no line with the package."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SELU_SCALE = 1.0507009873554805
SELU_ALPHA = 1.6732632423543772
ACTIVATIONS = {
    "relu": lambda z: jnp.where(z > 0, z, 0),
    "tanh": lambda z: 1 - 2 / (jnp.exp(2 * z) + 1),
    "sigmoid": lambda z: 1 / (1 + jnp.exp(-z)),
    "gelu": lambda z: z * 0.5 * (1 + jax.scipy.special.erf(z / 2**0.5)),
    "silu": lambda z: z / (1 + jnp.exp(-z)),
    "elu": lambda z: jnp.where(z > 0, z, jnp.exp(jnp.minimum(z, 0)) - 1),
    "selu": lambda z: (
        SELU_SCALE * jnp.where(z > 0, z, SELU_ALPHA * (jnp.exp(jnp.minimum(z, 0)) - 1))
    ),
    "softsign": lambda z: z / (1 + jnp.abs(z)),
    "linear": lambda z: z,
}


class Shortcut(NamedTuple):
    """What is known where branch and shortcut meet: of layer ``layer`` = 0..N-1, and what was learned there."""

    hp: Mapping[str, Any]
    layer: int
    layers: int
    depth: int
    learned: Mapping[str, Any]
    written: int = 0  # units of a growing stream
    kept: Any = None  # instead of its mean, what a random mask is
    normed: Callable = lambda h: h

    def gate(self, h):
        gate = self.learned["gate"]
        return 1 / (
            1 + jnp.exp(-(h @ gate["kernel"] + gate["bias"].reshape((1,) * (h.ndim - 1) + (-1,))))
        )

    def mask(self, rate):
        return 1 - rate if self.kept is None else self.kept


SKIPS: dict[str, Callable[[Any, Any, Shortcut], Any]] = {
    "none": lambda h, branch, at: branch,
    "identity": lambda h, branch, at: h + branch,
    "scaled": lambda h, branch, at: (
        at.hp["skip.shortcut_scale"] * h + at.hp["skip.branch_scale"] * branch
    ),
    "inv_sqrt_depth": lambda h, branch, at: h + branch / np.sqrt(at.layers),
    "rezero": lambda h, branch, at: h + at.learned["alpha"] * branch,
    "skipinit": lambda h, branch, at: h + at.learned["alpha"] * branch,
    "fixup": lambda h, branch, at: h + at.learned["alpha"] * branch,
    "highway": lambda h, branch, at: at.gate(h) * branch + (1 - at.gate(h)) * h,
    "gated": lambda h, branch, at: branch + (1 - at.gate(h)) * h,
    "projection": lambda h, branch, at: at.normed(h @ at.learned["projection"]["kernel"]) + branch,
    "dropout": lambda h, branch, at: at.mask(at.hp["skip.rate"]) * h + branch,
    "stochastic_depth": lambda h, branch, at: (
        h + at.mask(at.hp["skip.rate"] * (at.layer + 1) / at.layers) * branch
    ),
    "deepnorm": lambda h, branch, at: (2 * at.depth) ** 0.25 * h + branch,
    "dense": lambda h, branch, at: jnp.concatenate(
        [h[..., : at.written], branch, h[..., at.written + branch.shape[-1] :]], axis=-1
    ),
}


def _moments(kind, h, groups):
    """What is taken off, and the mean square that is divided by."""
    if kind == "rms":
        return 0, jnp.mean(h**2, 1, keepdims=True)
    if kind == "group":
        grouped = h.reshape(len(h), groups, -1)
        each = jnp.mean(grouped, 2), jnp.var(grouped, 2)
        return tuple(jnp.repeat(part, h.shape[1] // groups, 1) for part in each)
    axis = {"layer": 1, "batch": 0}[kind]
    return jnp.mean(h, axis, keepdims=True), jnp.var(h, axis, keepdims=True)


def _normed(arch, h, params, running, seen):
    if arch.norm == "none":
        return h
    norm = params["norm"]

    def row(leaf):
        return leaf[None]

    if arch.norm == "dyt":
        return row(norm["scale"]) * jnp.tanh(norm["alpha"] * h) + row(norm["bias"])
    mean, square = _moments(arch.norm, h, arch.groups)
    seen["moments"].append((mean, square))
    if arch.norm == "batch" and running:
        mean = row(running["norm"]["mean"])
        square = row(running["norm"]["var"])
    out = (
        (h - mean)
        / jnp.sqrt(square + (1e-5 if arch.norm == "batch" else 1e-6))
        * row(norm["scale"])
    )
    return out if arch.norm == "rms" else out + row(norm["bias"])


def _linear(h, params):
    return h @ params["kernel"] + (params["bias"][None] if "bias" in params else 0)


def _branch(arch, z, params, written, seen):
    """W φ(z) of the units that are written; with Fixup a shift in front of each of the two."""
    before, behind = params["shifts"][0] if arch.skip == "fixup" else (0, 0)
    (weight,) = params["weights"].values()
    z = z[:, :written] + before
    seen["into_branch"].append(z)
    return _linear(
        ACTIVATIONS[arch.activation](z) + behind, weight | {"kernel": weight["kernel"][:written]}
    )


def unrolled(arch, params, x, hp, *, nudges=None, running=None, kept=None):
    """The network of an ``Architecture`` as a loop over layers; what it computes on the way, by name.

    ``nudges`` are added where the gauges sit, so that the gradient with respect to a nudge is the one that the
    gauge of that name measures: ``signal_grad`` [N+1, B, D], ``branch_grad`` and ``skip_grad`` [N, B, D].
    ``running`` holds the network's other state and switches batch norm to its running statistics. Random shortcuts are
    as in evaluation, unless ``kept`` [N] says what becomes of each layer's.
    """
    seen = {"signals": [], "into_branch": [], "moments": []}

    def nudge(name, layer, h):
        return h if nudges is None else h + nudges[name][layer]

    def normed(h, place, params, running):
        return _normed(arch, h, params, running, seen) if place == arch.placement else h

    def shortcut(n, layer, rest, written):
        return Shortcut(
            hp, n, arch.model.depth, arch.model.depth, layer.get("skip", {}), written, None if kept is None else kept[n],
            lambda h: _normed(arch, h, layer["skip"], rest.get("skip"), seen),
        )  # fmt: skip

    growth = arch.growth if arch.skip == "dense" else 0
    width = arch.model.width + arch.model.depth * growth
    h = jnp.pad(_linear(x, params["embed"]), ((0, 0), (0, width - arch.model.width)))
    h = nudge("signal_grad", 0, h)
    seen["signals"].append(h[:, : arch.model.width])
    (stage,) = params["stages"].values()
    running = running or {}
    for n in range(arch.model.depth):
        layer = jax.tree.map(lambda leaf: leaf[n], stage)
        rest = jax.tree.map(lambda leaf: leaf[n], running["stages"][0]) if running else {}
        written = arch.model.width + n * growth
        z = normed(nudge("branch_grad", n, h), "pre", layer, rest)
        branch = normed(_branch(arch, z, layer["branch"], written, seen), "branch", layer, rest)
        h = SKIPS[arch.skip](nudge("skip_grad", n, h), branch, shortcut(n, layer, rest, written))
        h = nudge("signal_grad", n + 1, normed(h, "post", layer, rest))
        seen["signals"].append(h[:, : written + growth])
    h = normed(h, "pre", params, running)
    return _linear(ACTIVATIONS[arch.activation](h), params["head"]), seen

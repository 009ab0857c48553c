"""Settings of every test, and what several rooms are tested with.

Shapes are checked at run time, arrays of different rank never broadcast silently, random keys are typed. ``unrolled``
is the oracle: the network written out layer by layer in float64, sharing no line with the package.
"""

import os

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxtyping import install_import_hook

install_import_hook(["research.models", "research.gauges", "research.training"], "beartype.beartype")

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import config
from research.models.stack import Architecture


@pytest.fixture(autouse=True, scope="session")
def _strict_jax():
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_legacy_prng_key", "error")
    yield


@pytest.fixture(scope="session")
def make_architecture():
    """A small network, but for the changes that are asked for."""
    usual = dict(inputs=5, classes=4, depth=3, width=8, bias=True, activation="tanh", init="lecun", skip="none")
    usual |= dict(norm="none", placement="pre", dtype="float32", param_dtype="float32")
    return lambda **changes: Architecture(**(usual | changes))


@pytest.fixture(scope="session")
def make_numbers():
    """Every traced number of the configuration, and ``train.steps``; a list holds one value for each of the runs."""

    def make(changes=None, *, runs=1, dtype="float32"):
        values = config.traced(config.Config()) | {"train.steps": 10} | (changes or {})
        unknown = set(changes or {}) - set(config.traced(config.Config())) - {"train.steps"}
        assert not unknown, f"not traced: {unknown}"
        counts = {"seed": jnp.uint32, "optimizer.warmup_steps": jnp.int32, "train.steps": jnp.int32}
        shape = () if runs is None else (runs,)
        return {
            path: jnp.broadcast_to(jnp.asarray(value, counts.get(path, dtype)), shape) for path, value in values.items()
        }

    return make


@pytest.fixture(scope="session")
def distance():
    """‖a - b‖ / ‖b‖ over all leaves of two trees, in float64."""

    def flat(tree):
        return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])

    return lambda a, b: np.linalg.norm(flat(a) - flat(b)) / np.linalg.norm(flat(b))


SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
ACTIVATIONS = {
    "relu": lambda z: jnp.where(z > 0, z, 0),
    "tanh": lambda z: 1 - 2 / (jnp.exp(2 * z) + 1),
    "sigmoid": lambda z: 1 / (1 + jnp.exp(-z)),
    "gelu": lambda z: z * 0.5 * (1 + jax.scipy.special.erf(z / 2**0.5)),
    "silu": lambda z: z / (1 + jnp.exp(-z)),
    "elu": lambda z: jnp.where(z > 0, z, jnp.exp(jnp.minimum(z, 0)) - 1),
    "selu": lambda z: SELU_SCALE * jnp.where(z > 0, z, SELU_ALPHA * (jnp.exp(jnp.minimum(z, 0)) - 1)),
    "softsign": lambda z: z / (1 + jnp.abs(z)),
    "linear": lambda z: z,
}
SKIPS = {
    "none": lambda h, branch, alpha, depth, hp: branch,
    "identity": lambda h, branch, alpha, depth, hp: h + branch,
    "scaled": lambda h, branch, alpha, depth, hp: hp["skip.shortcut_scale"] * h + hp["skip.branch_scale"] * branch,
    "inv_sqrt_depth": lambda h, branch, alpha, depth, hp: h + branch / jnp.sqrt(float(depth)),
    "rezero": lambda h, branch, alpha, depth, hp: h + alpha * branch,
}
NORM_AXIS_AND_EPSILON = {"layer": (1, 1e-6), "batch": (0, 1e-5)}


@pytest.fixture(scope="session")
def activations():
    """Every activation by its formula."""
    return ACTIVATIONS


@pytest.fixture(scope="session")
def skips():
    """Every shortcut by its formula: of h, the branch, the learned α, the depth and the traced numbers."""
    return SKIPS


@pytest.fixture(scope="session")
def unrolled():
    """The network of an ``Architecture`` as a loop over layers; what it computes on the way, by name.

    ``nudges`` are added where the gauges sit, so that the gradient with respect to a nudge is the one that the
    gauge of that name measures: ``signal_grad`` [N+1, B, D], ``branch_grad`` and ``skip_grad`` [N, B, D].
    ``running`` holds the network's other state and switches batch norm to its running statistics.
    """
    return _unrolled


def _unrolled(arch, params, x, hp, *, nudges=None, running=None):
    seen = {"signals": [], "into_branch": [], "moments": []}

    def nudge(name, layer, h):
        return h if nudges is None else h + nudges[name][layer]

    def normed(h, place, params, running):
        if arch.norm == "none" or place != arch.placement:
            return h
        axis, epsilon = NORM_AXIS_AND_EPSILON[arch.norm]
        mean, var = jnp.mean(h, axis, keepdims=True), jnp.var(h, axis, keepdims=True)
        seen["moments"].append((mean, var))
        if arch.norm == "batch" and running:
            mean, var = running["norm"]["mean"][None], running["norm"]["var"][None]
        return (h - mean) / jnp.sqrt(var + epsilon) * params["norm"]["scale"][None] + params["norm"]["bias"][None]

    def linear(h, params):
        return h @ params["kernel"] + (params["bias"][None] if arch.bias else 0)

    phi = ACTIVATIONS[arch.activation]
    h = nudge("signal_grad", 0, linear(x, params["embed"]))
    seen["signals"].append(h)
    (stage,) = params["stages"].values()
    for n in range(arch.depth):
        layer = jax.tree.map(lambda leaf: leaf[n], stage)  # noqa: B023
        rest = jax.tree.map(lambda leaf: leaf[n], running["stages"][0]) if running else None  # noqa: B023
        z = normed(nudge("branch_grad", n, h), "pre", layer, rest)
        branch = normed(linear(phi(z), layer["branch"]["linear"]), "branch", layer, rest)
        alpha = layer["skip"]["alpha"] if arch.skip == "rezero" else None
        h = SKIPS[arch.skip](nudge("skip_grad", n, h), branch, alpha, arch.depth, hp)
        h = nudge("signal_grad", n + 1, normed(h, "post", layer, rest))
        seen["into_branch"].append(z)
        seen["signals"].append(h)
    return linear(phi(normed(h, "pre", params, running)), params["head"]), seen

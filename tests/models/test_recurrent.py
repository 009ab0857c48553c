"""Recurrent networks against loops over time in NumPy, and their gradient through time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from research import config
from research.models.architecture import Pass
from research.models.stack import Stack
from research.training.precision import scope

CELLS = [cell.name for cell in config.Cell]
B, T, P, D, C = 3, 5, 2, 4, 6  # P: numbers of the example that a step reads
DRAW = np.random.default_rng(0).standard_normal
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
RNN = dict(kind="rnn", shape=(T, P), depth=T, width=D, classes=C, dtype="float64", param_dtype="float64")
TEXT = dict(shape=(T,), vocabulary=C, language=True)
X, TOKENS = DRAW((B, T * P)), np.arange(B * T).reshape(B, T) ** 2 % C


@pytest.fixture(autouse=True)
def _float64():
    with scope("float64"):
        yield


@pytest.fixture(scope="session")
def make_network(make_architecture, make_numbers, build):
    """A recurrent network, what it is told, and its parameters, moved off their initial values."""

    def make(move=0.3, **changes):
        arch = make_architecture(**(RNN | changes))
        hp = make_numbers({"skip.branch_scale": 0.7, "skip.shortcut_scale": 0.9}, runs=None, dtype="float64")
        with jax.disable_jit():
            params, rest = build(arch, hp)
        assert not jax.tree.leaves(rest)
        return arch, hp, jax.tree.map(lambda leaf: leaf + move * DRAW(leaf.shape), params)

    return make


def measured(arch, hp, params, x, cotangent):
    """Logits, forward statistics, the gradient of every parameter and every gauge."""
    graph = nnx.graphdef(nnx.eval_shape(lambda: Stack(arch, hp, rngs=nnx.Rngs(0))))
    lengths = {"signal_grad": T + 1, "grad_norm": T, "branch_grad": T, "skip_grad": T}

    def objective(params, slots):
        told = Pass(hp, train=True, forward=True, units=True)
        logits, statistics = nnx.merge(graph, params, nnx.State({}), copy=True)(jnp.asarray(x), slots, told)
        return jnp.sum(logits * cotangent), (logits, statistics)

    gradient = jax.jit(jax.grad(objective, (0, 1), has_aux=True), compiler_options=QUICK)
    (grads, gauges), (logits, statistics) = gradient(params, {name: jnp.zeros(n) for name, n in lengths.items()})
    return logits, statistics, nnx.to_pure_dict(grads), gauges


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def elman(h, x, cell):
    return np.tanh(h) @ cell["recurrent"][0] + x @ cell["input"][0] + cell["bias"][0]


def gru(h, x, cell):
    from_state, given = h @ cell["recurrent"], x @ cell["input"] + cell["bias"][:, None]
    r, z = sigmoid(given[0] + from_state[0]), sigmoid(given[1] + from_state[1])
    return (1 - z) * np.tanh(given[2] + r * (from_state[2] + cell["inner"])) + z * h


def lstm(state, x, cell):
    c, h = state[:, :D], state[:, D:]
    i, f, o, g = h @ cell["recurrent"] + x @ cell["input"] + cell["bias"][:, None]
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return np.concatenate([c, sigmoid(o) * np.tanh(c)], axis=1)


STEPS = {"elman": elman, "gru": gru, "lstm": lstm}


def states(cell, pieces, shared, nudges=None, begun=None):
    """h_0 = 0, h_1, …, h_T. ``shared`` may be a list of one copy of the weights a step; ``nudges`` are added to h_t."""
    width = 2 * D if cell == "lstm" else D
    h = np.zeros((B, width)) if begun is None else begun
    seen = []
    for t in range(T + 1):
        if t:
            h = STEPS[cell](h, pieces[:, t - 1], shared[t - 1] if isinstance(shared, list) else shared)
        h = h if nudges is None else h + nudges[t]
        seen.append(h)
    return seen


def read_out(cell, h, head):
    return (np.tanh(h) if cell == "elman" else h[:, -D:]) @ head["kernel"] + head["bias"]


def loss(cell, params, x, cotangent, *, language, shared=None, nudges=None):
    """The sum that is differentiated, and the logits."""
    vectors = params["embed"]["vectors"][x] if language else x.reshape(B, T, P)
    seen = states(cell, vectors, shared or params["cell"]["branch"], nudges)
    if language:
        logits = np.stack([read_out(cell, h, params["head"]) for h in seen[1:]], 1)
    else:
        logits = read_out(cell, seen[-1], params["head"])
    return np.sum(logits * cotangent), logits


def in_numpy(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), nnx.to_pure_dict(tree))


def slopes(function, tree, step=1e-5):
    """The gradient of a function of a tree of arrays, by central differences: errors about 1e-10."""
    leaves, structure = jax.tree.flatten(tree)
    found = []
    for n, leaf in enumerate(leaves):
        slope = np.zeros(leaf.shape)
        for place in np.ndindex(leaf.shape):
            ends = []
            for sign in (1, -1):
                moved = leaf.copy()
                moved[place] += sign * step
                ends.append(function(jax.tree.unflatten(structure, [*leaves[:n], moved, *leaves[n + 1 :]])))
            slope[place] = (ends[0] - ends[1]) / (2 * step)
        found.append(slope)
    return jax.tree.unflatten(structure, found)


@pytest.mark.parametrize("language", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_a_recurrent_network_and_its_gauges_are_those_of_the_loop(cell, language, make_network):
    """signal_grad[t] is ‖∂L/∂h_t‖, grad_norm[t] the part of the shared weights' gradient that comes from step t."""
    arch, hp, params = make_network(cell=cell, **(TEXT if language else {}))
    x, cotangent = TOKENS if language else X, DRAW((B, T, C) if language else (B, C))
    logits, statistics, grads, gauges = measured(arch, hp, params, x, cotangent)
    plain = in_numpy(params)
    value = functools.partial(loss, cell, x=x, cotangent=cotangent, language=language)
    np.testing.assert_allclose(logits, value(plain)[1], rtol=1e-12)

    zeros = [np.zeros((B, arch.state)) for _ in range(T + 1)]
    nudged = slopes(lambda nudges: value(plain, nudges=nudges)[0], zeros)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-7)
    close(gauges["signal_grad"], [np.linalg.norm(part) for part in nudged])
    close(gauges["branch_grad"], gauges["signal_grad"][1:] if cell != "none" else [])

    copies = [plain["cell"]["branch"]] * T
    parts = slopes(lambda copies: value(plain, shared=copies)[0], copies)
    close(gauges["grad_norm"], [np.sqrt(sum(np.sum(leaf**2) for leaf in part.values())) for part in parts])
    whole = jax.tree.map(lambda *each: sum(each), *parts)
    jax.tree.map(lambda a, b: close(a, b, atol=1e-8), grads["cell"]["branch"], whole)

    vectors = plain["embed"]["vectors"][x] if language else x.reshape(B, T, P)
    seen = states(cell, vectors, plain["cell"]["branch"])
    close(statistics["activation_rms"], [np.sqrt(np.mean(h**2)) for h in seen])

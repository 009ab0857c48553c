"""Recurrent networks against loops over time in NumPy, and their gradient through time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from research.config import schema as config
from research.models.architecture import ForwardContext
from research.models.stack import Stack
from research.training.precision import scope

from ..compiling import quick

CELLS = [cell.name for cell in config.Cell]
PLACES = [place.name for place in config.Placement]
# P: numbers of the example that a step reads
B = 3
T = 5
P = 2
D = 4
C = 6
DRAW = np.random.default_rng(0).standard_normal
RNN = dict(
    kind="rnn", shape=(T, P), depth=T, width=D, classes=C, dtype="float64", param_dtype="float64"
)
TEXT = dict(shape=(T,), vocabulary=C, language=True)
X = DRAW((B, T * P))
TOKENS = np.arange(B * T).reshape(B, T) ** 2 % C


@pytest.fixture(autouse=True)
def _float64():
    with scope("float64"):
        yield


@pytest.fixture(scope="session")
def make_network(make_architecture, make_numbers, build):
    """A recurrent network, what it is ctx, and its parameters, moved off their initial values."""

    def make(move=0.3, **changes):
        arch = make_architecture(**(RNN | changes))
        hp = make_numbers(
            {"skip.branch_scale": 0.7, "skip.shortcut_scale": 0.9}, runs=None, dtype="float64"
        )
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
        ctx = ForwardContext(hp, train=True, level=Level.full)
        logits, statistics = nnx.merge(graph, params, nnx.State({}), copy=True)(
            jnp.asarray(x), slots, ctx
        )
        return jnp.sum(logits * cotangent), (logits, statistics)

    gradient = quick(jax.grad(objective, (0, 1), has_aux=True))
    (grads, gauges), (logits, statistics) = gradient(
        params, {name: jnp.zeros(n) for name, n in lengths.items()}
    )
    return logits, statistics, nnx.to_pure_dict(grads), gauges


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def elman(h, x, cell):
    return np.tanh(h) @ cell["recurrent"][0] + x @ cell["input"][0] + cell["bias"][0]


def gru(h, x, cell):
    from_state = h @ cell["recurrent"]
    given = x @ cell["input"] + cell["bias"][:, None]
    r = sigmoid(given[0] + from_state[0])
    z = sigmoid(given[1] + from_state[1])
    return (1 - z) * np.tanh(given[2] + r * (from_state[2] + cell["inner"])) + z * h


def lstm(state, x, cell):
    c = state[:, :D]
    h = state[:, D:]
    i, f, o, g = h @ cell["recurrent"] + x @ cell["input"] + cell["bias"][:, None]
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return np.concatenate([c, sigmoid(o) * np.tanh(c)], axis=1)


STEPS = {"elman": elman, "gru": gru, "lstm": lstm}


SKIPS = {
    "none": lambda h, branch: branch,
    "identity": lambda h, branch: h + branch,
    "scaled": lambda h, branch: 0.9 * h + 0.7 * branch,
    "inv_sqrt_depth": lambda h, branch: h + branch / np.sqrt(T),
}


def normed(h, norm):
    """Layer norm; without one, nothing."""
    if norm is None:
        return h
    mean = h.mean(1, keepdims=True)
    var = h.var(1, keepdims=True)
    return (h - mean) / np.sqrt(var + 1e-6) * norm["scale"] + norm["bias"]


def states(arch, pieces, layers, nudges=None):
    """h_0 = 0, h_1, …, h_T, with one copy of the weights a step; ``nudges`` are added where the gauges sit."""
    nudges = nudges or {}

    def nudge(name, t, h):
        return h + nudges[name][t] if name in nudges else h

    seen = [nudge("signal_grad", 0, np.zeros((B, arch.state)))]
    for t, layer in enumerate(layers):
        norms = {arch.placement: layer.get("norm")}
        z = normed(nudge("branch_grad", t, seen[-1]), norms.get("pre"))
        branch = normed(STEPS[arch.model.cell](z, pieces[:, t], layer["branch"]), norms.get("branch"))
        h = normed(SKIPS[arch.skip](nudge("skip_grad", t, seen[-1]), branch), norms.get("post"))
        seen.append(nudge("signal_grad", t + 1, h))
    return seen


def read_out(arch, h, params):
    h = normed(h, params.get("norm"))
    return (np.tanh(h) if arch.model.cell == "elman" else h[:, -D:]) @ params["head"]["kernel"] + params[
        "head"
    ]["bias"]


def pieces_of(x, params):
    return params["embed"]["vectors"][x] if "embed" in params else x.reshape(B, T, P)


def logits_of(arch, params, x, layers=None, nudges=None):
    seen = states(arch, pieces_of(x, params), layers or [params["cell"]] * T, nudges)
    if arch.language:
        return np.stack([read_out(arch, h, params) for h in seen[1:]], 1)
    return read_out(arch, seen[-1], params)


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
                ends.append(
                    function(jax.tree.unflatten(structure, [*leaves[:n], moved, *leaves[n + 1 :]]))
                )
            slope[place] = (ends[0] - ends[1]) / (2 * step)
        found.append(slope)
    return jax.tree.unflatten(structure, found)


NETWORKS = [dict(cell=cell, **task) for cell in CELLS for task in ({}, TEXT)]
NETWORKS += [dict(cell="elman", skip=skip, norm="layer", placement="pre") for skip in SKIPS]
NETWORKS += [
    dict(cell="elman", skip="scaled", norm="layer", placement=place, **TEXT)
    for place in ("branch", "post")
]


@pytest.mark.parametrize(
    "changes", NETWORKS, ids=lambda changes: "-".join(map(str, changes.values()))
)
def test_a_recurrent_network_and_its_gauges_are_those_of_the_loop(changes, make_network):
    """signal_grad[t] is ‖∂L/∂h_t‖, grad_norm[t] the part of the shared weights' gradient that comes from step t."""
    arch, hp, params = make_network(**changes)
    x, cotangent = (TOKENS, DRAW((B, T, C))) if arch.language else (X, DRAW((B, C)))
    logits, statistics, grads, gauges = measured(arch, hp, params, x, cotangent)
    plain = in_numpy(params)
    np.testing.assert_allclose(logits, logits_of(arch, plain, x), rtol=1e-11)
    seen = states(arch, pieces_of(x, plain), [plain["cell"]] * T)
    np.testing.assert_allclose(
        statistics["activation_rms"], [np.sqrt(np.mean(h**2)) for h in seen], rtol=1e-11
    )

    def value(**how):
        return np.sum(logits_of(arch, plain, x, **how) * cotangent)

    close = functools.partial(np.testing.assert_allclose, rtol=1e-7, atol=1e-8)
    for name, length in {"signal_grad": T + 1, "branch_grad": T, "skip_grad": T}.items():
        nudges, moved = (
            np.zeros((length, B, arch.state)),
            lambda nudges: value(nudges={name: nudges}),
        )
        nudged = slopes(moved, nudges)
        if (
            arch.norm != "none" and arch.placement == "pre"
        ):  # of h_0 = 0 it is ε alone that the norm divides by
            nudged[0] = slopes(moved, nudges, step=1e-8)[0]
        close(gauges[name], np.linalg.norm(nudged, axis=(1, 2)), err_msg=name)
    parts = slopes(lambda copies: value(layers=copies), [plain["cell"]] * T)

    def norm_of(part):
        return np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(part)))

    close(gauges["grad_norm"], [norm_of(part) for part in parts])
    jax.tree.map(close, grads["cell"], jax.tree.map(lambda *each: sum(each), *parts))
    others = {name: part for name, part in plain.items() if name != "cell"}
    wanted = slopes(lambda moved: np.sum(logits_of(arch, plain | moved, x) * cotangent), others)
    jax.tree.map(close, {name: grads[name] for name in others}, wanted)


@pytest.mark.parametrize("cell", CELLS)
def test_saturated_gates_are_counted(cell, make_network):
    """Biases far to one side put every gate to sleep; an Elman cell has none, and its state is asleep where it is."""
    arch, hp, params = make_network(cell=cell)
    bias = params["cell"]["branch"]["bias"]
    bias[...] = jnp.full(bias.shape, 100.0)
    _, statistics, _, _ = measured(arch, hp, params, X, np.ones((B, C)))
    np.testing.assert_array_equal(
        statistics["saturated"], [0.0 if cell == "elman" else 1.0, 1, 1, 1, 1]
    )


def test_an_orthogonal_linear_network_sends_its_gradient_back_through_time_unchanged(make_network):
    """∂L/∂h_t = ∂L/∂h_T · Wᵀ…Wᵀ: of an orthogonal W every factor keeps the norm (Saxe et al. 2014)."""
    arch, hp, params = make_network(move=0.0, cell="elman", activation="linear", init="orthogonal")
    _, _, _, gauges = measured(arch, hp, params, X, DRAW((B, C)))
    np.testing.assert_allclose(gauges["signal_grad"], gauges["signal_grad"][-1], rtol=1e-12)
    assert gauges["signal_grad"][-1] > 0.1


def test_the_gradient_through_time_is_the_product_of_jacobians(make_network):
    """∂h_t/∂h_{t-1} = diag φ'(h_{t-1}) W of an Elman cell, example by example."""
    arch, hp, params = make_network(cell="elman")
    cotangent = DRAW((B, C))
    plain = in_numpy(params)
    _, _, _, gauges = measured(arch, hp, params, X, cotangent)
    seen = states(arch, X.reshape(B, T, P), [plain["cell"]] * T)
    weights = plain["cell"]["branch"]["recurrent"][0]
    expected = []
    delta = (1 - np.tanh(seen[-1]) ** 2) * (cotangent @ plain["head"]["kernel"].T)
    for h in reversed(seen[:-1]):
        expected.append(np.linalg.norm(delta))
        delta = np.stack(
            [np.diag(1 - np.tanh(own) ** 2) @ weights @ d for own, d in zip(h, delta, strict=True)]
        )
    expected.append(np.linalg.norm(delta))
    np.testing.assert_allclose(gauges["signal_grad"], expected[::-1], rtol=1e-12)


def test_an_lstm_that_forgets_nothing_and_takes_nothing_keeps_its_cell(make_network):
    """Biases: input gate shut, forget gate open: c stays, and its gradient passes through time unchanged."""
    arch, hp, params = make_network(cell="lstm")
    bias = params["cell"]["branch"]["bias"]
    bias[...] = jnp.stack([jnp.full(D, value) for value in (-500.0, 500.0, 0.0, 0.0)])
    stack = nnx.merge(
        nnx.graphdef(nnx.eval_shape(lambda: Stack(arch, hp, rngs=nnx.Rngs(0)))),
        params,
        nnx.State({}),
    )
    begun = jnp.asarray(DRAW((B, 2 * D)))
    state = begun
    for t in range(T):
        piece = jnp.asarray(X.reshape(B, T, P)[:, t])
        state, _ = stack.cell(state, {}, ForwardContext(hp, train=True), jnp.int32(t), piece)
    np.testing.assert_array_equal(state[:, :D], begun[:, :D])
    assert np.all(np.abs(state[:, D:]) < np.abs(np.tanh(begun[:, :D])))


def test_an_lstm_begins_with_its_forget_gate_open(make_network):
    """Jozefowicz et al. 2015, §2.2: 1 on the second of the gates i, f, o, g; the scale of biases is 0 here."""
    _, _, params = make_network(move=0.0, cell="lstm")
    np.testing.assert_array_equal(
        params["cell"]["branch"]["bias"], np.array([[0.0], [1], [0], [0]]) * np.ones(D)
    )


@pytest.mark.parametrize(
    ("cell", "skip", "norm", "placement"),
    [(cell, "none", "none", "pre") for cell in CELLS]
    + [
        ("elman", skip, norm, place)
        for skip in ("none", "scaled")
        for norm in ("layer", "group")
        for place in PLACES
    ],
)
def test_no_step_sees_what_comes_after_it(cell, skip, norm, placement, make_network):
    """∂ logits[t] / ∂ embedding[s] is exactly 0 for s > t, and not 0 for s ≤ t."""
    arch, hp, params = make_network(
        cell=cell, skip=skip, norm=norm, placement=placement, width=8, **TEXT
    )
    graph = nnx.graphdef(nnx.eval_shape(lambda: Stack(arch, hp, rngs=nnx.Rngs(0))))

    def logits(vectors):
        model = nnx.merge(graph, params, nnx.State({}), copy=True)
        model.embed = lambda x, train: x
        return model(vectors, {}, ForwardContext(hp, train=True))[0]

    jacobian = quick(jax.jacrev(logits))(jnp.asarray(DRAW((1, T, 8))))
    found = np.abs(jacobian[0][:, :, 0]).max((1, 3))  # [t, s]
    np.testing.assert_array_equal(np.triu(found, 1), 0)
    assert np.all(found[np.tril_indices(T)] > 1e-8)

"""Recurrent networks against loops over time in NumPy, and their gradient through time."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from research.config.options import CellKind, Placement
from research.models.architecture import ForwardContext

from ..builders import make_architecture, select_existing
from ..compiling import one_in, quick
from ..oracle import has_norm_at, norm_name
from .networks import (
    FLOAT64,
    NUMBERS,
    FixedEmbedding,
    add_noise,
    initialize,
    make_numbers,
    measure,
    to_numpy,
)
from .taps import root_mean_square

pytestmark = pytest.mark.usefixtures("float64")

CELLS = [cell.name for cell in CellKind]
PLACEMENTS = [placement.name for placement in Placement]
BATCH = 3
STEPS = 5
INPUTS = 2  # numbers of the example that a step reads
WIDTH = 4
CLASSES = 6
RNN = {
    "kind": "rnn",
    "shape": (STEPS, INPUTS),
    "depth": STEPS,
    "width": WIDTH,
    "classes": CLASSES,
    **FLOAT64,
}
TEXT = {
    "shape": (STEPS,),
    "vocabulary": CLASSES,
    "language": True,
}
GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((BATCH, STEPS * INPUTS))
TOKENS = np.arange(BATCH * STEPS).reshape(BATCH, STEPS) ** 2 % CLASSES
COTANGENT = GENERATOR.standard_normal((BATCH, CLASSES))
TEXT_COTANGENT = GENERATOR.standard_normal((BATCH, STEPS, CLASSES))


def make_rnn(noise=0.3, **changes):
    """A recurrent network with noise added to its parameters."""
    arch = make_architecture(**(RNN | changes))
    numbers = select_existing(arch, {**NUMBERS, "init.sigma_b": 0.0})
    hp = make_numbers(arch, numbers)
    with jax.disable_jit():
        network = initialize(arch, hp)
    assert not jax.tree.leaves(network.model_state)
    return replace(network, params=add_noise(network.params, noise))


# --- The formulas ---------------------------------------------------------------------------------


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def elman(h, x, params):
    from_state = np.tanh(h) @ params["recurrent"][0]
    from_input = x @ params["input"][0] + params["bias"][0]
    return from_state + from_input


def gru(h, x, params):
    from_state = h @ params["recurrent"]
    from_input = x @ params["input"] + params["bias"][:, None]
    reset = sigmoid(from_input[0] + from_state[0])
    update = sigmoid(from_input[1] + from_state[1])
    inner = from_state[2] + params["inner"]
    candidate = np.tanh(from_input[2] + reset * inner)
    return (1 - update) * candidate + update * h


def lstm(state, x, params):
    c = state[:, :WIDTH]
    h = state[:, WIDTH:]
    from_state = h @ params["recurrent"]
    from_input = x @ params["input"] + params["bias"][:, None]
    i, f, o, g = from_state + from_input
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return np.concatenate([c, h], axis=1)


CELL_FORMULAS = {
    "elman": elman,
    "gru": gru,
    "lstm": lstm,
}


def combine(kind, h, branch):
    match kind:
        case "none":
            return branch
        case "identity":
            return h + branch
        case "scaled":
            return 0.9 * h + 0.7 * branch
        case "inv_sqrt_depth":
            return h + branch / np.sqrt(STEPS)
    raise ValueError(f"no formula for {kind}")


def layer_norm(h, norm):
    """Without parameters, the identity."""
    if norm is None:
        return h
    mean = h.mean(1, keepdims=True)
    variance = h.var(1, keepdims=True)
    standardized = (h - mean) / np.sqrt(variance + 1e-6)
    return standardized * norm["scale"] + norm["bias"]


def list_states(arch, step_inputs, layers, perturbations=None):
    """The states h_0 = 0, h_1, …, h_T.

    Args:
        arch: the architecture.
        step_inputs: what each step reads, [B, T, P].
        layers: a copy of the weights for each step.
        perturbations: arrays to add where gauges measure the gradient, by name.
    """
    perturbations = perturbations or {}

    def perturb(name, step, h):
        if name not in perturbations:
            return h
        return h + perturbations[name][step]

    placement = arch.norm.placement.name

    def normalize_at(place, h, layer):
        if not has_norm_at(place, placement):
            return h
        return layer_norm(h, layer.get(norm_name(place, placement)))

    cell = CELL_FORMULAS[arch.model.cell.name]
    h = perturb("signal_grad", 0, np.zeros((BATCH, arch.state_width)))
    states = [h]
    for step, layer in enumerate(layers):
        z = normalize_at("pre", perturb("branch_grad", step, h), layer)
        branch = cell(z, step_inputs[:, step], layer["branch"])
        branch = normalize_at("branch", branch, layer)
        h = combine(arch.skip.kind.name, perturb("skip_grad", step, h), branch)
        h = normalize_at("post", h, layer)
        h = perturb("signal_grad", step + 1, h)
        states.append(h)
    return states


def read_inputs(x, params):
    if "embed" in params:
        return params["embed"]["vectors"][x]
    return x.reshape(BATCH, STEPS, INPUTS)


def read_out(arch, h, params):
    h = layer_norm(h, params.get("norm"))
    is_elman = arch.model.cell is CellKind.elman
    features = np.tanh(h) if is_elman else h[:, -WIDTH:]
    return features @ params["head"]["kernel"] + params["head"]["bias"]


def compute_logits(
    arch,
    params,
    x,
    layers=None,
    perturbations=None,
):
    layers = layers or [params["cell"]] * STEPS
    states = list_states(arch, read_inputs(x, params), layers, perturbations)
    if not arch.language:
        return read_out(arch, states[-1], params)
    logits = [read_out(arch, h, params) for h in states[1:]]
    return np.stack(logits, 1)


def central_differences(function, tree, step=1e-5):
    """The gradient of a function of a tree of arrays, with errors of about 1e-10."""
    leaves, structure = jax.tree.flatten(tree)

    def evaluate(changed_leaf, index, change):
        moved = [leaf.copy() for leaf in leaves]
        moved[changed_leaf][index] += change
        return function(jax.tree.unflatten(structure, moved))

    slopes = []
    for number, leaf in enumerate(leaves):
        slope = np.zeros(leaf.shape)
        for index in np.ndindex(leaf.shape):
            ahead = evaluate(number, index, step)
            back = evaluate(number, index, -step)
            slope[index] = (ahead - back) / (2 * step)
        slopes.append(slope)
    return jax.tree.unflatten(structure, slopes)


# --- The network against the formulas -------------------------------------------------------------


def list_networks():
    networks = []
    for cell in CELLS:
        networks.append({"cell": cell})
        networks.append({"cell": cell, **TEXT})
    for skip in ("none", "identity", "scaled", "inv_sqrt_depth"):
        networks.append(
            {
                "cell": "elman",
                "skip": skip,
                "norm": "layer",
                "placement": "pre",
            }
        )
    for placement in ("branch", "post", "peri"):
        changes = {
            "skip": "scaled",
            "norm": "layer",
            "placement": placement,
        }
        networks.append(
            {
                "cell": "elman",
                **changes,
                **TEXT,
            }
        )
    return networks


def name_network(changes):
    return "-".join(map(str, changes.values()))


def tree_norm(tree):
    leaves = jax.tree.leaves(tree)
    return np.sqrt(sum(np.sum(leaf**2) for leaf in leaves))


@pytest.mark.parametrize(
    "changes", one_in(4, [(changes,) for changes in list_networks()]), ids=name_network
)
def test_a_recurrent_network_and_its_gauges_are_those_of_the_loop(changes):
    """signal_grad[t] is ‖∂L/∂h_t‖; grad_norm[t] is step t's part of the weights' gradient."""
    network = make_rnn(**changes)
    arch = network.arch
    x = TOKENS if arch.language else X
    cotangent = TEXT_COTANGENT if arch.language else COTANGENT
    measured = measure(network, jnp.asarray(x), cotangent)
    gauges = measured.gauges
    params = to_numpy(network.params)
    copies = [params["cell"]] * STEPS
    assert_close = partial(assert_allclose, rtol=1e-7, atol=1e-8)

    def loss(**changes):
        return np.sum(compute_logits(arch, params, x, **changes) * cotangent)

    # Forward.
    states = list_states(arch, read_inputs(x, params), copies)
    rms = [root_mean_square(h) for h in states]
    assert_allclose(measured.logits, compute_logits(arch, params, x), rtol=1e-11)
    assert_allclose(gauges["activation_rms"], rms, rtol=1e-11)

    # The gradient of signals.
    lengths = {
        "signal_grad": STEPS + 1,
        "branch_grad": STEPS,
        "skip_grad": STEPS,
    }
    for name, length in lengths.items():

        def perturbed_loss(perturbation, name=name):
            return loss(perturbations={name: perturbation})

        zeros = np.zeros((length, BATCH, arch.state_width))
        slopes = central_differences(perturbed_loss, zeros)
        if arch.norm.kind.name != "none" and has_norm_at("pre", arch.norm.placement.name):
            # The norm divides h_0 = 0 by √ε only, so the loss changes fast there.
            slopes[0] = central_differences(perturbed_loss, zeros, step=1e-8)[0]
        assert_close(gauges[name], np.linalg.norm(slopes, axis=(1, 2)), err_msg=name)

    # The gradient of the shared weights, step by step.
    parts = central_differences(lambda layers: loss(layers=layers), copies)
    total = jax.tree.map(lambda *each: sum(each), *parts)
    assert_close(gauges["grad_norm"], [tree_norm(part) for part in parts])
    grads = to_numpy(measured.grads)
    jax.tree.map(assert_close, grads.pop("cell"), total)

    # The gradient of all other weights.
    others = {name: part for name, part in params.items() if name != "cell"}

    def loss_of_others(moved):
        return np.sum(compute_logits(arch, params | moved, x) * cotangent)

    expected = central_differences(loss_of_others, others)
    jax.tree.map(assert_close, grads, expected)


# --- Laws -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
def test_saturated_gates_are_counted(cell):
    """Large biases saturate every gate; an Elman cell has none, and only its state saturates."""
    network = make_rnn(cell=cell)
    bias = network.params["cell"]["branch"]["bias"]
    bias[...] = jnp.full(bias.shape, 100.0)
    measured = measure(network, X, np.ones((BATCH, CLASSES)))
    at_first_step = 0.0 if cell == "elman" else 1.0
    assert_array_equal(measured.gauges["saturated"], [at_first_step, 1, 1, 1, 1])


def test_an_orthogonal_linear_network_keeps_the_norm_of_its_gradient_through_time():
    """∂L/∂h_t = ∂L/∂h_T · Wᵀ…Wᵀ, and an orthogonal W keeps norms (Saxe et al. 2014)."""
    network = make_rnn(
        noise=0.0,
        cell="elman",
        activation="linear",
        init="orthogonal",
    )
    signal = measure(network, X, COTANGENT).gauges["signal_grad"]
    assert_allclose(signal, signal[-1], rtol=1e-12)
    assert signal[-1] > 0.1


def test_the_gradient_through_time_is_the_product_of_jacobians():
    """∂h_t/∂h_{t-1} = diag φ'(h_{t-1}) W for an Elman cell."""
    network = make_rnn(cell="elman")
    params = to_numpy(network.params)
    states = list_states(network.arch, read_inputs(X, params), [params["cell"]] * STEPS)
    weights = params["cell"]["branch"]["recurrent"][0]

    def slope(h):
        return 1 - np.tanh(h) ** 2

    gradient = slope(states[-1]) * (COTANGENT @ params["head"]["kernel"].T)
    expected = [np.linalg.norm(gradient)]
    for h in reversed(states[:-1]):
        gradient = slope(h) * (gradient @ weights.T)
        expected.append(np.linalg.norm(gradient))

    signal = measure(network, X, COTANGENT).gauges["signal_grad"]
    assert_allclose(signal, expected[::-1], rtol=1e-12)


def test_an_lstm_with_open_forget_gate_and_closed_input_gate_keeps_its_cell():
    network = make_rnn(cell="lstm")
    bias_of_gates = []
    for value in (-500.0, 500.0, 0.0, 0.0):  # i, f, o, g
        bias_of_gates.append(jnp.full(WIDTH, value))
    network.params["cell"]["branch"]["bias"][...] = jnp.stack(bias_of_gates)
    layer = network.merge().cell
    initial_state = GENERATOR.standard_normal((BATCH, 2 * WIDTH))
    ctx = ForwardContext(network.hp, train=True)

    state = jnp.asarray(initial_state)
    for step in range(STEPS):
        step_input = jnp.asarray(X.reshape(BATCH, STEPS, INPUTS)[:, step])
        state, _ = layer(state, {}, ctx, jnp.int32(step), step_input)

    initial_cell = initial_state[:, :WIDTH]
    assert_array_equal(state[:, :WIDTH], initial_cell)
    greatest_hidden_state = np.abs(np.tanh(initial_cell))
    assert np.all(np.abs(state[:, WIDTH:]) < greatest_hidden_state)


def test_the_forget_gate_of_an_lstm_is_initially_open():
    """Jozefowicz et al. 2015, §2.2: bias 1 on the second gate of i, f, o, g."""
    network = make_rnn(noise=0.0, cell="lstm")
    bias = np.asarray(network.params["cell"]["branch"]["bias"][...])
    assert_array_equal(bias.T, [[0, 1, 0, 0]] * WIDTH)


def list_language_models():
    cases = []
    for cell in CELLS:
        cases.append((cell, "none", "none", "pre"))
    for skip in ("none", "scaled"):
        for norm in ("layer", "group"):
            for placement in PLACEMENTS:
                cases.append(("elman", skip, norm, placement))
    return cases


@pytest.mark.parametrize("cell, skip, norm, placement", one_in(3, list_language_models()))
def test_no_step_depends_on_later_ones(cell, skip, norm, placement):
    """∂ logits[t] / ∂ embedding[s] is exactly 0 for s > t, and not 0 for s ≤ t."""
    width = 8
    network = make_rnn(
        cell=cell,
        skip=skip,
        norm=norm,
        placement=placement,
        **(TEXT | {"width": width}),
    )
    ctx = ForwardContext(network.hp, train=True)
    no_tokens = jnp.zeros((1, STEPS), int)

    def logits(embedded):
        model = network.merge()
        model.embed = FixedEmbedding(embedded)
        return model(no_tokens, {}, ctx)[0]

    embedded = jnp.asarray(GENERATOR.standard_normal((1, STEPS, width)))
    jacobian = quick(jax.jacrev(logits))(embedded)  # [1, t, C, 1, s, D]
    largest = np.abs(jacobian).max((0, 2, 3, 5))
    assert_array_equal(np.triu(largest, 1), 0)
    assert np.all(largest[np.tril_indices(STEPS)] > 1e-8)

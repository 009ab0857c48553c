"""Diagnostics against dense derivatives of the same small network, in float64."""

import copy
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose

from research.config import options
from research.gauges.curvature import mean_cosine
from research.gauges.table import DIAGNOSTICS
from research.training.inspections import INSPECTIONS, inspect_snapshot
from research.training.objective import make_objective
from research.training.precision import precision_context
from research.training.program import make_program

from ..builders import make_program_config
from ..compiling import quick
from ..oracle import unrolled
from .inspecting import EXAMPLES, inputs_of, inspect_network, make_hp
from .programs import make_data, make_losses, to_float64

pytestmark = pytest.mark.usefixtures("quickly_compiled")
slow = functools.partial(pytest.param, marks=pytest.mark.slow)
BATCH_SIZE = 8


def mean_loss(snapshot, examples):
    """The mean loss of the first examples as a function of the parameters."""
    batch = inputs_of(snapshot, examples), snapshot.data["y"][:examples]
    objective = make_objective(snapshot.spec, snapshot.state, snapshot.hp, batch)
    return lambda params: objective(params, {})[0]


def test_every_inspection_of_the_configuration_exists():
    assert set(INSPECTIONS) == set(options.INSPECTIONS)


@pytest.mark.parametrize(
    ("optimizer", "batch_size"),
    [
        ("sgd", BATCH_SIZE),
        ("gd", EXAMPLES),
    ],
)
def test_sharpness_is_the_greatest_eigenvalue_over_the_training_set(optimizer, batch_size):
    with precision_context("float64"):
        found, snapshot = inspect_network(
            "sharpness", optimizer=optimizer, activation="tanh", batch_size=batch_size
        )
        flat, restore = ravel_pytree(snapshot.state.params)
        loss = mean_loss(snapshot, EXAMPLES)
        hessian = quick(jax.hessian(lambda flat: loss(restore(flat))))(flat)
        eigenvalues = np.linalg.eigvalsh(hessian)
        assert_allclose(found["sharpness"], eigenvalues[-1], rtol=1e-5)
        assert found["sharpness_bound"] < 1e-3 * found["sharpness"]


def divisors_of_first_update(optimizer, gradient, epsilon=1e-8):
    """What the first update divides by, from averages that are initially 0."""
    match optimizer:
        case "adam" | "adamw":  # (1 − β₁)·(√(g²(1 − β₂)/(1 − β₂)) + ε)
            return (1 - 0.9) * (np.abs(gradient) + epsilon)
        case "rmsprop":
            return np.sqrt((1 - 0.999) * gradient**2) + epsilon
        case "adagrad":
            return np.sqrt(gradient**2 + epsilon)
    raise ValueError(f"no formula for {optimizer}")


@pytest.mark.parametrize(
    ("optimizer", "largest"),
    [
        ("adam", 0.01),  # clipped, as the step clips
        pytest.param("adam", np.inf, marks=pytest.mark.slow),
        pytest.param("adamw", np.inf, marks=pytest.mark.slow),
        pytest.param("rmsprop", np.inf, marks=pytest.mark.slow),
        pytest.param("adagrad", np.inf, marks=pytest.mark.slow),
    ],
)
def test_preconditioned_sharpness_is_the_greatest_eigenvalue_of_the_scaled_hessian(
    optimizer, largest
):
    with precision_context("float64"):
        found, snapshot = inspect_network(
            "preconditioned_sharpness",
            optimizer=optimizer,
            activation="tanh",
            batch_size=EXAMPLES,
            clip="none" if np.isinf(largest) else "value",
            numbers={"optimizer.epsilon": 1e-3, "optimizer.clip_threshold": 0.01},
        )
        flat, restore = ravel_pytree(snapshot.state.params)
        loss = mean_loss(snapshot, EXAMPLES)

        def loss_of_flat(flat):
            return loss(restore(flat))

        gradient = np.asarray(quick(jax.grad(loss_of_flat))(flat))
        gradient = np.clip(gradient, -largest, largest)
        hessian = np.asarray(quick(jax.hessian(loss_of_flat))(flat))
        roots = np.sqrt(divisors_of_first_update(optimizer, gradient, epsilon=1e-3))
        scaled = hessian / roots[:, None] / roots
        eigenvalues = np.linalg.eigvalsh(scaled)
        assert_allclose(found["preconditioned_sharpness"], eigenvalues[-1], rtol=1e-4)


def test_coordinates_have_not_changed_before_the_first_step():
    found, _ = inspect_network("coordinate_change", activation="tanh", precision="float32")
    assert found["coordinate_change"].shape == (4,)
    assert np.all(found["coordinate_change"] < 1e-6)  # the rounding of another compilation
    assert found["output_coordinate_change"] < 1e-6


def test_coordinates_change_by_as_much_as_the_weights_move_them():
    with precision_context("float64"):
        _, snapshot = inspect_network("coordinate_change", activation="tanh")
        params = jax.tree.map(lambda leaf: 1.1 * leaf, snapshot.state.params)
        x = inputs_of(snapshot, snapshot.spec.batch_size)

        @quick
        def inspect(params):
            moved_state = dataclasses.replace(snapshot.state, params=params)
            moved = dataclasses.replace(snapshot, state=moved_state)
            return INSPECTIONS["coordinate_change"](moved), snapshot.outputs(params, x)

        found, outputs = inspect(params)
        change = outputs - quick(snapshot.outputs)(snapshot.state.params, x)
        expected = np.sqrt(np.mean(np.square(change)))
        assert_allclose(found["output_coordinate_change"], expected, rtol=1e-10)
        assert found["coordinate_change"][0] > 0


def first_signals(snapshot, examples=EXAMPLES):
    """The first layer's inputs of the first examples."""
    return snapshot.network().first_input(inputs_of(snapshot, examples), snapshot.ctx)


@pytest.mark.parametrize(
    ("init", "activation"),
    [
        ("gaussian", "linear"),
        ("gaussian", "tanh"),
        ("orthogonal", "linear"),
    ],
)
def test_the_jacobian_spectrum_is_that_of_the_product_of_layers(init, activation):
    with precision_context("float64"):
        found, snapshot = inspect_network("jacobian_spectrum", init=init, activation=activation)
        layers = snapshot.state.params["stages"][0]["branch"]["weights"][0]
        kernels = np.asarray(layers["kernel"])
        biases = np.asarray(layers["bias"])
        h = np.asarray(first_signals(snapshot, examples=1)[0])
        jacobian = np.eye(5)
        for kernel, bias in zip(kernels, biases, strict=True):
            slope = np.ones(5)
            if activation == "tanh":
                h = np.tanh(h)
                slope = 1 - h**2
            jacobian = jacobian @ (slope[:, None] * kernel)
            h = h @ kernel + bias
        expected = np.linalg.svd(jacobian, compute_uv=False)
        assert_allclose(found["jacobian_spectrum"], expected, rtol=1e-10)
        if init == "orthogonal":
            assert_allclose(found["jacobian_spectrum"], 1, rtol=1e-12)


def test_the_jacobian_is_the_identity_where_residual_branches_are_zero():
    with precision_context("float64"):
        zero, _ = inspect_network("jacobian_spectrum", skip="rezero")
        usual, _ = inspect_network("jacobian_spectrum", skip="identity")
    assert zero["jacobian_distance"] == 0
    assert np.array_equal(zero["jacobian_spectrum"], np.ones(5))
    assert usual["jacobian_distance"] > 0.1


def random_vector(snapshot, h):
    """The v of ``gradient_correlation``, of the shape of one example's h."""
    key = jax.random.fold_in(snapshot.state.key, 5)
    return jax.random.normal(key, h.shape[1:], h.dtype)


def test_gradients_of_a_linear_network_have_cosine_one():
    with precision_context("float64"):
        found, _ = inspect_network("gradient_correlation", activation="linear")
    assert_allclose(found["gradient_correlation"], 1, rtol=1e-12)


@pytest.mark.slow
def test_gradients_of_a_rectifier_decorrelate_from_layer_to_layer():
    with precision_context("float64"):
        found, snapshot = inspect_network("gradient_correlation", activation="relu")
        model = snapshot.network()
        h = first_signals(snapshot)
        v = random_vector(snapshot, h)

        def projection(row):
            output, _ = model.run_layers(row[None], {}, snapshot.ctx)
            return jnp.vdot(output[0], v)

        gradients = jnp.stack([jax.grad(projection)(row) for row in h])
        cosines = found["gradient_correlation"]
        assert_allclose(cosines[0], mean_cosine(gradients), rtol=1e-10)
        assert_allclose(cosines[-1], 1, rtol=1e-12)
        assert np.all(np.diff(cosines) > 0)


@pytest.mark.slow
def test_after_batch_norm_the_correlation_leaves_out_outputs_of_other_examples():
    with precision_context("float64"):
        found, snapshot = inspect_network(
            "gradient_correlation",
            norm="batch",
            skip="identity",
            activation="relu",
            width=48,
            batch_size=EXAMPLES,
        )
        h = first_signals(snapshot)
        v = random_vector(snapshot, h)

        def projections(h):
            return snapshot.network().run_layers(h, {}, snapshot.ctx)[0] @ v

        jacobian = jax.jacrev(projections)(h)
        diagonal = jnp.arange(EXAMPLES)
        by_example = float(mean_cosine(jacobian[diagonal, diagonal]))
        cosine_of_sum = float(mean_cosine(jnp.sum(jacobian, axis=0)))
        assert found["gradient_correlation"][0] == pytest.approx(by_example, abs=0.03)
        assert abs(cosine_of_sum - by_example) > 0.06


def test_the_input_gradient_is_a_difference_quotient():
    with precision_context("float64"):
        found, snapshot = inspect_network("input_gradient", activation="tanh")
        model = snapshot.network()
        x = inputs_of(snapshot)
        step = 1e-6

        def first_outputs(x):
            return model(x, {}, snapshot.ctx)[0][:, 0]

        for n in range(x.shape[1]):
            change = step * jnp.eye(x.shape[1])[n][None]
            difference = first_outputs(x + change) - first_outputs(x - change)
            expected = difference / (2 * step)
            assert_allclose(found["input_gradient"][:, n], expected, rtol=1e-6)


def root_mean_square(values):
    return np.sqrt(np.mean(values**2))


@pytest.mark.parametrize("kind", ["mlp", slow("cnn")])
def test_the_output_change_is_that_of_one_step_of_gradient_descent(kind):
    """Of a small step: learning rate times the outputs' derivative along the gradient of all
    parameters but biases.
    """
    with precision_context("float64"):
        found, snapshot = inspect_network(
            "output_change", kind=kind, activation="tanh", shape=(1, 5, 1)
        )
        x = inputs_of(snapshot, BATCH_SIZE)
        params = snapshot.state.params
        gradient = jax.grad(mean_loss(snapshot, BATCH_SIZE))(params)

        def without_biases(path, leaf):
            return leaf * ("bias" not in jax.tree_util.keystr(path))

        direction = jax.tree_util.tree_map_with_path(without_biases, gradient)

        def outputs(rate):
            moved = jax.tree.map(lambda leaf, d: leaf - rate * d, params, direction)
            state = dataclasses.replace(snapshot.state, params=moved)
            moved_snapshot = dataclasses.replace(snapshot, state=state)
            return moved_snapshot.network()(x, {}, snapshot.ctx)[0]

        rate = float(snapshot.hp.optimizer.learning_rate)
        derivative = (outputs(1e-6) - outputs(-1e-6)) / 2e-6
        step = outputs(rate) - outputs(0)
        output_change = found["output_change"]
        assert_allclose(output_change, rate * root_mean_square(derivative), rtol=0.05)
        assert_allclose(output_change, root_mean_square(step))


def test_difference_errors_are_smallest_near_roots_of_the_rounding_error():
    with precision_context("float64"):
        found, _ = inspect_network("difference_errors", activation="tanh")
    steps = found["difference_step"]
    forward = found["forward_difference_error"]
    central = found["central_difference_error"]
    assert 1e-9 <= steps[np.argmin(forward)] <= 1e-7
    assert np.min(forward) < 1e-6
    assert 1e-7 <= steps[np.argmin(central)] <= 1e-4
    assert np.min(central) < 1e-8


@pytest.mark.slow
def test_forward_and_reverse_mode_agree_up_to_rounding():
    with precision_context("float64"):
        found, _ = inspect_network(
            "difference_errors", activation="tanh", norm="layer", skip="identity"
        )
    assert 0 <= found["mode_error"] < 1e-13


def layer_kernels(params):
    return params["stages"][0]["branch"]["weights"][0]["kernel"]


def float64_params(snapshot):
    with_runs_axis = jax.tree.map(lambda leaf: leaf[None], snapshot.state.params)
    return to_float64(with_runs_axis)


def kernel_gradients(snapshot, params):
    """The gradient of the mean loss with respect to the layers' weights, by the oracle."""
    losses = make_losses(snapshot.spec, make_hp(snapshot.spec), snapshot.data)
    gradient = jax.grad(lambda params: jnp.mean(losses(params)))(params)
    return np.asarray(layer_kernels(gradient))


@pytest.mark.parametrize(
    ("activation", "bias", "loss", "is_homogeneous"),
    [("relu", False, "cross_entropy", True), slow("tanh", True, "mse", False)],
)
def test_scale_derivatives_are_products_and_all_equal_if_homogeneous(
    activation,
    bias,
    loss,
    is_homogeneous,
):
    with precision_context("float64"):
        found, snapshot = inspect_network(
            "scale_derivative",
            activation=activation,
            bias=bias,
            loss=loss,
            batch_size=EXAMPLES,
        )
        params = float64_params(snapshot)
        products = layer_kernels(params) * kernel_gradients(snapshot, params)
        layer_products = np.sum(products, axis=(1, 2))
        assert_allclose(found["scale_derivative"], layer_products, rtol=1e-10)
    deviation = np.abs(found["scale_derivative"] / found["output_scale_derivative"] - 1)
    if is_homogeneous:
        assert np.all(deviation < 1e-12)
    else:
        assert np.all(deviation > 1e-3)


def double_kernels(params):
    doubled = copy.deepcopy(params)
    layer_kernels(doubled)[...] *= 2
    return doubled


def norms(x, axes):
    return np.sqrt(np.sum(x**2, axes))


def cosines(
    w,
    g,
    axes,
):
    products = np.sum(w * g, axes)
    return products / norms(w, axes) / norms(g, axes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "invariant"),
    [
        slow("none", set()),
        slow("layer", {"layer_cosine", "rescaling_error"}),
        ("batch", {"layer_cosine", "unit_cosine", "rescaling_error"}),
    ],
)
def test_scale_invariance_is_that_of_a_loop_and_holds_before_a_norm(norm, invariant):
    with precision_context("float64"):
        found, snapshot = inspect_network(
            "scale_invariance", norm=norm, width=8, batch_size=EXAMPLES, bias=False
        )
        params = float64_params(snapshot)
        w = layer_kernels(params)
        g = kernel_gradients(snapshot, params)
        g_of_doubled = kernel_gradients(snapshot, double_kernels(params))
    layer_axes = (1, 2)
    unit_axes = 1
    change = 2 * g_of_doubled - g
    unit_cosines = np.abs(cosines(w, g, unit_axes))
    expected = {
        "layer_cosine": cosines(w, g, layer_axes),
        "unit_cosine": np.max(unit_cosines, axis=1),
        "rescaling_error": norms(change, layer_axes) / norms(g, layer_axes),
    }
    assert set(found) == set(expected)
    for name, values in found.items():
        assert_allclose(values, expected[name], rtol=1e-6, atol=1e-12)
        is_invariant = np.max(np.abs(values)) < 1e-3
        depends_on_scale = np.max(np.abs(values)) > 0.01
        assert is_invariant if name in invariant else depends_on_scale


@pytest.mark.parametrize("bias", [True, slow(False)])
def test_the_balance_is_that_of_the_weights_and_biases(bias):
    with precision_context("float64"):
        found, snapshot = inspect_network("balance", bias=bias, activation="relu")
        params = float64_params(snapshot)
    layers = layer_kernels(params)
    kernels = [params["embed"]["kernel"], *layers, params["head"]["kernel"]]
    biases = np.zeros((4, 5))
    if bias:
        stage = params["stages"][0]["branch"]["weights"][0]
        biases = [params["embed"]["bias"], *stage["bias"]]
    assert len(found["balance"]) == len(kernels) - 1
    for number, unit_balances in enumerate(found["balance"]):
        incoming = np.sum(kernels[number] ** 2, axis=0) + biases[number] ** 2
        outgoing = np.sum(kernels[number + 1] ** 2, axis=1)
        assert_allclose(unit_balances, incoming - outgoing, rtol=1e-10)


def test_parameters_and_their_gradient_are_those_of_the_next_step():
    with precision_context("float64"):
        found, snapshot = inspect_network(
            "parameters", activation="tanh", optimizer="gd", batch_size=EXAMPLES
        )
        params = float64_params(snapshot)
        losses = make_losses(snapshot.spec, make_hp(snapshot.spec), snapshot.data)
        gradient = jax.grad(lambda params: jnp.mean(losses(params)))(params)
        expected, _ = ravel_pytree(params)
        expected_gradient, _ = ravel_pytree(gradient)
    assert_allclose(found["parameters"], expected, rtol=0)
    assert_allclose(found["parameter_gradient"], expected_gradient, atol=1e-12)


@pytest.mark.slow
def test_the_recorded_gradient_of_a_batch_is_that_by_which_the_step_moves():
    spec = make_program_config(
        inspect=("parameters",), optimizer="sgd", precision="float64", level="off"
    )
    with precision_context("float64"):
        program = make_program(spec)
        hp = make_hp(spec)
        data = make_data(EXAMPLES)
        state = program.init(hp)
        before = program.inspections(state, hp, data)
        state, _ = program.chunk(state, hp, data, np.int32(0), np.int32(1))
        after = program.inspections(state, hp, data)
    rate = float(np.asarray(hp.optimizer.learning_rate)[0])
    moved = np.asarray(before["parameters"]) - np.asarray(after["parameters"])
    assert_allclose(moved / rate, before["parameter_gradient"], atol=1e-12)


@pytest.mark.parametrize("inputs", [1, slow(2)])
def test_the_fitted_function_is_the_network_over_a_grid(inputs):
    spec = make_program_config(
        inspect=("fitted_function",),
        precision="float64",
        activation="tanh",
        shape=(inputs,),
        width=5,
    )
    with precision_context("float64"):
        program = make_program(spec)
        hp = make_hp(spec)
        data = make_data(EXAMPLES, inputs=inputs)
        states = program.init(hp)
        found = program.inspections(states, hp, data)
        points = np.asarray(found["fitted_input"])[0]
        numbers = jax.tree.map(lambda value: np.float64(value[0]), hp)
        expected, _ = unrolled(spec.architecture, to_float64(states.params), points, numbers)
    x = np.asarray(data["x"], np.float64)
    assert points.shape == ({1: 1025, 2: 33**2}[inputs], inputs)
    assert_allclose(points.min(axis=0), x.min(axis=0), rtol=1e-6)
    assert_allclose(points.max(axis=0), x.max(axis=0), rtol=1e-6)
    assert_allclose(np.asarray(found["fitted_output"])[0], expected, atol=1e-10)


@pytest.mark.slow
def test_the_gradient_variance_is_the_mean_squared_distance_of_the_drawn_batches():
    with precision_context("float64"):
        found, snapshot = inspect_network("gradient_variance", activation="tanh")
        params = float64_params(snapshot)
        losses = make_losses(snapshot.spec, make_hp(snapshot.spec), snapshot.data)
        by_example = jax.jacrev(losses)(params)
        rows = [np.reshape(leaf, (EXAMPLES, -1)) for leaf in jax.tree.leaves(by_example)]
        gradients = np.concatenate(rows, axis=1)
        expected = []
        for batch_size in (1, 2, 4, 8, 16, 32, 64, 128, 256):
            key = jax.random.fold_in(jax.random.fold_in(snapshot.state.key, 8), batch_size)
            batches = np.asarray(jax.random.randint(key, (64, batch_size), 0, EXAMPLES))
            means = np.mean(gradients[batches], axis=1)
            distances = np.sum((means - np.mean(gradients, axis=0)) ** 2, axis=1)
            expected.append(np.mean(distances))
    assert_allclose(found["variance_batch_size"], 2 ** np.arange(9))
    assert_allclose(found["gradient_variance"], expected, rtol=1e-10)


@pytest.mark.slow
def test_a_run_in_few_bits_is_inspected_in_float32():
    found, _ = inspect_network("sharpness", "jacobian_spectrum", precision="bfloat16")
    exact, _ = inspect_network("sharpness", precision="float32")
    for value in found.values():
        assert value.dtype == np.float32
    # The weights are rounded to eight bits.
    assert found["sharpness"] == pytest.approx(exact["sharpness"], rel=0.1)


READ_EXAMPLES = {
    "sharpness": 1024,
    "output_change": BATCH_SIZE,
    "scale_derivative": BATCH_SIZE,
    "layer_cosine": BATCH_SIZE,
    "unclipped_norm": BATCH_SIZE,
    "coordinate_change": BATCH_SIZE,
    "central_difference_error": BATCH_SIZE,
    "gradient_correlation": 256,
    "input_gradient": 256,
    "gradient_variance": 256,
    "representation": 256,
    "interpolation_loss": 512,
    "surface_loss": 512,
    "hessian_eigenvalues": 512,
    "class_spread": 2048,
    "jacobian_spectrum": 1,
}
"""How many training examples, the first in stored order, a diagnostic is of."""


@pytest.mark.parametrize("name", READ_EXAMPLES)
def test_the_table_says_of_how_many_stored_examples_a_diagnostic_is(name):
    (meaning,) = [each.meaning for each in DIAGNOSTICS if each.name == name]
    count = READ_EXAMPLES[name]
    in_words = {BATCH_SIZE: "first train.batch_size training", 1: "first stored training"}
    assert in_words.get(count, f"first {count:,} training examples in stored order") in meaning


def test_a_diagnostic_is_of_as_many_stored_examples_as_the_table_says():
    expensive = ("hessian_spectrum", "loss_surface")  # which share a loss with interpolation
    inspections = {}
    for each in DIAGNOSTICS:
        if each.name in READ_EXAMPLES and each.inspection not in expensive:
            inspections.setdefault(READ_EXAMPLES[each.name], set()).add(each.inspection)
    with precision_context("float64"):
        _, snapshot = inspect_network(depth=1, width=2, batch_size=BATCH_SIZE, activation="tanh")
        data = make_data(2100)
        x = np.asarray(data["x"], np.float64)

        for count, chosen in inspections.items():

            @quick
            def inspect(x, chosen=chosen):
                changed = dataclasses.replace(snapshot, data={**data, "x": x})
                return inspect_snapshot(changed, sorted(chosen))

            # Every diagnostic of at most so many examples is blind to the later ones.
            after = inspect(jnp.asarray(x).at[count:].set(jnp.nan))
            at_last = inspect(jnp.asarray(x).at[count - 1 :].set(jnp.nan))
            for name in [name for name in after if READ_EXAMPLES.get(name) == count]:
                assert np.isfinite(after[name]).all(), name
                assert not np.isfinite(at_last[name]).all(), name

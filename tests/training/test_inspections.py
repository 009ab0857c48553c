"""Measurements beside the step against dense derivatives of the same small network, in float64."""

import dataclasses
import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from research.config.schema import INSPECTIONS
from research.gauges.curvature import mean_cosine
from research.training.inspections import _KINDS, _network, _told
from research.training.objective import make_objective, normalize_inputs
from research.training.precision import scope
from research.training.program import make_program

from ..compiling import quick

pytestmark = pytest.mark.usefixtures("quickly_compiled")
SLOW = functools.partial(pytest.param, marks=pytest.mark.slow)
NUMBERS = {"init.sigma_w": 1.0, "init.sigma_b": 0.1}


@pytest.fixture
def inspected(make_spec, make_numbers, make_data):
    """What is found at the initial state; besides the program's arguments, of one run."""

    def run(*kinds, **changes):
        spec = make_spec(
            **({"precision": "float64", "depth": 3, "width": 5} | changes), inspections=kinds
        )
        wide = "float64" if spec.architecture.dtype == "float64" else "float32"
        program = make_program(spec)
        hp = make_numbers(NUMBERS, dtype=wide)
        data = make_data(24)
        state = program.init(hp)
        found = {
            name: np.asarray(value)[0]
            for name, value in program.inspections(state, hp, data).items()
        }
        one = jax.tree.map(lambda leaf: leaf[0], (state, hp))
        return found, (spec, *one, data)

    return run


def test_every_inspection_that_can_be_asked_for_exists():
    assert set(_KINDS) == set(INSPECTIONS)


@pytest.mark.parametrize("optimizer", ["sgd", "gd"])
def test_sharpness_is_the_greatest_eigenvalue_over_the_training_set(inspected, optimizer):
    with scope("float64"):
        batch = {"batch_size": 24} if optimizer == "gd" else {}
        found, (spec, state, hp, data) = inspected(
            "sharpness", optimizer=optimizer, activation="tanh", **batch
        )
        flat, restore = jax.flatten_util.ravel_pytree(state.params)
        objective = make_objective(
            spec, state, hp, (normalize_inputs(spec.architecture, data, data["x"]), data["y"])
        )
        hessian = quick(jax.hessian(lambda flat: objective(restore(flat), {})[0]))(flat)
        np.testing.assert_allclose(found["sharpness"], np.linalg.eigvalsh(hessian)[-1], rtol=1e-5)
        assert found["sharpness_bound"] < 1e-3 * found["sharpness"]


@pytest.mark.parametrize(
    "init, activation", [("gaussian", "linear"), ("gaussian", "tanh"), ("orthogonal", "linear")]
)
def test_the_jacobian_spectrum_is_that_of_the_product_of_layers(inspected, init, activation):
    with scope("float64"):
        found, (spec, state, hp, data) = inspected(
            "jacobian_spectrum", init=init, activation=activation
        )
        (kernels,) = [
            stack["branch"]["weights"][0]["kernel"] for stack in state.params["stages"].values()
        ]
        h = _network(spec, state, hp).begin(
            normalize_inputs(spec.architecture, data, data["x"][:1]), _told(spec, state, hp)
        )[0]
        biases = state.params["stages"][0]["branch"]["weights"][0]["bias"]
        jacobian = np.eye(5)
        for kernel, bias in zip(np.asarray(kernels), biases, strict=True):
            slope = 1 - np.tanh(h) ** 2 if activation == "tanh" else np.ones(5)
            jacobian = jacobian @ (np.asarray(slope)[:, None] * kernel)
            h = (np.tanh(h) if activation == "tanh" else h) @ kernel + bias
        np.testing.assert_allclose(
            found["jacobian_spectrum"], np.linalg.svd(jacobian, compute_uv=False), rtol=1e-10
        )
        if init == "orthogonal":
            np.testing.assert_allclose(found["jacobian_spectrum"], 1, rtol=1e-12)


def test_gradients_of_a_linear_network_have_cosine_one_and_of_a_rectifier_less_with_every_layer(
    inspected,
):
    with scope("float64"):
        linear, _ = inspected("gradient_correlation", activation="linear")
        np.testing.assert_allclose(linear["gradient_correlation"], 1, rtol=1e-12)
        found, (spec, state, hp, data) = inspected("gradient_correlation", activation="relu")
        model = _network(spec, state, hp)
        ctx = _told(spec, state, hp)
        h = model.first_input(normalize_inputs(spec.architecture, data, data["x"]), ctx)
        v = jax.random.normal(jax.random.fold_in(state.key, 5), h.shape[1:], h.dtype)
        rows = [
            jax.grad(lambda row: jnp.vdot(model.run_layers(row[None], {}, ctx)[0][0], v))(row)
            for row in h
        ]
        np.testing.assert_allclose(
            found["gradient_correlation"][0], mean_cosine(jnp.stack(rows)), rtol=1e-10
        )
        np.testing.assert_allclose(found["gradient_correlation"][-1], 1, rtol=1e-12)
        assert np.all(np.diff(found["gradient_correlation"]) > 0)


def test_the_input_gradient_is_a_difference_quotient(inspected):
    with scope("float64"):
        found, (spec, state, hp, data) = inspected("input_gradient", activation="tanh")
        model = _network(spec, state, hp)
        ctx = _told(spec, state, hp)
        x = normalize_inputs(spec.architecture, data, data["x"])
        step = 1e-6

        def output(x):
            return model(x, {}, ctx)[0][:, 0]

        for n in range(x.shape[1]):
            moved = step * jnp.eye(x.shape[1])[n][None]
            np.testing.assert_allclose(
                found["input_gradient"][:, n],
                (output(x + moved) - output(x - moved)) / (2 * step),
                rtol=1e-6,
            )


def test_a_residual_network_whose_branches_are_switched_off_has_the_identity_as_jacobian(inspected):
    with scope("float64"):
        off, _ = inspected("jacobian_spectrum", skip="rezero")
        on, _ = inspected("jacobian_spectrum", skip="identity")
    assert off["jacobian_distance"] == 0 and np.array_equal(off["jacobian_spectrum"], np.ones(5))
    assert on["jacobian_distance"] > 0.1


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_the_output_change_is_that_of_one_step_of_gradient_descent(inspected, kind):
    """Of a small step: learning rate times the outputs' derivative along the gradient; biases stay."""
    with scope("float64"):
        found, (spec, state, hp, data) = inspected(
            "output_change", kind=kind, activation="tanh", shape=(1, 5, 1)
        )
        batch = normalize_inputs(spec.architecture, data, data["x"][:8]), data["y"][:8]
        gradient = jax.grad(lambda params: make_objective(spec, state, hp, batch)(params, {})[0])(
            state.params
        )

        def outputs(size):
            def weights(path, g):
                return g * ("bias" not in jax.tree_util.keystr(path))

            step = jax.tree_util.tree_map_with_path(weights, gradient)
            params = jax.tree.map(lambda leaf, g: leaf - size * g, state.params, step)
            moved = dataclasses.replace(state, params=params)
            return _network(spec, moved, hp)(batch[0], {}, _told(spec, moved, hp))[0]

        rate = float(hp["optimizer.learning_rate"])
        slope = (outputs(1e-6) - outputs(-1e-6)) / 2e-6
        np.testing.assert_allclose(
            found["output_change"], rate * np.sqrt(np.mean(slope**2)), rtol=0.05
        )
        np.testing.assert_allclose(
            found["output_change"], np.sqrt(np.mean((outputs(rate) - outputs(0)) ** 2))
        )


def test_difference_errors_are_least_near_the_roots_of_the_rounding_error(inspected):
    with scope("float64"):
        found, _ = inspected("difference_errors", activation="tanh")
        forward, central = (found[f"{name}_difference_error"] for name in ("forward", "central"))
        assert (
            1e-9 <= found["difference_step"][np.argmin(forward)] <= 1e-7 and np.min(forward) < 1e-6
        )
        assert (
            1e-7 <= found["difference_step"][np.argmin(central)] <= 1e-4 and np.min(central) < 1e-8
        )


@pytest.mark.slow
def test_forward_and_reverse_mode_agree_to_rounding(inspected):
    with scope("float64"):
        found, _ = inspected("difference_errors", activation="tanh", norm="layer", skip="identity")
        assert 0 <= found["mode_error"] < 1e-13


@pytest.fixture
def by_loop(weights, loss_of, make_numbers):
    """The layers' weights, scaled, the gradient of the mean loss there by the loop over layers, and all parameters."""

    def of(spec, state, data, factor=1.0):
        params = weights(jax.tree.map(lambda leaf: leaf[None], state.params))
        kernel = params["stages"][0]["branch"]["weights"][0]
        kernel["kernel"] = factor * kernel["kernel"]
        losses = loss_of(spec, make_numbers(NUMBERS, dtype="float64"), data)
        gradient = jax.grad(lambda params: jnp.mean(losses(params)))(params)
        return (
            kernel["kernel"],
            np.asarray(gradient["stages"][0]["branch"]["weights"][0]["kernel"]),
            params,
        )

    return of


@pytest.mark.parametrize(
    "activation, bias, loss", [("relu", False, "cross_entropy"), SLOW("tanh", True, "mse")]
)
def test_scale_derivatives_are_products_and_one_if_homogeneous(
    inspected, by_loop, activation, bias, loss
):
    with scope("float64"):
        how = {"activation": activation, "bias": bias, "loss": loss, "batch_size": 24}
        found, (spec, state, _, data) = inspected("scale_derivative", **how)
        weights, gradient, _ = by_loop(spec, state, data)
        np.testing.assert_allclose(
            found["scale_derivative"], np.sum(weights * gradient, axis=(1, 2)), rtol=1e-10
        )
        apart = np.abs(found["scale_derivative"] / found["output_scale_derivative"] - 1)
        assert np.all(apart < 1e-12) if activation == "relu" else np.all(apart > 1e-3)


@pytest.mark.parametrize("norm", [SLOW("none"), "batch", SLOW("layer")])
def test_scale_invariance_is_that_of_a_loop_and_holds_in_front_of_a_norm(inspected, by_loop, norm):
    with scope("float64"):
        found, (spec, state, _, data) = inspected(
            "scale_invariance", norm=norm, width=8, batch_size=24, bias=False
        )
        (w, g, _) = by_loop(spec, state, data)
        (_, there, _) = by_loop(spec, state, data, factor=2.0)

        def length(x, axes):
            return np.sqrt(np.sum(x**2, axes))

        def cosines(axes):
            return np.sum(w * g, axes) / length(w, axes) / length(g, axes)

        error = length(2 * there - g, (1, 2)) / length(g, (1, 2))
        close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-12)
        close(found["layer_cosine"], cosines((1, 2)))
        close(found["unit_cosine"], np.max(np.abs(cosines(1)), axis=1))
        close(found["rescaling_error"], error)
        kept = {"none": (), "layer": ("layer_cosine", "rescaling_error"), "batch": tuple(found)}[
            norm
        ]
        for name, values in found.items():
            assert np.max(np.abs(values)) < 1e-3 if name in kept else np.max(np.abs(values)) > 0.01


@pytest.mark.parametrize("bias", [True, SLOW(False)])
def test_the_balance_is_that_of_the_weights_and_biases(inspected, by_loop, bias):
    with scope("float64"):
        found, (spec, state, _, data) = inspected("balance", bias=bias, activation="relu")
        layers, _, params = by_loop(spec, state, data)
        into, out = [params["embed"]["kernel"], *layers], [*layers, params["head"]["kernel"]]
        stage = params["stages"][0]["branch"]["weights"][0]
        biases = [params["embed"]["bias"], *stage["bias"]] if bias else np.zeros((4, 5))
        expected = [
            np.sum(w**2, axis=0) + b**2 - np.sum(v**2, axis=1)
            for w, b, v in zip(into, biases, out, strict=True)
        ]
        np.testing.assert_allclose(found["balance"], expected, rtol=1e-10)


@pytest.mark.slow
def test_behind_batch_norm_the_correlation_is_that_of_each_examples_own_output(inspected):
    with scope("float64"):
        how = {
            "norm": "batch",
            "skip": "identity",
            "activation": "relu",
            "width": 48,
            "batch_size": 24,
        }
        found, (spec, state, hp, data) = inspected("gradient_correlation", **how)
        model = _network(spec, state, hp)
        ctx = _told(spec, state, hp)
        h = model.first_input(normalize_inputs(spec.architecture, data, data["x"]), ctx)
        v = jax.random.normal(jax.random.fold_in(state.key, 5), h.shape[1:], h.dtype)

        def through(h):
            return _network(spec, state, hp).through(h, {}, ctx)[0] @ v

        jacobian = jax.jacrev(through)(h)
        own = float(mean_cosine(jacobian[jnp.arange(24), jnp.arange(24)]))
        alike = float(mean_cosine(jnp.sum(jacobian, axis=0)))
        assert (
            found["gradient_correlation"][0] == pytest.approx(own, abs=0.03)
            and abs(alike - own) > 0.06
        )


def test_a_run_in_few_bits_is_inspected_in_float32(inspected):
    found, _ = inspected("sharpness", "jacobian_spectrum", precision="bfloat16")
    exact, _ = inspected("sharpness", precision="float32")
    assert all(value.dtype == np.float32 for value in found.values())
    assert found["sharpness"] == pytest.approx(
        exact["sharpness"], rel=0.1
    )  # its weights are rounded to eight bits

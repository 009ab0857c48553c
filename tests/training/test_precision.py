"""Number formats: what is kept in which, and that float64 stays within its scope."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.config import schema as config
from research.training.precision import POLICIES, scope
from research.training.program import make_program

KINDS = [option.name for option in config.PrecisionKind]
OPTIMIZERS = [option.name for option in config.OptimizerKind]


def wide(kind):
    return jnp.dtype("float64" if kind == "float64" else "float32")


def dtypes(tree):
    return {
        leaf.dtype for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)
    }


def test_every_kind_has_a_policy():
    assert list(POLICIES) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_three_steps_are_finite_and_in_the_right_formats(
    kind, make_spec, make_numbers, make_data, train
):
    with scope(kind):
        level = (
            "norms" if kind in ("float32", "float16") else "off"
        )  # other tests of these programs need the gauges
        spec = make_spec(precision=kind, level=level)
        numbers = make_numbers(dtype=wide(kind))
        state, rows = train(spec, numbers, make_data(), (3,))
        assert dtypes(state.params) == {jnp.dtype(POLICIES[kind].params)}
        assert dtypes((state.opt_state, state.loss_scale)) == {wide(kind)}
        assert dtypes(rows) == {wide(kind)} == {jnp.dtype(POLICIES[kind].accumulation)}
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((state.params, rows)))
        start = make_program(spec).init(numbers)
        assert not np.any(
            [np.array_equal(a, b) for a, b in zip(*map(kernels, (start, state)), strict=True)]
        )


def kernels(state):
    return [
        leaf
        for path, leaf in jax.tree.leaves_with_path(state.params)
        if "kernel" in jax.tree_util.keystr(path)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_formats_stay_from_step_to_step(kind, make_spec, make_numbers, make_data):
    """Traced only: the carry of a loop and both branches of a conditional must agree in their formats."""
    optimizer = OPTIMIZERS[KINDS.index(kind) % len(OPTIMIZERS)]
    how = {
        "norm": "batch",
        "skip": "rezero",
        "level": "full",
        "every": 2,
        "optimizer": optimizer,
        "clip": "adaptive",
    }
    with scope(kind):
        program = make_program(make_spec(precision=kind, **how))
        numbers = make_numbers(dtype=wide(kind))
        state = jax.eval_shape(program.init, numbers)
        after, rows = jax.eval_shape(
            program.chunk, state, numbers, make_data(), np.int32(0), np.int32(3)
        )
        assert jax.tree.map(lambda leaf: leaf.dtype, after) == jax.tree.map(
            lambda leaf: leaf.dtype, state
        )
        assert dtypes(state.model_state) <= {wide(kind)}  # running statistics
        evaluated = jax.eval_shape(program.evaluate, after, numbers, make_data())
        assert dtypes(evaluated) == {wide(kind)}


def test_float64_leaves_nothing_behind(make_spec, make_numbers, make_data, train, assert_equal):
    before = train(make_spec(), make_numbers(), make_data(), (3,))
    with scope("float64"):
        assert jnp.zeros(()).dtype == jnp.float64
        train(make_spec(precision="float64"), make_numbers(dtype="float64"), make_data(), (3,))
    assert not jax.config.read("jax_enable_x64")
    assert jnp.zeros(()).dtype == jnp.float32
    assert_equal(train(make_spec(), make_numbers(), make_data(), (3,)), before)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "float64"])
def test_a_scope_within_float64_is_narrow_again(kind):
    with scope("float64"), scope(kind):
        assert jnp.zeros(()).dtype == jnp.float32


@pytest.mark.parametrize("kind, tolerance", [("float32", 0), ("float16", 1e-3)])
def test_a_scaled_loss_gives_the_same_update(
    kind, tolerance, make_spec, make_numbers, make_data, train, distance
):
    """A power of two changes exponents only, save for numbers below float16's range, which scaling brings back."""
    plain, scaled = (
        train(
            make_spec(precision=kind, loss_scaling="static"),
            make_numbers({"precision.loss_scale": scale}),
            make_data(),
            (3,),
        )
        for scale in (1.0, 1024.0)
    )
    assert distance(scaled[0].params, plain[0].params) <= tolerance
    np.testing.assert_allclose(scaled[1]["train_loss"], plain[1]["train_loss"], rtol=tolerance)
    for name, values in plain[1]["profile"].items():
        np.testing.assert_allclose(
            scaled[1]["profile"][name], values, rtol=tolerance, atol=tolerance, err_msg=name
        )
    assert np.all(scaled[1]["loss_scale"] == 1024)


def test_scaling_brings_back_what_float16_loses(make_spec, make_numbers, make_data, train):
    """With small weights the gradient reaches the first layer below 2⁻²⁵, where float16 has nothing but 0."""
    numbers = {"init.gain": 0.03}
    _, exact = train(make_spec(), make_numbers(numbers), make_data(), (1,))
    spec = make_spec(precision="float16", loss_scaling="static")
    _, lost = train(spec, make_numbers(numbers | {"precision.loss_scale": 1.0}), make_data(), (1,))
    _, saved = train(
        spec, make_numbers(numbers | {"precision.loss_scale": 2.0**14}), make_data(), (1,)
    )
    arrives = [run["profile"]["signal_grad"][0, 0, 0] for run in (exact, lost, saved)]
    assert abs(arrives[1] / arrives[0] - 1) > 0.05
    np.testing.assert_allclose(arrives[2], arrives[0], rtol=0.01)

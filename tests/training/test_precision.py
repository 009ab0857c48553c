"""Number formats: which numbers have which format, and that float64 stays within its scope."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from research.config.number_formats import POLICIES
from research.config.options import OptimizerKind, PrecisionKind
from research.training.precision import precision_context
from research.training.program import make_program

from ..builders import make_hparams, make_program_config
from ..compiling import one_in
from .programs import assert_equal, make_data, train

KINDS = [option.name for option in PrecisionKind]
OPTIMIZERS = [option.name for option in OptimizerKind]


def wide_format(kind):
    return jnp.dtype("float64" if kind == "float64" else "float32")


def formats(tree):
    """The formats of all real numbers of a tree."""
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(tree)}
    return {dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)}


def test_every_kind_has_a_policy():
    assert list(POLICIES) == KINDS


def kernels(state):
    found = []
    for path, leaf in jax.tree.leaves_with_path(state.params):
        if "kernel" in jax.tree_util.keystr(path):
            found.append(leaf)
    return found


@pytest.mark.parametrize("kind", one_in(2, [(kind,) for kind in KINDS]))
def test_three_steps_are_finite_and_in_the_right_formats(kind):
    with precision_context(kind):
        # Other tests use the programs of these two kinds with gauges, so they are compiled once.
        level = "norms" if kind in ("float32", "float16") else "off"
        spec = make_program_config(precision=kind, level=level)
        hp = make_hparams(spec)
        before = make_program(spec).init(hp)
        after, rows = train(spec, hp, chunks=(3,))
        wide = {wide_format(kind)}
        assert formats(after.params) == {jnp.dtype(POLICIES[kind].params)}
        assert formats((after.opt_state, after.loss_scale)) == wide
        assert formats(rows) == wide == {jnp.dtype(POLICIES[kind].accumulation)}
        for leaf in jax.tree.leaves((after.params, rows)):
            assert np.all(np.isfinite(leaf))
        for old, new in zip(kernels(before), kernels(after), strict=True):
            assert not np.array_equal(old, new)


def dtype_of(leaf):
    return leaf.dtype


@pytest.mark.parametrize("kind", one_in(3, [(kind,) for kind in KINDS]))
def test_formats_stay_from_step_to_step(kind):
    """Traced only: the loop's carry and both branches of a conditional must agree in formats."""
    with precision_context(kind):
        spec = make_program_config(
            precision=kind,
            norm="batch",
            skip="rezero",
            level="full",
            every=2,
            optimizer=OPTIMIZERS[KINDS.index(kind) % len(OPTIMIZERS)],
            clip="adaptive",
        )
        hp = make_hparams(spec)
        data = make_data()
        program = make_program(spec)
        before = jax.eval_shape(program.init, hp)
        start = np.int32(0)
        steps = np.int32(3)
        after, _ = jax.eval_shape(program.chunk, before, hp, data, start, steps)
        assert jax.tree.map(dtype_of, after) == jax.tree.map(dtype_of, before)
        wide = {wide_format(kind)}
        assert formats(after.model_state) <= wide  # running statistics
        assert formats(jax.eval_shape(program.evaluate, after, hp, data)) == wide


def test_float64_leaves_nothing_behind():
    spec = make_program_config()
    hp = make_hparams(spec)
    before = train(spec, hp, chunks=(3,))
    with precision_context("float64"):
        assert jnp.zeros(()).dtype == jnp.float64
        wide_spec = make_program_config(precision="float64")
        train(wide_spec, make_hparams(wide_spec), chunks=(3,))
    assert not jax.config.read("jax_enable_x64")
    assert jnp.zeros(()).dtype == jnp.float32
    after = train(spec, hp, chunks=(3,))
    assert_equal(after, before)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "float64"])
def test_a_scope_within_float64_is_narrow_again(kind):
    with precision_context("float64"), precision_context(kind):
        assert jnp.zeros(()).dtype == jnp.float32


@pytest.mark.parametrize(("kind", "tolerance"), [("float32", 0), ("float16", 1e-3)])
def test_a_scaled_loss_gives_the_same_update(
    kind,
    tolerance,
    distance,
):
    """A power of two changes exponents only, but brings back numbers below float16's range."""
    spec = make_program_config(precision=kind, loss_scaling="static")
    unscaled_hp = make_hparams(spec, {"precision.loss_scale": 1.0})
    scaled_hp = make_hparams(spec, {"precision.loss_scale": 1024.0})
    unscaled, unscaled_rows = train(spec, unscaled_hp, chunks=(3,))
    scaled, scaled_rows = train(spec, scaled_hp, chunks=(3,))
    assert distance(scaled.params, unscaled.params) <= tolerance
    assert_allclose(scaled_rows["train_loss"], unscaled_rows["train_loss"], rtol=tolerance)
    for name, values in unscaled_rows["profile"].items():
        measured = scaled_rows["profile"][name]
        assert_allclose(measured, values, rtol=tolerance, atol=tolerance, err_msg=name)
    assert np.all(scaled_rows["loss_scale"] == 1024)


def test_scaling_brings_back_what_float16_loses():
    """With small weights the first layer's gradient is below 2⁻²⁵, where float16 has only 0."""

    def first_signal_grad(spec, loss_scale=1.0):
        hp = make_hparams(spec, {"init.gain": 0.03, "precision.loss_scale": loss_scale})
        _, rows = train(spec, hp, chunks=(1,))
        return rows["profile"]["signal_grad"][0, 0, 0]

    narrow = make_program_config(precision="float16", loss_scaling="static")
    exact = first_signal_grad(make_program_config())
    unscaled = first_signal_grad(narrow)
    scaled = first_signal_grad(narrow, loss_scale=2.0**14)
    assert abs(unscaled / exact - 1) > 0.05
    assert_allclose(scaled, exact, rtol=0.01)

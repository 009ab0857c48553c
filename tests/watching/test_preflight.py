"""``research.preflight`` on models of others."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import research

from . import networks

BATCH = networks.make_batch()
PARAMS = networks.make_params()
PLAIN = {"w": jnp.ones(3)}


def linear_loss(params, batch):
    """The mean of (w·x)²/2, whose Hessian is the mean of x xᵀ."""
    return jnp.mean((batch @ params["w"]) ** 2) / 2


def test_a_plain_function_is_measured_against_its_closed_form():
    x = jax.random.normal(jax.random.key(0), (8, 3))
    params = {"w": jnp.ones(3)}

    expected = research.preflight(linear_loss, params, x, optax.sgd(0.1, momentum=0.5), steps=50)

    hessian = np.asarray(x[:4].T @ x[:4]) / 4
    gradient = hessian @ np.ones(3)
    other = np.asarray(x[4:].T @ x[4:]) / 4 @ np.ones(3)
    measured = expected.measured
    sharpness = np.linalg.eigvalsh(hessian)[-1]
    assert measured.sharpness == pytest.approx(sharpness, rel=1e-3)
    assert measured.ceiling == pytest.approx(2 * 1.5 / sharpness, rel=1e-3)
    assert measured.learning_rate == pytest.approx(0.1)
    assert measured.total_updates == pytest.approx(100)
    assert measured.decrease == pytest.approx(0.1 * gradient @ other, rel=1e-4)
    assert 0 < expected.probability < 1


@pytest.mark.slow
def test_the_layers_of_an_nnx_model_are_measured_and_it_stays_as_it_is():
    model = networks.make_nnx(PARAMS)
    before = jax.tree.map(jnp.copy, nnx.state(model))

    expected = research.preflight(
        networks.model_loss, model, BATCH, optax.adam(1e-3), trial_steps=3, epsilon=1e-8
    )

    measured = expected.measured
    assert measured.signal_grad is not None
    assert measured.update_ratio is not None
    assert measured.trial is not None
    assert measured.signal_grad.shape == (networks.LAYERS + 1,)
    assert measured.update_ratio.shape == (networks.LAYERS,)
    assert measured.ceiling is None
    assert len(measured.trial) == 4
    assert measured.trial[-1] < measured.trial[0]
    assert "factor per layer" in str(expected)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(model), before)


@pytest.mark.parametrize("factor", [0.0, jnp.nan])
def test_a_loss_of_zero_and_one_that_is_no_number_are_said(factor):
    def loss(params, batch):
        return factor * jnp.mean(batch @ params)

    expected = research.preflight(loss, jnp.ones((3, 2)), jnp.eye(4, 3), optax.sgd(0.1))

    assert expected.probability < 0.1
    if factor:
        assert [reason.text for reason in expected.reasons] == [
            "the loss is nan before the first update"
        ]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"batch": jnp.ones((1, 3))}, ValueError, "at least 2 examples, got 1"),
        ({"batch": 3.0}, TypeError, "^batch must be an array with a leading axis, got 3.0"),
        (
            {"batch": {"x": jnp.ones((2, 3)), "y": [0, 1]}},
            TypeError,
            r"^batch\['y'\]\[0\] must be an array .*, got 0: numpy.asarray makes",
        ),
        (
            {"batch": (jnp.ones((4, 3)), jnp.ones(5))},
            ValueError,
            r"all arrays of batch must have as many examples, got 4 in batch\[0\], 5 in batch\[1\]",
        ),
        ({"steps": 0}, ValueError, "steps must be a whole number of at least 1"),
        ({"params": {"w": 3}}, TypeError, "params must hold floating-point arrays"),
        ({"optimizer": "adam"}, TypeError, "optimizer must be an Optax optimizer, got a str"),
    ],
)
def test_mistakes_are_said_in_one_line(change, error, message):
    arguments = {"params": {"w": jnp.ones(3)}, "batch": jnp.ones((4, 3)), "steps": 10} | change

    with pytest.raises(error, match=message):
        research.preflight(linear_loss, **arguments)


@pytest.mark.parametrize(
    ("position", "number"),
    [
        (7, np.nan),
        pytest.param(0, np.nan, marks=pytest.mark.slow),
        pytest.param(7, np.inf, marks=pytest.mark.slow),
    ],
)
def test_a_batch_that_is_not_finite_is_refused_by_its_place(position, number):
    x = np.ones((8, 3), np.float32)
    x[position, 1] = number
    place = rf"batch\['x'\] must be finite, .* \[{position}, 1\] is the first of 1 numbers"
    with pytest.raises(ValueError, match=place):
        research.preflight(lambda w, batch: linear_loss(w, batch["x"]), PLAIN, {"x": x})


@pytest.mark.slow
def test_infinities_that_do_no_harm_are_accepted():
    mask = np.full((8, 3), -np.inf, np.float32)

    def masked_loss(params, batch):
        x, mask = batch
        return linear_loss(params, x + jnp.exp(mask))

    assert research.preflight(masked_loss, PLAIN, (np.eye(8, 3), mask)).measured.is_finite


@pytest.mark.parametrize("dtype", [object, ">f4", "U3", "M8[s]"])
def test_numbers_that_jax_does_not_read_are_refused_in_one_line(dtype):
    x = np.arange(24).reshape(8, 3).astype(dtype)
    with pytest.raises(TypeError, match="batch must hold numbers that JAX reads, got") as refused:
        research.preflight(linear_loss, PLAIN, x)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_what_is_left_out_of_a_batch_and_what_does_not_vary_is_said():
    report = str(research.preflight(linear_loss, PLAIN, jnp.ones((7, 3))))
    assert "batch holds the same numbers for all examples" in report
    assert "the last of the 7 examples is in neither half of the batch" in report


@pytest.mark.parametrize(
    ("labels", "note"),
    [
        ([2] * 8, "batch['y'] holds the same numbers for all examples"),
        ([0, 0, 0, 1, 2, 2, 3, 3], "the halves of batch['y'] have no number in common"),
        ([0, 1, 2, 3, 0, 1, 2, 3], ""),
        ([0, 1, 2, 3, 4, 5, 6, 7], ""),
    ],
)
def test_labels_that_are_all_the_same_or_sorted_are_said(labels, note):
    batch = {"x": np.eye(8, 3), "y": np.array(labels)}
    report = str(research.preflight(lambda w, batch: linear_loss(w, batch["x"]), PLAIN, batch))
    assert note in report
    assert ("batch['y']" in report) == bool(note)


def test_no_learning_rate_is_read_from_a_gradient_of_zero():
    report = str(research.preflight(linear_loss, PLAIN, np.zeros((4, 3)), optax.sgd(0.1)))
    assert "learning rate: not known, because the first update is 0" in report

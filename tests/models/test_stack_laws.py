"""What shortcuts and normalisations do to the gradient, as laws."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose, assert_array_equal

from research.config.options import Level, Placement

from ..builders import make_architecture
from .networks import (
    FLOAT64,
    add_noise,
    assert_same_pass,
    expected_pass,
    initialize,
    make_network,
    make_numbers,
    measure,
    normal,
    relative_distance,
)

FLOAT32_TOLERANCE = 1e-5  # rounding through three layers, forward and backward

every_placement = pytest.mark.parametrize("placement", [placement.name for placement in Placement])


def branch_kernels(params):
    """The weights of all layers of an ``mlp``."""
    return np.asarray(params["stages"][0]["branch"]["weights"][0]["kernel"])


# --- The gradient of branch and shortcut ----------------------------------------------------------


def test_without_a_shortcut_the_gradient_goes_through_the_branch():
    gauges = measure(make_network(skip="none")).gauges
    assert_allclose(gauges["branch_grad"], gauges["signal_grad"][:-1], rtol=FLOAT32_TOLERANCE)
    assert_array_equal(gauges["skip_grad"], 0)


def test_at_alpha_zero_the_gradient_goes_through_the_shortcut():
    gauges = measure(make_network(skip="rezero", noise=False)).gauges
    assert_array_equal(gauges["branch_grad"], 0)
    assert_array_equal(gauges["skip_grad"], gauges["signal_grad"][1:])


@pytest.mark.parametrize(
    "norm, placement",
    [
        ("none", "pre"),
        ("layer", "pre"),
        ("batch", "branch"),
    ],
)
def test_rezero_is_initially_the_identity(norm, placement):
    """No branch weight has a gradient, and every α has one (Bachlechner et al. 2020, §3)."""
    network = make_network(
        skip="rezero",
        norm=norm,
        placement=placement,
        noise=False,
    )
    measured = measure(network, compiled=False)
    for name in ("activation_rms", "activation_mean", "signal_grad"):
        values = measured.gauges[name]
        assert_array_equal(values, values[0])
    (stage,) = nnx.to_pure_dict(measured.grads)["stages"].values()
    alpha = stage.pop("skip")["alpha"]
    assert np.all(np.abs(alpha) > 1e-3)
    for leaf in jax.tree.leaves(stage):
        assert_array_equal(leaf, 0)


# --- Weights before a norm ------------------------------------------------------------------------


def cosine(weights, gradient, axes):
    product = np.sum(weights * gradient, axes)
    squares = np.sum(weights**2, axes) * np.sum(gradient**2, axes)
    assert np.all(squares > 0)
    return product / np.sqrt(squares)


def scale_branches(params, size):
    def scale(path, leaf):
        return leaf * size if "weights" in jax.tree_util.keystr(path) else leaf

    return jax.tree.map_with_path(scale, params)


@pytest.mark.parametrize("norm, axes", [("batch", 1), ("layer", (1, 2))])
@pytest.mark.usefixtures("float64")
def test_weights_before_a_norm_are_orthogonal_to_their_gradient(norm, axes):
    """A norm removes the scale of the weights: of each unit, or with layer norm of the layer.

    So the gradient has no part along the weights, and it falls as the weights grow. The weights are
    large, so that ε, 1e-5 or less, is negligible next to the variance.
    """
    network = make_network(
        activation="relu",
        norm=norm,
        placement="branch",
        bias=False,
        **FLOAT64,
    )
    gradients = []
    for size in (1e5, 3e5):
        params = scale_branches(network.params, size)
        measured = measure(replace(network, params=params))
        gradient = branch_kernels(measured.grads)
        assert_allclose(cosine(branch_kernels(params), gradient, axes), 0, atol=1e-10)
        gradients.append(gradient)
    at_size, at_three_times = gradients
    atol = 1e-8 * np.abs(at_size).max()
    assert_allclose(at_size, 3 * at_three_times, rtol=1e-8, atol=atol)


def is_convolution(path):
    name = jax.tree_util.keystr(path)
    return "kernel" in name and "head" not in name


@pytest.mark.slow
@pytest.mark.parametrize("transition", ["pad", "projection"])
@pytest.mark.usefixtures("float64")
def test_convolutions_before_batch_norm_are_orthogonal_to_their_gradient(transition):
    """⟨w, ∂L/∂w⟩ = 0 for each channel of a ResNet, because a norm follows every convolution.

    They are the stem, both convolutions of every block, and the projections where the shape
    changes. The weights are large, as above.
    """
    arch = make_architecture(
        kind="resnet_cifar",
        depth=8,
        width=4,
        shape=(8, 8, 1),
        norm="batch",
        placement="branch",
        skip="identity",
        activation="relu",
        transition=transition,
        **FLOAT64,
    )
    hp = make_numbers(arch)
    with jax.disable_jit():
        network = initialize(arch, hp)

    def enlarge(path, leaf):
        return 1e5 * leaf if is_convolution(path) else leaf

    params = jax.tree.map_with_path(enlarge, add_noise(network.params))
    network = replace(network, params=params)
    x = normal((6, 64))
    cotangent = normal((6, 4), seed=1)

    grads = measure(network, x, cotangent, level=Level.off).grads

    num_convolutions = 0
    pairs = zip(
        jax.tree.leaves_with_path(grads),
        jax.tree.leaves(network.params),
        strict=True,
    )
    for (path, gradient), weights in pairs:
        if not is_convolution(path):
            continue
        num_convolutions += 1
        all_but_outputs = tuple(range(weights.ndim - 1))
        cosines = cosine(np.asarray(weights), np.asarray(gradient), all_but_outputs)
        assert_allclose(cosines, 0, atol=1e-10, err_msg=jax.tree_util.keystr(path))
    num_projections = 2 if transition == "projection" else 0
    assert num_convolutions == 1 + 3 * 2 + num_projections


# --- Running statistics ---------------------------------------------------------------------------


@every_placement
def test_batch_norm_updates_running_statistics(placement):
    """From mean 0 and variance 1, with momentum 0.9."""
    network = make_network(skip="identity", norm="batch", placement=placement)
    measured = measure(network)
    _, trace = expected_pass(network)
    running = nnx.to_pure_dict(measured.model_state)
    layer = running["stages"][0]
    means = layer["norm"]["mean"]
    variances = layer["norm"]["var"]
    if placement == "peri":  # each layer has another norm at the end of its branch
        width = means.shape[-1]
        means = np.stack([means, layer["end_norm"]["mean"]], axis=1).reshape(-1, width)
        variances = np.stack([variances, layer["end_norm"]["var"]], axis=1).reshape(-1, width)
    if placement in ("pre", "peri"):  # the last norm precedes the head
        means = np.concatenate([means, running["norm"]["mean"][None]])
        variances = np.concatenate([variances, running["norm"]["var"][None]])
    expected_means = []
    expected_variances = []
    for mean, variance in trace["moments"]:
        expected_means.append(0.1 * mean[0])
        expected_variances.append(0.9 + 0.1 * variance[0])
    assert_allclose(means, expected_means, rtol=1e-5, atol=1e-7)
    assert_allclose(variances, expected_variances, rtol=1e-5)


@every_placement
def test_batch_norm_evaluates_with_running_statistics(placement):
    network = make_network(skip="identity", norm="batch", placement=placement)
    running = measure(network).model_state
    trained = replace(network, model_state=running)
    evaluated = measure(trained, train=False, compiled=False)
    assert_same_pass(trained, evaluated, FLOAT32_TOLERANCE, running)
    assert relative_distance(evaluated.model_state, running) == 0

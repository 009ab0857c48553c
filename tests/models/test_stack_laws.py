"""What shortcuts and normalisations do to the gradient, as laws."""

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

PLACEMENTS = [option.name for option in config.Placement]
FLOAT64 = {"dtype": "float64", "param_dtype": "float64"}
SINGLE = 1e-5  # rounding through three layers, forward and backward


def kernels(params):
    return np.asarray(params["stages"][0]["branch"]["weights"][0]["kernel"])


def test_the_gradient_goes_back_on_two_ways(network):
    """Without a shortcut all of it goes through the branch; at α = 0 all of it goes through the shortcut."""
    gauges = network(skip="none")[0]["gauges"]
    np.testing.assert_allclose(gauges["branch_grad"], gauges["signal_grad"][:-1], rtol=SINGLE)
    np.testing.assert_array_equal(gauges["skip_grad"], 0)
    gauges = network(skip="rezero", move=False)[0]["gauges"]
    np.testing.assert_array_equal(gauges["branch_grad"], 0)
    np.testing.assert_array_equal(gauges["skip_grad"], gauges["signal_grad"][1:])


@pytest.mark.parametrize(
    "norm, placement", [("none", "pre"), ("layer", "pre"), ("batch", "branch")]
)
def test_rezero_begins_as_the_identity(network, norm, placement):
    """Then no branch weight has a gradient, and every α has one (Bachlechner et al. 2020, §3)."""
    out, *_ = network(skip="rezero", norm=norm, placement=placement, move=False, compiled=False)
    for name in ("activation_rms", "activation_mean", "signal_grad"):
        np.testing.assert_array_equal(out["gauges"][name], out["gauges"][name][0])
    (stage,) = nnx.to_pure_dict(out["grads"])["stages"].values()
    assert np.all(np.abs(stage.pop("skip")["alpha"]) > 1e-3)
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(stage))


@pytest.mark.parametrize("norm, inputs_and_units", [("batch", 1), ("layer", (1, 2))])
def test_weights_in_front_of_a_norm_are_orthogonal_to_their_gradient(
    network, measured, norm, inputs_and_units
):
    """What a norm divides out has no gradient along itself, and that gradient falls as the weights grow.

    Batch norm divides by each unit's scale, layer norm by the layer's. The weights are large, so that the norm's own
    constant next to the variance, 1e-5 or less, counts for nothing.
    """
    with scope("float64"):
        out, arch, hp, params = network(
            activation="relu", norm=norm, placement="branch", bias=False, **FLOAT64
        )
        grads = []
        for size in (1e5, 3e5):
            large = jax.tree.map_with_path(
                lambda path, leaf, size=size: (
                    leaf * size if "weights" in jax.tree_util.keystr(path) else leaf
                ),
                params,
            )
            out = measured(arch, large, out["rest"], hp)
            weights, gradient = (kernels(tree) for tree in (large, out["grads"]))
            along = np.sum(weights * gradient, inputs_and_units)
            sizes = np.sum(weights**2, inputs_and_units) * np.sum(gradient**2, inputs_and_units)
            np.testing.assert_allclose(along / np.sqrt(sizes), 0, atol=1e-10)
            grads.append(gradient)
        np.testing.assert_allclose(
            grads[0], 3 * grads[1], rtol=1e-8, atol=1e-8 * np.abs(grads[0]).max()
        )


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_batch_norm_keeps_running_statistics(network, oracle, placement):
    out, arch, hp, params = network(skip="identity", norm="batch", placement=placement)
    moments = oracle(arch, params, hp)["moments"]
    running = nnx.to_pure_dict(out["rest"])
    stacked = dict(running["stages"][0]["norm"])
    if placement == "pre":  # the last norm stands in front of the head
        stacked = {
            name: np.concatenate([stacked[name], running["norm"][name][None]]) for name in stacked
        }
    means, variances = (np.concatenate(part) for part in zip(*moments, strict=True))
    np.testing.assert_allclose(
        stacked["mean"], 0.1 * means, rtol=1e-5, atol=1e-7
    )  # from 0, with momentum 0.9
    np.testing.assert_allclose(stacked["var"], 0.9 + 0.1 * variances, rtol=1e-5)  # from 1


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_batch_norm_evaluates_with_its_running_statistics(
    network, measured, assert_same_pass, distance, placement
):
    out, arch, hp, params = network(skip="identity", norm="batch", placement=placement)
    evaluated = measured(arch, params, out["rest"], hp, train=False, compiled=False)
    assert_same_pass(evaluated, arch, hp, params, SINGLE, out["rest"])
    assert distance(evaluated["rest"], out["rest"]) == 0  # evaluation changes nothing


@pytest.mark.parametrize("transition", ["pad", "projection"])
def test_convolutions_in_front_of_batch_norm_are_orthogonal_to_their_gradient(
    make_architecture, make_numbers, build, shaken, transition
):
    """⟨w, ∂L/∂w⟩ = 0 for each of a residual network's channels, in the stem, in both places of every block and where
    the shape changes: a norm stands behind each of them. Large weights, as above."""
    with scope("float64"):
        how = {
            "kind": "resnet_cifar",
            "depth": 8,
            "width": 4,
            "shape": (8, 8, 1),
            "norm": "batch",
            **FLOAT64,
        }
        arch = make_architecture(
            **how, placement="branch", skip="identity", activation="relu", transition=transition
        )
        hp = make_numbers(runs=None, dtype="float64")
        generator = np.random.default_rng(0)
        params, rest = quick(lambda: build(arch, hp))()
        is_convolution = {
            path: _is_convolution(path) for path, _ in jax.tree.leaves_with_path(params)
        }
        assert sum(is_convolution.values()) == 1 + 3 * 2 + (2 if transition == "projection" else 0)

        def large(path, leaf):
            return 1e5 * leaf if is_convolution[path] else leaf

        params = jax.tree.map_with_path(large, shaken(params))
        graph = nnx.graphdef(nnx.eval_shape(lambda: Stack(arch, hp, rngs=nnx.Rngs(0))))
        x, cotangent = (jnp.asarray(generator.standard_normal((6, size))) for size in (64, 4))

        def objective(params):
            logits, _ = nnx.merge(graph, params, rest, copy=True)(
                x, {}, ForwardContext(hp, train=True)
            )
            return jnp.sum(logits * cotangent)

        grads = jax.tree.leaves_with_path(quick(jax.grad(objective))(params))
    for (path, gradient), weights in zip(grads, jax.tree.leaves(params), strict=True):
        if is_convolution[path]:
            w, g = (np.asarray(leaf).reshape(-1, leaf.shape[-1]) for leaf in (weights, gradient))
            sizes = np.linalg.norm(w, axis=0) * np.linalg.norm(g, axis=0)
            assert np.all(sizes > 0)
            np.testing.assert_allclose(
                np.sum(w * g, 0) / sizes, 0, atol=1e-10, err_msg=jax.tree_util.keystr(path)
            )


def _is_convolution(path):
    name = jax.tree_util.keystr(path)
    return "kernel" in name and "head" not in name

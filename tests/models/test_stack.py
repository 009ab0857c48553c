"""The scanned network against the loop over its layers: forward, backward, and in every gauge."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from research import config
from research.models.stack import Pass, Stack
from research.training.precision import scope

GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((6, 5))
COTANGENT = GENERATOR.standard_normal((6, 4))
NUMBERS = {"skip.branch_scale": 0.7, "skip.shortcut_scale": 0.9}
SINGLE, DOUBLE = 1e-5, 1e-11  # rounding through three layers, forward and backward, in float32 and in float64


def names(options):
    return [option.name for option in options]


def combinations():
    """Every skip × norm × placement, and with them every pair of one of these and an activation."""
    wirings = list(itertools.product(*map(names, (config.SkipKind, config.NormKind, config.Placement))))
    wirings = [wiring for wiring in wirings if wiring[1] != "none" or wiring[2] == "pre"]
    missing = {(option, phi) for option in set().union(*wirings) for phi in names(config.ActivationKind)}
    missing -= {("none", phi) for phi in names(config.ActivationKind)}  # a skip and a norm at once
    left = list(wirings)
    while left or missing:
        pairs = itertools.product(left or wirings, names(config.ActivationKind))
        wiring, phi = max(pairs, key=lambda case: sum((option, case[1]) in missing for option in case[0]))
        missing -= {(option, phi) for option in wiring}
        left = [other for other in left if other != wiring]
        yield phi, *wiring


CASES = list(combinations())
every_network = pytest.mark.parametrize("activation, skip, norm, placement", CASES, ids="-".join)


@pytest.fixture
def network(make_architecture, make_numbers, build, shaken, measured):
    """What a network measures in one pass, its architecture, numbers and parameters; shaken unless told otherwise."""

    def make(*, move=True, train=True, x=X, numbers=None, seed=0, **changes):
        arch = make_architecture(**changes)
        hp = make_numbers(NUMBERS | (numbers or {}), runs=None, dtype=arch.param_dtype)
        params, rest = build(arch, hp, seed)
        params = shaken(params) if move else params
        x, cotangent = jnp.asarray(x, arch.dtype), jnp.asarray(COTANGENT[: len(x)], arch.dtype)
        return measured(arch, params, rest, x, cotangent, hp, train), arch, hp, params

    return make


@pytest.fixture
def oracle(unrolled, activations):
    """The same from the loop over layers, in float64."""

    def measure(arch, params, hp, x=X, running=None):
        with scope("float64"):
            params, running, hp, x = jax.tree.map(
                lambda leaf: jnp.asarray(np.asarray(leaf), float), (params, running, dict(hp), x)
            )
            zeros = lambda layers: jnp.zeros((layers, len(x), arch.width))
            nudges = {"signal_grad": zeros(arch.depth + 1), "branch_grad": zeros(arch.depth)}
            nudges["skip_grad"] = zeros(arch.depth)

            def objective(params, nudges):
                logits, seen = unrolled(arch, params, x, hp, nudges=nudges, running=running)
                return jnp.sum(logits * COTANGENT[: len(x)]), (logits, seen)

            (grads, backward), (logits, seen) = jax.grad(objective, (0, 1), has_aux=True)(params, nudges)
            gauges = {name: np.linalg.norm(g, axis=(1, 2)) for name, g in backward.items()}
            gauges["activation_rms"] = np.array([np.sqrt(np.mean(np.square(h))) for h in seen["signals"]])
            gauges["activation_mean"] = np.array([np.mean(h) for h in seen["signals"]])
            units = [units_by_difference(activations[arch.activation], np.asarray(z)) for z in seen["into_branch"]]
            gauges["saturated"], gauges["dead"] = np.array(units).T
            return {"logits": logits, "grads": grads, "gauges": gauges, "moments": seen["moments"]}

    return measure


def units_by_difference(phi, z, h=1e-5):
    """The fractions of saturated elements and of dead units, slopes by central differences."""
    slope = lambda z: np.abs(np.asarray(phi(z + h)) - np.asarray(phi(z - h))) / (2 * h)
    greatest = np.max(slope(np.linspace(-6, 6, 10**5)))
    return np.mean(slope(z) < 0.05 * greatest), np.mean(np.all(np.asarray(phi(z)) == 0, axis=0))


def plain(state):
    return nnx.to_pure_dict(state)


def assert_same_gauges(measured, expected, tolerance):
    assert set(measured) == set(expected)
    for name, values in expected.items():
        # A mean cancels: its error is that of the elements it is taken over.
        slack = tolerance * expected["activation_rms"].max() if name == "activation_mean" else 0
        np.testing.assert_allclose(measured[name], values, rtol=tolerance, atol=slack, err_msg=name)


def assert_same_gradients(measured, expected, tolerance):
    total = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(expected)))
    assert jax.tree.structure(measured) == jax.tree.structure(expected)
    for (path, got), wanted in zip(jax.tree.leaves_with_path(measured), jax.tree.leaves(expected), strict=True):
        error = np.linalg.norm(np.asarray(got, np.float64) - wanted)
        # Some leaves' gradient is zero but for rounding (a bias in front of batch norm): hence a part of the whole.
        assert error <= tolerance * np.linalg.norm(wanted) + 0.1 * tolerance * total, jax.tree_util.keystr(path)


@every_network
def test_every_initialisation_is_finite(network, activation, skip, norm, placement):
    changes = dict(activation=activation, skip=skip, norm=norm, placement=placement)
    for init in names(config.InitKind):
        out, *_ = network(move=False, numbers={"init.sigma_b": 0.1}, init=init, **changes)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(out)), init


@every_network
def test_scan_equals_the_loop(network, oracle, distance, activation, skip, norm, placement):
    out, arch, hp, params = network(activation=activation, skip=skip, norm=norm, placement=placement)
    expected = oracle(arch, plain(params), hp)
    assert distance(out["logits"], expected["logits"]) < SINGLE
    assert_same_gradients(plain(out["grads"]), expected["grads"], SINGLE)
    assert_same_gauges(out["gauges"], expected["gauges"], SINGLE)


@pytest.mark.parametrize("norm, placement", [("none", "pre"), ("layer", "branch"), ("batch", "post")])
def test_in_float64_nothing_is_rounded_to_float32(network, oracle, distance, norm, placement):
    with scope("float64"):
        formats = dict(dtype="float64", param_dtype="float64")
        out, arch, hp, params = network(skip="rezero", norm=norm, placement=placement, **formats)
        expected = oracle(arch, plain(params), hp)
        assert {leaf.dtype for leaf in jax.tree.leaves((out["logits"], out["grads"]))} == {jnp.dtype("float64")}
        assert distance(out["logits"], expected["logits"]) < DOUBLE
        assert_same_gradients(plain(out["grads"]), expected["grads"], DOUBLE)
        assert_same_gauges(out["gauges"], expected["gauges"], DOUBLE)


@pytest.mark.parametrize("placement", names(config.Placement))
def test_batch_norm_keeps_running_statistics_and_evaluates_with_them(
    network, oracle, distance, build, measured, placement
):
    changes = dict(skip="identity", norm="batch", placement=placement)
    out, arch, hp, params = network(**changes)
    means, variances = (
        np.concatenate([m[part] for m in oracle(arch, plain(params), hp)["moments"]]) for part in (0, 1)
    )
    running = plain(out["rest"])
    collect = lambda name: np.concatenate(
        [running["stages"][0]["norm"][name]] + ([running["norm"][name][None]] if placement == "pre" else [])
    )
    np.testing.assert_allclose(collect("mean"), 0.1 * means, rtol=1e-4, atol=1e-6)  # from 0, with momentum 0.9
    np.testing.assert_allclose(collect("var"), 0.9 + 0.1 * variances, rtol=1e-5)  # from 1

    cotangent = jnp.asarray(COTANGENT, jnp.float32)
    evaluated = measured(arch, params, out["rest"], jnp.asarray(X, jnp.float32), cotangent, hp, False)
    expected = oracle(arch, plain(params), hp, running=running)
    assert distance(evaluated["logits"], expected["logits"]) < SINGLE
    assert_same_gauges(evaluated["gauges"], expected["gauges"], SINGLE)
    for before, after in zip(jax.tree.leaves(running), jax.tree.leaves(evaluated["rest"]), strict=True):
        np.testing.assert_array_equal(before, after)  # evaluation changes nothing


@pytest.mark.parametrize("depth", [1, 7])
def test_any_depth(network, oracle, distance, depth):
    out, arch, hp, params = network(depth=depth, skip="inv_sqrt_depth", norm="layer", placement="pre")
    expected = oracle(arch, plain(params), hp)
    assert {name: len(values) - depth for name, values in out["gauges"].items()} == {
        "signal_grad": 1, "branch_grad": 0, "skip_grad": 0, "activation_rms": 1, "activation_mean": 1,
        "saturated": 0, "dead": 0,
    }  # fmt: skip
    assert_same_gradients(plain(out["grads"]), expected["grads"], SINGLE)
    assert_same_gauges(out["gauges"], expected["gauges"], SINGLE)


def test_the_oracle_itself_against_finite_differences(unrolled, make_architecture, make_numbers, build, shaken):
    """The loop's gradients with respect to the nudges, one element at a time, in float64."""
    with scope("float64"):
        arch = make_architecture(skip="scaled", norm="layer", placement="post", dtype="float64", param_dtype="float64")
        hp = make_numbers(NUMBERS, runs=None, dtype="float64")
        params = plain(shaken(build(arch, hp)[0]))
        zeros = {
            "signal_grad": np.zeros((4, 2, 8)),
            "branch_grad": np.zeros((3, 2, 8)),
            "skip_grad": np.zeros((3, 2, 8)),
        }
        objective = lambda nudges: jnp.sum(unrolled(arch, params, X[:2], hp, nudges=nudges)[0] * COTANGENT[:2])
        grads = jax.grad(objective)(zeros)
        objective = jax.jit(objective)
        for name, layer, b, d in [
            ("signal_grad", 0, 0, 1),
            ("signal_grad", 3, 1, 7),
            ("branch_grad", 1, 1, 2),
            ("skip_grad", 2, 0, 3),
        ]:
            step = np.zeros_like(zeros[name])
            step[layer, b, d] = 1e-5
            ahead, behind = (objective(zeros | {name: sign * step}) for sign in (1, -1))
            np.testing.assert_allclose((ahead - behind) / 2e-5, grads[name][layer, b, d], rtol=1e-7)


def test_the_gradient_at_a_layer_is_the_sum_of_its_two_ways(network):
    """Without a shortcut all of it goes through the branch; at α = 0 all of it goes through the shortcut."""
    out, *_ = network(skip="none")
    np.testing.assert_allclose(out["gauges"]["branch_grad"], out["gauges"]["signal_grad"][:-1], rtol=SINGLE)
    np.testing.assert_array_equal(out["gauges"]["skip_grad"], 0)
    out, *_ = network(skip="rezero", move=False)
    np.testing.assert_array_equal(out["gauges"]["branch_grad"], 0)
    np.testing.assert_array_equal(out["gauges"]["skip_grad"], out["gauges"]["signal_grad"][1:])


@pytest.mark.parametrize("norm, placement", [("none", "pre"), ("layer", "pre"), ("batch", "pre"), ("layer", "branch")])
def test_rezero_begins_as_the_identity(network, norm, placement):
    """Then no branch weight has a gradient, and every α has one (Bachlechner et al. 2020, §3)."""
    out, *_ = network(skip="rezero", norm=norm, placement=placement, move=False)
    for name in ("activation_rms", "activation_mean", "signal_grad"):
        np.testing.assert_array_equal(out["gauges"][name], out["gauges"][name][0])
    (stage,) = plain(out["grads"])["stages"].values()
    assert np.all(np.abs(stage.pop("skip")["alpha"]) > 1e-3)
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(stage))


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_weights_in_front_of_a_norm_are_orthogonal_to_their_gradient(network, measured, norm):
    """What a norm divides out has no gradient along itself, and the gradient falls as the weights grow.

    Batch norm divides by each unit's scale, layer norm by the layer's. The weights are large, so that the norm's own
    small constant next to the variance, 1e-5 or less, counts for nothing in float64.
    """
    with scope("float64"):
        formats = dict(dtype="float64", param_dtype="float64", bias=False)
        _, arch, hp, params = network(activation="relu", norm=norm, placement="branch", skip="identity", **formats)
        rest = network(activation="relu", norm=norm, placement="branch", skip="identity", **formats)[0]["rest"]
        gradients = {}
        for size in (1e5, 3e5):
            scaled = jax.tree.map_with_path(lambda path, leaf: leaf * size if is_block_kernel(path) else leaf, params)  # noqa: B023
            out = measured(arch, scaled, rest, jnp.asarray(X), jnp.asarray(COTANGENT), hp)
            weights, grads = (plain(tree)["stages"][0]["branch"]["linear"]["kernel"] for tree in (scaled, out["grads"]))
            axis = 1 if norm == "batch" else (1, 2)
            along = np.sum(weights * grads, axis) / np.sqrt(np.sum(weights**2, axis) * np.sum(grads**2, axis))
            assert np.max(np.abs(along)) < 1e-10
            gradients[size] = np.asarray(grads)
        np.testing.assert_allclose(gradients[1e5], 3 * gradients[3e5], rtol=1e-8, atol=1e-18)


def is_block_kernel(path):
    return "stages" in str(path[0]) and "kernel" in jax.tree_util.keystr(path)


def test_scaling_all_weights_of_a_rectifier_network_shifts_its_log_profile(network):
    """One draw, σ_w² = 1, 2, 3: the gates are the same, so ln‖∂L/∂h_l‖² grows by ln σ_w² more a layer, exactly."""
    slopes = {}
    for variance in (1, 2, 3):
        numbers = {"init.sigma_w": variance**0.5}
        out, *_ = network(move=False, numbers=numbers, activation="relu", init="gaussian", bias=False, depth=7)
        slopes[variance] = np.diff(2 * np.log(np.asarray(out["gauges"]["signal_grad"], float))[::-1])
    np.testing.assert_allclose(slopes[2] - slopes[1], np.log(2), atol=1e-5)
    np.testing.assert_allclose(slopes[3] - slopes[2], np.log(3 / 2), atol=1e-5)


def test_what_is_not_asked_for_is_not_measured(make_architecture, make_numbers, build):
    arch, hp = make_architecture(norm="layer", skip="identity"), make_numbers(runs=None)
    stack = Stack(arch, hp, rngs=nnx.Rngs(0))
    x = jnp.asarray(X, jnp.float32)
    logits, statistics = stack(x, {}, Pass(hp, train=True))
    assert statistics == {}
    slots = {"signal_grad": jnp.zeros(4), "branch_grad": jnp.zeros(3)}
    tapped, statistics = stack(x, slots, Pass(hp, train=True, forward=True, units=True))
    np.testing.assert_array_equal(logits, tapped)
    assert set(statistics) == {"activation_rms", "activation_mean", "saturated", "dead"}
    assert "custom_vjp" not in str(jax.make_jaxpr(lambda x: stack(x, {}, Pass(hp, train=True))[0])(x))


def test_one_seed_one_network(make_architecture, make_numbers, build):
    arch, hp = make_architecture(), make_numbers(runs=None)
    first, again, other = (build(arch, hp, seed)[0] for seed in (0, 0, 1))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    kernels = [plain(params)["stages"][0]["branch"]["linear"]["kernel"] for params in (first, other)]
    assert not np.any(kernels[0] == kernels[1])
    assert len({float(kernel[0, 0]) for kernel in kernels[0]}) == 3  # every layer has a draw of its own

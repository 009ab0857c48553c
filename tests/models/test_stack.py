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
FLOAT64 = {"dtype": "float64", "param_dtype": "float64"}
SINGLE, DOUBLE = 1e-5, 1e-11  # rounding through three layers, forward and backward, in float32 and in float64


def names(options):
    return [option.name for option in options]


OPTIONS = {
    "skip": names(config.SkipKind),
    "norm": names(config.NormKind),
    "placement": names(config.Placement),
    "activation": names(config.ActivationKind),
    "init": names(config.InitKind),
}


def covering(*groups, together=()):
    """Networks that hold every pair of options of two groups, and every combination of those that go ``together``."""
    cases = [
        dict(zip(groups, options, strict=True)) for options in itertools.product(*(OPTIONS[group] for group in groups))
    ]
    cases = [case for case in cases if case["norm"] != "none" or case["placement"] == "pre"]
    parts = [set(itertools.combinations(case.items(), 2)) | {tuple(map(case.get, together))} for case in cases]
    missing, chosen = set().union(*parts), []
    while missing:
        best = max(range(len(cases)), key=lambda i: len(parts[i] & missing))
        missing -= parts[best]
        chosen.append(cases[best])
    return chosen


def parametrize(cases):
    return pytest.mark.parametrize("changes", cases, ids=lambda changes: "-".join(changes.values()))


@pytest.fixture
def network(make_architecture, make_numbers, build, shaken, measured):
    """What a network measures in one pass, its architecture, numbers and parameters; shaken unless told otherwise."""

    def make(*, move=True, numbers=None, compiled=True, **changes):
        arch = make_architecture(**changes)
        hp = make_numbers(NUMBERS | (numbers or {}), runs=None, dtype=arch.param_dtype)
        params, rest = build(arch, hp)
        params = shaken(params) if move else params
        x, cotangent = jnp.asarray(X, arch.dtype), jnp.asarray(COTANGENT, arch.dtype)
        return measured(arch, params, rest, x, cotangent, hp, compiled=compiled), arch, hp, params

    return make


@pytest.fixture
def oracle(unrolled, activations):
    """The same from the loop over layers, in float64."""

    def measure(arch, params, hp, running=None):
        def objective(params, nudges):
            logits, seen = unrolled(arch, params, X, hp, nudges=nudges, running=running)
            return jnp.sum(logits * COTANGENT), (logits, seen)

        with scope("float64"):
            params, hp, running = in_float64((params, dict(hp), running))
            (grads, backward), (logits, seen) = jax.grad(objective, (0, 1), has_aux=True)(params, no_nudges(arch))
            gauges = {name: np.linalg.norm(nudge, axis=(1, 2)) for name, nudge in backward.items()}
            gauges["activation_rms"] = np.array([np.sqrt(np.mean(np.square(h))) for h in seen["signals"]])
            gauges["activation_mean"] = np.array([np.mean(h) for h in seen["signals"]])
            units = [asleep(activations[arch.activation], np.asarray(z)) for z in seen["into_branch"]]
            gauges["saturated"], gauges["dead"] = np.array(units).T
            found = {"logits": logits, "grads": grads, "gauges": gauges, "moments": seen["moments"]}
            return jax.tree.map(np.asarray, found)

    return measure


def in_float64(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), float), tree)


def no_nudges(arch):
    layers = {"signal_grad": arch.depth + 1, "branch_grad": arch.depth, "skip_grad": arch.depth}
    return {name: np.zeros((length, len(X), arch.width)) for name, length in layers.items()}


def asleep(phi, z, h=1e-5):
    """The fractions of saturated elements and of dead units, slopes by central differences."""

    def slope(z):
        return np.abs(np.asarray(phi(z + h)) - np.asarray(phi(z - h))) / (2 * h)

    greatest = np.max(slope(np.linspace(-6, 6, 10**4)))
    return np.mean(slope(z) < 0.05 * greatest), np.mean(np.all(np.asarray(phi(z)) == 0, axis=0))


@pytest.fixture
def assert_same_pass(oracle, distance):
    """That a measured pass equals the loop's: logits, gradient of every parameter, every gauge."""

    def check(out, arch, hp, params, tolerance):
        expected = oracle(arch, plain(params), hp)
        assert distance(out["logits"], expected["logits"]) < tolerance
        assert_same_gradients(plain(out["grads"]), expected["grads"], tolerance)
        assert_same_gauges(out["gauges"], expected["gauges"], tolerance)

    return check


def plain(state):
    return nnx.to_pure_dict(state)


def block_kernels(state):
    return plain(state)["stages"][0]["branch"]["linear"]["kernel"]


def assert_same_gradients(measured, expected, tolerance):
    total = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(expected)))
    assert jax.tree.structure(measured) == jax.tree.structure(expected)
    for (path, got), wanted in zip(jax.tree.leaves_with_path(measured), jax.tree.leaves(expected), strict=True):
        error = np.linalg.norm(np.asarray(got, np.float64) - wanted)
        # Some leaves' gradient is zero but for rounding (a bias in front of batch norm): hence a part of the whole.
        assert error <= tolerance * np.linalg.norm(wanted) + 0.1 * tolerance * total, jax.tree_util.keystr(path)


def assert_same_gauges(measured, expected, tolerance):
    assert set(measured) == set(expected)
    for name, values in expected.items():
        # A mean cancels, so its error is that of the elements; fractions are kept in float32.
        slack = {"activation_mean": tolerance * expected["activation_rms"].max(), "saturated": 1e-7, "dead": 1e-7}
        np.testing.assert_allclose(measured[name], values, rtol=tolerance, atol=slack.get(name, 0), err_msg=name)


EVERY_PAIR = covering("skip", "norm", "placement", "activation")


@parametrize([case | {"init": init} for case, init in zip(EVERY_PAIR, itertools.cycle(OPTIONS["init"]))])
def test_every_pair_of_ingredients_begins_finite(make_architecture, make_numbers, changes):
    arch, hp = make_architecture(**changes, depth=2), make_numbers(NUMBERS | {"init.sigma_b": 0.1}, runs=None)
    stack = Stack(arch, hp, rngs=nnx.Rngs(0))
    with jax.disable_jit():
        logits, _ = stack(jnp.asarray(X, jnp.float32), {}, Pass(hp, train=True))
    assert np.all(np.isfinite(logits))


@parametrize(covering("skip", "norm", "placement", together=("skip", "norm", "placement")))
def test_every_wiring_equals_its_formulas(network, assert_same_pass, changes):
    assert_same_pass(*network(**changes, depth=2, compiled=False), SINGLE)


@pytest.mark.parametrize("activation", OPTIONS["activation"])
def test_every_activation_equals_its_formula(network, assert_same_pass, activation):
    assert_same_pass(*network(activation=activation, skip="identity", depth=2, compiled=False), SINGLE)


@parametrize(
    [case | {"skip": skip} for case, skip in zip(covering("norm", "placement"), itertools.cycle(OPTIONS["skip"]))]
)
def test_scan_equals_the_loop(network, assert_same_pass, changes):
    assert_same_pass(*network(**changes), SINGLE)


def test_a_network_of_one_layer(network, assert_same_pass):
    out, *told = network(depth=1, skip="inv_sqrt_depth")
    assert {name: len(values) for name, values in out["gauges"].items()} == {
        "signal_grad": 2, "branch_grad": 1, "skip_grad": 1, "activation_rms": 2, "activation_mean": 2,
        "saturated": 1, "dead": 1,
    }  # fmt: skip
    assert_same_pass(out, *told, SINGLE)


@pytest.mark.parametrize("norm, placement", [("layer", "branch"), ("batch", "post")])
def test_in_float64_nothing_is_rounded_to_float32(network, assert_same_pass, norm, placement):
    with scope("float64"):
        out, *told = network(skip="rezero", norm=norm, placement=placement, **FLOAT64)
        assert {leaf.dtype for leaf in jax.tree.leaves((out["logits"], out["grads"]))} == {jnp.dtype("float64")}
        assert_same_pass(out, *told, DOUBLE)


@pytest.mark.parametrize("placement", names(config.Placement))
def test_batch_norm_keeps_running_statistics(network, oracle, placement):
    out, arch, hp, params = network(skip="identity", norm="batch", placement=placement)
    moments = oracle(arch, plain(params), hp)["moments"]
    running = plain(out["rest"])
    stacked = dict(running["stages"][0]["norm"])
    if placement == "pre":  # the last norm stands in front of the head
        stacked = {name: np.concatenate([stacked[name], running["norm"][name][None]]) for name in stacked}
    means, variances = (np.concatenate(part) for part in zip(*moments, strict=True))
    np.testing.assert_allclose(stacked["mean"], 0.1 * means, rtol=1e-5, atol=1e-7)  # from 0, with momentum 0.9
    np.testing.assert_allclose(stacked["var"], 0.9 + 0.1 * variances, rtol=1e-5)  # from 1


@pytest.mark.parametrize("placement", names(config.Placement))
def test_batch_norm_evaluates_with_its_running_statistics(network, oracle, measured, distance, placement):
    out, arch, hp, params = network(skip="identity", norm="batch", placement=placement)
    x, cotangent = jnp.asarray(X, jnp.float32), jnp.asarray(COTANGENT, jnp.float32)
    evaluated = measured(arch, params, out["rest"], x, cotangent, hp, train=False, compiled=False)
    expected = oracle(arch, plain(params), hp, running=plain(out["rest"]))
    assert distance(evaluated["logits"], expected["logits"]) < SINGLE
    assert_same_gauges(evaluated["gauges"], expected["gauges"], SINGLE)
    assert distance(evaluated["rest"], out["rest"]) == 0  # evaluation changes nothing


def test_the_oracle_against_finite_differences(unrolled, make_architecture, make_numbers, build, shaken):
    with scope("float64"):
        arch = make_architecture(skip="scaled", norm="layer", placement="post", **FLOAT64)
        hp = make_numbers(NUMBERS, runs=None, dtype="float64")
        params, nudges = plain(shaken(build(arch, hp)[0])), no_nudges(arch)

        @jax.jit
        def objective(nudges):
            return jnp.sum(unrolled(arch, params, X, hp, nudges=nudges)[0] * COTANGENT)

        grads = jax.grad(objective)(nudges)
        for name, at in [("signal_grad", (0, 0, 1)), ("signal_grad", (3, 5, 7)), ("branch_grad", (1, 1, 2)),
                         ("skip_grad", (2, 0, 3))]:  # fmt: skip
            step = np.zeros_like(nudges[name])
            step[at] = 1e-5
            ahead, behind = (objective(nudges | {name: sign * step}) for sign in (1, -1))
            np.testing.assert_allclose((ahead - behind) / 2e-5, grads[name][at], rtol=1e-7)


def test_the_gradient_goes_back_on_two_ways(network):
    """Without a shortcut all of it goes through the branch; at α = 0 all of it goes through the shortcut."""
    gauges = network(skip="none")[0]["gauges"]
    np.testing.assert_allclose(gauges["branch_grad"], gauges["signal_grad"][:-1], rtol=SINGLE)
    np.testing.assert_array_equal(gauges["skip_grad"], 0)
    gauges = network(skip="rezero", move=False)[0]["gauges"]
    np.testing.assert_array_equal(gauges["branch_grad"], 0)
    np.testing.assert_array_equal(gauges["skip_grad"], gauges["signal_grad"][1:])


@pytest.mark.parametrize("norm, placement", [("none", "pre"), ("layer", "pre"), ("batch", "branch")])
def test_rezero_begins_as_the_identity(network, norm, placement):
    """Then no branch weight has a gradient, and every α has one (Bachlechner et al. 2020, §3)."""
    out, *_ = network(skip="rezero", norm=norm, placement=placement, move=False, compiled=False)
    for name in ("activation_rms", "activation_mean", "signal_grad"):
        np.testing.assert_array_equal(out["gauges"][name], out["gauges"][name][0])
    (stage,) = plain(out["grads"])["stages"].values()
    assert np.all(np.abs(stage.pop("skip")["alpha"]) > 1e-3)
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(stage))


@pytest.mark.parametrize("norm, inputs_and_units", [("batch", 1), ("layer", (1, 2))])
def test_weights_in_front_of_a_norm_are_orthogonal_to_their_gradient(network, measured, norm, inputs_and_units):
    """What a norm divides out has no gradient along itself, and that gradient falls as the weights grow.

    Batch norm divides by each unit's scale, layer norm by the layer's. The weights are large, so that the norm's own
    constant next to the variance, 1e-5 or less, counts for nothing.
    """
    with scope("float64"):
        out, arch, hp, params = network(activation="relu", norm=norm, placement="branch", bias=False, **FLOAT64)
        grads = []
        for size in (1e5, 3e5):
            large = jax.tree.map_with_path(
                lambda path, leaf, size=size: leaf * size if "linear" in jax.tree_util.keystr(path) else leaf, params
            )
            out = measured(arch, large, out["rest"], jnp.asarray(X), jnp.asarray(COTANGENT), hp)
            weights, gradient = (np.asarray(block_kernels(tree)) for tree in (large, out["grads"]))
            along = np.sum(weights * gradient, inputs_and_units)
            sizes = np.sum(weights**2, inputs_and_units) * np.sum(gradient**2, inputs_and_units)
            np.testing.assert_allclose(along / np.sqrt(sizes), 0, atol=1e-10)
            grads.append(gradient)
        np.testing.assert_allclose(grads[0], 3 * grads[1], rtol=1e-8, atol=1e-8 * np.abs(grads[0]).max())


def test_what_is_not_asked_for_is_not_measured(make_architecture, make_numbers):
    arch, hp = make_architecture(norm="layer", skip="identity"), make_numbers(runs=None)
    stack, x = Stack(arch, hp, rngs=nnx.Rngs(0)), jnp.asarray(X, jnp.float32)
    logits, statistics = stack(x, {}, Pass(hp, train=True))
    assert statistics == {}
    slots = {"signal_grad": jnp.zeros(4), "branch_grad": jnp.zeros(3)}
    tapped, statistics = stack(x, slots, Pass(hp, train=True, forward=True, units=True))
    np.testing.assert_array_equal(logits, tapped)
    assert set(statistics) == {"activation_rms", "activation_mean", "saturated", "dead"}
    assert "custom_vjp" not in str(jax.make_jaxpr(lambda x: stack(x, {}, Pass(hp, train=True))[0])(x))


def test_one_seed_one_network(make_architecture, make_numbers, build, distance):
    arch, hp = make_architecture(), make_numbers(runs=None)
    first, again, other = (build(arch, hp, seed)[0] for seed in (0, 0, 1))
    assert distance(first, again) == 0
    assert not np.any(block_kernels(first) == block_kernels(other))
    assert len(np.unique(block_kernels(first))) == block_kernels(first).size  # every layer has a draw of its own

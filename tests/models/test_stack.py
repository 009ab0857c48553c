"""The scanned network against the loop over its layers: forward, backward, and in every gauge."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from research.config import schema as config
from research.config.compatibility import check_compatibility
from research.models.architecture import ForwardContext
from research.models.stack import Stack
from research.training.precision import scope

from ..compiling import one_in

X = np.random.default_rng(0).standard_normal((6, 5))
FLOAT64 = {"dtype": "float64", "param_dtype": "float64"}
# rounding through three layers, forward and backward, in float32 and in float64
SINGLE = 1e-5
DOUBLE = 1e-11


def names(options):
    return [option.name for option in options]


OPTIONS = {
    "skip": names(config.SkipKind),
    "norm": names(config.NormKind),
    "placement": names(config.Placement),
    "activation": names(config.ActivationKind),
    "init": names(config.InitKind),
}


def is_possible(case):
    """Whether an MLP can have these options together, as the configuration's own check says."""
    kind = config.NormKind[case.get("norm", "none")]
    place = config.Placement[case.get("placement", "pre")]
    skip = config.Skip(kind=config.SkipKind[case.get("skip", "none")])
    norm = config.Norm(kind=kind, placement=place)
    try:
        check_compatibility(config.Config(skip=skip, norm=norm))
    except ValueError:
        return False
    return kind.name != "none" or place.name == "pre"


def covering(*groups, size=2, together=()):
    """Networks that hold every choice of options of ``size`` groups, and every combination of those ``together``."""
    products = itertools.product(*(OPTIONS[group] for group in groups))
    cases = [
        case for options in products if is_possible(case := dict(zip(groups, options, strict=True)))
    ]
    parts = [
        set(itertools.combinations(case.items(), size)) | {tuple(map(case.get, together))}
        for case in cases
    ]
    missing, chosen = set().union(*parts), []
    while missing:
        best = max(range(len(cases)), key=lambda i: len(parts[i] & missing))
        missing -= parts[best]
        chosen.append(cases[best])
    return chosen


def named(changes):
    return "-".join(changes.values())


def parametrize(cases):
    return pytest.mark.parametrize("changes", cases, ids=named)


WIRINGS = covering("skip", "norm", "placement")
BEGINNINGS = covering("norm", "init", "placement", "skip", size=1, together=("norm", "init"))


def test_every_option_of_a_network_is_among_them():
    """DeepNorm's shortcut is for transformers."""
    for group in ("skip", "norm", "placement"):
        assert {case[group] for case in WIRINGS} == set(OPTIONS[group]) - {"deepnorm"}


@parametrize(
    [
        case | {"activation": phi}
        for case, phi in zip(BEGINNINGS, itertools.cycle(OPTIONS["activation"]))
    ]
)
def test_every_norm_begins_finite_with_every_initialisation(
    make_architecture, make_numbers, changes
):
    arch = make_architecture(**changes, depth=2)
    hp = make_numbers({"init.sigma_b": 0.1}, runs=None)
    stack = Stack(arch, hp, rngs=nnx.Rngs(0))
    with jax.disable_jit():
        logits, _ = stack(
            jnp.asarray(X, jnp.float32), {}, ForwardContext(hp, train=True, key=jax.random.key(1))
        )
    assert np.all(np.isfinite(logits))


@pytest.mark.parametrize("changes", one_in(4, [(case,) for case in WIRINGS]), ids=named)
def test_every_wiring_equals_its_formulas(network, assert_same_pass, changes):
    assert_same_pass(*network(**changes, depth=2, compiled=False), SINGLE)


@pytest.mark.parametrize("activation", OPTIONS["activation"])
def test_every_activation_equals_its_formula(network, assert_same_pass, activation):
    assert_same_pass(
        *network(activation=activation, skip="identity", depth=2, compiled=False), SINGLE
    )


@parametrize(covering("skip", "norm", "placement", size=1, together=("norm", "placement")))
def test_scan_equals_the_loop(network, assert_same_pass, changes):
    assert_same_pass(*network(**changes), SINGLE)


def test_a_network_of_one_layer(network, assert_same_pass):
    out, *ctx = network(depth=1, skip="inv_sqrt_depth")
    assert {name: len(values) for name, values in out["gauges"].items()} == {
        "signal_grad": 2, "branch_grad": 1, "skip_grad": 1, "activation_rms": 2, "activation_mean": 2,
        "saturated": 1, "dead": 1,
    }  # fmt: skip
    assert_same_pass(out, *ctx, SINGLE)


@pytest.mark.parametrize("norm, placement", [("layer", "branch"), ("batch", "post")])
def test_in_float64_nothing_is_rounded_to_float32(network, assert_same_pass, norm, placement):
    with scope("float64"):
        out, *ctx = network(skip="rezero", norm=norm, placement=placement, **FLOAT64)
        assert {leaf.dtype for leaf in jax.tree.leaves((out["logits"], out["grads"]))} == {
            jnp.dtype("float64")
        }
        assert_same_pass(out, *ctx, DOUBLE)


def test_the_oracle_against_finite_differences(
    unrolled, make_architecture, make_numbers, build, shaken
):
    with scope("float64"):
        arch = make_architecture(skip="scaled", norm="layer", placement="post", **FLOAT64)
        hp = make_numbers({"skip.branch_scale": 0.7}, runs=None, dtype="float64")
        params = nnx.to_pure_dict(shaken(build(arch, hp)[0]))
        nudges = {name: np.zeros((4, 6, 8)) for name in ("signal_grad", "branch_grad", "skip_grad")}

        @jax.jit
        def objective(nudges):
            return jnp.sum(unrolled(arch, params, X, hp, nudges=nudges)[0][:, 0])

        grads = jax.grad(objective)(nudges)
        for name, at in [("signal_grad", (0, 0, 1)), ("signal_grad", (3, 5, 7)), ("branch_grad", (1, 1, 2)),
                         ("skip_grad", (2, 0, 3))]:  # fmt: skip
            step = np.zeros_like(nudges[name])
            step[at] = 1e-5
            ahead, behind = (objective(nudges | {name: sign * step}) for sign in (1, -1))
            np.testing.assert_allclose((ahead - behind) / 2e-5, grads[name][at], rtol=1e-7)


def test_what_is_not_asked_for_is_not_measured(make_architecture, make_numbers):
    arch = make_architecture(norm="layer", skip="identity")
    hp = make_numbers(runs=None)
    stack = Stack(arch, hp, rngs=nnx.Rngs(0))
    x = jnp.asarray(X, jnp.float32)
    logits, statistics = stack(x, {}, ForwardContext(hp, train=True))
    assert statistics == {}
    slots = {"signal_grad": jnp.zeros(4), "branch_grad": jnp.zeros(3)}
    tapped, statistics = stack(
        x, slots, ForwardContext(hp, train=True, level=Level.full)
    )
    np.testing.assert_array_equal(logits, tapped)
    assert set(statistics) == {"activation_rms", "activation_mean", "saturated", "dead"}
    assert "custom_vjp" not in str(
        jax.make_jaxpr(lambda x: stack(x, {}, ForwardContext(hp, train=True))[0])(x)
    )


def test_one_seed_one_network(make_architecture, make_numbers, build, distance):
    arch = make_architecture()
    hp = make_numbers(runs=None)
    first, again, other = (build(arch, hp, seed)[0] for seed in (0, 0, 1))
    assert distance(first, again) == 0
    kernels, others = (
        np.asarray(params["stages"][0]["branch"]["weights"][0]["kernel"])
        for params in (first, other)
    )
    assert not np.any(kernels == others)
    assert len(np.unique(kernels)) == kernels.size  # every layer has a draw of its own

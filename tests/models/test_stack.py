"""The scanned network against the loop over its layers: forward, backward, and in every gauge."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose, assert_array_equal

from research.config import options
from research.config.compatibility import check_compatibility
from research.config.options import Level
from research.models.architecture import ForwardContext
from research.models.stack import Stack
from research.training.precision import precision_context

from ..builders import make_architecture, make_config
from ..compiling import one_in
from ..oracle import unrolled
from .networks import (
    FLOAT64,
    X,
    add_noise,
    assert_same_pass,
    initialize,
    make_network,
    make_numbers,
    measure,
    relative_distance,
    unperturbed,
)

# Rounding through three layers, forward and backward.
FLOAT32_TOLERANCE = 1e-5
FLOAT64_TOLERANCE = 1e-11


def names(kinds):
    return [kind.name for kind in kinds]


OPTIONS = {
    "skip": names(options.SkipKind),
    "norm": names(options.NormKind),
    "placement": names(options.Placement),
    "activation": names(options.ActivationKind),
    "init": names(options.InitKind),
}


def is_possible(case):
    """Whether an MLP can have this shortcut and this normalisation together."""
    config = make_config(
        {
            "skip": case.get("skip", "none"),
            "norm": case.get("norm", "none"),
            "norm.placement": case.get("placement", "pre"),
        }
    )
    try:
        check_compatibility(config)
    except ValueError:
        return False
    return True


def list_cases(*groups):
    """Every possible combination of options, by short name."""
    cases = []
    for chosen in itertools.product(*(OPTIONS[group] for group in groups)):
        case = dict(zip(groups, chosen, strict=True))
        if is_possible(case):
            cases.append(case)
    return cases


def cover(*groups, size, combined=()):
    """A few possible combinations of options that contain every choice of ``size`` of them.

    Args:
        *groups: the groups of options.
        size: how many options of a combination are looked at at once.
        combined: groups whose combinations must all occur.
    """
    cases = list_cases(*groups)
    parts = []
    for case in cases:
        choices = set(itertools.combinations(case.items(), size))
        choices.add(tuple(map(case.get, combined)))
        parts.append(choices)
    missing = set().union(*parts)
    chosen = []
    while missing:
        best = max(range(len(cases)), key=lambda index: len(parts[index] & missing))
        missing -= parts[best]
        chosen.append(cases[best])
    return chosen


def name_case(case):
    return "-".join(case.values())


WIRINGS = cover("skip", "norm", "placement", size=2)
WIRINGS_OF_NORMS = cover(
    "skip",
    "norm",
    "placement",
    size=1,
    combined=("norm", "placement"),
)


def list_initial_networks():
    """Every norm with every initialisation; activations take turns."""
    cases = cover(
        "norm",
        "init",
        "placement",
        "skip",
        size=1,
        combined=("norm", "init"),
    )
    activations = itertools.cycle(OPTIONS["activation"])
    return [case | {"activation": name} for case, name in zip(cases, activations, strict=False)]


@pytest.mark.parametrize("group", ["skip", "norm", "placement"])
def test_the_wirings_contain_every_option(group):
    """DeepNorm is for transformers."""
    chosen = {case[group] for case in WIRINGS}
    assert chosen == set(OPTIONS[group]) - {"deepnorm"}


@pytest.mark.parametrize(
    "case", one_in(6, [(case,) for case in list_initial_networks()]), ids=name_case
)
def test_every_norm_is_finite_with_every_initialisation(case):
    arch = make_architecture(**case, depth=2)
    numbers = {"init.sigma_b": 0.1}
    hp = make_numbers(arch, numbers)
    stack = Stack(arch, hp, rngs=nnx.Rngs(0))
    x = jnp.asarray(X, jnp.float32)
    ctx = ForwardContext(hp, train=True, key=jax.random.key(1))
    with jax.disable_jit():
        logits, _ = stack(x, {}, ctx)
    assert np.all(np.isfinite(logits))


@pytest.mark.parametrize("case", one_in(32, [(case,) for case in WIRINGS]), ids=name_case)
def test_every_wiring_equals_its_formulas(case):
    network = make_network(**case, depth=2)
    measured = measure(network, compiled=False)
    assert_same_pass(network, measured, FLOAT32_TOLERANCE)


@pytest.mark.parametrize(
    "case",
    [
        {"placement": "pre", "scale": "inv_sqrt_layer"},
        {"placement": "peri", "affine": False},
    ],
    ids=["scaled", "without parameters"],
)
def test_the_settings_of_a_norm_are_those_of_the_formula(case):
    network = make_network(norm="layer", skip="identity", depth=3, **case)
    measured = measure(network, compiled=False)
    assert_same_pass(network, measured, FLOAT32_TOLERANCE)


@pytest.mark.parametrize("name", one_in(3, [("complete_p",), ("depth_mup",), ("mup",)]))
def test_every_parametrization_equals_its_formula(name):
    network = make_network(
        parametrization=name,
        base_width=2,
        base_depth=1,
        skip="identity",
        norm="layer",
        depth=2,
    )
    measured = measure(network, compiled=False)
    assert_same_pass(network, measured, FLOAT32_TOLERANCE)


@pytest.mark.parametrize("skip", ["none", "fixup"])
def test_a_layer_may_have_two_weight_matrices(skip):
    network = make_network(branch_weights=2, skip=skip, norm="layer", depth=2)
    measured = measure(network, compiled=False)
    assert_same_pass(network, measured, FLOAT32_TOLERANCE)


@pytest.mark.parametrize("activation", OPTIONS["activation"])
def test_every_activation_equals_its_formula(activation):
    network = make_network(activation=activation, skip="identity", depth=2)
    measured = measure(network, compiled=False)
    assert_same_pass(network, measured, FLOAT32_TOLERANCE)


@pytest.mark.parametrize("case", one_in(5, [(case,) for case in WIRINGS_OF_NORMS]), ids=name_case)
def test_scan_equals_the_loop(case):
    network = make_network(**case)
    assert_same_pass(network, measure(network), FLOAT32_TOLERANCE)


def test_a_network_of_one_layer():
    network = make_network(depth=1, skip="inv_sqrt_depth")
    measured = measure(network)
    lengths = {name: len(values) for name, values in measured.gauges.items()}
    assert lengths == {
        "signal_grad": 2,
        "branch_grad": 1,
        "skip_grad": 1,
        "activation_rms": 2,
        "activation_mean": 2,
        "signal_variation": 2,
        "signal_correlation": 2,
        "saturated": 1,
        "dead": 1,
    }
    assert_same_pass(network, measured, FLOAT32_TOLERANCE)


@pytest.mark.parametrize("norm, placement", [("layer", "branch"), ("batch", "post")])
def test_in_float64_nothing_is_rounded_to_float32(norm, placement):
    with precision_context("float64"):
        network = make_network(
            skip="rezero",
            norm=norm,
            placement=placement,
            **FLOAT64,
        )
        measured = measure(network)
        for leaf in jax.tree.leaves((measured.logits, measured.grads)):
            assert leaf.dtype == jnp.float64
        assert_same_pass(network, measured, FLOAT64_TOLERANCE)


@pytest.mark.usefixtures("float64")
def test_the_oracle_equals_finite_differences():
    arch = make_architecture(
        skip="scaled",
        norm="layer",
        placement="post",
        **FLOAT64,
    )
    hp = make_numbers(arch, {"skip.branch_scale": 0.7})
    network = initialize(arch, hp)
    params = nnx.to_pure_dict(add_noise(network.params))

    @jax.jit
    def objective(perturbations):
        logits, _ = unrolled(arch, params, X, hp, perturbations=perturbations)
        return jnp.sum(logits[:, 0])

    zeros = unperturbed(arch)
    grads = jax.grad(objective)(zeros)
    for name, index in [
        ("signal_grad", (0, 0, 1)),
        ("signal_grad", (3, 5, 7)),
        ("branch_grad", (1, 1, 2)),
        ("skip_grad", (2, 0, 3)),
    ]:
        step = np.zeros_like(zeros[name])
        step[index] = 1e-5
        ahead = objective(zeros | {name: step})
        back = objective(zeros | {name: -step})
        assert_allclose((ahead - back) / 2e-5, grads[name][index], rtol=1e-7)


def test_only_the_requested_gauges_are_measured():
    network = make_network(norm="layer", skip="identity", noise=False)
    stack = network.merge()
    x = jnp.asarray(X, jnp.float32)
    slots = {
        "signal_grad": jnp.zeros(4),
        "branch_grad": jnp.zeros(3),
    }
    off = ForwardContext(network.hp, train=True, level=Level.off)
    full = ForwardContext(network.hp, train=True, level=Level.full)

    logits, no_statistics = stack(x, {}, off)
    tapped_logits, statistics = stack(x, slots, full)

    assert no_statistics == {}
    forward = {"activation_rms", "activation_mean", "signal_variation", "signal_correlation"}
    assert set(statistics) == {*forward, "saturated", "dead"}
    assert_array_equal(logits, tapped_logits)
    program = jax.make_jaxpr(lambda x: stack(x, {}, off)[0])(x)
    assert "custom_vjp" not in str(program)


def test_the_same_seed_gives_the_same_network():
    arch = make_architecture()
    hp = make_numbers(arch)
    first = initialize(arch, hp, seed=0).params
    again = initialize(arch, hp, seed=0).params
    assert relative_distance(first, again) == 0


def test_other_seeds_and_layers_have_other_weights():
    arch = make_architecture()
    hp = make_numbers(arch)
    kernels = []
    for seed in (0, 1):
        params = initialize(arch, hp, seed).params
        kernel = params["stages"][0]["branch"]["weights"][0]["kernel"]
        kernels.append(np.asarray(kernel))
    assert not np.any(kernels[0] == kernels[1])
    assert len(np.unique(kernels[0])) == kernels[0].size

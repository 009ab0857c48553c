"""Parametrizations that transfer: their multipliers, and what changes nothing at the base size."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose

from research.config.options import Parametrization
from research.models.architecture import ForwardContext
from research.models.stack import Stack
from research.training.optimizers import make_optimizer

from ..builders import make_architecture, trace_option
from ..training.formulas import make_optimizer_option
from .networks import FLOAT64, X, make_numbers, params_of

NAMES = [each.name for each in Parametrization]
WIDE = {"width": 8, "base_width": 2, "depth": 4, "base_depth": 1, "skip": "identity"}
FACTORS = {  # of the head's input, of branches, of the learning rate of hidden weights
    "standard": (1, 1, 1),
    "mup": (1 / 4, 1, 1 / 4),
    "depth_mup": (1 / 4, 1 / 2, 1 / 8),
    "complete_p": (1 / 4, 1 / 4, 1 / 4),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_factors_are_those_of_the_papers(name):
    """Yang et al. 2021, Table 8; Yang et al. 2023; Dey et al. 2025, Table 1."""
    arch = make_architecture(parametrization=name, **WIDE)
    head, branch, rate = FACTORS[name]
    assert 1 / arch.width_ratio == head
    assert arch.branch_factor == branch
    assert arch.hidden_rate == rate


@pytest.mark.parametrize("name", NAMES)
def test_at_the_base_size_nothing_changes(name):
    at_base = WIDE | {"base_width": WIDE["width"], "base_depth": WIDE["depth"]}
    arch = make_architecture(parametrization=name, **at_base)
    assert arch.width_ratio == arch.branch_factor == arch.hidden_rate == 1


@pytest.mark.usefixtures("float64")
def test_the_multipliers_are_those_of_a_scaled_shortcut_and_a_smaller_head():
    arch = make_architecture(parametrization="complete_p", **WIDE, **FLOAT64)
    scaled = {"width": 8, "depth": 4, "skip": "scaled"}
    expected_arch = make_architecture(**scaled, **FLOAT64)
    hp = make_numbers(arch)
    expected_hp = make_numbers(expected_arch, {"skip.branch_scale": 0.25})

    logits = compute_logits(arch, hp)
    expected = compute_logits(expected_arch, expected_hp, head_factor=0.25)

    assert_allclose(logits, expected, rtol=1e-12)


def compute_logits(arch, hp, head_factor=1.0):
    stack = Stack(arch, hp, rngs=nnx.Rngs(0))
    assert stack.head is not None
    stack.head.kernel[...] = head_factor * stack.head.kernel[...]
    ctx = ForwardContext(hp, train=True)
    with jax.disable_jit():
        logits, _ = stack(jnp.asarray(X), {}, ctx)
    return logits


def first_update(option, params, hidden_rate):
    transform = make_optimizer(option, hidden_rate)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = transform.update(grads, transform.init(params), params)
    return updates


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_only_adams_part_of_the_update_of_hidden_weights_is_scaled(kind):
    arch = make_architecture(**WIDE)
    params = params_of(Stack(arch, make_numbers(arch), rngs=nnx.Rngs(0)))
    decay = 0.0 if kind == "adam" else 0.5
    option = trace_option(make_optimizer_option(kind, weight_decay=decay))
    usual = first_update(option, params, 1.0)
    scaled = first_update(option, params, 0.25)

    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(params)]
    leaves = zip(
        names,
        *(jax.tree.leaves(tree) for tree in (params, usual, scaled)),
        strict=True,
    )
    for name, param, before, after in leaves:
        is_hidden = "stages" in name and "kernel" in name
        decayed = decay * np.asarray(param)
        factor = 0.25 if is_hidden else 1
        assert_allclose(after - decayed, factor * (before - decayed), atol=1e-6, err_msg=name)


def test_an_architecture_without_the_setting_has_the_standard_one():
    arch = make_architecture(kind="cnn", shape=(4, 4, 1))
    without = dataclasses.replace(arch, model=make_architecture(kind="rnn", depth=1).model)
    assert without.parametrization is Parametrization.standard
    assert without.hidden_rate == 1

"""A whole transformer and its gauges against the formula; DeepNorm's constants."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose

from research.config.options import Level
from research.models.architecture import ForwardContext
from research.models.stack import Stack

from ..builders import make_architecture
from ..compiling import one_in, quick
from ..oracle import (
    apply_linear,
    branch_multiplier,
    has_norm_at,
    head_multiplier,
    norm_name,
    take_layer,
)
from .networks import make_numbers, measure, normal, params_of
from .taps import Taps, assert_same_signals
from .transformers import (
    HEADS,
    LENGTH,
    TEXT,
    TOKENS,
    USUAL,
    VECTORS,
    WIDTH,
    head_units,
    make_transformer,
)

DEPTH = USUAL["depth"]
LAYERS = 2 * DEPTH


def layer_norm(h, norm):
    mean = jnp.mean(h, -1, keepdims=True)
    variance = jnp.var(h, -1, keepdims=True)
    scale = norm["scale"][None, None]
    bias = norm["bias"][None, None]
    standardized = (h - mean) / jnp.sqrt(variance + 1e-6)
    return standardized * scale + bias


def attention(
    z,
    params,
    is_visible,
    model,
):
    """Attention in which position t uses position s where ``is_visible[t, s]`` is 1."""
    query = apply_linear(z, params["query"])
    key = apply_linear(z, params["key"])
    value = apply_linear(z, params["value"])
    heads = []
    for head in range(HEADS):
        q = query[..., head_units(head)]
        k = key[..., head_units(head)]
        v = value[..., head_units(head)]
        scores = jnp.einsum("bti,bsi->bts", q, k) / np.sqrt(WIDTH // HEADS)
        scores = scores * np.sqrt(head_multiplier(model))
        weights = jnp.exp(scores) * is_visible[None]
        weights = weights / jnp.sum(weights, -1, keepdims=True)
        heads.append(jnp.einsum("bts,bsi->bti", weights, v))
    return apply_linear(jnp.concatenate(heads, -1), params["out"])


def feed_forward(z, params):
    first, second = params["weights"].values()
    return apply_linear(jnp.tanh(apply_linear(z, first)), second)


@dataclass(frozen=True)
class Case:
    """A transformer whose formula is ``transformer``."""

    language: bool
    tied: bool
    placement: str
    skip: str
    scale: str = "one"
    parametrization: str = "standard"

    def __str__(self):
        task = "text" if self.language else "vectors"
        head = "-tied" if self.tied else ""
        scale = "" if self.scale == "one" else f"-{self.scale}"
        name = "" if self.parametrization == "standard" else f"-{self.parametrization}"
        return f"{task}{head}-{self.placement}-{self.skip}{scale}{name}"

    @property
    def alpha(self):
        """The factor on the shortcut."""
        return 1.0 if self.skip == "identity" else (2 * DEPTH) ** 0.25


def transformer(
    case,
    model,
    params,
    x,
    perturbations,
):
    """Logits and the signals at every tap."""
    taps = Taps(perturbations)
    everything = np.ones((LENGTH, LENGTH))
    is_visible = np.tril(everything) if case.language else everything
    embed = params["embed"]
    if case.language:
        h = embed["table"]["vectors"][x]
    else:
        h = apply_linear(x.reshape(len(x), LENGTH, -1), embed["linear"])
    h = taps.add(h + embed["positions"][None])
    for number in range(LAYERS):
        block, part = divmod(number, 2)
        layer = take_layer(params["stages"][part], block)
        z = taps.add(h)
        shortcut = taps.add(h)
        if has_norm_at("pre", case.placement):
            z = layer_norm(z, layer["norm"])
        if case.scale == "inv_sqrt_layer":
            z = z / np.sqrt(block + 1)
        if part == 0:
            z = attention(z, layer["branch"], is_visible, model)
        else:
            z = feed_forward(z, layer["branch"])
        if has_norm_at("branch", case.placement):
            z = layer_norm(z, layer[norm_name("branch", case.placement)])
        h = case.alpha * shortcut + branch_multiplier(model) * z
        if case.placement == "post":
            h = layer_norm(h, layer["norm"])
        h = taps.add(h)
    if has_norm_at("pre", case.placement):
        h = layer_norm(h, params["norm"])
    if not case.language:
        h = jnp.mean(h, 1)
    h = head_multiplier(model) * h
    if case.tied:
        return h @ embed["table"]["vectors"].T, taps.signals
    return apply_linear(h, params["head"]), taps.signals


CASES = [
    Case(
        language=False,
        tied=False,
        placement="pre",
        skip="identity",
    ),
    Case(
        language=False,
        tied=False,
        placement="branch",
        skip="identity",
    ),
    Case(
        language=False,
        tied=False,
        placement="post",
        skip="deepnorm",
    ),
    Case(
        language=True,
        tied=False,
        placement="post",
        skip="identity",
    ),
    Case(
        language=True,
        tied=True,
        placement="pre",
        skip="identity",
    ),
    Case(
        language=True,
        tied=True,
        placement="post",
        skip="deepnorm",
    ),
    Case(
        language=True,
        tied=False,
        placement="peri",
        skip="identity",
    ),
    Case(
        language=True,
        tied=False,
        placement="pre",
        skip="identity",
        scale="inv_sqrt_layer",
    ),
    Case(
        language=True,
        tied=False,
        placement="pre",
        skip="identity",
        parametrization="complete_p",
    ),
]


@pytest.mark.parametrize("case", one_in(2, [(case,) for case in CASES]), ids=str)
@pytest.mark.usefixtures("float64")
def test_a_transformer_and_its_gauges_are_those_of_the_formula(case):
    network = make_transformer(
        **(TEXT if case.language else VECTORS),
        tied=case.tied,
        placement=case.placement,
        scale=case.scale,
        skip=case.skip,
        norm="layer",
        parametrization=case.parametrization,
        base_width=2,
        base_depth=1,
    )
    if case.language:
        x = jnp.asarray(np.arange(3 * LENGTH).reshape(3, -1) ** 2 % TOKENS)
        cotangent = jnp.asarray(normal((3, LENGTH, TOKENS), seed=2))
    else:
        x = jnp.asarray(normal((3, LENGTH * 3), seed=3))
        cotangent = jnp.asarray(normal((3, 4), seed=2))

    def expected_objective(params, perturbations):
        logits, signals = transformer(case, network.arch.model, params, x, perturbations)
        return jnp.sum(logits * cotangent), (logits, signals)

    measured = measure(
        network,
        x,
        cotangent,
        train=True,
        level=Level.norms,
    )
    params = nnx.to_pure_dict(network.params)
    num_taps = 1 + 3 * LAYERS
    zeros = [jnp.zeros((3, LENGTH, WIDTH))] * num_taps
    gradient = quick(jax.grad(expected_objective, (0, 1), has_aux=True))
    (grads, signal_grads), (logits, signals) = gradient(params, zeros)

    assert_allclose(measured.logits, logits, rtol=1e-10)
    greatest = assert_same_signals(measured, signals, signal_grads, rtol=1e-10)
    # A bias on all keys changes no softmax, so its exact gradient is zero.
    assert_close = partial(assert_allclose, rtol=1e-10, atol=1e-11 * greatest)
    jax.tree.map(assert_close, nnx.to_pure_dict(measured.grads), grads)


# --- DeepNorm -----------------------------------------------------------------------------------


def initial_params(skip, depth):
    """Initial parameters in float32, by path."""
    changes = {
        "dtype": "float32",
        "param_dtype": "float32",
        "depth": depth,
        "norm": "layer",
        "placement": "post",
        "skip": skip,
    }
    arch = make_architecture(**(USUAL | VECTORS | changes))
    hp = make_numbers(arch)
    with jax.disable_jit():
        stack = Stack(arch, hp, rngs=nnx.Rngs(0))
    params = params_of(stack)
    by_path = {}
    for path, leaf in jax.tree.leaves_with_path(params):
        by_path[jax.tree_util.keystr(path)] = np.asarray(leaf)
    return by_path


SCALED_BY_DEEPNORM = ("'value'", "'out'", "'weights'")


@pytest.mark.slow
def test_deepnorm_has_the_papers_initial_weights():
    """Wang et al. 2022, Table 1: β = (8N)^-¼ on values, outputs and feed-forward weights."""
    depth = 5
    beta = (8 * depth) ** -0.25
    deepnorm = initial_params("deepnorm", depth)
    identity = initial_params("identity", depth)

    kernels = [path for path in deepnorm if "kernel" in path]
    assert deepnorm.keys() == identity.keys()
    assert len(kernels) == 1 + 4 + 2 + 1  # embedding, attention, feed-forward, head
    for path, expected in identity.items():
        is_scaled = path in kernels and any(name in path for name in SCALED_BY_DEEPNORM)
        factor = beta if is_scaled else 1
        assert_allclose(deepnorm[path], factor * expected, rtol=1e-6, err_msg=path)


@pytest.mark.usefixtures("float64")
def test_deepnorm_multiplies_the_shortcut_by_the_papers_constant():
    """α = (2N)^¼, where N counts blocks of attention and feed-forward layer: half the layers."""
    depth = 3
    network = make_transformer(
        **VECTORS,
        skip="deepnorm",
        norm="layer",
        placement="post",
        depth=depth,
    )
    assert network.arch.layers == 2 * depth
    graph, stacked = nnx.split(network.merge().stages[0])
    first_layer = nnx.merge(graph, jax.tree.map(lambda leaf: leaf[0], stacked))
    h = jnp.asarray(normal((1, LENGTH, WIDTH), seed=2))
    branch = jnp.asarray(normal((1, LENGTH, WIDTH), seed=3))
    ctx = ForwardContext(network.hp, train=False)
    out = first_layer.skip(h, branch, ctx, jnp.int32(0))
    assert_allclose(out, 6**0.25 * h + branch, rtol=1e-14)

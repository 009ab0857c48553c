"""A whole transformer and its gauges against the formula; DeepNorm's constants."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from research.models.stack import Stack

from ..compiling import quick
from .transformers import DRAW, HEADS, LENGTH, TEXT, TOKENS, USUAL, VECTORS, WIDTH, ctx
from .transformers import float64 as float64
from .transformers import make_network as make_network


def standardised(h, norm):
    mean = jnp.mean(h, -1, keepdims=True)
    var = jnp.var(h, -1, keepdims=True)

    def row(name):
        return norm[name][None, None]

    return (h - mean) / jnp.sqrt(var + 1e-6) * row("scale") + row("bias")


def mapped(h, linear):
    return h @ linear["kernel"] + linear["bias"][None, None]


def heads_mixed(z, layer, causal):
    q, k, v = (mapped(z, layer[name]) for name in ("query", "key", "value"))
    size = WIDTH // HEADS
    out = []
    for h in range(HEADS):
        own = slice(h * size, (h + 1) * size)
        scores = jnp.einsum("bti,bsi->bts", q[..., own], k[..., own]) / np.sqrt(size)
        weights = (
            jnp.exp(scores)
            * (np.tril(np.ones((LENGTH, LENGTH))) if causal else np.ones((LENGTH, LENGTH)))[None]
        )
        out.append(
            jnp.einsum("bts,bsi->bti", weights / jnp.sum(weights, -1, keepdims=True), v[..., own])
        )
    return mapped(jnp.concatenate(out, -1), layer["out"])


def transformer(params, x, nudges, *, language, placement, alpha, tied):
    """Blocks of attention and tanh feed-forward parts, layer norm before, behind the branch, or behind the sum."""
    embed = params["embed"]
    depth = USUAL["depth"]
    nudges = iter(nudges)

    def tapped(h):
        return h + next(nudges, jnp.zeros_like(h))

    h = (
        embed["table"]["vectors"][x]
        if language
        else mapped(x.reshape(len(x), LENGTH, -1), embed["linear"])
    )
    h = tapped(h + embed["positions"][None])
    seen = [h]
    for block, part in itertools.product(range(depth), range(2)):
        layer = jax.tree.map(lambda leaf: leaf[block], params["stages"][part])
        z = tapped(h)
        shortcut = tapped(h)
        seen += [z, shortcut]
        z = standardised(z, layer["norm"]) if placement == "pre" else z
        if part == 0:
            z = heads_mixed(z, layer["branch"], language)
        else:
            first, second = layer["branch"]["weights"].values()
            z = mapped(jnp.tanh(mapped(z, first)), second)
        z = standardised(z, layer["norm"]) if placement == "branch" else z
        h = alpha * shortcut + z
        h = tapped(standardised(h, layer["norm"]) if placement == "post" else h)
        seen.append(h)
    h = standardised(h, params["norm"]) if placement == "pre" else h
    h = h if language else jnp.mean(h, 1)
    if tied:
        return h @ embed["table"]["vectors"].T, seen
    return h @ params["head"]["kernel"] + params["head"]["bias"].reshape(
        (1,) * (h.ndim - 1) + (-1,)
    ), seen


CASES = [
    (False, False, "pre", "identity"),
    (False, False, "branch", "identity"),
    (False, False, "post", "deepnorm"),
]
CASES += [
    (True, False, "post", "identity"),
    (True, True, "pre", "identity"),
    (True, True, "post", "deepnorm"),
]


@pytest.mark.parametrize(("language", "tied", "placement", "skip"), CASES)
def test_a_transformer_and_its_gauges_are_those_of_the_formula(
    language, tied, placement, skip, make_network, float64
):
    task = TEXT if language else VECTORS
    arch, hp, params, model = make_network(
        **task, tied=tied, placement=placement, skip=skip, norm="layer"
    )
    x = jnp.asarray(
        np.arange(3 * LENGTH).reshape(3, -1) ** 2 % TOKENS if language else DRAW((3, LENGTH * 3))
    )
    cotangent = jnp.asarray(DRAW((3, LENGTH, TOKENS) if language else (3, 4)))
    graph, _, rest = nnx.split(model, nnx.Param, ...)
    alpha = 1.0 if skip == "identity" else (2 * USUAL["depth"]) ** 0.25

    def objective(params, slots):
        logits, statistics = nnx.merge(graph, params, rest, copy=True)(
            x, slots, ctx(hp, train=True, level=Level.norms)
        )
        return jnp.sum(logits * cotangent), (logits, statistics)

    def expected(params, nudges):
        how = dict(language=language, placement=placement, alpha=alpha, tied=tied)
        logits, seen = transformer(params, x, nudges, **how)
        return jnp.sum(logits * cotangent), (logits, seen)

    slots = {"signal_grad": jnp.zeros(5), "branch_grad": jnp.zeros(4), "skip_grad": jnp.zeros(4)}
    plain = nnx.to_pure_dict(params)
    (grads, gauges), (logits, statistics) = quick(jax.grad(objective, (0, 1), has_aux=True))(
        params, slots
    )
    nudges = [jnp.zeros((3, LENGTH, WIDTH))] * 13
    (wanted, nudged), (like, seen) = quick(jax.grad(expected, (0, 1), has_aux=True))(plain, nudges)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-10)
    norms = [np.linalg.norm(each) for each in nudged]
    close(logits, like)
    close(gauges["signal_grad"], [norms[0], *norms[3::3]])
    close(gauges["branch_grad"], norms[1::3])
    close(gauges["skip_grad"], norms[2::3])
    close(
        statistics["activation_rms"],
        [np.sqrt(np.mean(np.asarray(h) ** 2)) for h in [seen[0], *seen[3::3]]],
    )
    # A bias on all keys moves no softmax, so its gradient is zero but for rounding: hence the absolute part.
    jax.tree.map(
        lambda a, b: close(a, b, atol=1e-11 * float(max(norms))), nnx.to_pure_dict(grads), wanted
    )


# --- DeepNorm ---------------------------------------------------------------------------------------------------------


def test_deepnorm_begins_with_the_papers_constants(make_architecture, make_numbers):
    """Wang et al. 2022, Table 1, encoder or decoder alone: β = (8N)^-¼ on values, outputs and feed-forward weights."""
    depth = 5
    hp = make_numbers(runs=None)
    how = (
        USUAL
        | VECTORS
        | dict(dtype="float32", param_dtype="float32", depth=depth, norm="layer", placement="post")
    )
    with jax.disable_jit():
        deep, usual = (
            nnx.to_pure_dict(
                nnx.state(
                    Stack(make_architecture(**how | {"skip": skip}), hp, rngs=nnx.Rngs(0)),
                    nnx.Param,
                )
            )
            for skip in ("deepnorm", "identity")
        )
    assert jax.tree.structure(deep) == jax.tree.structure(usual)
    beta = (8 * depth) ** -0.25
    for (path, a), b in zip(jax.tree.leaves_with_path(deep), jax.tree.leaves(usual), strict=True):
        name = jax.tree_util.keystr(path)
        late = "kernel" in name and any(part in name for part in ("'value'", "'out'", "'weights'"))
        np.testing.assert_allclose(
            a, (beta if late else 1) * np.asarray(b), rtol=1e-6, err_msg=name
        )
    late = [
        name
        for name in map(jax.tree_util.keystr, dict(jax.tree.leaves_with_path(deep)))
        if "kernel" in name
    ]
    assert len(late) == 1 + 4 + 2 + 1  # embedding, attention, feed-forward, head


def test_deepnorm_multiplies_the_shortcut_by_the_papers_constant(make_network, float64):
    """α = (2N)^¼, N the blocks of attention and feed-forward part together: half the layers."""
    depth = 3
    arch, hp, _, model = make_network(
        **VECTORS, skip="deepnorm", norm="layer", placement="post", depth=depth
    )
    assert arch.layers == 2 * depth
    h, branch = (jnp.asarray(DRAW((1, LENGTH, WIDTH))) for _ in range(2))
    graph, stacked = nnx.split(model.stages[0])
    skip = nnx.merge(graph, jax.tree.map(lambda leaf: leaf[0], stacked)).skip
    np.testing.assert_allclose(
        skip(h, branch, ctx(hp), jnp.int32(0)), 6**0.25 * h + branch, rtol=1e-14
    )

"""Attention and transformers: loops in float64, causality by gradient, symmetries, DeepNorm's constants."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from research.combinations import check_combinations
from research.config import Config, ModelKind, NormKind, Placement, SkipKind
from research.models.architecture import Pass
from research.models.attention import Attention, rotate
from research.models.stack import Stack
from research.training.precision import scope

TOKENS, LENGTH, WIDTH, HEADS = 7, 5, 8, 2
DRAW = np.random.default_rng(0).standard_normal
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
FLOAT64: dict[str, Any] = dict(dtype="float64", param_dtype="float64")
USUAL: dict[str, Any] = dict(
    kind="transformer", depth=2, width=WIDTH, heads=HEADS, expansion=2, groups=2, skip="identity", **FLOAT64
)
TEXT: dict[str, Any] = dict(shape=(LENGTH,), vocabulary=TOKENS, classes=TOKENS, language=True)
VECTORS: dict[str, Any] = dict(shape=(LENGTH, 3), classes=4)


@pytest.fixture(scope="session")
def make_network(make_architecture, make_numbers, build):
    """A transformer in float64, its parameters moved off their initial values: the function of embedded positions."""

    def make(**changes):
        arch = make_architecture(**(USUAL | changes))
        hp = make_numbers({"init.sigma_b": 0.1, "skip.gate_bias": -0.5}, runs=None, dtype="float64")
        with jax.disable_jit():
            params, rest = build(arch, hp)
        params = jax.tree.map(lambda leaf: leaf + 0.1 * DRAW(leaf.shape), params)
        return (
            arch,
            hp,
            params,
            nnx.merge(nnx.graphdef(nnx.eval_shape(lambda: Stack(arch, hp, rngs=nnx.Rngs(0)))), params, rest),
        )

    return make


@pytest.fixture
def float64():
    with scope("float64"):
        yield


# --- Attention alone --------------------------------------------------------------------------------------------------


def turned(x, position):
    """The pair (i, i + K/2) by the angle position · 10000^(-2i/K), pair by pair."""
    half, out = len(x) // 2, np.array(x)
    for i in range(half):
        angle = position * 10000 ** (-2 * i / len(x))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        out[i], out[i + half] = turn @ [x[i], x[i + half]]
    return out


def attended(z, params, *, causal, rotary):
    """Example by example, head by head, position by position."""

    def linear(name):
        return z @ np.asarray(params[name]["kernel"]) + np.asarray(params[name]["bias"])

    q, k, v = map(linear, ("query", "key", "value"))
    mixed, size = np.zeros_like(z), WIDTH // HEADS
    for b, h, t in itertools.product(range(len(z)), range(HEADS), range(LENGTH)):
        own = slice(h * size, (h + 1) * size)
        turn = turned if rotary else lambda x, _: x
        seen = range(t + 1) if causal else range(LENGTH)
        scores = np.array([turn(q[b, t, own], t) @ turn(k[b, s, own], s) / np.sqrt(size) for s in seen])
        weights = np.exp(scores) / np.sum(np.exp(scores))
        mixed[b, t, own] = sum(weight * v[b, s, own] for weight, s in zip(weights, seen, strict=True))
    return mixed @ np.asarray(params["out"]["kernel"]) + np.asarray(params["out"]["bias"])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("positions", ["none", "rotary"])
def test_attention_is_the_loop_over_heads_and_positions(causal, positions, make_architecture, make_numbers, float64):
    arch = make_architecture(**USUAL, **(TEXT if causal else VECTORS), positions=positions)
    hp = make_numbers({"init.sigma_b": 1.0, "init.gain": 2.0}, runs=None, dtype="float64")
    attention = Attention(arch, hp, rngs=nnx.Rngs(0))
    z, params = DRAW((3, LENGTH, WIDTH)), nnx.to_pure_dict(nnx.state(attention, nnx.Param))
    out, statistics = attention(jnp.asarray(z), Pass(hp, train=True, units=True), jnp.int32(0))
    np.testing.assert_allclose(out, attended(z, params, causal=causal, rotary=positions == "rotary"), rtol=1e-12)
    assert set(statistics) == {"saturated", "dead"} and all(np.isnan(value) for value in statistics.values())


def test_dropout_stands_in_front_of_the_last_map(make_architecture, make_numbers, float64):
    """With W_o = 1 an element of the output is 0, with the rate's frequency, or 1/(1 - rate) times as large."""
    arch = make_architecture(**USUAL, **VECTORS, positions="none", dropout=True, bias=False)
    hp = make_numbers({"model.dropout": 0.25}, runs=None, dtype="float64")
    attention = Attention(arch, hp, rngs=nnx.Rngs(0))
    attention.out.kernel[...] = jnp.eye(WIDTH)
    z, key = jnp.asarray(DRAW((200, LENGTH, WIDTH))), jax.random.key(0)
    whole, _ = attention(z, Pass(hp, train=False), jnp.int32(0))
    dropped, _ = attention(z, Pass(hp, train=True, key=key), jnp.int32(0))
    elsewhere, _ = attention(z, Pass(hp, train=True, key=key), jnp.int32(1))
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], whole[kept] / 0.75, rtol=1e-12)
    assert abs(np.mean(kept) - 0.75) < 5 * np.sqrt(0.25 * 0.75 / z.size)  # five standard deviations
    assert np.any((elsewhere != 0) != kept)  # every layer has a mask of its own


def test_rotary_positions_keep_norms_and_their_scores_depend_on_distance_alone(float64):
    q, k = DRAW((2, 6))
    length = 9
    everywhere = lambda x: jnp.asarray(np.broadcast_to(x, (1, length, 1, 6)))  # noqa: E731
    turned_q, turned_k = (np.asarray(rotate(everywhere(x)))[0, :, 0] for x in (q, k))
    np.testing.assert_allclose(np.linalg.norm(turned_q, axis=1), np.linalg.norm(q), rtol=1e-14)
    scores = turned_q @ turned_k.T
    for distance in range(-length + 1, length):
        diagonal = np.diagonal(scores, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-13)
    assert len(np.unique(np.round(scores[0], 6))) == length  # and on distance they do depend
    np.testing.assert_array_equal(turned_q[0], q)


# --- The whole transformer --------------------------------------------------------------------------------------------


def told(hp, *, train=False, forward=False):
    return Pass(hp, train=train, forward=forward)


def allowed():
    """Every norm and placement that a transformer has, and DeepNorm."""
    for skip, norm, placement in itertools.product(("identity", "deepnorm"), NormKind, Placement):
        made = Config()
        made.model.kind, made.skip.kind = ModelKind.transformer, SkipKind[skip]
        made.norm.kind, made.norm.placement = norm, placement
        try:
            check_combinations(made)
            yield skip, norm.name, placement.name
        except ValueError:
            continue


@pytest.mark.parametrize(("skip", "norm", "placement"), list(allowed()))
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_no_token_is_seen_before_its_turn(skip, norm, placement, positions, make_network, float64):
    """∂ logits[t] / ∂ embedding[s] is exactly 0 for s > t, and not 0 for s ≤ t."""
    arch, hp, _, model = make_network(**TEXT, skip=skip, norm=norm, placement=placement, positions=positions, depth=1)
    graph, state = nnx.split(model)
    jacobian = jax.jit(jax.jacrev(lambda h: through(graph, state, h, hp)), compiler_options=QUICK)
    found = np.abs(jacobian(jnp.asarray(DRAW((1, LENGTH, WIDTH)))))[0][:, :, 0].max((1, 3))  # [t, s]
    np.testing.assert_array_equal(np.triu(found, 1), 0)
    assert np.all(found[np.tril_indices(LENGTH)] > 1e-8)


def through(graph, state, h, hp):
    """From embedded positions to logits."""
    model = nnx.merge(graph, state, copy=True)
    h, _ = model.through(h, {}, told(hp))
    return model._end(h, told(hp))


@pytest.mark.parametrize("positions", ["none", "learned", "rotary"])
def test_without_positions_permuted_tokens_give_permuted_outputs(positions, make_network, float64):
    arch, hp, _, model = make_network(**VECTORS, positions=positions, norm="layer")
    order, x = np.array([3, 0, 4, 1, 2]), DRAW((2, LENGTH, 3))

    def stream(x):
        return np.asarray(model.through(model.begin(jnp.asarray(x).reshape(2, -1), told(hp)), {}, told(hp))[0])

    permuted, whole = stream(x[:, order]), stream(x)[:, order]
    logits = [model(jnp.asarray(each).reshape(2, -1), {}, told(hp))[0] for each in (x, x[:, order])]
    if positions == "none":
        np.testing.assert_allclose(permuted, whole, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(*logits, rtol=1e-11)  # and the mean over positions does not see the order at all
    else:
        assert np.max(np.abs(permuted - whole)) > 1e-3
        assert np.max(np.abs(logits[0] - logits[1])) > 1e-4


# --- Gauges against the formula ---------------------------------------------------------------------------------------


def standardised(h, norm):
    mean, var = jnp.mean(h, -1, keepdims=True), jnp.var(h, -1, keepdims=True)
    row = lambda name: norm[name][None, None]  # noqa: E731
    return (h - mean) / jnp.sqrt(var + 1e-6) * row("scale") + row("bias")


def mapped(h, linear):
    return h @ linear["kernel"] + linear["bias"][None, None]


def heads_mixed(z, layer, causal):
    q, k, v = (mapped(z, layer[name]) for name in ("query", "key", "value"))
    size, out = WIDTH // HEADS, []
    for h in range(HEADS):
        own = slice(h * size, (h + 1) * size)
        scores = jnp.einsum("bti,bsi->bts", q[..., own], k[..., own]) / np.sqrt(size)
        weights = jnp.exp(scores) * (np.tril(np.ones((LENGTH, LENGTH))) if causal else np.ones((LENGTH, LENGTH)))[None]
        out.append(jnp.einsum("bts,bsi->bti", weights / jnp.sum(weights, -1, keepdims=True), v[..., own]))
    return mapped(jnp.concatenate(out, -1), layer["out"])


def transformer(params, x, nudges, *, language, placement, alpha, tied):
    """Blocks of attention and tanh feed-forward parts, layer norm before, behind the branch, or behind the sum."""
    embed, depth, nudges = params["embed"], USUAL["depth"], iter(nudges)
    tapped = lambda h: h + next(nudges, jnp.zeros_like(h))  # noqa: E731
    h = embed["table"]["vectors"][x] if language else mapped(x.reshape(len(x), LENGTH, -1), embed["linear"])
    h = tapped(h + embed["positions"][None])
    seen = [h]
    for block, part in itertools.product(range(depth), range(2)):
        layer = jax.tree.map(lambda leaf: leaf[block], params["stages"][part])  # noqa: B023
        z, shortcut = tapped(h), tapped(h)
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
    return h @ params["head"]["kernel"] + params["head"]["bias"].reshape((1,) * (h.ndim - 1) + (-1,)), seen


CASES = [(False, False, "pre", "identity"), (False, False, "branch", "identity"), (False, False, "post", "deepnorm")]
CASES += [(True, False, "post", "identity"), (True, True, "pre", "identity"), (True, True, "post", "deepnorm")]


@pytest.mark.parametrize(("language", "tied", "placement", "skip"), CASES)
def test_a_transformer_and_its_gauges_are_those_of_the_formula(language, tied, placement, skip, make_network, float64):
    task = TEXT if language else VECTORS
    arch, hp, params, model = make_network(**task, tied=tied, placement=placement, skip=skip, norm="layer")
    x = jnp.asarray(np.arange(3 * LENGTH).reshape(3, -1) ** 2 % TOKENS if language else DRAW((3, LENGTH * 3)))
    cotangent = jnp.asarray(DRAW((3, LENGTH, TOKENS) if language else (3, 4)))
    graph, _, rest = nnx.split(model, nnx.Param, ...)
    alpha = 1.0 if skip == "identity" else (2 * USUAL["depth"]) ** 0.25

    def objective(params, slots):
        logits, statistics = nnx.merge(graph, params, rest, copy=True)(x, slots, told(hp, train=True, forward=True))
        return jnp.sum(logits * cotangent), (logits, statistics)

    def expected(params, nudges):
        how = dict(language=language, placement=placement, alpha=alpha, tied=tied)
        logits, seen = transformer(params, x, nudges, **how)
        return jnp.sum(logits * cotangent), (logits, seen)

    slots = {"signal_grad": jnp.zeros(5), "branch_grad": jnp.zeros(4), "skip_grad": jnp.zeros(4)}
    quick, plain = functools.partial(jax.jit, compiler_options=QUICK), nnx.to_pure_dict(params)
    (grads, gauges), (logits, statistics) = quick(jax.grad(objective, (0, 1), has_aux=True))(params, slots)
    nudges = [jnp.zeros((3, LENGTH, WIDTH))] * 13
    (wanted, nudged), (like, seen) = quick(jax.grad(expected, (0, 1), has_aux=True))(plain, nudges)
    close, norms = functools.partial(np.testing.assert_allclose, rtol=1e-10), [np.linalg.norm(each) for each in nudged]
    close(logits, like)
    close(gauges["signal_grad"], [norms[0], *norms[3::3]])
    close(gauges["branch_grad"], norms[1::3])
    close(gauges["skip_grad"], norms[2::3])
    close(statistics["activation_rms"], [np.sqrt(np.mean(np.asarray(h) ** 2)) for h in [seen[0], *seen[3::3]]])
    # A bias on all keys moves no softmax, so its gradient is zero but for rounding: hence the absolute part.
    jax.tree.map(lambda a, b: close(a, b, atol=1e-11 * float(max(norms))), nnx.to_pure_dict(grads), wanted)


# --- DeepNorm ---------------------------------------------------------------------------------------------------------


def test_deepnorm_begins_with_the_papers_constants(make_architecture, make_numbers):
    """Wang et al. 2022, Table 1, encoder or decoder alone: β = (8N)^-¼ on values, outputs and feed-forward weights."""
    depth = 5
    hp = make_numbers(runs=None)
    how = USUAL | VECTORS | dict(dtype="float32", param_dtype="float32", depth=depth, norm="layer", placement="post")
    with jax.disable_jit():
        deep, usual = (
            nnx.to_pure_dict(
                nnx.state(Stack(make_architecture(**how | {"skip": skip}), hp, rngs=nnx.Rngs(0)), nnx.Param)
            )
            for skip in ("deepnorm", "identity")
        )
    assert jax.tree.structure(deep) == jax.tree.structure(usual)
    beta = (8 * depth) ** -0.25
    for (path, a), b in zip(jax.tree.leaves_with_path(deep), jax.tree.leaves(usual), strict=True):
        name = jax.tree_util.keystr(path)
        late = "kernel" in name and any(part in name for part in ("'value'", "'out'", "'weights'"))
        np.testing.assert_allclose(a, (beta if late else 1) * np.asarray(b), rtol=1e-6, err_msg=name)
    late = [name for name in map(jax.tree_util.keystr, dict(jax.tree.leaves_with_path(deep))) if "kernel" in name]
    assert len(late) == 1 + 4 + 2 + 1  # embedding, attention, feed-forward, head


def test_deepnorm_multiplies_the_shortcut_by_the_papers_constant(make_network, float64):
    """α = (2N)^¼, N the blocks of attention and feed-forward part together: half the layers."""
    depth = 3
    arch, hp, _, model = make_network(**VECTORS, skip="deepnorm", norm="layer", placement="post", depth=depth)
    assert arch.layers == 2 * depth
    h, branch = (jnp.asarray(DRAW((1, LENGTH, WIDTH))) for _ in range(2))
    graph, stacked = nnx.split(model.stages[0])
    skip = nnx.merge(graph, jax.tree.map(lambda leaf: leaf[0], stacked)).skip
    np.testing.assert_allclose(skip(h, branch, told(hp), jnp.int32(0)), 6**0.25 * h + branch, rtol=1e-14)

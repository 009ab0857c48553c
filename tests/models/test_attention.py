"""Attention by itself and in a transformer: loops in float64, causality by gradient, symmetries."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from research.config.compatibility import check_compatibility
from research.config.schema import Config, ModelKind, NormKind, Placement, SkipKind
from research.models.architecture import ForwardContext
from research.models.attention import Attention, rotate

from ..compiling import quick
from .transformers import DRAW, HEADS, LENGTH, TEXT, USUAL, VECTORS, WIDTH, ctx
from .transformers import float64 as float64
from .transformers import make_network as make_network

# --- Attention alone --------------------------------------------------------------------------------------------------


def turned(x, position):
    """The pair (i, i + K/2) by the angle position · 10000^(-2i/K), pair by pair."""
    half = len(x) // 2
    out = np.array(x)
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
    mixed = np.zeros_like(z)
    size = WIDTH // HEADS
    for b, h, t in itertools.product(range(len(z)), range(HEADS), range(LENGTH)):
        own = slice(h * size, (h + 1) * size)
        turn = turned if rotary else lambda x, _: x
        seen = range(t + 1) if causal else range(LENGTH)
        scores = np.array(
            [turn(q[b, t, own], t) @ turn(k[b, s, own], s) / np.sqrt(size) for s in seen]
        )
        weights = np.exp(scores) / np.sum(np.exp(scores))
        mixed[b, t, own] = sum(
            weight * v[b, s, own] for weight, s in zip(weights, seen, strict=True)
        )
    return mixed @ np.asarray(params["out"]["kernel"]) + np.asarray(params["out"]["bias"])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("positions", ["none", "rotary"])
def test_attention_is_the_loop_over_heads_and_positions(
    causal, positions, make_architecture, make_numbers, float64
):
    arch = make_architecture(**USUAL, **(TEXT if causal else VECTORS), positions=positions)
    hp = make_numbers({"init.sigma_b": 1.0, "init.gain": 2.0}, runs=None, dtype="float64")
    attention = Attention(arch, hp, rngs=nnx.Rngs(0))
    z = DRAW((3, LENGTH, WIDTH))
    params = nnx.to_pure_dict(nnx.state(attention, nnx.Param))
    out, statistics = attention(
        jnp.asarray(z), ForwardContext(hp, train=True, level=Level.full), jnp.int32(0)
    )
    np.testing.assert_allclose(
        out, attended(z, params, causal=causal, rotary=positions == "rotary"), rtol=1e-12
    )
    assert set(statistics) == {"saturated", "dead"} and all(
        np.isnan(value) for value in statistics.values()
    )


def test_dropout_stands_in_front_of_the_last_map(make_architecture, make_numbers, float64):
    """With W_o = 1 an element of the output is 0, with the rate's frequency, or 1/(1 - rate) times as large."""
    arch = make_architecture(**USUAL, **VECTORS, positions="none", dropout=True, bias=False)
    hp = make_numbers({"model.dropout": 0.25}, runs=None, dtype="float64")
    attention = Attention(arch, hp, rngs=nnx.Rngs(0))
    attention.out.kernel[...] = jnp.eye(WIDTH)
    z = jnp.asarray(DRAW((200, LENGTH, WIDTH)))
    key = jax.random.key(0)
    whole, _ = attention(z, ForwardContext(hp, train=False), jnp.int32(0))
    dropped, _ = attention(z, ForwardContext(hp, train=True, key=key), jnp.int32(0))
    elsewhere, _ = attention(z, ForwardContext(hp, train=True, key=key), jnp.int32(1))
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], whole[kept] / 0.75, rtol=1e-12)
    assert abs(np.mean(kept) - 0.75) < 5 * np.sqrt(0.25 * 0.75 / z.size)  # five standard deviations
    assert np.any((elsewhere != 0) != kept)  # every layer has a mask of its own


def test_rotary_positions_keep_norms_and_their_scores_depend_on_distance_alone(float64):
    q, k = DRAW((2, 6))
    length = 9

    def everywhere(x):
        return jnp.asarray(np.broadcast_to(x, (1, length, 1, 6)))

    turned_q, turned_k = (np.asarray(rotate(everywhere(x)))[0, :, 0] for x in (q, k))
    np.testing.assert_allclose(np.linalg.norm(turned_q, axis=1), np.linalg.norm(q), rtol=1e-14)
    scores = turned_q @ turned_k.T
    for distance in range(-length + 1, length):
        diagonal = np.diagonal(scores, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-13)
    assert len(np.unique(np.round(scores[0], 6))) == length  # and on distance they do depend
    np.testing.assert_array_equal(turned_q[0], q)


# --- The whole transformer --------------------------------------------------------------------------------------------


def allowed():
    """Every norm and placement that a transformer has, and DeepNorm; each of them once always."""
    options = itertools.product(
        ("identity", "deepnorm"), NormKind, Placement, ("learned", "rotary")
    )
    for skip, norm, placement, positions in options:
        made = Config()
        made.model.kind = ModelKind.transformer
        made.skip.kind = SkipKind[skip]
        made.norm.kind = norm
        made.norm.placement = placement
        always = positions == "learned" and (placement.name == "pre" or norm.name == "layer")
        always |= positions == "rotary" and norm.name == "none" and placement.name == "pre"
        try:
            check_compatibility(made)
            marks = [] if always else [pytest.mark.slow]
            yield pytest.param(skip, norm.name, placement.name, positions, marks=marks)
        except ValueError:
            continue


@pytest.mark.parametrize(("skip", "norm", "placement", "positions"), list(allowed()))
def test_no_token_is_seen_before_its_turn(skip, norm, placement, positions, make_network, float64):
    """∂ logits[t] / ∂ embedding[s] is exactly 0 for s > t, and not 0 for s ≤ t."""
    arch, hp, _, model = make_network(
        **TEXT, skip=skip, norm=norm, placement=placement, positions=positions, depth=1
    )
    graph, state = nnx.split(model)
    jacobian = quick(jax.jacrev(lambda h: through(graph, state, h, hp)))
    found = np.abs(jacobian(jnp.asarray(DRAW((1, LENGTH, WIDTH)))))[0][:, :, 0].max(
        (1, 3)
    )  # [t, s]
    np.testing.assert_array_equal(np.triu(found, 1), 0)
    assert np.all(found[np.tril_indices(LENGTH)] > 1e-8)


def through(graph, state, h, hp):
    """From embedded positions to logits."""
    model = nnx.merge(graph, state, copy=True)
    h, _ = model.run_layers(h, {}, ctx(hp))
    return model._end(h, ctx(hp))


@pytest.mark.parametrize("positions", ["none", "learned", "rotary"])
def test_without_positions_permuted_tokens_give_permuted_outputs(positions, make_network, float64):
    arch, hp, _, model = make_network(**VECTORS, positions=positions, norm="layer")
    order = np.array([3, 0, 4, 1, 2])
    x = DRAW((2, LENGTH, 3))

    @quick
    def stream_and_logits(x):
        rows = x.reshape(2, -1)
        return model.run_layers(model.first_input(rows, ctx(hp)), {}, ctx(hp))[0], model(rows, {}, ctx(hp))[
            0
        ]

    streams, logits = zip(
        *(stream_and_logits(jnp.asarray(each)) for each in (x, x[:, order])), strict=True
    )
    whole = np.asarray(streams[0])[:, order]
    permuted = np.asarray(streams[1])
    if positions == "none":
        np.testing.assert_allclose(permuted, whole, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(
            *logits, rtol=1e-11
        )  # and the mean over positions does not see the order at all
    else:
        assert np.max(np.abs(permuted - whole)) > 1e-3
        assert np.max(np.abs(logits[0] - logits[1])) > 1e-4

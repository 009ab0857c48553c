"""Attention by itself and in a transformer: loops in float64, causality by gradient, symmetries."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose, assert_array_equal

from research.config.compatibility import check_compatibility
from research.config.options import Level, NormKind, Placement
from research.models.architecture import ForwardContext
from research.models.attention import Attention, rotate

from ..builders import make_architecture, make_config
from ..compiling import quick
from ..oracle import apply_linear
from .networks import FixedEmbedding, make_numbers, normal, params_of
from .transformers import (
    HEADS,
    LENGTH,
    TEXT,
    USUAL,
    VECTORS,
    WIDTH,
    head_units,
    make_transformer,
)

pytestmark = pytest.mark.usefixtures("float64")

# --- Attention by itself ------------------------------------------------------------------------


def rotate_by_loop(x, position):
    """Rotates the pair (i, i + K/2) by the angle position · 10000^(−2i/K), pair by pair."""
    half = len(x) // 2
    out = np.array(x)
    for i in range(half):
        angle = position * 10000 ** (-2 * i / len(x))
        cos = np.cos(angle)
        sin = np.sin(angle)
        out[i] = cos * x[i] - sin * x[i + half]
        out[i + half] = sin * x[i] + cos * x[i + half]
    return out


def rotate_all_by_loop(x):
    """Rotates the queries or keys [B, T, K] of a head."""
    out = np.zeros_like(x)
    for example, position in itertools.product(range(len(x)), range(LENGTH)):
        out[example, position] = rotate_by_loop(x[example, position], position)
    return out


def attend_by_loop(z, params, *, causal, rotary):
    """Head by head, example by example, position by position."""
    query = apply_linear(z, params["query"])
    key = apply_linear(z, params["key"])
    value = apply_linear(z, params["value"])
    mixed = np.zeros_like(z)
    for head in range(HEADS):
        units = head_units(head)
        q = query[..., units]
        k = key[..., units]
        v = value[..., units]
        if rotary:
            q = rotate_all_by_loop(q)
            k = rotate_all_by_loop(k)
        for example, position in itertools.product(range(len(z)), range(LENGTH)):
            visible = position + 1 if causal else LENGTH
            scores = k[example, :visible] @ q[example, position] / np.sqrt(WIDTH // HEADS)
            weights = np.exp(scores) / np.sum(np.exp(scores))
            mixed[example, position, units] = weights @ v[example, :visible]
    return apply_linear(mixed, params["out"])


def to_numpy(module):
    params = params_of(module)
    return jax.tree.map(np.asarray, params)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("positions", ["none", "rotary"])
def test_attention_is_the_loop_over_heads_and_positions(causal, positions):
    task = TEXT if causal else VECTORS
    arch = make_architecture(**USUAL, **task, positions=positions)
    numbers = {"init.sigma_b": 1.0, "init.gain": 2.0}
    hp = make_numbers(arch, numbers)
    attention = Attention(arch, hp, rngs=nnx.Rngs(0))
    z = normal((3, LENGTH, WIDTH))
    ctx = ForwardContext(hp, train=True, level=Level.full)

    out, statistics = attention(jnp.asarray(z), ctx, jnp.int32(0))

    is_rotary = positions == "rotary"
    expected = attend_by_loop(
        z,
        to_numpy(attention),
        causal=causal,
        rotary=is_rotary,
    )
    assert_allclose(out, expected, rtol=1e-12)
    assert set(statistics) == {"saturated", "dead", "attention_entropy", "attention_logit"}
    assert np.isnan(statistics["saturated"])
    assert np.isnan(statistics["dead"])


@dataclasses.dataclass(frozen=True)
class Attended:
    """Entropies and greatest scores over all positions, heads and examples."""

    entropies: list
    logits: list


def measure_attention_by_loop(z, params, lengths, *, causal):
    """Without rotary positions; of example b only the first ``lengths[b]`` positions are tokens."""
    query = apply_linear(z, params["query"])
    key = apply_linear(z, params["key"])
    found = Attended([], [])
    for example, length in enumerate(lengths):
        of_text = []
        for head, position in itertools.product(range(HEADS), range(length)):
            units = head_units(head)
            visible = position + 1 if causal else length
            q = query[example, position, units]
            scores = key[example, :visible, units] @ q / np.sqrt(WIDTH // HEADS)
            weights = np.exp(scores) / np.sum(np.exp(scores))
            of_text.append(-np.sum(weights * np.log(weights)))
            found.logits.append(np.max(scores))
        found.entropies.append(np.mean(of_text))
    return found


@pytest.mark.parametrize("causal, lengths", [(True, None), (False, None), (False, (5, 2, 3))])
def test_the_gauges_of_attention_are_those_of_the_loop(causal, lengths):
    task = TEXT if causal else VECTORS
    arch = make_architecture(**USUAL, **task, positions="none")
    hp = make_numbers(arch, {"init.sigma_b": 1.0, "init.gain": 2.0})
    attention = Attention(arch, hp, rngs=nnx.Rngs(0))
    z = normal((3, LENGTH, WIDTH))
    mask = None
    if lengths:
        mask = jnp.asarray(np.arange(LENGTH)[None] < np.array(lengths)[:, None])
    ctx = ForwardContext(hp, train=True, level=Level.full, padding_mask=mask)

    _, statistics = attention(jnp.asarray(z), ctx, jnp.int32(0))

    all_tokens = (LENGTH,) * 3
    expected = measure_attention_by_loop(
        z, to_numpy(attention), lengths or all_tokens, causal=causal
    )
    entropy = np.mean(expected.entropies)
    assert_allclose(statistics["attention_entropy"], entropy, rtol=1e-12)
    assert_allclose(statistics["attention_logit"], np.max(expected.logits), rtol=1e-12)


def test_alike_tokens_attend_to_all_alike():
    arch = make_architecture(**USUAL, **VECTORS, positions="none")
    hp = make_numbers(arch, {})
    attention = Attention(arch, hp, rngs=nnx.Rngs(0))
    z = jnp.asarray(np.broadcast_to(normal((3, 1, WIDTH)), (3, LENGTH, WIDTH)))
    ctx = ForwardContext(hp, train=True, level=Level.full)
    _, statistics = attention(z, ctx, jnp.int32(0))
    assert_allclose(statistics["attention_entropy"], np.log(LENGTH), rtol=1e-12)


def test_dropout_precedes_the_last_map():
    """With W_o = 1, each output is 0 with the dropout rate, or 1/(1 − rate) times as large."""
    rate = 0.25
    arch = make_architecture(
        **USUAL,
        **VECTORS,
        positions="none",
        dropout=rate,
        bias=False,
    )
    hp = make_numbers(arch, {"model.dropout": rate})
    attention = Attention(arch, hp, rngs=nnx.Rngs(0))
    attention.out.kernel[...] = jnp.eye(WIDTH)
    z = jnp.asarray(normal((200, LENGTH, WIDTH)))
    evaluation = ForwardContext(hp, train=False)
    training = ForwardContext(hp, train=True, key=jax.random.key(0))

    whole, _ = attention(z, evaluation, jnp.int32(0))
    dropped, _ = attention(z, training, jnp.int32(0))
    dropped_in_next_layer, _ = attention(z, training, jnp.int32(1))

    kept = dropped != 0
    kept_in_next_layer = dropped_in_next_layer != 0
    five_deviations = 5 * np.sqrt(rate * (1 - rate) / z.size)
    assert_allclose(dropped[kept], whole[kept] / (1 - rate), rtol=1e-12)
    assert abs(np.mean(kept) - (1 - rate)) < five_deviations
    assert np.any(kept_in_next_layer != kept)


def rotate_everywhere(x, length):
    """The same vector [K], rotated at each position: [T, K]."""
    repeated = np.broadcast_to(x, (1, length, 1, len(x)))
    return np.asarray(rotate(jnp.asarray(repeated)))[0, :, 0]


def test_rotary_positions_keep_norms():
    q = normal(6)
    rotated = rotate_everywhere(q, 9)
    norms = np.linalg.norm(rotated, axis=1)
    assert_allclose(norms, np.linalg.norm(q), rtol=1e-14)
    assert_array_equal(rotated[0], q)


def test_rotary_scores_depend_on_the_distance_only():
    length = 9
    q, k = normal((2, 6))
    scores = rotate_everywhere(q, length) @ rotate_everywhere(k, length).T
    for distance in range(-length + 1, length):
        diagonal = np.diagonal(scores, distance)
        assert_allclose(diagonal, diagonal[0], atol=1e-13)
    different_scores = np.unique(np.round(scores[0], 6))
    assert len(different_scores) == length


# --- The whole transformer ----------------------------------------------------------------------


NO_TOKENS = jnp.zeros((1, LENGTH), int)


def is_allowed(skip, norm, placement):
    changes = {
        "model": "transformer",
        "skip": skip,
        "norm": norm,
        "norm.placement": placement,
    }
    try:
        check_compatibility(make_config(changes))
    except ValueError:
        return False
    return True


def list_transformers():
    """Every norm and placement of a transformer, and DeepNorm; a part of them is slow."""
    cases = []
    for skip, norm, placement, positions in itertools.product(
        ("identity", "deepnorm"),
        [kind.name for kind in NormKind],
        [placement.name for placement in Placement],
        ("learned", "rotary"),
    ):
        if not is_allowed(skip, norm, placement):
            continue
        always_runs = norm == "none"
        if positions == "learned":
            always_runs = placement == "pre" or norm == "layer"
        marks = [] if always_runs else [pytest.mark.slow]
        cases.append(pytest.param(skip, norm, placement, positions, marks=marks))
    return cases


@pytest.mark.slow
@pytest.mark.parametrize("skip, norm, placement, positions", list_transformers())
def test_no_position_depends_on_later_tokens(skip, norm, placement, positions):
    """∂ logits[t] / ∂ embedding[s] is exactly 0 for s > t, and not 0 for s ≤ t."""
    network = make_transformer(
        **TEXT,
        skip=skip,
        norm=norm,
        placement=placement,
        positions=positions,
        depth=1,
    )
    ctx = ForwardContext(network.hp, train=False)

    def logits(embedded):
        model = network.merge()
        model.embed = FixedEmbedding(embedded)
        return model(NO_TOKENS, {}, ctx)[0]

    embedded = jnp.asarray(normal((1, LENGTH, WIDTH)))
    jacobian = quick(jax.jacrev(logits))(embedded)  # [1, t, V, 1, s, D]
    largest = np.abs(jacobian).max((0, 2, 3, 5))
    assert_array_equal(np.triu(largest, 1), 0)
    assert np.all(largest[np.tril_indices(LENGTH)] > 1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("positions", ["none", "learned", "rotary"])
def test_without_positions_permuted_tokens_give_permuted_outputs(positions):
    network = make_transformer(**VECTORS, positions=positions, norm="layer")
    model = network.merge()
    ctx = ForwardContext(network.hp, train=False)
    order = np.array([3, 0, 4, 1, 2])
    x = normal((2, LENGTH, 3))

    @quick
    def last_signal_and_logits(x):
        rows = x.reshape(2, -1)
        h, _ = model.run_layers(model.first_input(rows, ctx), {}, ctx)
        logits, _ = model(rows, {}, ctx)
        return h, logits

    signal, logits = last_signal_and_logits(jnp.asarray(x))
    permuted_signal, permuted_logits = last_signal_and_logits(jnp.asarray(x[:, order]))

    expected = np.asarray(signal)[:, order]
    if positions == "none":
        assert_allclose(permuted_signal, expected, rtol=1e-11, atol=1e-13)
        assert_allclose(logits, permuted_logits, rtol=1e-11)
    else:
        assert np.max(np.abs(permuted_signal - expected)) > 1e-3
        assert np.max(np.abs(logits - permuted_logits)) > 1e-4

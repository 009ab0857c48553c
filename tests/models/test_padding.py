"""Padding: what stands behind a text's end changes no output and receives no gradient; and tokens as unit vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from research.models.architecture import ForwardContext
from research.models.stack import Stack, masked_mean

TEXT = np.array([[3, 1, 4, 1], [2, 5, 0, 0], [6, 0, 0, 0]], np.int32)
KINDS = {
    "transformer": {"positions": "rotary", "heads": 2},
    "transformer, no positions": {"positions": "none", "heads": 2},
    "rnn": {"cell": "elman"},
    "lstm": {"cell": "lstm"},
}


@pytest.fixture
def make(make_architecture, make_numbers):
    def network(kind, length, **changes):
        name = "rnn" if kind in ("rnn", "lstm") else "transformer"
        depth = length if name == "rnn" else 2
        more = {
            "vocabulary": 7,
            "padded": True,
            "norm": "layer" if name == "transformer" else "none",
        }
        arch = make_architecture(
            kind=name, shape=(length,), depth=depth, **KINDS[kind], **(more | changes)
        )
        return Stack(
            arch, make_numbers(runs=None), rngs=nnx.Rngs(jax.random.key(0))
        ), ForwardContext(make_numbers(runs=None), False)

    return network


def longer(tokens, by):
    return jnp.asarray(np.pad(tokens, ((0, 0), (0, by))))


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_more_padding_changes_no_logit(make, kind, one_hot):
    short, ctx = make(kind, 4, one_hot=one_hot)
    long, _ = make(kind, 9, one_hot=one_hot)
    a = short(longer(TEXT, 0), {}, ctx)[0]
    b = long(longer(TEXT, 5), {}, ctx)[0]
    assert a.shape == b.shape == (3, 4) and np.asarray(a) == pytest.approx(
        np.asarray(b), rel=1e-5, abs=1e-6
    )
    unmasked, _ = make(kind, 9, one_hot=one_hot, padded=False)
    assert np.abs(np.asarray(unmasked(longer(TEXT, 5), {}, ctx)[0] - b)).max() > 1e-3


@pytest.mark.parametrize("kind", ["transformer", "rnn"])
def test_padding_receives_no_gradient(make, kind):
    network, ctx = make(kind, 4)
    graph, params, rest = nnx.split(network, nnx.Param, ...)
    grads = jax.grad(
        lambda params: jnp.sum(nnx.merge(graph, params, rest)(jnp.asarray(TEXT), {}, ctx)[0] ** 2)
    )(params)
    embed = (
        grads["embed"]["table"]["vectors"] if kind == "transformer" else grads["embed"]["vectors"]
    )
    gradient = np.asarray(embed.get_value() if hasattr(embed, "get_value") else embed)
    assert not gradient[0].any() and all(gradient[token].any() for token in range(1, 7))


def test_the_signal_of_a_recurrent_network_goes_through_padding_unchanged(make):
    """Behind all texts' ends nothing happens: the gradient that arrives there is the one at the last word."""
    network, ctx = make("rnn", 9)
    tokens = longer(TEXT, 5)
    signal = jax.grad(lambda slot: jnp.sum(network(tokens, {"signal_grad": slot}, ctx)[0] ** 2))(
        jnp.zeros(10)
    )
    assert (
        np.asarray(signal[4:]) == pytest.approx(float(signal[9]), rel=1e-6) and float(signal[9]) > 0
    )


def test_the_mean_is_that_of_the_real_positions():
    h = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    wanted = [row[mask].mean(0) for row, mask in zip(h, TEXT != 0, strict=True)]
    assert np.asarray(masked_mean(jnp.asarray(h), jnp.asarray(TEXT != 0))) == pytest.approx(
        np.stack(wanted), rel=1e-5
    )


def test_unit_vectors_are_read_by_the_first_weights(make):
    """A transformer's by a dense layer [V, D], a recurrent network's by its cell [V, D]: no vectors of their own."""
    transformer, _ = make("transformer", 4, one_hot=True)
    rnn, _ = make("rnn", 4, one_hot=True)
    assert transformer.embed.linear.kernel.shape == (7, 8) and not hasattr(
        transformer.embed, "table"
    )
    assert rnn.embed is None and rnn.cell.branch.input.shape == (1, 7, 8)

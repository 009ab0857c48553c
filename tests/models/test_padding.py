"""Padding tokens change no output and receive no gradient; tokens can be read as unit vectors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from research.models.architecture import ForwardContext
from research.models.stack import masked_mean

from ..builders import make_architecture
from ..compiling import quick
from .networks import initialize, make_numbers

TEXT = np.array(
    [
        [3, 1, 4, 1],
        [2, 5, 0, 0],
        [6, 0, 0, 0],
    ],
    np.int32,
)  # 0 is padding
LENGTH = 4
PADDED_LENGTH = 9
VOCABULARY = 7
TRANSFORMER = {
    "kind": "transformer",
    "heads": 2,
    "depth": 2,
    "norm": "layer",
}
NETWORKS = {
    "transformer": TRANSFORMER | {"positions": "rotary"},
    "transformer without positions": TRANSFORMER | {"positions": "none"},
    "elman": {"kind": "rnn", "cell": "elman"},
    "lstm": {"kind": "rnn", "cell": "lstm"},
}


def make_network(name, length=LENGTH, **changes):
    settings = {"vocabulary": VOCABULARY, "padded": True} | NETWORKS[name] | changes
    if settings["kind"] == "rnn":
        settings["depth"] = length
    arch = make_architecture(shape=(length,), **settings)
    return initialize(arch, make_numbers(arch))


def apply(network, tokens, params=None, slots=None):
    """The logits, for a function that is traced."""
    ctx = ForwardContext(network.hp, train=False)
    logits, _ = network.merge(params)(jnp.asarray(tokens), slots or {}, ctx)
    return logits


def evaluate(network, tokens):
    """The logits."""
    return quick(functools.partial(apply, network))(tokens)


def pad(tokens, length):
    missing = length - tokens.shape[1]
    return np.pad(tokens, ((0, 0), (0, missing)))


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_more_padding_changes_no_logit(name, one_hot):
    padded_text = pad(TEXT, PADDED_LENGTH)
    short = evaluate(make_network(name, one_hot=one_hot), TEXT)
    long = evaluate(make_network(name, PADDED_LENGTH, one_hot=one_hot), padded_text)
    unmasked_network = make_network(
        name,
        PADDED_LENGTH,
        one_hot=one_hot,
        padded=False,
    )
    unmasked = evaluate(unmasked_network, padded_text)

    assert short.shape == long.shape == (3, 4)
    assert np.asarray(short) == pytest.approx(np.asarray(long), rel=1e-5, abs=1e-6)
    assert np.max(np.abs(unmasked - long)) > 1e-3


@pytest.mark.parametrize("name", ["transformer", "elman"])
def test_padding_receives_no_gradient(name):
    network = make_network(name)

    def loss(params):
        return jnp.sum(apply(network, TEXT, params) ** 2)

    grads = quick(jax.grad(loss))(network.params)["embed"]
    table = grads if name == "elman" else grads["table"]
    gradient = np.asarray(table["vectors"][...])
    has_gradient = gradient.any(axis=1)
    expected = [False] + [True] * (VOCABULARY - 1)
    assert has_gradient.tolist() == expected


def test_the_signal_of_a_recurrent_network_passes_padding_unchanged():
    """After the end of the longest text, the gradient is the one at its last word."""
    network = make_network("elman", PADDED_LENGTH)
    tokens = pad(TEXT, PADDED_LENGTH)

    def loss(slot):
        logits = apply(network, tokens, slots={"signal_grad": slot})
        return jnp.sum(logits**2)

    signal = quick(jax.grad(loss))(jnp.zeros(PADDED_LENGTH + 1))
    last = signal[-1]
    assert last > 0
    assert_allclose(signal[LENGTH:], last, rtol=1e-6)


def test_the_mean_covers_the_tokens_only():
    generator = np.random.default_rng(0)
    h = generator.standard_normal((3, 4, 5)).astype(np.float32)
    mask = TEXT != 0
    expected = []
    for positions, is_token in zip(h, mask, strict=True):
        expected.append(positions[is_token].mean(0))
    measured = masked_mean(jnp.asarray(h), jnp.asarray(mask))
    assert_allclose(measured, np.stack(expected), rtol=1e-5)


def test_a_transformer_reads_unit_vectors_by_a_linear_map():
    embed = make_network("transformer", one_hot=True).merge().embed
    assert embed.linear.kernel.shape == (VOCABULARY, 8)
    assert not hasattr(embed, "table")


def test_a_recurrent_network_reads_unit_vectors_by_its_cell():
    network = make_network("elman", one_hot=True).merge()
    assert network.embed is None
    assert network.cell.branch.input.shape == (1, VOCABULARY, 8)

"""The parameter counts of papers, and closed formulas for other networks."""

import jax
import pytest
from flax import nnx

from research.models.stack import Stack
from research.runner.judging import layer_parameters

from ..builders import make_architecture
from .networks import make_numbers

CIFAR = {
    "kind": "resnet_cifar",
    "shape": (32, 32, 3),
    "classes": 10,
    "width": 16,
    "skip": "identity",
    "norm": "batch",
    "placement": "branch",
}
IMAGENET = {
    "kind": "resnet",
    "shape": (224, 224, 3),
    "classes": 1000,
    "width": 64,
    "skip": "identity",
    "norm": "batch",
    "placement": "branch",
    "transition": "projection",
}
# The models of torchvision have the same numbers of parameters.
IMAGENET_COUNTS = {
    18: 11_689_512,
    34: 21_797_672,
    50: 25_557_032,
    101: 44_549_160,
    152: 60_192_808,
}
IMAGENET_MILLIONS = {
    18: 11.69,
    34: 21.80,
    50: 25.56,
    101: 44.55,
    152: 60.19,
}
CIFAR_MILLIONS = {
    20: "0.27",
    32: "0.46",
    44: "0.66",
    56: "0.85",
    110: "1.7",
}


def count_parameters(**changes):
    """How many parameters a network has, from its shapes alone."""
    arch = make_architecture(**changes)
    hp = make_numbers(arch)
    network = nnx.eval_shape(lambda: Stack(arch, hp, rngs=nnx.Rngs(0)))
    params = nnx.state(network, nnx.Param)
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def linear(inputs, outputs):
    return inputs * outputs + outputs


def norm(width):
    return 2 * width


def cifar_parameters(depth, classes=10):
    """A stem, n blocks each of width 16, 32 and 64, and a head.

    A block has two 3×3 convolutions without bias and a batch norm after each.
    """
    n = (depth - 2) // 6
    total = 9 * 3 * 16 + norm(16)
    inputs = 16
    for width in (16, 32, 64):
        first_convolution = 9 * inputs * width
        other_convolutions = (2 * n - 1) * 9 * width * width
        norms = 2 * n * norm(width)
        total += first_convolution + other_convolutions + norms
        inputs = width
    return total + linear(64, classes)


def test_the_formula_for_resnet_20():
    assert cifar_parameters(20) == 269_722


@pytest.mark.parametrize("depth, millions", CIFAR_MILLIONS.items())
def test_resnets_for_cifar_have_the_papers_parameters(depth, millions):
    """He et al. 2016, Table 6, with option A, which has no parameters."""
    expected = cifar_parameters(depth)
    decimals = len(millions) - 2
    assert count_parameters(**CIFAR, depth=depth, transition="pad") == expected
    assert round(expected / 1e6, decimals) == float(millions)


def test_resnets_for_cifar_with_projections_have_two_more_maps():
    """Option B: two 1×1 convolutions, each with a batch norm."""
    projections = 16 * 32 + norm(32) + 32 * 64 + norm(64)
    measured = count_parameters(**CIFAR, depth=20, transition="projection")
    assert measured == cifar_parameters(20) + projections


@pytest.mark.parametrize("depth", IMAGENET_COUNTS)
def test_resnets_for_imagenet_have_the_papers_parameters(depth):
    measured = count_parameters(**IMAGENET, depth=depth)
    assert measured == IMAGENET_COUNTS[depth]
    assert round(measured / 1e6, 2) == IMAGENET_MILLIONS[depth]


TRANSFORMER = {
    "kind": "transformer",
    "depth": 3,
    "width": 12,
    "heads": 3,
    "expansion": 5,
    "norm": "layer",
    "skip": "identity",
}


def transformer_blocks(depth, width, expansion):
    """Attention has four maps and the feed-forward layer two; each layer has a layer norm."""
    wide = width * expansion
    attention = 4 * linear(width, width) + norm(width)
    feed_forward = linear(width, wide) + linear(wide, width) + norm(width)
    return depth * (attention + feed_forward)


@pytest.mark.parametrize("placement", ["pre", "post", "branch"])
@pytest.mark.parametrize("positions", ["learned", "rotary", "none"])
def test_a_transformer_that_classifies_has_the_parameters_of_the_formula(positions, placement):
    measured = count_parameters(
        **TRANSFORMER,
        shape=(7, 4, 2),
        classes=5,
        positions=positions,
        placement=placement,
    )
    position_vectors = 7 * 12 if positions == "learned" else 0
    last_norm = norm(12) if placement == "pre" else 0
    expected = linear(8, 12) + position_vectors
    expected += transformer_blocks(3, 12, 5)
    expected += last_norm + linear(12, 5)
    assert measured == expected


@pytest.mark.parametrize("tied", [True, False])
def test_a_language_model_has_the_parameters_of_the_formula(tied):
    measured = count_parameters(
        **TRANSFORMER,
        shape=(7,),
        vocabulary=29,
        classes=29,
        language=True,
        tied=tied,
    )
    head = 0 if tied else linear(12, 29)
    embedding = 29 * 12 + 7 * 12
    assert measured == embedding + transformer_blocks(3, 12, 5) + norm(12) + head


def test_gpt_2_has_its_parameters():
    """124.4 million (Radford et al. 2019: "117M", later corrected)."""
    measured = count_parameters(
        kind="transformer",
        depth=12,
        width=768,
        heads=12,
        expansion=4,
        norm="layer",
        skip="identity",
        shape=(1024,),
        vocabulary=50257,
        classes=50257,
        language=True,
        tied=True,
    )
    assert measured == 124_439_808


GATES = {
    "elman": 1,
    "gru": 3,
    "lstm": 4,
}


def recurrent_parameters(
    cell,
    bias,
    *,
    inputs,
    width,
    outputs,
):
    """Each gate has W [D, D], U [P, D] and b [D]; a GRU has one more bias, in its reset gate."""
    gates = GATES[cell]
    weights = gates * (width * width + inputs * width) + width * outputs
    biases = gates * width + outputs
    if cell == "gru":
        biases += width
    return weights + biases if bias else weights


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("bias", [True, False])
def test_a_recurrent_network_on_numbers_has_the_parameters_of_the_formula(cell, bias):
    measured = count_parameters(
        kind="rnn",
        cell=cell,
        width=6,
        bias=bias,
        shape=(5, 10),
        depth=5,
        classes=4,
    )
    assert measured == recurrent_parameters(
        cell,
        bias,
        inputs=10,
        width=6,
        outputs=4,
    )


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("bias", [True, False])
def test_a_recurrent_language_model_has_the_parameters_of_the_formula(cell, bias):
    measured = count_parameters(
        kind="rnn",
        cell=cell,
        width=6,
        bias=bias,
        shape=(5,),
        depth=5,
        vocabulary=11,
        classes=11,
        language=True,
    )
    token_vectors = 11 * 6
    of_layers_and_head = recurrent_parameters(
        cell,
        bias,
        inputs=6,
        width=6,
        outputs=11,
    )
    assert measured == token_vectors + of_layers_and_head


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("branch_weights", [1, 2])
def test_the_verdict_knows_the_parameters_of_a_layer(bias, branch_weights):
    changes = {"bias": bias, "branch_weights": branch_weights, "width": 6}
    three = make_architecture(depth=3, **changes)
    of_one_layer = count_parameters(depth=3, **changes) - count_parameters(depth=2, **changes)
    assert layer_parameters(three.model) == of_one_layer

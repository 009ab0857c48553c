"""The parameter counts of papers, and closed formulas for those of networks of our own."""

import jax
import pytest
from flax import nnx

from research.models.stack import Stack

CIFAR = dict(
    kind="resnet_cifar", shape=(32, 32, 3), classes=10, width=16, skip="identity", norm="batch"
)
IMAGENET = dict(
    kind="resnet", shape=(224, 224, 3), classes=1000, width=64, skip="identity", norm="batch"
)
# torchvision's models hold the same numbers of parameters.
IMAGENET_COUNTS = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}
IMAGENET_MILLIONS = {18: 11.69, 34: 21.80, 50: 25.56, 101: 44.55, 152: 60.19}


@pytest.fixture(scope="session")
def count(make_architecture, make_numbers):
    """How many parameters a network has; nothing is allocated."""

    def parameters(**changes):
        arch = make_architecture(**changes)
        hp = make_numbers(runs=None)
        params = nnx.state(nnx.eval_shape(lambda: Stack(arch, hp, rngs=nnx.Rngs(0))), nnx.Param)
        return sum(leaf.size for leaf in jax.tree.leaves(params))

    return parameters


def cifar_parameters(depth, classes=10):
    """Stem, then of widths 16, 32, 64 n blocks of two 3×3 convolutions without bias, each with a batch norm; head."""
    n = (depth - 2) // 6
    widths = (16, 32, 64)
    total = 9 * 3 * 16 + 2 * 16
    inputs = 16
    for w in widths:
        total += 9 * inputs * w + (2 * n - 1) * 9 * w * w + 2 * n * 2 * w
        inputs = w
    return total + 64 * classes + classes


@pytest.mark.parametrize(
    ("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)]
)
def test_resnets_for_cifar_have_the_papers_parameters(depth, millions, count):
    """He et al. 2016, Table 6, with option A, which has no parameters."""
    assert cifar_parameters(20) == 269_722
    assert count(**CIFAR, depth=depth, placement="branch", transition="pad") == cifar_parameters(
        depth
    )
    assert round(cifar_parameters(depth) / 1e6, len(str(millions)) - 2) == millions


def test_resnets_for_cifar_with_projections_have_two_more_maps(count):
    """Option B: two 1×1 convolutions, each with a batch norm."""
    maps = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert (
        count(**CIFAR, depth=20, placement="branch", transition="projection")
        == cifar_parameters(20) + maps
    )


@pytest.mark.parametrize("depth", IMAGENET_COUNTS)
def test_resnets_for_imagenet_have_the_papers_parameters(depth, count):
    found = count(**IMAGENET, depth=depth, placement="branch", transition="projection")
    assert found == IMAGENET_COUNTS[depth]
    assert round(found / 1e6, 2) == IMAGENET_MILLIONS[depth]


def transformer_blocks(depth, width, expansion):
    """Four maps of attention, two of the feed-forward part, all with biases, and two layer norms."""
    wide = width * expansion
    attention = 4 * (width**2 + width)
    feedforward = 2 * width * wide + wide + width
    return depth * (attention + feedforward + 2 * 2 * width)


TRANSFORMER = dict(
    kind="transformer", depth=3, width=12, heads=3, expansion=5, norm="layer", skip="identity"
)


@pytest.mark.parametrize("placement", ["pre", "post", "branch"])
@pytest.mark.parametrize("positions", ["learned", "rotary", "none"])
def test_a_transformer_that_classifies_has_the_closed_formulas_parameters(
    positions, placement, count
):
    found = count(
        **TRANSFORMER, shape=(7, 4, 2), classes=5, positions=positions, placement=placement
    )
    embedding = 8 * 12 + 12 + (7 * 12 if positions == "learned" else 0)
    final = 2 * 12 if placement == "pre" else 0
    assert found == embedding + transformer_blocks(3, 12, 5) + final + 12 * 5 + 5


@pytest.mark.parametrize("tied", [True, False])
def test_a_language_model_has_the_closed_formulas_parameters(tied, count):
    found = count(**TRANSFORMER, shape=(7,), vocabulary=29, classes=29, language=True, tied=tied)
    head = 0 if tied else 12 * 29 + 29
    assert found == 29 * 12 + 7 * 12 + transformer_blocks(3, 12, 5) + 2 * 12 + head


def test_gpt_2_has_its_parameters(count):
    """124.4 million (Radford et al. 2019: "117M", later corrected)."""
    gpt2 = dict(
        kind="transformer",
        depth=12,
        width=768,
        heads=12,
        expansion=4,
        norm="layer",
        skip="identity",
    )
    found = count(**gpt2, shape=(1024,), vocabulary=50257, classes=50257, language=True, tied=True)
    assert found == 124_439_808


@pytest.mark.parametrize(("cell", "gates"), [("elman", 1), ("gru", 3), ("lstm", 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_recurrent_network_has_the_closed_formulas_parameters(cell, gates, bias, count):
    """W [D, D], U [P, D] and b [D] a gate; a GRU has a second bias, inside its reset gate."""
    width = 6
    pieces = 10
    classes = 4
    weights = gates * (width * width + pieces * width) + width * classes
    biases = gates * width + (width if cell == "gru" else 0) + classes
    rnn = dict(kind="rnn", cell=cell, width=width, bias=bias)
    assert count(**rnn, shape=(5, 10), depth=5) == weights + bias * biases
    pieces = width
    weights = gates * (width * width + pieces * width) + 11 * width + width * 11
    biases += 11 - classes
    text = dict(shape=(5,), vocabulary=11, classes=11, language=True)
    assert count(**rnn, **text, depth=5) == weights + bias * biases

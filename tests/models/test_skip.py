"""Shortcuts against their formulas, and the random masks of some of them."""

import dataclasses
import enum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose, assert_array_equal

from research.config.options import Skip as SkipOption
from research.config.options import SkipKind
from research.models.architecture import ForwardContext
from research.models.hparams import HParams
from research.models.plan import Part
from research.models.skip import Skip

from ..builders import make_architecture, select_existing
from ..oracle import Shortcut, combine
from .networks import FLOAT64, NUMBERS, add_noise, make_numbers, params_of
from .statistics import assert_frequency, assert_mean

KINDS = [kind.name for kind in SkipKind]
RANDOM = ["dropout", "stochastic_depth"]
STREAMS = ["hyper", "mhc"]
GENERATOR = np.random.default_rng(0)
H, BRANCH = GENERATOR.standard_normal((2, 3, 4))
LAYER = 2  # the third of five
LAYERS = 5
UNITS = Part("dense", 4, 4)
SMALLER = Part("basic", 2, 4, stride=2)  # half the height and the width, twice the channels

every_kind = pytest.mark.parametrize("kind", KINDS)
random_kinds = pytest.mark.parametrize("kind", RANDOM)
float64 = pytest.mark.usefixtures("float64")


@dataclasses.dataclass
class TestedSkip:
    """A shortcut and the hyperparameters that it is called with."""

    __test__ = False

    module: Skip
    hp: HParams

    def __call__(
        self,
        h,
        branch,
        *,
        train=False,
        key=None,
        layer=LAYER,
    ):
        ctx = ForwardContext(self.hp, train, key=key)
        h = jnp.asarray(h)
        branch = jnp.asarray(branch)
        return self.module(h, branch, ctx, jnp.int32(layer))

    def formula(self, h, branch, normalize=None):
        """What the formula says, in float64."""
        arch = self.module.arch
        more: dict[str, Any] = {} if normalize is None else {"normalize": normalize}
        at = Shortcut(
            hp=self.hp,
            layer=LAYER,
            layers=arch.layers,
            depth=arch.model.depth,
            learned=params_of(self.module),
            num_active=arch.model.width + LAYER * arch.growth,
            **more,
        )
        return combine(arch.skip.kind.name, h, branch, at)


def make_skip(skip, part=UNITS, *, noise=True, numbers=NUMBERS, **changes):
    """A shortcut, with noise added to its parameters.

    Args:
        skip: its name.
        part: the layer that it belongs to.
        noise: False keeps the initial parameters.
        numbers: hyperparameters by dotted path.
        **changes: see ``make_architecture``.
    """
    usual = {
        "skip": skip,
        "width": 4,
        "depth": LAYERS,
    }
    if skip == "deepnorm":
        usual["kind"] = "transformer"
    arch = make_architecture(**(usual | changes))
    hp = make_numbers(arch, select_existing(arch, numbers))
    module = Skip(arch, part, hp, rngs=nnx.Rngs(0))
    if noise:
        state = nnx.state(module)
        state = jax.tree.map(lambda leaf: leaf.astype(arch.param_dtype), state)
        nnx.update(module, add_noise(state))
    return TestedSkip(module, hp)


def make_example(kind, dtype="float64"):
    """An input and a branch; with ``dense``, 4 + 5·3 units and a branch of the 3 new ones.

    With streams, the input holds four of them.
    """
    h = H
    branch = BRANCH
    if kind == "dense":
        h = np.tile(H, 5)[:, :19]
        branch = BRANCH[:, :3]
    if kind in STREAMS:
        h = GENERATOR.standard_normal((3, 4 * 4))
    return jnp.asarray(h, dtype), jnp.asarray(branch, dtype)


@float64
@every_kind
def test_formula(kind):
    skip = make_skip(kind, **FLOAT64)
    h, branch = make_example(kind)
    assert_allclose(skip(h, branch), skip.formula(h, branch), rtol=1e-14)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in RANDOM])
def test_training_and_evaluation_are_the_same_unless_random(kind):
    skip = make_skip(kind)
    h, branch = make_example(kind, "float32")
    key = jax.random.key(0)
    trained = skip(h, branch, train=True, key=key)
    evaluated = skip(h, branch, train=False, key=key)
    assert_array_equal(trained, evaluated)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@every_kind
def test_the_number_format_is_kept(kind, dtype, train):
    for param_dtype in (dtype, "float32"):
        skip = make_skip(kind, dtype=dtype, param_dtype=param_dtype)
        h, branch = make_example(kind, dtype)
        out = skip(h, branch, train=train, key=jax.random.key(0))
        for leaf in jax.tree.leaves(nnx.state(skip.module)):
            assert leaf.dtype == param_dtype
        assert out.dtype == dtype


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("rezero", 0),
        ("fixup", 1),
        ("skipinit", 0.7),
    ],
)
def test_the_learned_scale_has_its_published_initial_value(kind, expected):
    """Bachlechner et al. 2020, §3; Zhang, Dauphin, Ma 2019, §3, rule 3; De & Smith 2020."""
    skip = make_skip(kind, noise=False).module
    assert len(jax.tree.leaves(nnx.state(skip))) == 1
    assert_allclose(skip.alpha[...], expected, rtol=1e-7)


@pytest.mark.parametrize("kind", ["highway", "gated"])
def test_initial_gates_are_almost_closed_and_similar_for_all_units(kind):
    gate = make_skip(kind, Part("dense", 100, 100), noise=False).module.gate
    # The standard deviation of n draws has a relative error of 1/√(2n).
    five_errors = 5 / np.sqrt(2e4)
    assert gate.bias is not None
    assert_array_equal(gate.bias[...], -0.5)
    assert_allclose(np.std(gate.kernel[...]), 0.1 / np.sqrt(100), rtol=five_errors)


# --- Where the shape changes ----------------------------------------------------------------------

WITHOUT_RESNETS = ("none", "dense", "deepnorm", *STREAMS)
WITH_SHORTCUT = [kind for kind in KINDS if kind not in WITHOUT_RESNETS]
IMAGE = GENERATOR.standard_normal((2, 5, 4, 2))
SMALLER_BRANCH = GENERATOR.standard_normal((2, 3, 2, 4))
RESNET: dict[str, Any] = {
    "kind": "resnet_cifar",
    "shape": (5, 4, 2),
    "depth": 14,
}

every_shortcut = pytest.mark.parametrize("kind", WITH_SHORTCUT)


def subsample(image, channels):
    """Every second pixel of every second row, and zeros for more channels."""
    out = np.zeros((2, 3, 2, channels))
    for row in range(3):
        for column in range(2):
            out[:, row, column, : image.shape[-1]] = image[:, 2 * row, 2 * column]
    return out


@float64
@every_shortcut
def test_option_a_subsamples_pixels_and_adds_channels_of_zeros(kind):
    """He et al. 2016, §3.3; ``projection`` has a projection everywhere."""
    skip = make_skip(
        kind,
        SMALLER,
        transition="pad",
        **RESNET,
        **FLOAT64,
    )
    is_projection = kind == "projection"
    shortcut = subsample(IMAGE, 2 if is_projection else 4)
    expected = skip.formula(shortcut, SMALLER_BRANCH)
    assert hasattr(skip.module, "projection") == is_projection
    assert_allclose(skip(IMAGE, SMALLER_BRANCH), expected, rtol=1e-13, atol=1e-14)


def test_a_padded_shortcut_is_exact():
    skip = make_skip("identity", SMALLER, transition="pad", **RESNET)
    image = IMAGE.astype(np.float32)
    no_branch = jnp.zeros((2, 3, 2, 4))
    assert_array_equal(skip(image, no_branch, train=True), subsample(image, 4))


@pytest.mark.parametrize("norm", ["none", "batch"])
@float64
@every_shortcut
def test_option_b_is_a_projection_normalised_as_the_branch_is(kind, norm):
    """He et al. 2016, §3.3."""
    skip = make_skip(
        kind,
        SMALLER,
        transition="projection",
        norm=norm,
        **RESNET,
        **FLOAT64,
    )
    projection = skip.module.projection
    kernel = np.asarray(projection.kernel[...])
    shortcut = subsample(IMAGE, 2) @ kernel
    if norm == "batch":
        shortcut = evaluate_batch_norm(skip.module.norm, shortcut)
    if kind == "projection":
        expected = shortcut + SMALLER_BRANCH
    else:
        expected = skip.formula(shortcut, SMALLER_BRANCH)
    assert kernel.shape == (2, 4)
    assert projection.bias is None
    assert_allclose(skip(IMAGE, SMALLER_BRANCH), expected, rtol=1e-12, atol=1e-13)


def evaluate_batch_norm(norm, h):
    mean = np.asarray(norm.mean[...])
    variance = np.asarray(norm.var[...])
    scale = np.asarray(norm.scale[...])
    bias = np.asarray(norm.bias[...])
    return (h - mean) / np.sqrt(variance + 1e-5) * scale + bias


# --- Random masks ---------------------------------------------------------------------------------

ONES = jnp.ones((3, 4))
ZEROS = jnp.zeros((3, 4))
KEYS = 2000


def sample(
    skip,
    h,
    branch,
    keys=KEYS,
    layer=LAYER,
):
    """The outputs for many random keys [keys, B, D]."""

    def call(key):
        return skip(
            h,
            branch,
            train=True,
            key=key,
            layer=layer,
        )

    random_keys = jax.random.split(jax.random.key(7), keys)
    return np.asarray(jax.vmap(call)(random_keys))


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_dropout_drops_elements_independently(rate):
    skip = make_skip("dropout", numbers={"skip.rate": rate})
    kept = sample(skip, ONES, ZEROS)
    first = kept[:, 0, 0]
    next_unit = kept[:, 0, 1]
    next_example = kept[:, 1, 0]
    assert_frequency(kept, 1 - rate)
    assert_frequency(first * next_unit, (1 - rate) ** 2)
    assert_frequency(first * next_example, (1 - rate) ** 2)


def test_dropout_keeps_the_whole_branch():
    skip = make_skip("dropout", numbers={"skip.rate": 0.3})
    assert_array_equal(sample(skip, ZEROS, ONES, keys=3), 1)


@pytest.mark.parametrize("layer", range(LAYERS))
def test_stochastic_depth_drops_the_branches_of_deeper_layers_more_often(layer):
    """1 − p_l = rate·l/N, l = 1..N: Huang et al. 2016, eq. 4."""
    skip = make_skip("stochastic_depth", numbers={"skip.rate": 0.4})
    kept = sample(skip, ZEROS, ONES, layer=layer)
    batch_mask = kept[:, :1, :1]
    dropped = 0.4 * [1, 2, 3, 4, 5][layer] / 5
    assert_array_equal(kept, np.broadcast_to(batch_mask, kept.shape))
    assert_frequency(batch_mask, 1 - dropped)


@pytest.mark.parametrize("layer", range(LAYERS))
def test_stochastic_depth_keeps_the_shortcut(layer):
    skip = make_skip("stochastic_depth", numbers={"skip.rate": 0.4})
    assert_array_equal(
        sample(
            skip,
            ONES,
            ZEROS,
            keys=3,
            layer=layer,
        ),
        1,
    )


BOTH_LAYERS_KEEP = {"dropout": 0.25, "stochastic_depth": 0.6 * 0.5}


@random_kinds
def test_the_masks_of_layers_are_independent(kind):
    skip = make_skip(kind, numbers={"skip.rate": 0.5})
    h = ONES if kind == "dropout" else ZEROS
    branch = ZEROS if kind == "dropout" else ONES
    fourth = sample(skip, h, branch, layer=3)[:, 0, 0]
    fifth = sample(skip, h, branch, layer=4)[:, 0, 0]
    assert_frequency(fourth * fifth, BOTH_LAYERS_KEEP[kind])


@random_kinds
def test_evaluation_is_the_mean_of_training(kind):
    skip = make_skip(kind)
    h, branch = make_example(kind, "float32")
    evaluated = skip(h, branch, train=False)
    assert_mean(sample(skip, h, branch), evaluated)


@random_kinds
def test_the_same_key_gives_the_same_mask(kind):
    skip = make_skip(kind)
    h, branch = make_example(kind, "float32")
    first = sample(skip, h, branch, keys=20)
    again = sample(skip, h, branch, keys=20)
    assert_array_equal(first, again)


def test_an_unknown_shortcut_is_refused():
    unknown = enum.Enum("UnknownKind", ["loop"])
    option = dataclasses.replace(SkipOption(), kind=unknown.loop)
    skip = make_skip("identity")
    hp = dataclasses.replace(skip.hp, skip=option)
    with pytest.raises(ValueError, match="got loop"):
        TestedSkip(skip.module, hp)(ONES, ONES, train=True)

"""Shortcuts by their formulas, and what the random ones draw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from research.config import schema as config
from research.models.architecture import ForwardContext
from research.models.plan import Part
from research.models.skip import Skip
from research.training.precision import scope

KINDS = [option.name for option in config.SkipKind]
RANDOM = ["dropout", "stochastic_depth"]
GENERATOR = np.random.default_rng(0)
H, BRANCH = GENERATOR.standard_normal((2, 3, 4))
# the third of five
LAYER = 2
LAYERS = 5
NUMBERS = {
    "skip.branch_scale": 0.7,
    "skip.shortcut_scale": 0.9,
    "skip.gate_bias": -0.5,
    "skip.rate": 0.3,
}
FLOAT64 = {"dtype": "float64", "param_dtype": "float64"}
UNITS = Part("dense", 4, 4)
SMALLER = Part("basic", 2, 4, stride=2)  # half the height and the width, twice the channels


@pytest.fixture
def make(make_architecture, make_numbers, shaken):
    """A shortcut, shaken unless ctx otherwise, and the numbers it is ctx."""

    def skip(kind, part=UNITS, *, move=True, numbers=NUMBERS, **changes):
        model = {"kind": "transformer"} if kind == "deepnorm" else {}
        arch = make_architecture(**({"skip": kind, "width": 4, "depth": LAYERS} | model | changes))
        hp = make_numbers(numbers, runs=None, dtype=jnp.promote_types(arch.param_dtype, "float32"))
        made = Skip(arch, part, hp, rngs=nnx.Rngs(0))
        if move:
            nnx.update(
                made,
                shaken(jax.tree.map(lambda leaf: leaf.astype(arch.param_dtype), nnx.state(made))),
            )
        return made, hp

    return skip


@pytest.fixture
def expected(formulas):
    """What the formula says, in float64."""

    def out(skip, hp, h, branch, **more):
        learned = nnx.to_pure_dict(nnx.state(skip, nnx.Param))
        arch = skip.arch
        at = formulas["at"](
            hp, LAYER, arch.layers, arch.model.depth, learned, arch.model.width + LAYER * arch.growth, **more
        )
        return formulas["skip"][arch.skip](h, branch, at)

    return out


def example(kind, dtype="float64"):
    """A stream and a branch; of a growing stream, with 4 + 5·3 units, a branch as wide as it grows."""
    h, branch = (np.tile(H, 5)[:, :19], BRANCH[:, :3]) if kind == "dense" else (H, BRANCH)
    return jnp.asarray(h, dtype), jnp.asarray(branch, dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_formula(kind, make, expected):
    with scope("float64"):
        skip, hp = make(kind, **FLOAT64)
        h, branch = example(kind)
        out = skip(h, branch, ForwardContext(hp, train=False), jnp.int32(LAYER))
        np.testing.assert_allclose(out, expected(skip, hp, h, branch), rtol=1e-14)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in RANDOM])
def test_training_and_evaluation_are_the_same_unless_random(kind, make):
    skip, hp = make(kind)
    passes = (ForwardContext(hp, train=train, key=jax.random.key(0)) for train in (True, False))
    np.testing.assert_array_equal(
        *(skip(*example(kind, "float32"), ctx, jnp.int32(LAYER)) for ctx in passes)
    )


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_number_format_is_kept(kind, dtype, train, make):
    for weights in (dtype, "float32"):
        skip, hp = make(kind, dtype=dtype, param_dtype=weights)
        assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(skip))} <= {jnp.dtype(weights)}
        ctx = ForwardContext(hp, train=train, key=jax.random.key(0))
        assert skip(*example(kind, dtype), ctx, jnp.int32(LAYER)).dtype == dtype


@pytest.mark.parametrize("kind, start", [("rezero", 0), ("fixup", 1), ("skipinit", 0.7)])
def test_the_learned_scale_begins_as_published(kind, start, make):
    """Bachlechner et al. 2020, §3; Zhang, Dauphin, Ma 2019, §3, rule 3. De & Smith 2020 leave it open: 0 or 1/√N."""
    skip, _ = make(kind, move=False)
    assert len(jax.tree.leaves(nnx.state(skip))) == 1
    np.testing.assert_allclose(skip.alpha[...], start, rtol=1e-7)


@pytest.mark.parametrize("kind", ["highway", "gated"])
def test_a_gate_begins_almost_closed_and_alike_for_all(kind, make):
    skip, _ = make(kind, Part("dense", 100, 100), move=False)
    np.testing.assert_array_equal(skip.gate.bias[...], -0.5)
    # Of 10⁴ draws the standard deviation is known to 1/√(2·10⁴) of itself: five of those.
    np.testing.assert_allclose(
        np.std(skip.gate.kernel[...]), 0.1 / np.sqrt(100), rtol=5 / np.sqrt(2e4)
    )


WITH_SHORTCUT = [kind for kind in KINDS if kind not in ("none", "dense", "deepnorm")]
IMAGE = GENERATOR.standard_normal(
    (2, 5, 4, 2)
)  # an odd side and an even one: 3 and 2 pixels are left


def even_pixels(image, channels):
    out = np.zeros((2, 3, 2, channels))
    for row in range(3):
        for column in range(2):
            out[:, row, column, : image.shape[-1]] = image[:, 2 * row, 2 * column]
    return out


@pytest.mark.parametrize("kind", WITH_SHORTCUT)
def test_where_the_shape_changes_pixels_are_left_out_and_channels_are_zero(kind, make, expected):
    """Option A of He et al. 2016, §3.3; ``projection`` has a map of its own everywhere."""
    branch = GENERATOR.standard_normal((2, 3, 2, 4))
    with scope("float64"):
        skip, hp = make(kind, SMALLER, transition="pad", shape=(5, 4, 2), **FLOAT64)
        assert hasattr(skip, "projection") == (kind == "projection")
        shortcut = even_pixels(IMAGE, 2 if kind == "projection" else 4)
        arguments = (
            jnp.asarray(IMAGE),
            jnp.asarray(branch),
            ForwardContext(hp, train=False),
            jnp.int32(LAYER),
        )
        np.testing.assert_allclose(
            skip(*arguments), expected(skip, hp, shortcut, branch), rtol=1e-13, atol=1e-14
        )


def test_a_padded_shortcut_is_exact(make):
    skip, hp = make("identity", SMALLER, shape=(5, 4, 2))
    image = jnp.asarray(IMAGE, jnp.float32)
    out = skip(image, jnp.zeros((2, 3, 2, 4)), ForwardContext(hp, train=True), jnp.int32(LAYER))
    np.testing.assert_array_equal(out, even_pixels(np.asarray(image), 4))


NORM = ("mean", "var", "scale", "bias")


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("kind", WITH_SHORTCUT)
def test_where_the_shape_changes_a_map_may_stand(kind, norm, make, expected):
    """Option B of He et al. 2016, §3.3, normalised as the branch is."""
    branch = GENERATOR.standard_normal((2, 3, 2, 4))
    with scope("float64"):
        skip, hp = make(
            kind, SMALLER, transition="projection", norm=norm, shape=(5, 4, 2), **FLOAT64
        )
        kernel = np.asarray(skip.projection.kernel[...])
        assert kernel.shape == (2, 4) and skip.projection.bias is None
        shortcut = even_pixels(IMAGE, 2) @ kernel
        if norm == "batch":
            mean, var, scale, bias = (np.asarray(getattr(skip.norm, name)[...]) for name in NORM)
            shortcut = (shortcut - mean) / np.sqrt(var + 1e-5) * scale + bias
        out = skip(
            jnp.asarray(IMAGE),
            jnp.asarray(branch),
            ForwardContext(hp, train=False),
            jnp.int32(LAYER),
        )
        wanted = shortcut + branch if kind == "projection" else expected(skip, hp, shortcut, branch)
        np.testing.assert_allclose(out, wanted, rtol=1e-12, atol=1e-13)


def drawn(skip, hp, h, branch, keys, layer=LAYER):
    """The outputs for many random keys [keys, B, D]."""

    def call(key):
        return skip(h, branch, ForwardContext(hp, train=True, key=key), jnp.int32(layer))

    return np.asarray(jax.vmap(call)(jax.random.split(jax.random.key(7), keys)))


def assert_frequency(outcomes, probability):
    """That the mean of independent zeros and ones is their probability, within 4 standard errors."""
    assert set(np.unique(outcomes)) <= {0, 1}
    error = np.sqrt(probability * (1 - probability) / outcomes.size)
    assert abs(np.mean(outcomes) - probability) <= 4 * error


ONES = jnp.ones((3, 4))
ZEROS = jnp.zeros((3, 4))
KEYS = 2000


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_dropout_leaves_out_elements_one_by_one(rate, make):
    skip, hp = make("dropout", numbers={"skip.rate": rate})
    kept = drawn(skip, hp, ONES, ZEROS, KEYS)
    assert_frequency(kept, 1 - rate)
    for one, other in [((0, 0), (0, 1)), ((0, 0), (1, 0))]:  # neighbours have masks of their own
        assert_frequency(kept[:, *one] * kept[:, *other], (1 - rate) ** 2)
    np.testing.assert_array_equal(drawn(skip, hp, ZEROS, ONES, 3), 1)  # the branch stays whole


@pytest.mark.parametrize("layer", range(LAYERS))
def test_stochastic_depth_leaves_out_branches_the_more_the_deeper(layer, make):
    """1 - p_l = rate·l/N, l = 1..N: Huang et al. 2016, eq. 4."""
    skip, hp = make("stochastic_depth", numbers={"skip.rate": 0.4})
    kept = drawn(skip, hp, ZEROS, ONES, KEYS, layer)
    np.testing.assert_array_equal(
        kept, np.broadcast_to(kept[:, :1, :1], kept.shape)
    )  # the whole batch, or nothing
    assert_frequency(kept[:, 0, 0], 1 - 0.4 * [1, 2, 3, 4, 5][layer] / 5)
    np.testing.assert_array_equal(drawn(skip, hp, ONES, ZEROS, 3, layer), 1)  # the shortcut stays


@pytest.mark.parametrize("kind", RANDOM)
def test_layers_draw_independently(kind, make):
    skip, hp = make(kind, numbers={"skip.rate": 0.5})
    h, branch = (ONES, ZEROS) if kind == "dropout" else (ZEROS, ONES)
    fourth, fifth = (drawn(skip, hp, h, branch, KEYS, layer)[:, 0, 0] for layer in (3, 4))
    assert_frequency(fourth * fifth, {"dropout": 0.25, "stochastic_depth": 0.6 * 0.5}[kind])


@pytest.mark.parametrize("kind", RANDOM)
def test_evaluation_is_the_mean_of_training(kind, make):
    skip, hp = make(kind)
    outs = drawn(skip, hp, *example(kind, "float32"), KEYS)
    evaluated = skip(*example(kind, "float32"), ForwardContext(hp, train=False), jnp.int32(LAYER))
    error = np.std(outs, axis=0) / np.sqrt(KEYS)
    assert np.all(np.abs(np.mean(outs, axis=0) - evaluated) <= 4 * error)


@pytest.mark.parametrize("kind", RANDOM)
def test_one_key_one_mask(kind, make):
    skip, hp = make(kind)
    one, again = (drawn(skip, hp, *example(kind, "float32"), 20) for _ in range(2))
    np.testing.assert_array_equal(one, again)


def test_an_unknown_shortcut_is_refused(make):
    skip, hp = make("loop")
    with pytest.raises(ValueError, match="got loop"):
        skip(ONES, ONES, ForwardContext(hp, train=True), jnp.int32(LAYER))

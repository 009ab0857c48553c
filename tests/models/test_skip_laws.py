"""What shortcuts make of a network, as laws: where it begins, and which networks it contains."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from research.models.architecture import ForwardContext
from research.models.feed_forward import FeedForwardBranch
from research.models.layer import Layer
from research.models.plan import Part
from research.models.stack import Stack
from research.training.precision import scope

from ..compiling import quick

FLOAT64 = {"dtype": "float64", "param_dtype": "float64"}
MODELS = {
    "mlp": {"kind": "mlp"},
    "cnn": {"kind": "cnn", "shape": (4, 3, 1), "width": 2, "groups": 1},
    "resnet_cifar": {
        "kind": "resnet_cifar",
        "shape": (4, 3, 1),
        "width": 2,
        "depth": 8,
        "groups": 1,
    },
}
FORWARD = [{"kind": "mlp"}, MODELS["cnn"]]


def kernel_of(chain, n):
    return chain.weights[n].kernel


@pytest.fixture
def layers(make_architecture, make_numbers):
    """A network's layers in a row, from its first to its last output; the same draws for every shortcut."""

    def make(numbers=None, *, train=True, key=None, **changes):
        arch = make_architecture(**(changes | FLOAT64))
        hp = make_numbers({"init.sigma_b": 0.1} | (numbers or {}), runs=None, dtype="float64")
        part = arch.plan[0].parts[0]
        each = [Layer(arch, part, jnp.int32(n), hp, rngs=nnx.Rngs(n)) for n in range(arch.model.depth)]

        def run(h):
            for n, layer in enumerate(each):
                h, _ = layer(h, {}, ForwardContext(hp, train=train, key=key), jnp.int32(n))
            return h

        return run

    return make


def stream(model):
    """A signal between layers, of a network as ``make_architecture`` makes it."""
    shape = (3, *model["shape"][:2], model["width"]) if "shape" in model else (3, 8)
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape))


def names(model):
    return model["kind"]


@pytest.mark.parametrize(
    "norm, placement", [("none", "pre"), ("rms", "pre"), ("group", "branch"), ("dyt", "pre")]
)
@pytest.mark.parametrize("skip", ["rezero", "skipinit"])
@pytest.mark.parametrize("model", FORWARD, ids=names)
def test_at_alpha_zero_the_jacobian_is_the_identity(layers, model, skip, norm, placement):
    """Exactly, whatever the branch is (Bachlechner et al. 2020, §3; De & Smith 2020, §4)."""
    with scope("float64"):
        run = layers({"skip.branch_scale": 0.0}, skip=skip, norm=norm, placement=placement, **model)
        h = stream(model)
        np.testing.assert_array_equal(run(h), h)
        np.testing.assert_array_equal(jax.jacobian(run)(h).reshape(h.size, h.size), np.eye(h.size))


# σ(-40) = 4e-18: less than the rounding of 1
SHUT = -40.0
OPEN = 40.0


@pytest.mark.parametrize("model", FORWARD, ids=names)
@pytest.mark.parametrize("skip, bias, plain", [("highway", OPEN, "none"), ("gated", SHUT, "identity"),
                                               ("gated", OPEN, "none")])  # fmt: skip
def test_gates_lie_between_plain_networks(layers, model, skip, bias, plain):
    """Forward and backward: t·F + (1-t)·h is F, and F + (1-t)·h is F + h or F."""
    with scope("float64"):
        h = stream(model)
        runs = (layers({"skip.gate_bias": bias}, skip=kind, **model) for kind in (skip, plain))
        (out, grad), (expected, grad_expected) = (jax.vjp(run, h) for run in runs)
        np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(grad(h)[0], grad_expected(h)[0], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("model", FORWARD, ids=names)
def test_a_shut_highway_is_the_identity(layers, model):
    """Srivastava, Greff, Schmidhuber 2015, eq. 4 and 5: y = x and dy/dx = 1."""
    with scope("float64"):
        h = stream(model)
        run = layers({"skip.gate_bias": SHUT}, skip="highway", **model)
        np.testing.assert_allclose(run(h), h, rtol=1e-12)
        np.testing.assert_allclose(
            jax.jacobian(run)(h).reshape(h.size, h.size), np.eye(h.size), atol=1e-12
        )


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("skip", ["dropout", "stochastic_depth"])
@pytest.mark.parametrize("model", FORWARD, ids=names)
def test_at_rate_zero_nothing_is_left_out(layers, model, skip, train):
    with scope("float64"):
        h = stream(model)
        how = {"train": train, "key": jax.random.key(0), **model}
        runs = (layers({"skip.rate": 0.0}, skip=kind, **how) for kind in (skip, "identity"))
        np.testing.assert_array_equal(*(run(h) for run in runs))


@pytest.mark.parametrize("placement", ["pre", "branch"])
@pytest.mark.parametrize("model", MODELS.values(), ids=names)
def test_fixup_begins_with_branches_and_head_at_zero(
    make_architecture, make_numbers, model, placement
):
    """Zhang, Dauphin, Ma 2019, §3, rules 1 and 2: the classifier and the last weights of every branch begin at 0."""
    arch = make_architecture(
        **model, skip="fixup", placement=placement, activation="relu", init="he"
    )
    hp = make_numbers({"init.sigma_b": 0.1}, runs=None)
    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.standard_normal((3, arch.inputs)), jnp.float32)

    def begin(x):
        stack = Stack(arch, hp, rngs=nnx.Rngs(0))
        _, statistics = stack(x, {}, ForwardContext(hp, train=True, level=Level.norms))
        return vars(stack.head)["kernel"][...], statistics["activation_rms"]

    head, rms = quick(begin)(x)
    np.testing.assert_array_equal(head, 0)
    if arch.kind != "resnet_cifar":  # there the signal changes its shape on the way
        np.testing.assert_array_equal(rms, rms[0])
    for part in {part for stage in arch.plan for part in stage.parts}:

        def out(z, part=part):
            branch = FeedForwardBranch(arch, part, jnp.int32(0), hp, rngs=nnx.Rngs(1))
            return branch(z, ForwardContext(hp, train=True), jnp.int32(0))[0]

        z = generator.standard_normal(
            (3, *arch.shape[:2], part.inputs) if arch.kind != "mlp" else (3, 8)
        )
        np.testing.assert_array_equal(quick(out)(jnp.asarray(z, jnp.float32)), 0)


BRANCHES = [
    ("resnet_cifar", 8, "basic", 2),
    ("resnet_cifar", 20, "basic", 2),
    ("resnet", 50, "bottleneck", 3),
]


@pytest.mark.parametrize("kind, depth, part, weights", BRANCHES, ids=str)
def test_fixup_scales_the_inner_weights_of_a_branch(
    make_architecture, make_numbers, kind, depth, part, weights
):
    """N^(-1/(2m-2)) times the usual draw, N the number of branches (ibid., rule 2); shifts begin at 0."""
    hp = make_numbers(runs=None)
    branches = {("resnet_cifar", 8): 3, ("resnet_cifar", 20): 9, ("resnet", 50): 16}
    usual = {"kind": kind, "depth": depth, "shape": (8, 8, 1), "bias": False, "init": "he"}
    fixup, he = (
        FeedForwardBranch(
            make_architecture(**usual, skip=skip),
            Part(part, 8, 8),
            jnp.int32(0),
            hp,
            rngs=nnx.Rngs(0),
        )
        for skip in ("fixup", "identity")
    )
    factor = branches[kind, depth] ** (-1 / (2 * weights - 2))
    assert len(fixup.weights) == weights
    for n in range(weights - 1):
        scaled = factor * np.asarray(kernel_of(he, n)[...])
        np.testing.assert_allclose(kernel_of(fixup, n)[...], scaled, rtol=1e-6)
    np.testing.assert_array_equal(kernel_of(fixup, weights - 1)[...], 0)
    assert fixup.shifts is not None and fixup.shifts.shape == (weights, 2)
    np.testing.assert_array_equal(fixup.shifts[...], 0)


def test_fixup_has_a_shift_in_front_of_every_nonlinearity_and_weight(
    make_architecture, make_numbers
):
    """W_2 (φ(W_1 (φ(z + b_1) + b_2) + b_3) + b_4) with four scalars (ibid., rule 3)."""
    with scope("float64"):
        arch = make_architecture(
            kind="resnet_cifar", depth=8, shape=(1, 1, 1), skip="fixup", **FLOAT64
        )
        hp = make_numbers(runs=None, dtype="float64")
        generator = np.random.default_rng(0)
        chain = FeedForwardBranch(arch, Part("basic", 3, 4), jnp.int32(0), hp, rngs=nnx.Rngs(0))
        kernels, z = (
            [generator.standard_normal((3, 3, *size)) for size in ((3, 4), (4, 4))],
            [0.3, -0.2, 0.5, 1.1],
        )
        for weight, kernel in zip(chain.weights, kernels, strict=True):
            vars(weight)["kernel"][...] = jnp.asarray(kernel)
        assert chain.shifts is not None
        chain.shifts[...] = jnp.asarray(z).reshape(2, 2)
        h = generator.standard_normal((2, 1, 1, 3))
        out, _ = chain(jnp.asarray(h), ForwardContext(hp, train=True), jnp.int32(0))
        inner, outer = (kernel[1, 1] for kernel in kernels)  # of one pixel, its own weights alone
        expected = (np.tanh((np.tanh(h + z[0]) + z[1]) @ inner + z[2]) + z[3]) @ outer
        np.testing.assert_allclose(out, expected, rtol=1e-13)


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_every_shift_of_fixup_has_a_part_in_the_loss(
    make_architecture, make_numbers, shaken, placement
):
    """In the original order of ResNets the first stands in front of the nonlinearity behind the sum."""
    arch = make_architecture(
        kind="resnet_cifar", depth=8, width=4, shape=(4, 4, 1), skip="fixup", placement=placement
    )
    hp = make_numbers(runs=None)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 16)), jnp.float32)
    graph, params, rest = nnx.split(Stack(arch, hp, rngs=nnx.Rngs(0)), nnx.Param, ...)

    def out(params):
        return jnp.sum(
            nnx.merge(graph, params, rest)(x, {}, ForwardContext(hp, train=True))[0] ** 2
        )

    grads = nnx.to_pure_dict(quick(jax.grad(out))(shaken(params)))
    shifts = np.concatenate(
        [stack["branch"]["shifts"].ravel() for stack in grads["stages"].values()]
    )
    assert len(shifts) == 4 * arch.layers and np.all(shifts != 0)


def test_stochastic_depth_trains_one_of_the_networks_it_contains(
    network, unrolled, build, make_architecture
):
    """Every output is that of one of the 2^N networks without some of the branches (Huang et al. 2016, §5), as often as
    the product of its layers' probabilities says."""
    with scope("float64"):
        _, arch, hp, params = network(skip="stochastic_depth", **FLOAT64)
        graph, _, rest = nnx.split(Stack(arch, hp, rngs=nnx.Rngs(0)), nnx.Param, ...)
        x = np.random.default_rng(0).standard_normal((2, 5))
        plain = nnx.to_pure_dict(params)

        def call(key):
            return nnx.merge(graph, params, rest)(
                jnp.asarray(x), {}, ForwardContext(hp, train=True, key=key)
            )[0]

        outs = np.asarray(jax.vmap(call)(jax.random.split(jax.random.key(0), 500)))
        rates = 0.3 * np.array([1, 2, 3]) / 3
        found = 0
        for kept in itertools.product([0.0, 1.0], repeat=3):
            expected = np.asarray(unrolled(arch, plain, x, hp, kept=kept)[0])
            count = np.sum(np.all(np.abs(outs - expected) < 1e-12, axis=(1, 2)))
            probability = np.prod(np.where(np.array(kept) == 1, 1 - rates, rates))
            assert abs(count / 500 - probability) <= 4 * np.sqrt(
                probability * (1 - probability) / 500
            )
            found += count
        assert found == 500


def test_a_layer_of_a_dense_network_changes_nothing_that_is_written(
    make_architecture, make_numbers
):
    """It reads what is written, and writes its own units behind that (Huang et al. 2017, eq. 2)."""
    with scope("float64"):
        arch = make_architecture(skip="dense", **FLOAT64)
        hp = make_numbers(runs=None, dtype="float64")
        h = np.random.default_rng(0).standard_normal((3, 17))
        for n in range(3):
            layer = Layer(arch, arch.plan[0].parts[0], jnp.int32(n), hp, rngs=nnx.Rngs(n))

            def run(h, layer=layer, n=n):
                return layer(h, {}, ForwardContext(hp, train=True), jnp.int32(n))[0]

            jacobian = np.asarray(jax.jacobian(lambda one: run(one[None])[0])(jnp.asarray(h[0])))
            old = np.delete(np.arange(17), np.arange(8 + 3 * n, 11 + 3 * n))
            new = 8 + 3 * n
            written = 8 + 3 * n
            np.testing.assert_array_equal(jacobian[old], np.eye(17)[old])
            assert np.all(jacobian[new : new + 3, :written] != 0)
            np.testing.assert_array_equal(jacobian[new : new + 3, written:], 0)


@pytest.mark.parametrize("layer", [0, 2])
def test_a_dense_layer_begins_with_the_variance_of_the_units_it_reads(
    make_architecture, make_numbers, layer
):
    """He: Var W = 2 / fan-in, the fan that of the units written already, not of the whole stream."""
    arch = make_architecture(skip="dense", width=100, growth=50, depth=4, init="he")
    chain = FeedForwardBranch(
        arch, arch.plan[0].parts[0], jnp.int32(layer), make_numbers(runs=None), rngs=nnx.Rngs(0)
    )
    kernel = np.asarray(kernel_of(chain, 0)[...])
    written = 100 + layer * 50
    # The mean of n squares of normal numbers has a relative standard deviation of √(2/n): five of them.
    np.testing.assert_allclose(np.mean(kernel**2), 2 / written, rtol=5 * np.sqrt(2 / kernel.size))


RATE = 0.3
KEYS = 2000


@pytest.fixture
def linear(make_architecture, make_numbers):
    """A linear branch with dropout, its input, and what it gives for many random keys."""

    def make(kind="mlp", part="dense"):
        arch = make_architecture(
            kind=kind, dropout=True, activation="linear", shape=(2, 2, 1), depth=8
        )
        hp = make_numbers({"model.dropout": RATE}, runs=None)
        branch = FeedForwardBranch(arch, Part(part, 8, 8), jnp.int32(1), hp, rngs=nnx.Rngs(0))
        shape = (2, 8) if part == "dense" else (2, 2, 2, 8)
        z = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)

        def call(key, layer=1):
            return branch(z, ForwardContext(hp, train=True, key=key), jnp.int32(layer))[0]

        whole = branch(z, ForwardContext(hp, train=False), jnp.int32(1))[0]
        return branch, z, whole, jax.vmap(call, (0, None))

    return make


@pytest.mark.parametrize("kind, part", [("mlp", "dense"), ("cnn", "conv"), ("resnet_cifar", "basic"),
                                        ("transformer", "feedforward")])  # fmt: skip
def test_dropout_keeps_the_mean(linear, kind, part):
    """Over masks, of a branch without nonlinearity; evaluation has none (Srivastava et al. 2014, §10)."""
    *_, whole, call = linear(kind, part)
    outs = np.asarray(call(jax.random.split(jax.random.key(0), KEYS), 1), np.float64)
    error = np.std(outs, axis=0) / np.sqrt(KEYS)
    assert np.all(error > 0)
    assert np.all(np.abs(np.mean(outs, axis=0) - whole) <= 4 * error)


def test_dropout_leaves_out_inputs_one_by_one(linear):
    branch, z, _, call = linear()
    kernel_of(branch, 0)[...] = jnp.eye(8)
    keys = jax.random.split(jax.random.key(1), KEYS)
    kept, next_layer = (
        np.asarray(call(keys, layer)) / np.asarray(z) * (1 - RATE) for layer in (1, 2)
    )
    np.testing.assert_allclose(kept, np.round(kept), atol=1e-6)
    assert set(np.unique(np.round(kept))) == {0, 1}
    for outcomes, probability in [
        (kept, 1 - RATE),
        (kept[:, 0, 0] * kept[:, 0, 1], (1 - RATE) ** 2),
        (kept[:, 0, 0] * kept[:, 1, 0], (1 - RATE) ** 2),
        (kept[:, 0, 0] * next_layer[:, 0, 0], (1 - RATE) ** 2),
    ]:
        error = np.sqrt(probability * (1 - probability) / outcomes.size)
        assert abs(np.mean(outcomes) - probability) <= 4 * error

"""What shortcuts make of a network, as laws: its initial state, and the networks it contains."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose, assert_array_equal

from research.config.options import Level, ModelKind
from research.models.architecture import ForwardContext
from research.models.feed_forward import FeedForwardBranch
from research.models.layer import Layer
from research.models.plan import Part
from research.models.stack import Stack

from ..builders import make_architecture
from ..compiling import quick
from ..oracle import unrolled
from .networks import FLOAT64, add_noise, initialize, make_network, make_numbers, normal
from .statistics import assert_frequency, assert_mean

MLP = {"kind": "mlp"}
CNN = {
    "kind": "cnn",
    "shape": (4, 3, 1),
    "width": 2,
}
RESNET = {
    "kind": "resnet_cifar",
    "shape": (4, 3, 1),
    "width": 2,
    "depth": 8,
}

float64 = pytest.mark.usefixtures("float64")


def name_model(model):
    return model["kind"]


mlp_and_cnn = pytest.mark.parametrize("model", [MLP, CNN], ids=name_model)


def make_layers(model, skip, numbers=None, *, train=True, key=None, **changes):
    """The layers of a network as a function; the weights do not depend on the shortcut."""
    arch = make_architecture(
        **model,
        skip=skip,
        **changes,
        **FLOAT64,
    )
    numbers = {"init.sigma_b": 0.1} | (numbers or {})
    hp = make_numbers(arch, numbers)
    ctx = ForwardContext(hp, train, key=key)
    part = arch.plan[0].parts[0]
    layers = []
    for number in range(arch.model.depth):
        layer = Layer(arch, part, jnp.int32(number), hp, rngs=nnx.Rngs(number))
        layers.append(layer)

    def run(h):
        for number, layer in enumerate(layers):
            h, _ = layer(h, {}, ctx, jnp.int32(number))
        return h

    return run


def make_signal(model):
    """A signal between layers."""
    shape = (3, 8)
    if "shape" in model:
        height, width, _ = model["shape"]
        shape = (3, height, width, model["width"])
    return jnp.asarray(normal(shape))


def compute_jacobian(function, h):
    jacobian = jax.jacobian(function)(h)
    return jacobian.reshape(h.size, h.size)


# --- Networks that a shortcut contains ------------------------------------------------------------


@pytest.mark.parametrize(
    "norm, placement",
    [
        ("none", "pre"),
        pytest.param("rms", "pre", marks=pytest.mark.slow),
        ("group", "branch"),
        pytest.param("dyt", "pre", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("skip", ["rezero", "skipinit"])
@float64
@mlp_and_cnn
def test_at_alpha_zero_the_jacobian_is_the_identity(model, skip, norm, placement):
    """Exactly, for every branch (Bachlechner et al. 2020, §3; De & Smith 2020, §4)."""
    numbers = {"skip.branch_scale": 0.0} if skip == "skipinit" else {}
    changes = {"norm": norm, "placement": placement}
    if norm == "group":
        changes["groups"] = 1 if model is CNN else 2
    run = make_layers(model, skip, numbers, **changes)
    h = make_signal(model)
    assert_array_equal(run(h), h)
    assert_array_equal(compute_jacobian(run, h), np.eye(h.size))


# σ(−40) = 4e-18, less than the rounding error of 1.
CLOSED = -40.0
OPEN = 40.0


@pytest.mark.parametrize(
    "skip, bias, limit",
    [
        ("highway", OPEN, "none"),
        ("gated", CLOSED, "identity"),
        ("gated", OPEN, "none"),
    ],
)
@float64
@mlp_and_cnn
def test_gates_lie_between_plain_networks(model, skip, bias, limit):
    """Forward and backward: t·F + (1−t)·h becomes F, and F + (1−t)·h becomes F + h or F."""
    h = make_signal(model)
    gated = make_layers(model, skip, {"skip.gate_bias": bias})
    plain = make_layers(model, limit)
    out, pull_back = jax.vjp(gated, h)
    expected, expected_pull_back = jax.vjp(plain, h)
    (gradient,) = pull_back(h)
    (expected_gradient,) = expected_pull_back(h)
    assert_allclose(out, expected, rtol=1e-12, atol=1e-13)
    assert_allclose(gradient, expected_gradient, rtol=1e-12, atol=1e-13)


@float64
@mlp_and_cnn
def test_a_closed_highway_is_the_identity(model):
    """Srivastava, Greff, Schmidhuber 2015, eq. 4 and 5: y = x and dy/dx = 1."""
    h = make_signal(model)
    run = make_layers(model, "highway", {"skip.gate_bias": CLOSED})
    assert_allclose(run(h), h, rtol=1e-12)
    assert_allclose(compute_jacobian(run, h), np.eye(h.size), atol=1e-12)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("skip", ["dropout", "stochastic_depth"])
@float64
@mlp_and_cnn
def test_at_rate_zero_nothing_is_dropped(model, skip, train):
    h = make_signal(model)
    key = jax.random.key(0)
    run = make_layers(
        model,
        skip,
        {"skip.rate": 0.0},
        train=train,
        key=key,
    )
    identity = make_layers(model, "identity", train=train, key=key)
    assert_array_equal(run(h), identity(h))


@float64
@pytest.mark.slow
def test_stochastic_depth_trains_the_networks_that_it_contains():
    """Each output is that of one of the 2^N networks without some branches (Huang et al., §5).

    It occurs as often as the product of its layers' probabilities says.
    """
    network = make_network(skip="stochastic_depth", **FLOAT64)
    x = normal((2, 5))
    params = nnx.to_pure_dict(network.params)
    num_keys = 500

    def call(key):
        ctx = ForwardContext(network.hp, train=True, key=key)
        logits, _ = network.merge()(jnp.asarray(x), {}, ctx)
        return logits

    outs = np.asarray(jax.vmap(call)(jax.random.split(jax.random.key(0), num_keys)))
    rates = 0.3 * np.array([1, 2, 3]) / 3
    num_found = 0
    for kept in itertools.product([0.0, 1.0], repeat=3):
        logits, _ = unrolled(network.arch, params, x, network.hp, kept=kept)
        difference = np.abs(outs - np.asarray(logits))
        is_this_network = np.all(difference < 1e-12, axis=(1, 2))
        probabilities = np.where(np.array(kept) == 1, 1 - rates, rates)
        assert_frequency(is_this_network, np.prod(probabilities))
        num_found += np.sum(is_this_network)
    assert num_found == num_keys


# --- Fixup ----------------------------------------------------------------------------------------


def kernel_of(branch, number):
    return np.asarray(branch.weights[number].kernel[...])


def list_fixup_networks():
    """Without a norm, ``norm.placement`` acts in ResNets only."""
    return [
        (MLP, "pre"),
        (CNN, "pre"),
        (RESNET, "pre"),
        (RESNET, "branch"),
    ]


@pytest.mark.parametrize("model, placement", list_fixup_networks())
def test_fixup_initially_has_a_head_and_branches_of_zero(model, placement):
    """Zhang, Dauphin, Ma 2019, §3, rules 1 and 2."""
    arch = make_architecture(
        **model,
        skip="fixup",
        placement=placement,
        activation="relu",
        init="he",
    )
    hp = make_numbers(arch, {"init.sigma_b": 0.1})
    x = jnp.asarray(normal((3, arch.inputs)), jnp.float32)

    @quick
    def initialize_and_run(x):
        stack = Stack(arch, hp, rngs=nnx.Rngs(0))
        ctx = ForwardContext(hp, train=True, level=Level.norms)
        _, statistics = stack(x, {}, ctx)
        assert stack.head is not None
        return stack.head.kernel[...], statistics["activation_rms"]

    head, rms = initialize_and_run(x)
    assert_array_equal(head, 0)
    if model is not RESNET:  # there the signal changes its shape
        assert_array_equal(rms, rms[0])


@pytest.mark.parametrize("model, placement", list_fixup_networks())
def test_every_branch_of_fixup_is_initially_zero(model, placement):
    arch = make_architecture(
        **model,
        skip="fixup",
        placement=placement,
        activation="relu",
        init="he",
    )
    hp = make_numbers(arch, {"init.sigma_b": 0.1})
    for stage in arch.plan:
        (part,) = stage.parts
        shape = (3, part.inputs)
        if arch.model.kind is not ModelKind.mlp:
            shape = (3, *arch.shape[:2], part.inputs)
        z = jnp.asarray(normal(shape), jnp.float32)

        @quick
        def initialize_and_run(z, part=part):
            branch = FeedForwardBranch(arch, part, jnp.int32(0), hp, rngs=nnx.Rngs(1))
            out, _ = branch(z, ForwardContext(hp, train=True), jnp.int32(0))
            return out

        assert_array_equal(initialize_and_run(z), 0)


@pytest.mark.parametrize(
    "kind, depth, branch, num_branches, num_weights",
    [
        ("resnet_cifar", 8, "basic", 3, 2),
        ("resnet_cifar", 20, "basic", 9, 2),
        ("resnet", 50, "bottleneck", 16, 3),
    ],
)
def test_fixup_scales_the_inner_weights_of_a_branch(
    kind,
    depth,
    branch,
    num_branches,
    num_weights,
):
    """By N^(-1/(2m-2)) with N branches of m weights (ibid., rule 2); shifts are initially 0."""

    def make_branch(skip):
        arch = make_architecture(
            kind=kind,
            depth=depth,
            shape=(8, 8, 1),
            bias=False,
            init="he",
            skip=skip,
        )
        hp = make_numbers(arch)
        part = Part(branch, 8, 8)
        return FeedForwardBranch(arch, part, jnp.int32(0), hp, rngs=nnx.Rngs(0))

    fixup = make_branch("fixup")
    usual = make_branch("identity")
    factor = num_branches ** (-1 / (2 * num_weights - 2))
    last = num_weights - 1
    assert len(fixup.weights) == num_weights
    for number in range(last):
        expected = factor * kernel_of(usual, number)
        assert_allclose(kernel_of(fixup, number), expected, rtol=1e-6)
    assert_array_equal(kernel_of(fixup, last), 0)
    assert fixup.shifts is not None
    assert fixup.shifts.shape == (num_weights, 2)
    assert_array_equal(fixup.shifts[...], 0)


@float64
def test_fixup_adds_a_number_before_every_nonlinearity_and_weight():
    """W_2 (φ(W_1 (φ(z + b_1) + b_2) + b_3) + b_4) with four numbers (ibid., rule 3)."""
    arch = make_architecture(
        kind="resnet_cifar",
        depth=8,
        shape=(1, 1, 1),
        skip="fixup",
        **FLOAT64,
    )
    hp = make_numbers(arch)
    branch = FeedForwardBranch(arch, Part("basic", 3, 4), jnp.int32(0), hp, rngs=nnx.Rngs(0))
    first = normal((3, 3, 3, 4), seed=0)
    second = normal((3, 3, 4, 4), seed=1)
    b = [0.3, -0.2, 0.5, 1.1]
    branch.weights[0].kernel[...] = jnp.asarray(first)
    branch.weights[1].kernel[...] = jnp.asarray(second)
    assert branch.shifts is not None
    branch.shifts[...] = jnp.asarray(b).reshape(2, 2)
    h = normal((2, 1, 1, 3), seed=2)

    out, _ = branch(jnp.asarray(h), ForwardContext(hp, train=True), jnp.int32(0))

    # An image of one pixel sees the centre of a kernel only.
    inner = (np.tanh(h + b[0]) + b[1]) @ first[1, 1]
    expected = (np.tanh(inner + b[2]) + b[3]) @ second[1, 1]
    assert_allclose(out, expected, rtol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_the_loss_depends_on_every_shift_of_fixup(placement):
    """In the original order of ResNets, the first one precedes the nonlinearity after the sum."""
    arch = make_architecture(
        kind="resnet_cifar",
        depth=8,
        width=4,
        shape=(4, 4, 1),
        skip="fixup",
        placement=placement,
    )
    hp = make_numbers(arch)
    network = initialize(arch, hp)
    x = jnp.asarray(normal((3, 16)), jnp.float32)

    @quick
    @jax.grad
    def gradient(params):
        logits, _ = network.merge(params)(x, {}, ForwardContext(hp, train=True))
        return jnp.sum(logits**2)

    grads = nnx.to_pure_dict(gradient(add_noise(network.params)))
    num_shifts = 0
    for stack in grads["stages"].values():
        shifts = stack["branch"]["shifts"]
        num_shifts += shifts.size
        assert np.all(shifts != 0)
    assert num_shifts == 4 * arch.layers


# --- Dense networks -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(3))
@float64
def test_a_layer_of_a_dense_network_only_adds_units(number):
    """It reads the units that hold a value, and adds more after them (Huang et al. 2017)."""
    width = 8
    growth = 3
    total = width + 3 * growth
    arch = make_architecture(
        skip="dense",
        width=width,
        growth=growth,
        **FLOAT64,
    )
    hp = make_numbers(arch)
    part = arch.plan[0].parts[0]
    layer = Layer(arch, part, jnp.int32(number), hp, rngs=nnx.Rngs(number))
    h = jnp.asarray(normal(total))

    def run(h):
        out, _ = layer(h[None], {}, ForwardContext(hp, train=True), jnp.int32(number))
        return out[0]

    jacobian = np.asarray(jax.jacobian(run)(h))
    num_active = width + growth * number
    new_units = slice(num_active, num_active + growth)
    other_rows = np.delete(jacobian, new_units, axis=0)
    assert_array_equal(other_rows, np.delete(np.eye(total), new_units, axis=0))
    assert np.all(jacobian[new_units, :num_active] != 0)
    assert_array_equal(jacobian[new_units, num_active:], 0)


@pytest.mark.parametrize("number", [0, 2])
def test_the_initial_variance_of_a_dense_layer_is_for_the_units_it_reads(number):
    """He: Var W = 2 / fan-in, where the fan-in counts the units that hold a value."""
    arch = make_architecture(
        skip="dense",
        width=100,
        growth=50,
        depth=4,
        init="he",
    )
    hp = make_numbers(arch)
    part = arch.plan[0].parts[0]
    branch = FeedForwardBranch(arch, part, jnp.int32(number), hp, rngs=nnx.Rngs(0))
    kernel = kernel_of(branch, 0)
    fan_in = 100 + number * 50
    # The mean of n squares of normal numbers has a relative standard deviation of √(2/n).
    five_deviations = 5 * np.sqrt(2 / kernel.size)
    assert_allclose(np.mean(kernel**2), 2 / fan_in, rtol=five_deviations)


# --- Dropout --------------------------------------------------------------------------------------

RATE = 0.3
KEYS = 2000


class LinearBranch:
    """A linear branch with dropout and its input."""

    def __init__(self, kind="mlp", part="dense"):
        changes = {
            "dropout": RATE,
            "activation": "linear",
            "shape": (2, 2, 1),
            "depth": 8,
        }
        arch = make_architecture(kind=kind, **changes)
        self.hp = make_numbers(arch, {"model.dropout": RATE})
        part = Part(part, 8, 8)
        self.branch = FeedForwardBranch(arch, part, jnp.int32(1), self.hp, rngs=nnx.Rngs(0))
        is_image = part.kind in ("conv", "basic")
        shape = (2, 2, 2, 8) if is_image else (2, 8)
        self.z = jnp.asarray(normal(shape), jnp.float32)

    def call(self, *, train, key=None, layer=1):
        ctx = ForwardContext(self.hp, train, key=key)
        out, _ = self.branch(self.z, ctx, jnp.int32(layer))
        return out

    def sample(self, seed, layer=1):
        """The outputs in training for many random keys."""
        keys = jax.random.split(jax.random.key(seed), KEYS)
        outs = jax.vmap(lambda key: self.call(train=True, key=key, layer=layer))(keys)
        return np.asarray(outs, np.float64)


@pytest.mark.parametrize(
    "kind, part",
    [
        ("mlp", "dense"),
        ("cnn", "conv"),
        ("resnet_cifar", "basic"),
        ("transformer", "feedforward"),
    ],
)
def test_dropout_keeps_the_mean(kind, part):
    """Over masks, for a linear branch; evaluation drops nothing (Srivastava et al. 2014, §10)."""
    branch = LinearBranch(kind, part)
    samples = branch.sample(seed=0)
    assert np.all(np.std(samples, axis=0) > 0)
    assert_mean(samples, branch.call(train=False))


def test_dropout_drops_inputs_independently():
    branch = LinearBranch()
    branch.branch.weights[0].kernel[...] = jnp.eye(8)

    def sample_masks(layer):
        masks = branch.sample(seed=1, layer=layer) / np.asarray(branch.z) * (1 - RATE)
        assert_allclose(masks, np.round(masks), atol=1e-6)
        return np.round(masks)

    kept = sample_masks(layer=1)
    kept_in_next_layer = sample_masks(layer=2)
    first = kept[:, 0, 0]
    both = (1 - RATE) ** 2
    assert set(np.unique(kept)) == {0, 1}
    assert_frequency(kept, 1 - RATE)
    assert_frequency(first * kept[:, 0, 1], both)
    assert_frequency(first * kept[:, 1, 0], both)
    assert_frequency(first * kept_in_next_layer[:, 0, 0], both)

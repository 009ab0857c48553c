"""A family of networks: depth, shortcut and activation are arguments of one program."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from numpy.testing import assert_allclose, assert_array_equal

from research.config.family import affine_factors, has_family
from research.config.options import ScaledSkip, SkipKind
from research.config.schema import make_option
from research.gauges.table import trim_profile
from research.models.loop import loop_over_layers
from research.parallel.mesh import Layout
from research.runner.run_setup import make_run_setup
from research.runner.run_spec import group_key
from research.training.precision import precision_context
from research.training.program import make_program

from ..builders import make_config
from .programs import take_steps

slow = functools.partial(pytest.param, marks=pytest.mark.slow)

STEPS = 4
USUAL = {
    "data": "noise",
    "data.examples": 64,
    "data.shape": (6,),
    "model.width": 8,
    "train.batch_size": 16,
    "train.steps": STEPS,
}
MEMBERS = [  # depth, shortcut and activation
    (3, "none", "tanh"),
    (9, "identity", "relu"),
    (5, "scaled", "sigmoid"),
    (2, "inv_sqrt_depth", "gelu"),
]


def make_member(
    depth,
    skip,
    activation,
    **changes,
):
    settings = {"model.depth": depth, "skip": skip, "activation": activation}
    if skip == "scaled":
        settings |= {"skip.branch_scale": 0.5, "skip.shortcut_scale": 0.9}
    return make_config(USUAL | settings | changes)


def train(
    *configs,
    map_mode="map",
    num_copies=0,
    fast_compile=True,
):
    """Trains the configurations together: the last states and the rows, with an axis of runs."""
    layout = Layout(map_mode)
    with precision_context(configs[0].precision.kind.name):
        setup = make_run_setup(*configs, layout=layout, num_copies=num_copies)
        spec = dataclasses.replace(setup.program_config, fast_compile=fast_compile)
        program = make_program(spec, layout)
        state = program.init(setup.hp)
        arguments = (setup.hp, setup.data, np.int32(0), np.int32(STEPS))
        state, rows = program.chunk(state, *arguments)
        return state, take_steps(rows, STEPS)


def rows_of(
    rows,
    run,
    config,
):
    """The rows of one run, with the entries of its own layers."""
    own = jax.tree.map(lambda column: column[run], rows)
    return own | {"profile": trim_profile(own["profile"], config.model.depth)}


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adam", "optimizer.clip": "global_norm", "measure": "full", "norm": "batch"},
        slow({"norm": "layer", "optimizer.clip": "adaptive", "model.dropout": 0.2}),
        slow({"norm": "rms", "norm.placement": "post", "optimizer": "muon"}),
        slow({"precision": "mixed_float16", "measure": "full"}),
        slow({"precision": "float64", "init": "orthogonal"}),
    ],
    ids=str,
)
def test_a_member_is_bit_for_bit_the_run_alone(changes):
    configs = [make_member(*member, **changes) for member in MEMBERS]

    _, together = train(*configs, fast_compile=False)
    _, alone = train(configs[0], fast_compile=False)

    first_of_group = rows_of(together, 0, configs[0])
    assert_trees_equal(first_of_group, rows_of(alone, 0, configs[0]))


def assert_trees_equal(actual, expected):
    jax.tree.map(assert_array_equal, actual, expected)


@pytest.mark.parametrize("skip", ["scaled", slow("none"), slow("identity"), slow("inv_sqrt_depth")])
@pytest.mark.parametrize("activation", ["tanh", slow("relu"), slow("gelu"), slow("softsign")])
def test_a_member_is_the_network_that_its_options_describe(skip, activation):
    """The program of an accelerator takes the options as they are, and scans over the layers."""
    config = make_member(5, skip, activation, precision="float64", measure="full", norm="layer")

    state, member = train(config)
    described_state, described = train(config, map_mode="vmap")

    assert_allclose_tree(member, described)
    assert_allclose_tree(state.params, described_state.params)


def assert_allclose_tree(actual, expected):
    jax.tree.map(functools.partial(assert_allclose, rtol=1e-10, atol=1e-12), actual, expected)


def test_a_run_that_fills_up_a_device_is_not_trained():
    config = make_member(2, "none", "tanh", measure="off")

    state, rows = train(config, config, num_copies=1)

    assert state.step.tolist() == [STEPS, 0]
    assert np.all(rows["train_loss"][0] > 0)
    assert np.all(rows["train_loss"][1] == 0)


def test_members_of_a_family_share_a_program():
    keys = {group_key(make_member(*member)) for member in MEMBERS}

    assert len(keys) == 1


def test_on_accelerators_members_have_programs_of_their_own():
    keys = {group_key(make_member(*member), families=False) for member in MEMBERS}

    assert len(keys) == len(MEMBERS)


@pytest.mark.parametrize(
    "changes",
    [
        {"skip": "rezero"},
        {"skip": "dense"},
        {"model": "rnn"},
        {"model": "cnn"},
        {"model.recompute": True},
        {"measure.inspect": ("sharpness",)},
    ],
    ids=str,
)
def test_what_the_loop_cannot_do_has_a_program_of_its_own(changes):
    shallow = make_config({"model.depth": 2} | changes)
    deep = make_config({"model.depth": 3} | changes)

    assert not has_family(shallow)
    assert group_key(shallow) != group_key(deep)


@pytest.mark.parametrize(
    ("skip", "expected"),
    [
        (make_option("skip", "none"), (0, 1)),
        (make_option("skip", "identity"), (1, 1)),
        (make_option("skip", "inv_sqrt_depth"), (1, 0.25)),
        (ScaledSkip(shortcut_scale=0.3, branch_scale=0.7), (0.3, 0.7)),
    ],
    ids=["none", "identity", "inv_sqrt_depth", "scaled"],
)
def test_factors_of_affine_shortcuts(skip, expected):
    assert affine_factors(skip, depth=16) == expected


def test_a_shortcut_that_is_not_affine_has_no_factors():
    with pytest.raises(ValueError, match="skip must be affine, got rezero"):
        affine_factors(dataclasses.replace(make_option("skip", "none"), kind=SkipKind.rezero), 4)


class TestLoop:
    """The loop over layers against ``lax.scan``, in float64."""

    depth = 5

    @pytest.fixture(autouse=True)
    def in_float64(self):
        with precision_context("float64"):
            yield

    @staticmethod
    def body(h, number, layer):
        h = jnp.tanh(h @ layer["weight"]) + number * layer["bias"][None]
        return h, jnp.sum(h)

    def layers(self, capacity):
        keys = jax.random.split(jax.random.key(0), capacity)
        weights = jax.vmap(lambda key: jax.random.normal(key, (4, 4)))(keys)
        return {"weight": weights, "bias": weights[:, 0]}

    def loop(self, h, layers):
        out, sums = loop_over_layers(self.body, h, layers, jnp.int32(self.depth))
        return jnp.sum(out**2), sums

    def scan(self, h, layers):
        def step(h, numbered):
            number, layer = numbered
            return self.body(h, number, layer)

        out, sums = lax.scan(step, h, (jnp.arange(self.depth), layers))
        return jnp.sum(out**2), sums

    def value_and_gradients(self, function, capacity):
        h = jnp.linspace(-1, 1, 12).reshape(3, 4)
        differentiate = jax.value_and_grad(function, argnums=(0, 1), has_aux=True)
        return jax.jit(differentiate)(h, self.layers(capacity))

    def test_it_is_a_scan_over_the_first_layers(self):
        (value, sums), gradients = self.value_and_gradients(self.loop, capacity=8)
        (expected, expected_sums), expected_gradients = self.value_and_gradients(
            self.scan, capacity=self.depth
        )

        first = functools.partial(jax.tree.map, lambda leaf: leaf[: self.depth])
        assert_allclose(value, expected, rtol=1e-6)
        assert_allclose(sums[: self.depth], expected_sums, rtol=1e-6)
        assert_allclose(gradients[0], expected_gradients[0], rtol=1e-5)
        jax.tree.map(
            functools.partial(assert_allclose, rtol=1e-5, atol=1e-6),
            first(gradients[1]),
            expected_gradients[1],
        )

    def test_layers_beyond_the_count_get_no_gradient_and_no_result(self):
        (_, sums), gradients = self.value_and_gradients(self.loop, capacity=8)

        assert np.all(sums[self.depth :] == 0)
        assert np.all(gradients[1]["weight"][self.depth :] == 0)

    def test_room_for_more_layers_changes_no_bit(self):
        tight = self.value_and_gradients(self.loop, capacity=self.depth)
        roomy = self.value_and_gradients(self.loop, capacity=11)

        assert tight[0][0] == roomy[0][0]
        assert_array_equal(tight[1][0], roomy[1][0])
        assert_array_equal(tight[1][1]["weight"], roomy[1][1]["weight"][: self.depth])

"""Two devices that share a batch compute every number that one device does, up to rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.config import schema as config
from research.parallel.mesh import SINGLE_DEVICE, Layout, place, shard_state
from research.training.precision import scope
from research.training.program import make_program

SHARED = Layout("map", 2, "batch")
STEPS = 4
FLOAT64_ROUNDING = (
    1e-8  # after some steps of networks whose initial weights are three times too large
)
FLOAT32_ROUNDING = 1e-6
NUMBERS = {
    "seed": [0, 1],
    "init.gain": [1.0, 3.0],
    "model.dropout": 0.3,
    "skip.rate": 0.4,
    "train.input_noise": 0.2,
    "loss.label_smoothing": 0.1,
    "optimizer.clip_threshold": 0.3,
    "precision.loss_scale": 1e308,
    "precision.growth_interval": 1,
}
RANDOM = {
    "skip": "dropout",
    "dropout": True,
    "noisy": True,
    "clip": "global_norm",
    "loss_scaling": "dynamic",
    "norm": "batch",
    "activation": "relu",
    "bias": False,
    "level": "full",
}
IMAGES = {
    "kind": "cnn",
    "shape": (6, 6, 1),
    "crop": 1,
    "flip": True,
    "activation": "relu",
    "optimizer": "gd",
    "rounding": "float8_e5m2",
    "tensor_scale": True,
    "skip": "stochastic_depth",
    "level": "full",
}
TEXTS = {"shape": (4,), "vocabulary": 5, "padded": True, "streamed": True}
CASES = {
    "every other step": RANDOM | {"every": 2, "recompute": True},
    "augmented images in eight bits": IMAGES,
    "texts and shared weights": TEXTS | {"kind": "rnn", "depth": 4, "level": "full"},
}
GROUPS = {
    "kind": config.ModelKind,
    "norm": config.NormKind,
    "skip": config.SkipKind,
    "optimizer": config.OptimizerKind,
    "clip": config.Clip,
}
OPTIONS = [(group, option.name) for group, options in GROUPS.items() for option in options]
CHANGES_OF_OPTION = {
    "transformer": TEXTS | {"heads": 2, "expansion": 2, "bias": False},
    "rnn": TEXTS | {"depth": 4, "cell": "lstm"},
    "cnn": {"shape": (8, 8, 1)},
    "resnet_cifar": {"shape": (8, 8, 1), "depth": 8, "norm": "batch", "bias": False},
    "resnet": {"shape": (8, 8, 1), "depth": 18, "norm": "batch", "bias": False},
    "batch": {"bias": False},
    "deepnorm": {"placement": "post"},
}


@pytest.fixture
def train_on_one_and_two(make_spec, make_numbers, make_data, quickly_compiled):
    """Trains two runs on one device, and on two that share their batches; returns both results."""

    def run(**changes):
        with scope("float64"):
            spec = make_spec(precision="float64", capacity=STEPS, **changes)
            data = make_data(inputs=spec.architecture.inputs)
            if spec.streamed:
                data = stream_texts(data, spec.batch_size)
            numbers = make_numbers(NUMBERS, runs=2, dtype="float64")
            one = train(spec, SINGLE_DEVICE, numbers, data)
            two = train(spec, SHARED, numbers, data)
        return one, two

    return run


def stream_texts(data, batch_size):
    """Turns random numbers into batches of padded texts, with tokens from 1 to 4."""
    tokens = jnp.clip(jnp.abs(3 * data["x"]), 1, 4).astype(jnp.int32)
    lengths = 1 + jnp.arange(24) % 4
    is_token = jnp.arange(4)[None] < lengths[:, None]
    tokens = jnp.where(is_token, tokens, 0)
    order = np.arange(STEPS * batch_size).reshape(STEPS, -1) % 24
    return data | {"x": tokens[order], "y": data["y"][order], "eval_x": tokens[::-1]}


def train(spec, layout, numbers, data):
    """Everything that the program computes in a few steps, on the host."""
    program = make_program(spec, layout)
    initial = make_program(spec).init(numbers)
    state = shard_state(layout, initial)
    numbers = place(layout, numbers, per_run=True)
    data = place(layout, data, per_run=False)
    results = {}
    # Biases before batch norm, and those of keys, have gradients of nothing but rounding errors,
    # whose exponents can be any.
    if spec.architecture.model.bias:
        results["exponents"] = program.exponents(state, numbers, data)
    state, rows = program.chunk(state, numbers, data, np.int32(0), np.int32(STEPS))
    results["rows"] = rows
    results["evaluation"] = program.evaluate(state, numbers, data)
    results["state"] = [state.params, state.model_state, state.opt_state, state.loss_scale]
    for leaf in jax.tree.leaves(results):
        assert leaf.sharding.is_fully_replicated
    return jax.device_get(results)


def assert_same(one, two):
    leaves = jax.tree.leaves_with_path(one)
    for (path, expected), value in zip(leaves, jax.tree.leaves(two), strict=True):
        # Fractions are float32 in a float64 run too.
        rounding = FLOAT32_ROUNDING if expected.dtype == np.float32 else FLOAT64_ROUNDING
        np.testing.assert_allclose(
            value, expected, rounding, rounding, err_msg=jax.tree_util.keystr(path)
        )


def test_two_devices_are_one_in_random_draws_batch_norm_and_overflows(train_on_one_and_two):
    """A unit that is dead on one half of the batch is alive on the other; an overflow is shared."""
    one, two = train_on_one_and_two(**RANDOM)

    assert_same(one, two)
    skipped = one["rows"]["skipped"]
    assert np.any(skipped)
    assert not np.all(skipped)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_devices_are_one(train_on_one_and_two, case):
    one, two = train_on_one_and_two(**CASES[case])
    assert_same(one, two)


@pytest.mark.slow
@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_two_devices_are_one_with_each_option(train_on_one_and_two, group, option):
    changes = {group: option, "level": "full"} | CHANGES_OF_OPTION.get(option, {})
    one, two = train_on_one_and_two(**changes)
    assert_same(one, two)


@pytest.mark.parametrize(("level", "skip"), [("off", "none"), ("norms", "identity")])
def test_a_step_waits_for_the_other_devices_once(make_spec, make_numbers, make_data, level, skip):
    """Every wait costs more than a layer does: the network itself has no all-reduce."""
    program = make_program(make_spec(level=level, skip=skip), SHARED)
    numbers = make_numbers()
    state = jax.eval_shape(program.init, numbers)

    step = program.chunk.lower(state, numbers, make_data(), np.int32(0), np.int32(1))

    assert step.as_text().count("all_reduce") == 1

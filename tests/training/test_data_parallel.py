"""A batch that devices share is the same batch: every number of the run is that of one device, but for rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.config import schema as config
from research.parallel.mesh import (
    SINGLE_DEVICE,
    Layout,
    map_runs,
    place,
    shard_state,
)
from research.training.precision import scope
from research.training.program import make_program
from research.training.reduction import all_reduce_step

SHARED = Layout("map", 2, "batch")
ROUNDING = 1e-8  # of float64, behind steps of networks whose weights begin three times too large
NUMBERS = {"seed": [0, 1], "model.dropout": 0.3, "skip.rate": 0.4, "train.input_noise": 0.2}
NUMBERS |= {"loss.label_smoothing": 0.1, "optimizer.clip_threshold": 0.3, "init.gain": [1.0, 3.0]}
NUMBERS |= {"precision.loss_scale": 1e308, "precision.growth_interval": 1}
CHANCE = {
    "skip": "dropout",
    "dropout": True,
    "noisy": True,
    "clip": "global_norm",
    "loss_scaling": "dynamic",
}
IMAGES = {
    "kind": "cnn",
    "shape": (6, 6, 1),
    "crop": 1,
    "flip": True,
    "activation": "relu",
    "optimizer": "gd",
}
EIGHT_BITS = {"rounding": "float8_e5m2", "tensor_scale": True}
TEXTS = {"shape": (4,), "vocabulary": 5, "padded": True, "streamed": True}
CHANCES = CHANCE | {"norm": "batch", "activation": "relu", "bias": False, "level": "full"}
CASES = {
    "every other step": CHANCES | {"every": 2, "recompute": True},
    "moved images in eight bits": IMAGES
    | EIGHT_BITS
    | {"skip": "stochastic_depth", "level": "full"},
    "texts and shared weights": TEXTS | {"kind": "rnn", "depth": 4, "level": "full"},
}
OPTIONS = {
    "kind": config.ModelKind,
    "norm": config.NormKind,
    "skip": config.SkipKind,
    "optimizer": config.OptimizerKind,
    "clip": config.Clip,
}
EACH = [(group, option.name) for group, options in OPTIONS.items() for option in options]
SHAPES = {
    "transformer": TEXTS | {"heads": 2, "expansion": 2, "bias": False},
    "rnn": TEXTS | {"depth": 4, "cell": "lstm"},
    "cnn": {"shape": (8, 8, 1)},
    "resnet_cifar": {"shape": (8, 8, 1), "depth": 8, "norm": "batch", "bias": False},
    "resnet": {"shape": (8, 8, 1), "depth": 18, "norm": "batch", "bias": False},
    "batch": {"bias": False},
    "deepnorm": {"placement": "post"},
}


@pytest.fixture
def on_both(make_spec, make_numbers, make_data, quickly_compiled):
    """What two runs are and measure on one device, and where two devices share their batches."""

    def run(**changes):
        with scope("float64"):
            spec = make_spec(precision="float64", capacity=4, **changes)
            data = make_data(inputs=spec.architecture.inputs)
            numbers = make_numbers(NUMBERS, runs=2, dtype="float64")
            return [
                trained(layout, spec, numbers, read_by(spec, data))
                for layout in (SINGLE_DEVICE, SHARED)
            ]

    return run


def read_by(spec, data):
    """Random numbers as what the program reads: texts of tokens from 1 to 4 on, and batches one behind the other."""
    if not spec.streamed:
        return data
    tokens = jnp.clip(jnp.abs(3 * data["x"]), 1, 4).astype(jnp.int32)
    tokens = jnp.where(jnp.arange(4)[None] <= jnp.arange(24)[:, None] % 4, tokens, 0)
    order = np.arange(4 * spec.batch_size).reshape(4, -1) % 24
    return data | {"x": tokens[order], "y": data["y"][order], "eval_x": tokens[::-1]}


def trained(layout, spec, numbers, data):
    program = make_program(spec, layout)
    state = shard_state(layout, make_program(spec).init(numbers))
    numbers = place(layout, numbers, per_run=True)
    data = place(layout, data, per_run=False)
    # In front of batch norm, and of keys, biases have a gradient of nothing but rounding, which has any exponents.
    found = {"exponents": program.exponents(state, numbers, data)} if spec.architecture.model.bias else {}
    state, found["rows"] = program.chunk(state, numbers, data, np.int32(0), np.int32(4))
    found["evaluation"] = program.evaluate(state, numbers, data)
    found["state"] = state.params, state.model_state, state.opt_state, state.loss_scale
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(found))
    return jax.device_get(found)


def assert_same(one, two):
    for (path, a), b in zip(jax.tree.leaves_with_path(one), jax.tree.leaves(two), strict=True):
        rounding = 1e-6 if a.dtype == np.float32 else ROUNDING  # fractions are kept in float32
        np.testing.assert_allclose(b, a, rounding, rounding, err_msg=jax.tree_util.keystr(path))


def test_two_devices_are_one_in_all_that_chance_and_batch_norm_do(on_both):
    """Each with half of the batch: units that sleep there are awake elsewhere, and overflows are everybody's."""
    alone, shared = on_both(**CHANCES)
    assert_same(alone, shared)
    skipped = alone["rows"]["skipped"]
    assert np.any(skipped) and not np.all(skipped)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_devices_are_one(on_both, case):
    assert_same(*on_both(**CASES[case]))


@pytest.mark.slow
@pytest.mark.parametrize(("group", "option"), EACH)
def test_two_devices_are_one_with_each_option(on_both, group, option):
    assert_same(*on_both(**{group: option, "level": "full"} | SHAPES.get(option, {})))


@pytest.mark.parametrize(("level", "skip"), [("off", "none"), ("norms", "identity")])
def test_a_step_waits_for_the_other_devices_once(make_spec, make_numbers, make_data, level, skip):
    """Every wait costs more than a layer does: nothing is summed over devices inside the network."""
    program = make_program(make_spec(level=level, skip=skip), SHARED)
    numbers = make_numbers()
    state = jax.eval_shape(program.init, numbers)
    step = program.chunk.lower(state, numbers, make_data(), np.int32(0), np.int32(1))
    assert step.as_text().count("all_reduce") == 1


def test_norms_of_parts_make_the_norm_over_the_whole_range():
    sizes = np.array([0, 1e-35, 1e-25, 1, 1e25, 1e36, np.inf, np.nan], np.float32)
    names = {"signal_grad": 2**0.5, "activation_rms": 1.0, "activation_mean": 1.0}

    def of_part(number):
        return all_reduce_step({"grad": number}, number, dict.fromkeys(names, jnp.asarray(sizes)))

    grads, mean, profile = map_runs(SHARED, of_part, num_mapped=1)(jnp.float32([2.0]))
    assert (grads["grad"][0], mean[0]) == (4, 2)
    for name, values in profile.items():
        np.testing.assert_allclose(values[0], names[name] * sizes, 1e-6, err_msg=name)

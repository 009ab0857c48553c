"""Two devices that share each batch compute what one device does, up to rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from research.config.options import Clip, ModelKind, NormKind, OptimizerKind, SkipKind
from research.parallel.mesh import SINGLE_DEVICE, Layout, place_on_devices, shard_state
from research.training.precision import precision_context
from research.training.program import make_program

from ..builders import make_hparams, make_program_config, select_existing
from .programs import iter_pairs, make_data

TWO_DEVICES = Layout("map", 2, "batch")
STEPS = 4
EXAMPLES = 24
# Of float64, after steps of networks whose initial weights are three times too large.
ROUNDING = 1e-8
FLOAT32_ROUNDING = 1e-6  # fractions are measured in float32
NUMBERS = {
    "seed": [0, 1],
    "model.dropout": 0.3,
    "skip.rate": 0.4,
    "train.input_noise": 0.2,
    "loss.label_smoothing": 0.1,
    "optimizer.clip_threshold": 0.3,
    "init.gain": [1.0, 3.0],
    "precision.loss_scale": 1e308,
    "precision.growth_interval": 1,
}
RANDOM = {
    "skip": "dropout",
    "dropout": 0.3,
    "input_noise": 0.2,
    "clip": "global_norm",
    "loss_scaling": "dynamic",
    "norm": "batch",
    "activation": "relu",
    "bias": False,
    "level": "full",
}
TEXTS = {"shape": (4,), "vocabulary": 5, "padded": True, "streamed": True}
CASES = {
    "random draws, measured every other step": RANDOM | {"every": 2, "recompute": True},
    "augmented images in eight bits": {
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
    },
    "texts and shared weights": TEXTS | {"kind": "rnn", "depth": 4, "level": "full"},
}
GROUPS = {
    "kind": ModelKind,
    "norm": NormKind,
    "skip": SkipKind,
    "optimizer": OptimizerKind,
    "clip": Clip,
}
REQUIRED_BY_OPTION = {
    "transformer": TEXTS | {"heads": 2, "expansion": 2, "bias": False},
    "rnn": TEXTS | {"depth": 4, "cell": "lstm"},
    "cnn": {"shape": (8, 8, 1)},
    "resnet_cifar": {"shape": (8, 8, 1), "depth": 8, "norm": "batch", "bias": False},
    "resnet": {"shape": (8, 8, 1), "depth": 18, "norm": "batch", "bias": False},
    "batch": {"bias": False},
    "deepnorm": {"placement": "post"},
}


def option_cases():
    """A program for every option of each group: the group, the option's name, what it requires."""
    cases = []
    for group, options in GROUPS.items():
        for option in options:
            cases.append((group, option.name))
    return cases


def make_examples(spec):
    """Random examples as the program reads them; texts are of tokens 1 to 4, in batches."""
    data = make_data(EXAMPLES, inputs=spec.architecture.inputs)
    if not spec.streamed:
        return data
    sizes = jnp.abs(3 * data["x"])
    tokens = jnp.clip(sizes, 1, 4).astype(jnp.int32)
    lengths = jnp.arange(EXAMPLES)[:, None] % 4
    is_padding = jnp.arange(4)[None] > lengths
    tokens = jnp.where(is_padding, 0, tokens)
    batches = np.arange(STEPS * spec.batch_size).reshape(STEPS, -1) % EXAMPLES
    texts = {
        "x": tokens[batches],
        "y": data["y"][batches],
        "eval_x": tokens[::-1],
    }
    return data | texts


def run_on(layout, spec):
    """Everything that two runs compute on these devices."""
    program = make_program(spec, layout)
    hp = make_hparams(spec, select_existing(spec, NUMBERS), runs=2)
    state = shard_state(layout, make_program(spec).init(hp))
    hp = place_on_devices(layout, hp, per_run=True)
    data = place_on_devices(layout, make_examples(spec), per_run=False)
    results = {}
    # Before batch norm, and in keys, the gradient of a bias is rounding, which has any exponents.
    if spec.architecture.model.bias:
        results["exponents"] = program.exponents(state, hp, data)
    state, rows = program.chunk(state, hp, data, np.int32(0), np.int32(STEPS))
    results["rows"] = rows
    results["evaluation"] = program.evaluate(state, hp, data)
    results["state"] = state.params, state.model_state, state.opt_state, state.loss_scale
    for leaf in jax.tree.leaves(results):
        assert leaf.sharding.is_fully_replicated
    return jax.device_get(results)


def assert_close(one, other):
    for path, expected, actual in iter_pairs(one, other):
        tolerance = FLOAT32_ROUNDING if expected.dtype == np.float32 else ROUNDING
        assert_allclose(actual, expected, tolerance, tolerance, err_msg=path)


def check_two_devices(**changes):
    """Compares two devices with one, and returns what the one computes."""
    with precision_context("float64"):
        spec = make_program_config(precision="float64", capacity=STEPS, **changes)
        expected = run_on(SINGLE_DEVICE, spec)
        assert_close(expected, run_on(TWO_DEVICES, spec))
    return expected


@pytest.mark.slow
@pytest.mark.usefixtures("quickly_compiled")
def test_two_devices_equal_one_in_random_draws_and_batch_norm():
    """A unit may be dead in one half of a batch only; an overflow in one half skips the step."""
    results = check_two_devices(**RANDOM)
    skipped = results["rows"]["skipped"]
    assert np.any(skipped)
    assert not np.all(skipped)


@pytest.mark.slow
@pytest.mark.usefixtures("quickly_compiled")
@pytest.mark.parametrize("case", CASES)
def test_two_devices_equal_one(case):
    check_two_devices(**CASES[case])


@pytest.mark.slow
@pytest.mark.usefixtures("quickly_compiled")
@pytest.mark.parametrize(("group", "option"), option_cases())
def test_two_devices_equal_one_with_each_option(group, option):
    required = REQUIRED_BY_OPTION.get(option, {})
    check_two_devices(**({group: option, "level": "full"} | required))


@pytest.mark.parametrize(("level", "skip"), [("off", "none"), ("norms", "identity")])
def test_a_step_waits_for_the_other_devices_once(level, skip):
    """A wait takes longer than a layer: nothing is summed over devices inside the network."""
    spec = make_program_config(level=level, skip=skip)
    program = make_program(spec, TWO_DEVICES)
    hp = make_hparams(spec)
    state = jax.eval_shape(program.init, hp)
    step = program.chunk.lower(state, hp, make_data(), np.int32(0), np.int32(1))
    assert step.as_text().count("all_reduce") == 1

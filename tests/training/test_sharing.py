"""A batch that devices share is the same batch: every number of the run is that of one device, but for rounding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import config
from research.training.mesh import ALONE, Layout, over_batch, over_runs, place, spread
from research.training.precision import scope
from research.training.program import make_program

SHARED = Layout("map", 2, "batch")
ROUNDING = 1e-10  # of float64, behind some steps
NUMBERS = {
    "seed": [0, 1],
    "model.dropout": 0.3,
    "skip.rate": 0.4,
    "train.input_noise": 0.2,
    "loss.label_smoothing": 0.1,
}
NUMBERS |= {"optimizer.clip_threshold": 0.3, "precision.growth_interval": 2, "precision.loss_scale": 1e308}
CHANCE = {"dropout": True, "noisy": True, "clip": "global_norm", "loss_scaling": "dynamic", "bias": False}
IMAGES = {"kind": "cnn", "shape": (6, 6, 1), "crop": 1, "flip": True, "activation": "relu", "optimizer": "gd"}
EIGHT_BITS = {"rounding": "float8_e5m2", "tensor_scale": True}
TEXTS = {"shape": (4,), "vocabulary": 5, "padded": True, "streamed": True}
CASES = {
    "chance and batch norm": CHANCE
    | {"norm": "batch", "skip": "dropout", "activation": "relu", "level": "full", "every": 2},
    "moved images in eight bits": IMAGES | EIGHT_BITS | {"skip": "stochastic_depth", "level": "full"},
    "texts and shared weights": TEXTS | {"kind": "rnn", "depth": 4, "level": "full"},
}
OPTIONS = {
    "kind": [kind.name for kind in config.ModelKind],
    "norm": [norm.name for norm in config.NormKind],
    "skip": [skip.name for skip in config.SkipKind],
    "optimizer": [optimizer.name for optimizer in config.OptimizerKind],
    "clip": [clip.name for clip in config.Clip],
}
EACH = [(name, option) for name, options in OPTIONS.items() for option in options]
SHAPES = {
    "transformer": TEXTS | {"heads": 2, "expansion": 2},
    "rnn": TEXTS | {"depth": 4, "cell": "lstm"},
    "cnn": {"shape": (8, 8, 1)},
    "resnet_cifar": {"shape": (8, 8, 1), "depth": 8, "norm": "batch"},
    "resnet": {"shape": (8, 8, 1), "depth": 18, "norm": "batch"},
}


@pytest.fixture
def on_both(make_spec, make_numbers, make_data, quickly_compiled):
    """What a run is and measures on one device, and where two share its batches."""

    def run(**changes):
        with scope("float64"):
            spec = make_spec(precision="float64", capacity=4, **changes)
            data, numbers = make_data(inputs=spec.architecture.inputs), make_numbers(NUMBERS, runs=2, dtype="float64")
            return [trained(layout, spec, numbers, read_by(spec, data)) for layout in (ALONE, SHARED)]

    return run


def read_by(spec, data):
    """Random numbers as what the program reads: tokens, some of them padding, and batches one behind the other."""
    if not spec.streamed:
        return data
    tokens = jnp.clip(jnp.abs(3 * data["x"]), 1, 4).astype(jnp.int32)
    tokens = jnp.where(jnp.arange(4)[None] <= jnp.arange(24)[:, None] % 4, tokens, 0)
    order = np.arange(4 * spec.batch_size).reshape(4, -1) % 24
    return data | {"x": tokens[order], "y": data["y"][order], "eval_x": tokens[::-1]}


def trained(layout, spec, numbers, data, steps=4):
    program, numbers, data = (
        make_program(spec, layout),
        place(layout, numbers, per_run=True),
        place(layout, data, per_run=False),
    )
    state = spread(layout, program.init(jax.device_get(numbers)))
    found = {"exponents": program.exponents(state, numbers, data)}
    state, found["rows"] = program.chunk(state, numbers, data, np.int32(0), np.int32(steps))
    found["evaluation"] = program.evaluate(state, numbers, data)
    found["state"] = state.params, state.rest, state.opt_state, state.loss_scale
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(found))
    return jax.device_get(found)


def assert_same(one, two):
    for (path, a), b in zip(jax.tree.leaves_with_path(one), jax.tree.leaves(two), strict=True):
        rounding = 1e-6 if a.dtype == np.float32 else ROUNDING  # fractions are kept in float32
        np.testing.assert_allclose(b, a, rounding, rounding, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("case", CASES)
def test_two_devices_are_one(on_both, case):
    alone, shared = on_both(**CASES[case])
    assert_same(alone, shared)
    print({k: v[0] for k, v in alone["rows"].items() if k != "profile"}, alone["rows"]["profile"].get("dead"))


@pytest.mark.slow
@pytest.mark.parametrize(("group", "option"), EACH)
def test_two_devices_are_one_with_each_option(on_both, group, option):
    assert_same(
        *on_both(**{group: option, "placement": "post" if option == "deepnorm" else "pre"} | SHAPES.get(option, {}))
    )

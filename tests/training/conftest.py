"""Programs, the data they train on, and the gradient they should follow."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from research.config.data_options import Data
from research.data.noise import load_noise
from research.models.architecture import Architecture
from research.training.precision import POLICIES
from research.training.program import ProgramConfig, make_program


@pytest.fixture(scope="session")
def make_spec(make_architecture):
    """A small program: the changes may be those of its architecture, ``precision`` or its own."""

    def make(*, precision="float32", **changes):
        policy = POLICIES[precision]
        shapes = {field.name for field in dataclasses.fields(Architecture)}
        network = {name: value for name, value in changes.items() if name in shapes}
        usual: dict[str, Any] = dict(
            optimizer="momentum",
            schedule="constant",
            clip="none",
            loss="cross_entropy",
            batch_size=8,
        )
        usual |= dict(level="norms", every=1, capacity=16, fast_compile=True)
        formats = dict(dtype=policy.compute, param_dtype=policy.params, rounding=policy.rounding)
        architecture = make_architecture(**(formats | network))
        return ProgramConfig(
            architecture, **(usual | {name: changes[name] for name in set(changes) - shapes})
        )

    return make


@pytest.fixture(scope="session")
def pairs(make_spec):
    """A rectifier network without biases that sees two examples a step, of two classes."""
    how = {
        "activation": "relu",
        "init": "gaussian",
        "bias": False,
        "classes": 2,
        "depth": 6,
        "width": 16,
    }
    return make_spec(batch_size=2, **how)


@pytest.fixture(scope="session")
def make_data():
    """Random examples as a program reads them."""

    def make(examples=24, *, inputs=5, classes=4):
        arrays = load_noise(Data(shape=[inputs], classes=classes, examples=examples)).arrays()
        return {name: jnp.asarray(array) for name, array in arrays.items()}

    return make


@pytest.fixture(scope="session")
def train():
    """Trains from initialisation: the state and the rows [M, S, …], with a call of ``chunk`` for each of ``pieces``."""

    def run(spec, numbers, data, pieces=(10,)):
        program = make_program(spec)
        state = program.init(numbers)
        start = 0
        parts = []
        for steps in pieces:
            state, rows = program.chunk(state, numbers, data, np.int32(start), np.int32(steps))
            parts.append(jax.tree.map(lambda row, steps=steps: np.array(row)[:, :steps], rows))
            start += steps
        return state, jax.tree.map(lambda *part: np.concatenate(part, axis=1), *parts)

    return run


@pytest.fixture(scope="session")
def weights():
    """The parameters of one run of a state, as nested dictionaries of float64 arrays."""

    def read(params, run=0):
        return jax.tree.map(lambda leaf: np.array(leaf[run], np.float64), nnx.to_pure_dict(params))

    return read


@pytest.fixture(scope="session")
def loss_of(unrolled):
    """The mean loss over all examples, as a function of the parameters, by the loop over layers."""

    def make(spec, numbers, data, split="", run=0):
        hp = {path: np.float64(value[run]) for path, value in numbers.items()}
        x = np.asarray(data[f"{split}x"], np.float64)
        y = np.asarray(data[f"{split}y"])
        smoothing = hp["loss.label_smoothing"]
        targets = (1 - smoothing) * np.eye(spec.architecture.classes)[
            y
        ] + smoothing / spec.architecture.classes

        def losses(params, running=None):
            logits, _ = unrolled(spec.architecture, params, x, hp, running=running)
            if spec.loss == "mse":
                return jnp.sum((logits - targets) ** 2, 1) / 2
            return jnp.log(jnp.sum(jnp.exp(logits), 1)) - jnp.sum(targets * logits, 1)

        return losses

    return make


@pytest.fixture(scope="session")
def assert_equal():
    """That two trees are the same, bit by bit."""

    def check(one, other):
        assert jax.tree.structure(one) == jax.tree.structure(other)
        for (path, a), b in zip(
            jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True
        ):
            np.testing.assert_array_equal(
                numbers_in(a), numbers_in(b), err_msg=jax.tree_util.keystr(path)
            )

    return check


def numbers_in(leaf):
    is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

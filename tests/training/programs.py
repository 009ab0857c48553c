"""Small programs, the data they train on, and the loss that they should compute."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.testing import assert_array_equal

from research.config.data_options import NoiseData
from research.config.options import LossKind
from research.data.noise import load_noise
from research.training.program import make_program

from ..builders import make_program_config
from ..oracle import unrolled


def make_pair_config():
    """A rectifier network without biases that sees two examples a step, of two classes."""
    return make_program_config(
        batch_size=2,
        activation="relu",
        init="gaussian",
        bias=False,
        classes=2,
        depth=6,
        width=16,
    )


def make_data(
    examples=24,
    *,
    inputs=5,
    classes=4,
):
    """Random examples as a program reads them."""
    noise = NoiseData(shape=(inputs,), classes=classes, examples=examples)
    arrays = load_noise(noise).arrays()
    return {name: jnp.asarray(array) for name, array in arrays.items()}


def repeat_first_example(data):
    """The data with the first training example in the place of all of them."""
    examples = len(data["x"])
    x = jnp.repeat(data["x"][:1], examples, axis=0)
    y = jnp.repeat(data["y"][:1], examples, axis=0)
    return data | {"x": x, "y": y}


def train(
    spec,
    hp,
    data=None,
    *,
    chunks=(10,),
):
    """Trains from initialisation.

    Args:
        spec: the program.
        hp: the hyperparameters of M runs.
        data: the examples; None for those of ``make_data()``.
        chunks: the numbers of steps of successive calls of ``chunk``.

    Returns:
        The last state, and the rows of all steps, [M, S, …].
    """
    data = data or make_data()
    program = make_program(spec)
    state = program.init(hp)
    start = 0
    parts = []
    for steps in chunks:
        state, rows = program.chunk(state, hp, data, np.int32(start), np.int32(steps))
        parts.append(take_steps(rows, steps))
        start += steps
    return state, jax.tree.map(join_steps, *parts)


def take_steps(rows, steps):
    """The rows [M, S, …] of the first steps, on the host."""
    return jax.tree.map(lambda column: np.array(column)[:, :steps], rows)


def join_steps(*columns):
    return np.concatenate(columns, axis=1)


def to_float64(params, run=0):
    """The parameters of one of the runs, as nested dictionaries of float64 arrays."""
    plain = nnx.to_pure_dict(params)
    return jax.tree.map(lambda leaf: np.array(leaf[run], np.float64), plain)


def initial_params(spec, hp):
    """The first run's parameters before the first step, as ``to_float64`` gives them."""
    return to_float64(make_program(spec).init(hp).params)


def make_losses(
    spec,
    hp,
    data,
    *,
    split="",
    run=0,
):
    """The loss of each example as a function of the parameters, by the loop over layers.

    Args:
        spec: the program.
        hp: the hyperparameters of M runs.
        data: the examples.
        split: "eval_" for the evaluation split.
        run: the run whose hyperparameters are taken.
    """
    arch = spec.architecture
    hp = jax.tree.map(lambda value: np.float64(value[run]), hp)
    x = np.asarray(data[f"{split}x"], np.float64)
    labels = np.asarray(data[f"{split}y"])
    smoothing = hp.loss.label_smoothing
    one_hot = np.eye(arch.classes)[labels]
    targets = (1 - smoothing) * one_hot + smoothing / arch.classes

    def losses(params, running=None):
        logits, _ = unrolled(arch, params, x, hp, running=running)
        if spec.loss.kind is LossKind.mse:
            return jnp.sum((logits - targets) ** 2, 1) / 2
        log_normalizers = jnp.log(jnp.sum(jnp.exp(logits), 1))
        return log_normalizers - jnp.sum(targets * logits, 1)

    return losses


def assert_equal(one, other):
    """Two trees are the same, bit for bit."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for name, leaf, other_leaf in iter_pairs(one, other):
        assert_array_equal(_to_numpy(leaf), _to_numpy(other_leaf), err_msg=name)


def iter_pairs(one, other):
    """Every leaf of two trees, as the path in the tree, the first tree's leaf, and the other's."""
    others = jax.tree.leaves(other)
    for (path, leaf), other_leaf in zip(jax.tree.leaves_with_path(one), others, strict=True):
        yield jax.tree_util.keystr(path), leaf, other_leaf


def _to_numpy(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)

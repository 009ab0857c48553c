"""Streaming gives the examples and the order of data in memory, from any step on, on any host."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from research.config.notices import notify_once
from research.config.schema import make_option
from research.data.sources import load
from research.data.streaming import ShuffledSource, iter_batches, sample_evenly
from research.runner.run_setup import make_run_setup
from research.training.objective import epoch_permutation
from research.training.program import make_program

from .. import builders
from .rows import have_common_rows

BATCH_SIZE = 7  # of 29 examples: 4 batches an epoch, 1 example left over


def make_config(**data_settings):
    changes = {
        "data": "mnist",
        "train.batch_size": BATCH_SIZE,
        "train.steps": 11,
        "model.depth": 2,
        "model.width": 4,
    }
    for name, value in data_settings.items():
        changes[f"data.{name}"] = value
    return builders.make_config(changes)


def setup_with(in_memory_limit):
    config = make_config(
        flip=True,
        crop=2,
        label_noise=0.5,
        limit=29,
        in_memory_limit=in_memory_limit,
    )
    return make_run_setup(config)


def test_classes_of_few_streamed_examples_are_counted(prepared, capsys):
    in_memory = load(make_config(limit=3).data)
    lines = capsys.readouterr().err
    notify_once.cache_clear()
    streamed = load(make_config(limit=3, in_memory_limit=0.0).data)
    assert lines.startswith("fathom: data=mnist: ")
    assert lines == capsys.readouterr().err
    assert in_memory.class_counts == streamed.class_counts


@pytest.fixture
def in_memory(prepared):
    """A run on data in memory."""
    setup = setup_with(in_memory_limit=1.0)
    assert setup.stream is None
    return setup


@pytest.fixture
def streamed(prepared):
    """The same run on streamed data."""
    setup = setup_with(in_memory_limit=0.0)
    assert setup.stream is not None
    return setup


def train(setup, chunk_steps):
    """The loss of every step, and the evaluation after the last one."""
    program = make_program(setup.program_config)
    state = program.init(setup.hp)
    start = 0
    losses = []
    for steps in chunk_steps:
        state, rows = program.chunk(
            state,
            setup.hp,
            setup.program_data(start, steps),
            jnp.int32(start),
            jnp.int32(steps),
        )
        [loss] = np.asarray(rows["train_loss"])
        losses.append(loss[:steps])
        start += steps
    return np.concatenate(losses), setup.evaluate(program, state)


@pytest.mark.slow
def test_a_streamed_run_is_the_run_in_memory(in_memory, streamed):
    """Bit for bit in training; evaluation sums the examples in another order."""
    expected_losses, expected_evaluation = train(in_memory, [11])
    losses, evaluation = train(streamed, [1, 4, 6])
    assert_array_equal(expected_losses, losses)
    assert set(evaluation) == set(expected_evaluation)
    for name, expected in expected_evaluation.items():
        assert_allclose(evaluation[name], expected, rtol=1e-6)
    assert in_memory.steps == streamed.steps
    assert in_memory.steps_per_epoch == streamed.steps_per_epoch == 4


def shuffle(setup, shard=0, num_shards=1):
    key = jax.random.key(0)

    def order(epoch):
        return np.asarray(epoch_permutation(key, epoch, setup.dataset.examples))

    return ShuffledSource(
        setup.dataset.train_source,
        order,
        batch_size=6,
        seed=0,
        shard=shard,
        num_shards=num_shards,
    )


def read_batches(setup, start, count, **shard):
    batches = iter_batches(shuffle(setup, **shard), start)
    return [next(batches) for _ in range(count)]


def assert_same_batches(batches, expected):
    for (x, y), (expected_x, expected_y) in zip(batches, expected, strict=True):
        assert_array_equal(x, expected_x)
        assert_array_equal(y, expected_y)


@pytest.mark.parametrize("start", [1, 4, 5, 9])
def test_the_order_goes_on_from_any_step(streamed, start):
    from_the_beginning = read_batches(streamed, 0, 10)
    resumed = read_batches(streamed, start, 10 - start)
    assert_same_batches(resumed, from_the_beginning[start:])


def test_an_epoch_holds_every_example_once_and_another_has_another_order(streamed):
    rows = []
    for x, _ in read_batches(streamed, 0, 8):
        rows += [row.tobytes() for row in x]
    assert len(set(rows[:24])) == 24
    assert rows[:24] != rows[24:]


@pytest.mark.parametrize("num_shards", [2, 3])
def test_the_parts_of_all_hosts_make_the_batch(streamed, num_shards):
    whole = read_batches(streamed, 3, 2)
    hosts = []
    for shard in range(num_shards):
        batches = read_batches(streamed, 3, 2, shard=shard, num_shards=num_shards)
        hosts.append(batches)
    joined = []
    for parts in zip(*hosts, strict=True):
        joined.append(jax.tree.map(join_arrays, *parts))
    assert_same_batches(joined, whole)


def join_arrays(*arrays):
    return np.concatenate(arrays)


def test_a_batch_that_hosts_cannot_share_evenly_is_refused(streamed):
    message = "train.batch_size must be a multiple of the 4 hosts, got 6"
    with pytest.raises(ValueError, match=message):
        shuffle(streamed, num_shards=4)


def test_a_chunk_starts_at_the_requested_step(streamed):
    later = streamed.stream.chunk(0, 5)
    earlier = streamed.stream.chunk(2, 2)
    x = earlier["x"]
    assert_array_equal(x[:2], later["x"][2:4])
    assert not x[2:].any()
    assert x.shape == (streamed.program_config.capacity, BATCH_SIZE, 784)


def test_evaluation_examples_are_read_once_in_blocks(in_memory, streamed):
    stream = streamed.stream
    stream.capacity = 1
    fractions = []
    blocks = []
    for fraction, block in stream.evaluation_blocks():
        fractions.append(fraction)
        blocks.append(block["eval_x"])
    assert sum(fractions) == pytest.approx(1)
    assert [len(block) for block in blocks] == [7, 7, 6]
    assert_array_equal(np.concatenate(blocks), in_memory.dataset.eval_x)


def test_augmentation_depends_on_the_position_in_the_run_alone(prepared):
    setup = make_run_setup(make_config(resized_crop=True, size=20))
    [(x, _)] = read_batches(setup, 2, 1)
    [(again, _)] = read_batches(setup, 2, 1)
    assert x.shape == (6, 400)
    assert_array_equal(x, again)
    assert setup.dataset.train_source is not None
    not_augmented = sample_evenly(setup.dataset.train_source, 30)
    assert not have_common_rows(x, not_augmented.x)


def test_full_batches_cannot_be_streamed(prepared):
    config = dataclasses.replace(
        make_config(in_memory_limit=0.0), optimizer=make_option("optimizer", "gd")
    )
    with pytest.raises(ValueError, match="optimizer=gd needs all examples in memory, but data="):
        make_run_setup(config)

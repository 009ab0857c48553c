"""Streaming: the same examples in the same order as in memory, from any step on, each host its own part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.config.schema import Config, DataKind
from research.data.pictures import fitted, random_part
from research.data.streamed import Places, batches, sampled
from research.runner.run_setup import make_run_setup
from research.training.objective import epoch_permutation
from research.training.program import make_program

B = 7  # of 30 examples: 4 batches an epoch, 2 examples left over


def configured(**changes):
    config = Config()
    config.data.name = DataKind["mnist"]
    config.train.batch_size = B
    config.model.depth = 2
    config.model.width = 4
    config.train.steps = 11
    for path, value in changes.items():
        setattr(config.data, path, value)
    return config


@pytest.fixture
def both(prepared):
    """One run's job in memory and streamed."""
    changes = {"flip": True, "crop": 2, "label_noise": 0.5, "limit": 29}
    jobs = [make_run_setup(configured(in_memory_limit=limit, **changes)) for limit in (1.0, 0.0)]
    assert jobs[0].stream is None and jobs[1].stream is not None
    return jobs


def trained(job, pieces):
    program = make_program(job.spec)
    state = program.init(job.hp)
    start = 0
    losses = []
    for steps in pieces:
        state, rows = program.chunk(
            state, job.hp, job.feed(start, steps), jnp.int32(start), jnp.int32(steps)
        )
        losses.append(np.asarray(rows["train_loss"])[0, :steps])
        start += steps
    return np.concatenate(losses), job.evaluate(program, state)


def test_a_streamed_run_is_the_run_in_memory(both):
    """Bit for bit in training; held-out means are summed in another order."""
    (ours, ours_held_out) = trained(both[0], [11])
    (streamed, held_out) = trained(both[1], [1, 4, 6])
    assert np.array_equal(ours, streamed)
    for name, value in ours_held_out.items():
        assert float(held_out[name][0]) == pytest.approx(float(value[0]), rel=1e-6)
    assert both[0].steps == both[1].steps and both[0].per_epoch == both[1].per_epoch == 4


def places(job, shard=0, shards=1):
    key = jax.random.key(0)

    def order_(epoch):
        return np.asarray(epoch_permutation(key, epoch, job.dataset.examples))

    return Places(job.dataset.train, order_, batch=6, seed=0, shard=shard, shards=shards)


def first(job, start, count, **shards):
    taken = batches(places(job, **shards), start)
    return [next(taken) for _ in range(count)]


def test_the_order_goes_on_from_any_step(both):
    whole = first(both[1], 0, 10)
    for start in (1, 4, 5, 9):
        again = first(both[1], start, 10 - start)
        for (x, y), (same_x, same_y) in zip(whole[start:], again, strict=True):
            assert np.array_equal(x, same_x) and np.array_equal(y, same_y)


def test_an_epoch_holds_every_example_once_and_another_has_another_order(both):
    rows = [row.tobytes() for x, _ in first(both[1], 0, 8) for row in x]
    assert len(set(rows[:24])) == 24 and rows[:24] != rows[24:]


@pytest.mark.parametrize("shards", [2, 3])
def test_the_parts_of_all_hosts_make_the_batch(both, shards):
    whole = first(both[1], 3, 2)
    parts = [first(both[1], 3, 2, shard=shard, shards=shards) for shard in range(shards)]
    for n, (x, y) in enumerate(whole):
        assert np.array_equal(np.concatenate([part[n][0] for part in parts]), x)
        assert np.array_equal(np.concatenate([part[n][1] for part in parts]), y)


def test_a_batch_that_hosts_cannot_share_evenly_is_refused(both):
    with pytest.raises(
        ValueError, match="train.batch_size must be a multiple of the 4 hosts, got 6"
    ):
        places(both[1], shards=4)


def test_asking_for_another_step_than_the_next_gives_that_step(both):
    stream = both[1].stream
    ahead = stream.chunk(0, 5)
    back = stream.chunk(2, 2)
    assert np.array_equal(back["x"][:2], ahead["x"][2:4]) and not back["x"][2:].any()
    assert back["x"].shape == (both[1].spec.capacity, B, 784)


def test_held_out_examples_are_given_once_in_blocks(both):
    stream = both[1].stream
    stream.capacity = 1
    shares, blocks = zip(*stream.held_out_blocks(), strict=True)
    assert sum(shares) == pytest.approx(1) and [len(block["eval_x"]) for block in blocks] == [
        7,
        7,
        6,
    ]
    assert np.array_equal(
        np.concatenate([block["eval_x"] for block in blocks]), both[0].dataset.eval_x
    )


def test_chance_depends_on_the_place_in_the_run_alone(prepared):
    job = make_run_setup(configured(resized_crop=True, size=20))
    (x, _), (again, _) = (first(job, 2, 1)[0] for _ in range(2))
    assert job.dataset.train is not None
    plain = sampled(job.dataset.train, 30)[0]
    assert np.array_equal(x, again) and x.shape == (6, 400)
    assert not {row.tobytes() for row in x} & {row.tobytes() for row in plain}


def test_full_batches_cannot_be_streamed(prepared):
    from research.config.schema import OptimizerKind

    config = configured(in_memory_limit=0.0)
    config.optimizer.kind = OptimizerKind["gd"]
    with pytest.raises(ValueError, match="optimizer must be another than gd"):
        make_run_setup(config)


@pytest.mark.parametrize("size", [(30, 20), (20, 30), (12, 12)])
def test_an_image_is_cut_in_its_middle_and_resized(size):
    """A ramp stays a ramp of the middle's slope; what has the shape already stays as it is."""
    image = np.broadcast_to(
        np.arange(size[1], dtype=np.uint8)[None, :, None] * 4, (*size, 3)
    ).copy()
    out = fitted(image, (10, 10, 3))
    side = min(size)
    wanted = 4 * ((size[1] - side) / 2 + (np.arange(10) + 0.5) * side / 10 - 0.5)
    assert out.shape == (10, 10, 3) and out[3, 1:-1, 0].astype(float) == pytest.approx(
        wanted[1:-1], abs=1.01
    )
    assert fitted(out, (10, 10, 3)) is out


def test_a_random_part_is_a_part_of_the_image():
    image = np.random.default_rng(0).integers(100, 200, (40, 60, 1), dtype=np.uint8)
    for seed in range(20):
        out = random_part(image, (16, 16, 1), np.random.default_rng(seed))
        assert out.shape == (16, 16, 1) and image.min() <= out.min() and out.max() <= image.max()

"""The rows about data: what they cost a step in memory, and how many images a second each path gives."""

import functools
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from research.benchmark.rows import Steps
from research.benchmark.table import Measured, Tick, side_by_side
from research.config.data_options import Data, DataKind
from research.data.sources import load
from research.data.streaming import ShuffledSource, Stream
from research.training.objective import epoch_permutation
from research.training.program import make_program

BATCH = 128
IMAGES = 10_240
PIXELS = 784
# JPEG files, and their pixels a side
PHOTOS = 512
SIDE = 160


class Ready(Steps):
    """Our step on batches that lie in order: all but shuffling and gathering."""

    def __init__(self, *overrides: str):
        super().__init__(*overrides)
        batch = self.job.spec.batch_size
        rows = (
            np.arange(self.job.spec.capacity * batch).reshape(-1, batch) % self.job.dataset.examples
        )
        lying = {name: self.job.data[name][rows] for name in ("x", "y")}
        self.job = replace(
            self.job, spec=replace(self.job.spec, streamed=True), data=self.job.data | lying
        )
        self.program = make_program(self.job.spec)
        self.time()


def cost_row(tick: Tick) -> Measured:
    """The default step against the same without the data's part in it."""
    return side_by_side(Steps().time, Ready().time, 40, tick)


def memory_row(tick: Tick) -> Measured:
    """Images of 28×28 pixels, shuffled and gathered on the device."""
    x = jnp.asarray(np.random.default_rng(0).integers(256, size=(IMAGES, PIXELS), dtype=np.uint8))

    @jax.jit
    def epoch(x: jax.Array, number: jax.Array) -> jax.Array:
        places = epoch_permutation(jax.random.key(0), number, IMAGES)

        def batch(i: jax.Array, total: jax.Array) -> jax.Array:
            rows = x[lax.dynamic_slice_in_dim(places, i * BATCH, BATCH)]
            return total + jnp.max(rows.astype(jnp.float32), axis=0)

        return lax.fori_loop(0, IMAGES // BATCH, batch, jnp.zeros(PIXELS))

    first = _seconds(lambda: epoch(x, jnp.int32(0)))
    return _rate(lambda n: epoch(x, jnp.int32(n)), IMAGES, first, tick)


def stream_row(tick: Tick) -> Measured:
    """JPEG files of 160×160 pixels, random parts of them resized to 128×128, batched."""
    with tempfile.TemporaryDirectory() as place:
        _write_photos(Path(place))
        dataset = load(Data(name=DataKind["folder"], path=place, size=128, resized_crop=True))
        assert dataset.train_source is not None and dataset.eval_source is not None

        def turn(epoch):
            return np.random.default_rng(epoch).permutation(dataset.examples)

        stream = Stream(
            ShuffledSource(dataset.train_source, turn, BATCH, 0, 0, 1), dataset.eval_source, 3
        )
        first = _seconds(lambda: stream.chunk(0, 1))
        return _rate(lambda n: stream.chunk(1 + 3 * n, 3), 3 * BATCH, first, tick)


def _write_photos(place: Path) -> None:
    from PIL import Image

    generator = np.random.default_rng(0)
    for n in range(PHOTOS):
        coarse = generator.integers(
            256, size=(20, 20, 3), dtype=np.uint8
        )  # as smooth as photographs are
        file = place / f"class_{n % 2}" / f"{n}.jpg"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(
            file, quality=90
        )


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def _rate(
    run: Callable[[int], object], images: int, first: float, tick: Tick, repetitions: int = 10
) -> Measured:
    seconds = []
    for n in range(repetitions):
        seconds.append(_seconds(functools.partial(run, n)))
        tick(n + 1, repetitions)
    return Measured(images / float(np.median(seconds)), f"first batch after {first:.2f} s")

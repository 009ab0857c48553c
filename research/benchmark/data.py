"""Rows about data: what data in memory cost a step, and how fast each path reads images."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from research.benchmark.steps import BATCH_SIZE, PAIRS, StepTimer
from research.benchmark.timing import Measurement, ReportProgress, compare
from research.config.data_options import FolderData
from research.data.sources import load
from research.data.streaming import ShuffledSource, Stream
from research.training.objective import epoch_permutation
from research.training.program import make_program

NUM_IMAGES = 10_240
NUM_PIXELS = 784
NUM_PHOTOS = 512
PHOTO_SIZE = 160  # pixels on each side
BATCHES_PER_CHUNK = 3
REPETITIONS = 10
ReadImages = Callable[[int], object]  # takes the number of the repetition


class ReadyBatchesTimer(StepTimer):
    """Our step on batches that are ready in memory, without shuffling and gathering."""

    def __init__(self, *overrides: str):
        super().__init__(*overrides)
        spec = self.setup.program_config
        num_examples = self.setup.dataset.examples
        positions = np.arange(spec.capacity * spec.batch_size) % num_examples
        batches = positions.reshape(-1, spec.batch_size)
        data = dict(self.setup.data)
        for name in ("x", "y"):
            data[name] = data[name][batches]
        streamed_spec = replace(spec, streamed=True)
        self.setup = replace(self.setup, program_config=streamed_spec, data=data)
        self.program = make_program(self.setup.program_config)
        self.time()


def compare_ready_batches(report_progress: ReportProgress) -> Measurement:
    """The default step / the same step on batches that are ready in memory."""
    return compare(StepTimer().time, ReadyBatchesTimer().time, PAIRS, report_progress)


def rate_in_memory(report_progress: ReportProgress) -> Measurement:
    """Images of 28×28 pixels a second, shuffled and gathered on the device."""
    generator = np.random.default_rng(0)
    images = generator.integers(256, size=(NUM_IMAGES, NUM_PIXELS), dtype=np.uint8)
    x = jnp.asarray(images)

    @jax.jit
    def read_epoch(x: jax.Array, epoch: jax.Array) -> jax.Array:
        permutation = epoch_permutation(jax.random.key(0), epoch, NUM_IMAGES)

        def read_batch(i: jax.Array, total: jax.Array) -> jax.Array:
            rows = x[lax.dynamic_slice_in_dim(permutation, i * BATCH_SIZE, BATCH_SIZE)]
            return total + jnp.max(rows.astype(jnp.float32), axis=0)

        return lax.fori_loop(0, NUM_IMAGES // BATCH_SIZE, read_batch, jnp.zeros(NUM_PIXELS))

    def read(repetition: int) -> jax.Array:
        return read_epoch(x, jnp.int32(repetition))

    first_seconds = _time_call(read, 0)
    return _measure_rate(read, NUM_IMAGES, first_seconds, report_progress)


def rate_streamed(report_progress: ReportProgress) -> Measurement:
    """JPEG files a second: random parts of 160×160 pixels, resized to 128×128 and batched."""
    with tempfile.TemporaryDirectory() as directory:
        _write_photos(Path(directory))
        settings = FolderData(path=directory, size=128, resized_crop=True)
        dataset = load(settings)
        assert dataset.train_source is not None and dataset.eval_source is not None

        def permute(epoch: int) -> np.ndarray:
            return np.random.default_rng(epoch).permutation(dataset.examples)

        source = ShuffledSource(dataset.train_source, permute, BATCH_SIZE, 0, 0, 1)
        stream = Stream(source, dataset.eval_source, BATCHES_PER_CHUNK)

        def read_first_batch(_: int) -> object:
            return stream.chunk(0, 1)

        def read_chunk(repetition: int) -> object:
            return stream.chunk(1 + BATCHES_PER_CHUNK * repetition, BATCHES_PER_CHUNK)

        first_seconds = _time_call(read_first_batch, 0)
        images = BATCHES_PER_CHUNK * BATCH_SIZE
        return _measure_rate(read_chunk, images, first_seconds, report_progress)


def _write_photos(directory: Path) -> None:
    from PIL import Image

    generator = np.random.default_rng(0)
    for number in range(NUM_PHOTOS):
        # Resized from a few pixels, the images are as smooth as photographs.
        pixels = generator.integers(256, size=(20, 20, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        photo = image.resize((PHOTO_SIZE, PHOTO_SIZE), Image.Resampling.BICUBIC)
        folder = directory / f"class_{number % 2}"
        folder.mkdir(exist_ok=True)
        photo.save(folder / f"{number}.jpg", quality=90)


def _time_call(read: ReadImages, repetition: int) -> float:
    start = time.perf_counter()
    jax.block_until_ready(read(repetition))
    return time.perf_counter() - start


def _measure_rate(
    read: ReadImages,
    images: int,
    first_seconds: float,
    report_progress: ReportProgress,
) -> Measurement:
    """Images a second.

    Args:
        read: What is timed.
        images: The number of images that it reads.
        first_seconds: The seconds to the first batch, for the note.
        report_progress: Called after each timing.
    """
    seconds = []
    for repetition in range(REPETITIONS):
        seconds.append(_time_call(read, repetition))
        report_progress(repetition + 1, REPETITIONS)
    rate = images / float(np.median(seconds))
    return Measurement(rate, f"first batch after {first_seconds:.2f} s")

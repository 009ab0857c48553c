"""Examples that do not fit into memory: read, decoded and batched on the host while the device works.

The order is that of data in memory: the place of an example in the run decides which it is and what chance does to it,
so the number of a step is all that is needed to go on from there, and every host can take its own part of each batch.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from research.data.dataset import Columns, Examples, relabelled
from research.data.decoded import quiet
from research.data.pictures import fitted, random_part

SAMPLE = 2048  # examples that offset, scale and fingerprint of streamed data are taken from
BYTES_A_CHUNK = 2**26
# that read, and batches that are read before they are asked for
THREADS = 8
AHEAD = 8
Order = Callable[[int], np.ndarray]  # an epoch's examples by number [n]


class Source(Protocol):
    """Examples by number, each a dictionary of its features."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Recorded:
    """Images of a prepared split, or of files: some of them, in their order, brought to one shape."""

    def __init__(
        self, source: Source, part: slice, limit: int | None, shape: tuple[int, ...], image: str,
        label: str, classes: int, label_noise: float = 0.0, resized_crop: bool = False,
    ):  # fmt: skip
        self.source = source
        self.shape = shape
        self.image = image
        self.label = label
        self.numbers = range(part.start, part.stop)[:limit]
        self.resized_crop = resized_crop
        kept = np.full(part.stop - part.start, -1, np.int32)  # -1: the label that the example has
        self.labels = relabelled(kept, classes, label_noise)

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, index: int, draw: np.random.Generator | None) -> tuple[np.ndarray, int]:
        """An image's numbers [features] and its label, drawn anew for those that noise falls on."""
        example = self.source[self.numbers[index]]
        cut = (
            functools.partial(random_part, draw=draw)
            if draw is not None and self.resized_crop
            else fitted
        )
        label = int(self.labels[index])
        return cut(example[self.image], self.shape).reshape(-1), int(
            example[self.label]
        ) if label < 0 else label


def sampled(examples: Examples, most: int) -> Columns:
    """Examples at even distances: ``x`` [n, features] and ``y`` [n] int32."""
    places = np.unique(np.linspace(0, len(examples) - 1, min(most, len(examples)), dtype=int))
    with quiet():
        rows, labels = zip(*(examples.read(int(place), None) for place in places), strict=True)
    return np.stack(rows), np.array(labels, np.int32)


class Places:
    """The examples of a run in the order they are used in, for grain: place i is row i mod B of step i // B."""

    def __init__(
        self, examples: Examples, order: Order, batch: int, seed: int, shard: int, shards: int
    ):
        if batch % shards:
            raise ValueError(
                f"train.batch_size must be a multiple of the {shards} hosts, got {batch}"
            )
        self.examples = examples
        self.batch = batch
        self.seed = seed
        self.own = batch // shards
        self.first = shard * self.own
        self.per_epoch = len(examples) // batch
        self.order = functools.lru_cache(maxsize=4)(order)

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        step, row = divmod(index, self.own)
        epoch, position = divmod(step, self.per_epoch)
        row += position * self.batch + self.first
        number = int(self.order(epoch)[row])
        return _pair(self.examples.read(number, np.random.default_rng([self.seed, step, row])))


def batches(places: Places, start: int) -> Iterator[Columns]:
    """The batches ``x`` [b, features] and ``y`` [b] int32 of this host from step ``start`` on, without end."""
    import grain

    dataset = (
        grain.MapDataset.source(places).slice(slice(start * places.own, None)).batch(places.own)
    )
    return iter(
        dataset.to_iter_dataset(grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=AHEAD))
    )


class Stream:
    """Batches for the program, some steps at a time, and the held-out examples, some batches at a time."""

    def __init__(self, train: Places, held_out: Examples, most: int):
        self.train = train
        self.held_out = held_out
        x, _ = train.examples.read(0, None)
        self.features = x.shape
        self.format = x.dtype
        self.capacity = min(most, max(1, BYTES_A_CHUNK // (x.nbytes * train.own)))
        self._position = -1
        self._batches = iter(())

    def shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and format of what ``chunk`` gives, by name."""
        lead = (self.capacity, self.train.own)
        return {"x": ((*lead, *self.features), self.format), "y": (lead, np.dtype(np.int32))}

    def chunk(self, start: int, steps: int) -> dict[str, np.ndarray]:
        """The batches of ``steps`` steps from ``start`` on: ``x`` [capacity, B, features], zeros behind the last."""
        if start != self._position:
            self._batches = batches(self.train, start)
        self._position = start + steps
        arrays = {
            name: np.zeros(shape, format_) for name, (shape, format_) in self.shapes().items()
        }
        for step in range(steps):
            arrays["x"][step], arrays["y"][step] = next(self._batches)
        return arrays

    def held_out_blocks(self) -> Iterator[tuple[float, dict[str, np.ndarray]]]:
        """The share of all held-out examples, and ``eval_x`` and ``eval_y`` of them, until all were given."""
        import grain

        options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=AHEAD)
        one = grain.MapDataset.range(len(self.held_out)).map(
            lambda index: _pair(self.held_out.read(index, None))
        )
        for x, y in one.batch(self.capacity * self.train.own).to_iter_dataset(options):
            yield len(x) / len(self.held_out), {"eval_x": x, "eval_y": y}


def _pair(example: tuple[np.ndarray, int]) -> Columns:
    x, y = example
    return x, np.asarray(y, np.int32)

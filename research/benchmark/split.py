"""One run whose batches all cores share, beside the same on one of them."""

import math
from collections.abc import Iterator

import jax

from research.benchmark.processes import fresh
from research.benchmark.rows import SIZES, Steps
from research.benchmark.table import Measured, Tick, ratio
from research.parallel.mesh import SINGLE_DEVICE, Layout
from research.runner.session import prepare_jax

PAIRS = 40


def split_row(tick: Tick) -> Measured:
    """What sharing gains."""
    return _measured(tick, ("norms", False), ("norms", True))


def split_gauges_row(tick: Tick) -> Measured:
    """What measuring costs where they share."""
    return _measured(tick, ("norms", True), ("off", True))


def _measured(tick: Tick, *sides: tuple[str, bool]) -> Measured:
    pairs = []
    for subject, against in fresh(__name__, f"pairs{sides}"):
        pairs.append((subject, against))
        tick(len(pairs), PAIRS)
    return ratio(pairs)


def pairs(*sides: tuple[str, bool]) -> Iterator[list[float]]:
    """Seconds a step of two sides, timed in turns: a level of measuring, and whether all cores share the batch."""
    prepare_jax(None)
    batch = next(int(word.split("=")[1]) for word in SIZES if word.startswith("train.batch_size"))
    cores = Layout("map", math.gcd(batch, jax.device_count()), "batch")
    steps = [
        Steps(*SIZES, f"measure={level}", layout=cores if shared else SINGLE_DEVICE)
        for level, shared in sides
    ]
    for n in range(PAIRS):
        turn = [side.time() for side in steps[:: 1 if n % 2 else -1]]
        yield turn[:: 1 if n % 2 else -1]

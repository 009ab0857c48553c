"""What a program is compiled for."""

from dataclasses import dataclass
from typing import Any

from research.config import options
from research.config.options import Level, OptimizerKind
from research.models.architecture import Architecture


@dataclass(frozen=True)
class ProgramConfig:
    """Everything that the compiled code depends on, apart from the shapes of its arguments.

    The options have their traced numbers at the defaults, so that runs which differ only in traced
    numbers share a program.

    Attributes:
        batch_size: examples of an update.
        capacity: the greatest number of steps of one call of ``chunk``.
        fast_compile: whether to compile quickly rather than well, for a run of a single step.
        crop: pixels of zeros around a training image before it is cropped at random.
        flip: whether half of the training images are mirrored.
        streamed: whether batches arrive ready-made, in order.
        random_settings: the settings of JAX that random numbers depend on. JAX itself would reuse
            what it has compiled under others in the same process.
    """

    architecture: Architecture
    train: options.Train
    optimizer: options.Optimizer
    precision: options.Precision
    loss: options.Loss
    measure: options.Measure
    batch_size: int
    capacity: int = 64
    fast_compile: bool = False
    crop: int = 0
    flip: bool = False
    streamed: bool = False
    random_settings: tuple[Any, ...] = ()

    @property
    def full_batch(self) -> bool:
        """Whether every step uses every example."""
        return self.optimizer.kind is OptimizerKind.gd

    @property
    def shuffled(self) -> bool:
        """Whether the examples are shuffled at the start of each epoch."""
        return not (self.full_batch or self.streamed)

    @property
    def level(self) -> Level:
        """Which gauges a measured step has."""
        return self.measure.level

    @property
    def measure_every(self) -> int:
        """Steps between measured steps."""
        return getattr(self.measure, "every", 1)

"""What a program is compiled for."""

import dataclasses

from research.models.architecture import Architecture


@dataclasses.dataclass(frozen=True)
class ProgramConfig:
    """All that the compiled code depends on, besides the shapes of its arguments."""

    architecture: Architecture
    optimizer: str
    schedule: str
    clip: str
    loss: str
    batch_size: int
    level: str  # off, norms or full
    every: int  # steps between measured steps
    capacity: int = 64  # the most steps that one call of ``chunk`` takes
    fast_compile: bool = False  # whether a run is a single step: compiled quickly rather than well
    noisy: bool = False  # whether inputs get noise in training
    crop: int = 0  # zeros put around a training image before it is cut at random
    flip: bool = False  # whether half of the training images are mirrored
    streamed: bool = False  # whether batches come ready made, in order
    loss_scaling: str = "none"  # none, static or dynamic
    stochastic_rounding: bool = False  # of the stored weights
    inspections: tuple[str, ...] = ()  # what is measured beside the step

    @property
    def full_batch(self) -> bool:
        """Whether every step sees every example."""
        return self.optimizer == "gd"

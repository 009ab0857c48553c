"""How a run is kept while it lasts: settings of its checkpoints, which change no number. No jax."""

from dataclasses import dataclass

from research.config.fields import number


@dataclass
class Checkpoint:
    """How often a run's state is written, so that the same command goes on from there, and what becomes of it."""

    every: float | None = number(
        30.0, gt=0
    )  # seconds between checkpoints, more where writing takes long; null: none
    keep: bool = False  # that of the last step stays once the run has ended

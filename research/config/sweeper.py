"""The settings of the sweepers, ``hydra.sweeper``."""

from typing import Any

from research.config.fields import written

MAX_BATCH_SIZE = "hydra.sweeper.max_batch_size"
SETTINGS_OF_ALL_JOBS = (  # which a grid cannot change
    "hydra.launcher",
    "hydra/launcher",
    "hydra.mode",
    "hydra.run",
    "hydra.searchpath",
    "hydra.sweep.dir",
    "hydra.sweeper",
    "hydra/sweeper",
)


def check_max_batch_size(value: Any) -> None:
    """Checks how many jobs Hydra's own sweeper launches at once, which Hydra only asserts.

    Raises:
        ValueError: it is neither null nor a whole number from 1 on.
    """
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and not (is_number and value >= 1):
        raise ValueError(
            f"{MAX_BATCH_SIZE} must be null or a whole number ≥ 1, got {written(value)}"
        )

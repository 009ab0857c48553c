"""Changes of a run that ``fathom remedy`` has trained: ``remedies.json`` in the run's directory."""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from research.records.record import write_json

FILE = "remedies.json"
CONFIDENCE = 0.95
NOTICEABLE = 0.95  # of the unchanged loss, below which a change helps
UNCHANGED = "unchanged"


@dataclass(frozen=True)
class TriedChange:
    """A change that was trained for a few seeds, and what came of it.

    Attributes:
        change: overrides, or ``unchanged``.
        source: why it should help.
        train_loss: the final training loss of each seed; infinite where a run diverged.
        eval_accuracy: the final held-out accuracy of each seed; empty without accuracy.
        finding: the most frequent verdict.
        seconds: training time of all seeds.
    """

    change: str
    source: str
    train_loss: Sequence[float]
    eval_accuracy: Sequence[float]
    finding: str
    seconds: float

    @property
    def mean_loss(self) -> float:
        """The mean of the final training losses."""
        return float(np.mean(self.train_loss))

    def result(self, unchanged: "TriedChange") -> str:
        """``helps`` or ``worse`` where all seeds agree and the mean differs noticeably.

        Otherwise ``same``.

        Args:
            unchanged: the run as it was, with the same seeds.
        """
        pairs = list(zip(self.train_loss, unchanged.train_loss, strict=True))
        all_lower = all(loss < before for loss, before in pairs)
        all_higher = all(loss > before for loss, before in pairs)
        if all_lower and self.mean_loss < NOTICEABLE * unchanged.mean_loss:
            return "helps"
        if all_higher and unchanged.mean_loss < NOTICEABLE * self.mean_loss:
            return "worse"
        return "same"


@dataclass(frozen=True)
class Tried:
    """What was tried for a run.

    Attributes:
        steps: the steps of each trial.
        unchanged: the run as it was.
        changes: the changes, in the order of their mean training loss.
    """

    steps: int
    unchanged: TriedChange
    changes: Sequence[TriedChange]

    @property
    def best(self) -> TriedChange | None:
        """The change with the lowest training loss, where it helps."""
        helpful = [change for change in self.changes if change.result(self.unchanged) == "helps"]
        return min(helpful, key=_mean_loss, default=None)


def _mean_loss(tried: TriedChange) -> float:
    return tried.mean_loss


def half_width(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of a mean, by Student's t distribution."""
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan
    from scipy.special import stdtrit  # this import takes a third of a second

    count = len(values)
    quantile = stdtrit(count - 1, 0.5 + CONFIDENCE / 2)
    deviation = np.std(values, ddof=1)
    return float(quantile * deviation / math.sqrt(count))


def _from_json(entries: dict[str, Any]) -> TriedChange:
    """A change as it was written; a loss of null was infinite."""
    tried = TriedChange(**entries)
    losses = [math.inf if loss is None else float(loss) for loss in tried.train_loss]
    return dataclasses.replace(tried, train_loss=losses)


def write_tried(directory: Path, tried: Tried) -> Path:
    """Writes what was tried into a run's directory and returns the file."""
    file = directory / FILE
    write_json(file, dataclasses.asdict(tried))
    return file


def read_tried(directory: Path) -> Tried | None:
    """What was tried for a run; None where nothing was, or where the file is damaged."""
    try:
        entries = json.loads((directory / FILE).read_text(encoding="utf-8"))
        changes = [_from_json(change) for change in entries["changes"]]
        return Tried(entries["steps"], _from_json(entries["unchanged"]), changes)
    except (OSError, ValueError, KeyError, TypeError):
        return None

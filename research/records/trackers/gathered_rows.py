"""Recorded rows that wait, so that trackers handle many of them at once."""

import threading
from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np

from research.records.runs import Columns, Diagnostics


@dataclass(frozen=True)
class RowBatch:
    """Consecutive rows, as ``Tracker.log`` takes them.

    Attributes:
        metrics: numbers by name [S], with their ``step`` [S].
        profiles: gauges by name [S', N], with their ``step`` [S']; may be empty.
        diagnostics: what was measured on an interval, by step.
    """

    metrics: Columns
    profiles: Columns
    diagnostics: Diagnostics

    @property
    def layout(self) -> dict[str, tuple[int, ...]]:
        """The shape of one row of each profile."""
        return {name: values.shape[1:] for name, values in self.profiles.items()}


class GatheredRows:
    """Rows that one thread adds and another one takes."""

    def __init__(self):
        self._lock = threading.Lock()
        self._batches: list[RowBatch] = []

    def add(self, batch: RowBatch) -> bool:
        """Adds rows; returns whether they are the first ones since rows were taken."""
        with self._lock:
            self._batches.append(batch)
            return len(self._batches) == 1

    def take(self) -> list[RowBatch]:
        """The rows in order, in as few batches as their columns allow; none remain."""
        with self._lock:
            batches = self._batches
            self._batches = []
        return [_join(group) for group in _group_by_columns(batches)]


def _group_by_columns(batches: Sequence[RowBatch]) -> list[list[RowBatch]]:
    """Consecutive batches with the same columns; one without profiles goes with any."""
    groups: list[list[RowBatch]] = []
    names: Set[str] = set()  # of the metrics of the last group
    layout: dict[str, tuple[int, ...]] = {}  # of its profiles
    for batch in batches:
        has_same_metrics = batch.metrics.keys() == names
        has_same_profiles = not batch.profiles or not layout or batch.layout == layout
        if groups and has_same_metrics and has_same_profiles:
            groups[-1].append(batch)
            layout = layout or batch.layout
        else:
            groups.append([batch])
            names = batch.metrics.keys()
            layout = batch.layout
    return groups


def _join(batches: Sequence[RowBatch]) -> RowBatch:
    if len(batches) == 1:
        return batches[0]
    diagnostics: dict[int, Columns] = {}
    for batch in batches:
        for step, measured in batch.diagnostics.items():
            diagnostics[step] = diagnostics.get(step, {}) | measured
    return RowBatch(
        metrics=_concatenate([batch.metrics for batch in batches]),
        profiles=_concatenate([batch.profiles for batch in batches if batch.profiles]),
        diagnostics=diagnostics,
    )


def _concatenate(parts: Sequence[Columns]) -> Columns:
    if not parts:
        return {}
    columns = {}
    for name in parts[0]:
        pieces = [part[name] for part in parts]
        has_gaps = any(np.ma.isMaskedArray(piece) for piece in pieces)
        columns[name] = np.ma.concatenate(pieces) if has_gaps else np.concatenate(pieces)
    return columns

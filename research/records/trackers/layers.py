"""What trackers get of a profile: numbers that summarise all layers, and values of single layers.

By default the keys do not depend on the depth of the network, so that a sweep over depth has no
more of them than one run.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from research.config.options import TrackedLayers
from research.gauges.numbering import INPUT, entry_layers
from research.gauges.table import OF_SIGNALS, TRACKED_DIAGNOSTICS, TRACKED_GAUGES
from research.records.runs import Columns

MAX_LAYERS = 256  # Deeper networks log evenly spaced layers: dashboards slow down past 10,000 keys.
NUM_SPREAD = 16
QUANTILES = {"min": 0.0, "quantile_25": 0.25, "median": 0.5, "quantile_75": 0.75, "max": 1.0}
GAUGE_SUMMARY = ("first", "last", "ratio", *QUANTILES)
"""The numbers that summarise a gauge; ``ratio`` is the first layer's value over the last one's."""
DIAGNOSTIC_SUMMARY = ("first", "last", "min", "max")
"""The numbers that summarise what is measured on an interval; there are many such profiles."""


@dataclass(frozen=True)
class TrackedProfile:
    """A profile of which trackers get something.

    Attributes:
        name: its column in the record.
        summary: the names of the numbers that summarise it.
        has_spread: whether single layers are logged by default.
        is_of_signals: whether its first entry is of the input of layer 0.
    """

    name: str
    summary: tuple[str, ...]
    has_spread: bool
    is_of_signals: bool = False

    def summary_keys(self) -> list[str]:
        """The keys of the numbers that summarise it."""
        return [f"{self.name}/{number}" for number in self.summary]

    def has_layers(self, layers: TrackedLayers) -> bool:
        """Whether single layers are logged."""
        return layers is TrackedLayers.all or (layers is TrackedLayers.spread and self.has_spread)

    def values(self, profile: np.ndarray) -> Columns:
        """The numbers that summarise a profile [S, N] of S steps: for each key a column [S]."""
        columns = summarize_layers(profile)
        return {f"{self.name}/{number}": columns[number] for number in self.summary}

    def layer_values(self, profile: np.ndarray, layers: TrackedLayers) -> Columns:
        """The values of single layers of a profile [S, N]: for each key a column [S]."""
        if not self.has_layers(layers):
            return {}
        if layers is TrackedLayers.all:
            return every_layer(self.name, profile, is_of_signals=self.is_of_signals)
        return spread_of_layers(self.name, profile)


GAUGE_PROFILES = tuple(
    TrackedProfile(gauge.name, GAUGE_SUMMARY, True, gauge.name in OF_SIGNALS)
    for gauge in TRACKED_GAUGES
)
DIAGNOSTIC_PROFILES = tuple(
    TrackedProfile(diagnostic.name, DIAGNOSTIC_SUMMARY, False, diagnostic.name in OF_SIGNALS)
    for diagnostic in TRACKED_DIAGNOSTICS
    if not diagnostic.is_number
)
TRACKED_PROFILES = GAUGE_PROFILES + DIAGNOSTIC_PROFILES


def layers_section(name: str) -> str:
    """The first part of the keys of single layers, whose charts W&B shows in a section of its own.

    It comes after ``NAME`` in alphabetical order, so that the numbers that summarise all layers are
    shown first.
    """
    return f"{name}_layers"


def summarize_layers(profile: np.ndarray) -> Columns:
    """The numbers of ``GAUGE_SUMMARY`` for a profile [S, N]: for each a column [S].

    ``max`` is NaN where a value is NaN.
    """
    in_order = np.sort(profile, axis=1)
    first = profile[:, 0]
    last = profile[:, -1]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = first / last
    columns = {"first": first, "last": last, "ratio": ratio}
    for name, share in QUANTILES.items():
        columns[name] = _quantile(in_order, share)
    return columns


def _quantile(in_order: np.ndarray, share: float) -> np.ndarray:
    """A quantile [S] of values [S, N] in ascending order, between two of them where it lies so."""
    position = share * (in_order.shape[1] - 1)
    lower = math.floor(position)
    weight = position - lower
    if not weight:
        return in_order[:, lower]
    return (1 - weight) * in_order[:, lower] + weight * in_order[:, lower + 1]


def every_layer(
    name: str,
    profile: np.ndarray,
    *,
    is_of_signals: bool = False,
) -> Columns:
    """The values of a profile [S, N]: columns [S] by keys such as ``NAME_layers/layer_000``.

    A profile of more than ``MAX_LAYERS`` layers is reduced to evenly spaced ones.

    Args:
        name: its name.
        profile: the values.
        is_of_signals: whether the first one is of the input of layer 0, whose key is
            ``NAME_layers/input``.
    """
    layers = entry_layers(profile.shape[1], is_of_signals).tolist()
    width = max(3, len(str(layers[-1])))
    columns = {}
    for entry in evenly_spaced(len(layers), MAX_LAYERS).tolist():
        layer = layers[entry]
        key = "input" if layer == INPUT else f"layer_{layer:0{width}d}"
        columns[f"{layers_section(name)}/{key}"] = profile[:, entry]
    return columns


def spread_of_layers(name: str, profile: np.ndarray) -> Columns:
    """At most ``NUM_SPREAD`` values of a profile [S, N] by key, each a column [S].

    The key says at how many percent of the depth the layer is: ``NAME_layers/depth_000`` is the
    first one and ``NAME_layers/depth_100`` the last one. Networks of all depths have their keys
    from one list.
    """
    num_layers = profile.shape[1]
    last_place = NUM_SPREAD - 1
    columns = {}
    for layer in evenly_spaced(num_layers, NUM_SPREAD).tolist():
        place = round(layer / max(1, num_layers - 1) * last_place)
        percent = round(100 * place / last_place)
        columns[f"{layers_section(name)}/depth_{percent:03d}"] = profile[:, layer]
    return columns


def evenly_spaced(count: int, limit: int) -> np.ndarray:
    """At most ``limit`` of ``count`` indices, evenly spaced, with the first and the last."""
    num = min(count, limit)
    indices = np.linspace(0, count - 1, num).round()
    return np.unique(indices.astype(int))


def gauge_rows(
    profiles: Columns,
    layers: TrackedLayers,
    every: int,
) -> dict[int, dict[str, float]]:
    """What trackers get of the gauges, by step.

    Args:
        profiles: gauges by name [S, N], with their ``step`` [S]; may be empty.
        layers: which layers have values of their own.
        every: the steps between rows with these values.
    """
    if not profiles:
        return {}
    steps = profiles["step"]
    has_layers = steps % every == 0
    rows: dict[int, dict[str, float]] = {step: {} for step in steps.tolist()}
    for profile in GAUGE_PROFILES:
        values = profiles[profile.name]
        _add_columns(rows, steps, profile.values(values))
        chosen = profile.layer_values(values[has_layers], layers)
        _add_columns(rows, steps[has_layers], chosen)
    return rows


def _add_columns(
    rows: dict[int, dict[str, float]],
    steps: np.ndarray,
    columns: Columns,
) -> None:
    """Adds columns [S] by key to the rows of their steps [S]."""
    if not columns:
        return
    table = np.stack([*columns.values()], axis=1).tolist()
    for step, numbers in zip(steps.tolist(), table, strict=True):
        rows[step].update(zip(columns, numbers, strict=True))


def diagnostic_row(diagnostics: Columns, layers: TrackedLayers) -> dict[str, float]:
    """What trackers get of the diagnostics of a step, by key: ``inspect/sharpness`` and so on.

    Histograms and spectra are only in the record.

    Args:
        diagnostics: numbers, and profiles [N], by name.
        layers: which layers have values of their own.
    """
    row: dict[str, float] = {}
    if not diagnostics:
        return row
    for diagnostic in TRACKED_DIAGNOSTICS:
        if diagnostic.is_number and diagnostic.name in diagnostics:
            row[f"inspect/{diagnostic.name}"] = float(diagnostics[diagnostic.name])
    for profile in DIAGNOSTIC_PROFILES:
        if profile.name in diagnostics:
            values = np.asarray(diagnostics[profile.name])[np.newaxis]
            columns = profile.values(values) | profile.layer_values(values, layers)
            row |= {key: float(column[0]) for key, column in columns.items()}
    return row


def tracked_layers(settings: dict[str, Any]) -> TrackedLayers:
    """The setting ``tracker.layers``; records of version 0.2 do not have it."""
    name = settings.get("layers", TrackedLayers.spread.name)
    return TrackedLayers[name]

"""The gauges of a run over steps and layers, from its profiles and its inspections."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from research.config.suggestions import format_suggestion
from research.gauges.table import DIAGNOSTICS, EXPONENT_GAUGES, GAUGES
from research.records.runs import Columns, Run
from research.reporting.quantities import inspected


def find_gauge(name: str, runs: Sequence[Run]) -> str:
    """The gauge with this name, which at least one run recorded for its layers.

    Raises:
        ValueError: no run did; the message has the nearest name.
    """
    name = name.replace("-", "_")
    known = recorded_gauges(runs)
    if name in known:
        return name
    if not known:
        raise ValueError("no run measured its layers: train with measure=norms or measure=full")
    declared = [gauge.name for gauge in (*GAUGES, *EXPONENT_GAUGES, *DIAGNOSTICS)]
    recorded = ", ".join(known)
    if name in declared:
        raise ValueError(f"no run recorded {name}{_asked_by(name)} (recorded: {recorded})")
    hint = format_suggestion(name, known)
    raise ValueError(f"there is no gauge {name}{hint} (recorded: {recorded})")


def _asked_by(name: str) -> str:
    """How a run is made to record a gauge."""
    for gauge in GAUGES:
        if gauge.name == name:
            return f"; measure={gauge.level.name} records it"
    for diagnostic in DIAGNOSTICS:
        if diagnostic.name == name:
            return f"; measure.inspect=[{diagnostic.inspection}] records it"
    return "; measure=full records it"


def recorded_gauges(runs: Sequence[Run]) -> list[str]:
    """The columns with one value for each layer that some run recorded."""
    names: dict[str, None] = {}
    for run in runs:
        for columns in _layer_tables(run):
            for name, values in columns.items():
                if values.ndim == 2 and _has_layers(name, run, values):
                    names[name] = None
    return list(names)


def inspected_gauge(runs: Sequence[Run]) -> str:
    """What half of the runs or more were asked to inspect in each layer, at several steps.

    It is empty where there is no such gauge; of several it is the first one of the table.
    """
    for diagnostic in inspected(runs):
        if not diagnostic.has_layers:
            continue
        counts = [len(read_gauge(run, diagnostic.name).steps) for run in runs]
        if 2 * sum(count > 1 for count in counts) >= len(runs):
            return diagnostic.name
    return ""


def _has_layers(
    name: str,
    run: Run,
    values: np.ndarray,
) -> bool:
    """Whether the second axis of a column is the layers N, or the signals N + 1."""
    layers = run.info.get("layers")
    if layers is None:
        return name in [gauge.name for gauge in GAUGES]
    return values.shape[1] in (layers, layers + 1)


def _layer_tables(run: Run) -> list[Columns]:
    tables = []
    for name in ("profiles", "inspections"):
        try:
            tables.append(getattr(run, name))
        except FileNotFoundError:  # the run recorded none
            continue
    return tables


@dataclass(frozen=True)
class GaugeHistory:
    """A gauge of one run at the steps at which it was measured: [S] and [S, N]."""

    steps: np.ndarray
    values: np.ndarray


def read_gauge(run: Run, gauge: str) -> GaugeHistory:
    """A gauge of a run over steps and layers; without steps if it was not recorded."""
    for columns in _layer_tables(run):
        if gauge not in columns:
            continue
        steps = columns["step"]
        values = np.asarray(columns[gauge], float)
        is_measured = ~np.all(np.isnan(values), axis=1)
        return GaugeHistory(steps[is_measured], values[is_measured])
    return GaugeHistory(np.zeros(0, int), np.zeros((0, 0)))


def name_end(
    runs: Sequence[Run],
    gauge: str,
    *,
    is_first: bool,
) -> str:
    """``step 290``, the first or the last step at which runs measured a gauge.

    Where it is not the same in all runs, it is ``the first`` or ``the last measured step``.

    Args:
        runs: the runs.
        gauge: the name of the gauge.
        is_first: whether it is the first step.
    """
    found = set()
    for run in runs:
        steps = read_gauge(run, gauge).steps
        if len(steps):
            found.add(int(steps[0 if is_first else -1]))
    if len(found) == 1:
        return f"step {found.pop()}"
    return "the first measured step" if is_first else "the last measured step"

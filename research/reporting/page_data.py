"""What the report and the dashboard show of runs, as JSON values.

The index holds one row for each run. The details of a run are its curves and its profiles over
depth, reduced to as many numbers as a page can hold.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from research.gauges.numbering import entry_layers
from research.gauges.table import (
    ACTIVATION_RMS,
    GAUGES,
    GRAD_NORM,
    OF_SIGNALS,
    SIGNAL_GRAD,
    UPDATE_RATIO,
)
from research.gauges.table import METRICS as DECLARED_METRICS
from research.records.runs import Run, natural_order
from research.reporting.aggregation import seed_of
from research.reporting.summary_table import summary_table
from research.reporting.table_formats import page_table
from research.reporting.tables import study_of
from research.reporting.varied_settings import (
    listed_settings,
    setting_order,
    setting_text,
    setting_value,
    short_name,
)

RESULTS = {  # the columns of results, and the names that a filter knows
    "status": "status",
    "verdict": "verdict",
    "steps": "steps",
    "train_loss": "train loss",
    "train_accuracy": "train accuracy",
    "eval_loss": "eval loss",
    "eval_accuracy": "eval accuracy",
    "factor": "gradient factor per layer",
}
NO_CURVES = ("step", "epoch", "skipped")
# The gauges that a page keeps where it cannot keep all.
FIRST_GAUGES = (SIGNAL_GRAD, GRAD_NORM, ACTIVATION_RMS, UPDATE_RATIO)
GAUGES_IN_ORDER = (*FIRST_GAUGES, *(gauge for gauge in GAUGES if gauge not in FIRST_GAUGES))
MAX_SETTINGS_FIRST = 8  # with more columns of settings, the results come before them
MAX_ROWS_OF_MEANS = 40
MAX_POINTS = 400  # of a curve
MAX_STEPS = 60  # of a profile
MAX_LAYERS = 200
VALUES_OF_A_PAGE = 540_000  # less than 5 MB of JSON
DIGITS = 4
DIGITS_OF_PROFILES = 3


@dataclass(frozen=True)
class Detail:
    """How many numbers of a run a page holds.

    Attributes:
        points: of each curve.
        steps: at which profiles are kept.
        layers: of each profile.
        gauges: how many gauges are kept, in the order of ``GAUGES_IN_ORDER``.
    """

    points: int = MAX_POINTS
    steps: int = MAX_STEPS
    layers: int = MAX_LAYERS
    gauges: int = len(GAUGES)


def detail_for(num_runs: int) -> Detail:
    """The detail with which a page of so many runs stays below ``VALUES_OF_A_PAGE`` numbers."""
    values_of_a_run = VALUES_OF_A_PAGE // max(1, num_runs)
    detail = Detail()
    for smaller in (
        Detail(gauges=4),
        Detail(points=200, steps=40, layers=100, gauges=3),
        Detail(points=120, steps=24, layers=64, gauges=2),
        Detail(points=80, steps=12, layers=48, gauges=2),
        Detail(points=40, steps=8, layers=32, gauges=1),
    ):
        if _num_values(detail) <= values_of_a_run:
            return detail
        detail = smaller
    return detail


def _num_values(detail: Detail) -> int:
    curves = 2 * detail.points * len(DECLARED_METRICS)
    profiles = detail.gauges * detail.steps * detail.layers
    return curves + profiles


def make_index(runs: Sequence[Run], root: Path) -> dict[str, Any]:
    """The rows and columns of the table of runs, and what all runs have in common.

    Args:
        runs: the runs.
        root: the folder below which the runs are; their paths in it are their ids.
    """
    differing = listed_settings(runs)
    columns: list[dict[str, Any]] = [{"key": "name", "label": "run"}]
    if len({study_of(run) for run in runs}) > 1:
        columns.append({"key": "study", "label": "study"})
    if any(run.info.get("tags") for run in runs):
        columns.append({"key": "tags", "label": "tags"})
    settings = []
    for path in differing:
        settings.append({"key": path, "label": _label(path), "isSetting": True})
    results = []
    for key, label in RESULTS.items():
        results.append({"key": key, "label": label})
    if len(differing) > MAX_SETTINGS_FIRST:
        columns += [*results, *settings]
    else:
        columns += [*settings, *results]
    rows = []
    for run in _in_order(runs, differing):
        rows.append(_make_row(run, root, differing))
    return {
        "columns": columns,
        "runs": rows,
        "constants": _constants(runs, differing),
        "means": _make_means(runs),
        "gauges": {gauge.name: gauge.meaning for gauge in GAUGES_IN_ORDER},
        "metrics": {metric.name: metric.meaning for metric in DECLARED_METRICS},
    }


def _make_means(runs: Sequence[Run]) -> dict[str, Any] | None:
    """The table of means over seeds; None without several seeds, or where it would be long."""
    seeds = {seed_of(run) for run in runs}
    if len(seeds) < 2:
        return None
    try:
        table = summary_table(runs)
    except ValueError:  # there is nothing to average; the page shows the runs all the same
        return None
    if len(table.rows) > MAX_ROWS_OF_MEANS:
        return None
    return page_table(table)


def _in_order(runs: Sequence[Run], differing: Sequence[str]) -> list[Run]:
    """The runs by study, then by the columns from left to right."""

    def sort_key(run: Run) -> list[Any]:
        key: list[Any] = [natural_order(study_of(run))]
        for path in differing:
            key.append(setting_order(run, path))
        return key

    return sorted(runs, key=sort_key)


def _label(path: str) -> str:
    """The short name of a setting, or its path where a result has the same name."""
    name = short_name(path)
    return path if name in RESULTS.values() else name


def run_key(run: Run, root: Path) -> str:
    """What a page calls a run: its path below ``root``."""
    directory = run.directory.absolute()
    if directory.is_relative_to(root.absolute()):
        return str(directory.relative_to(root.absolute()))
    return str(directory)


def _make_row(
    run: Run,
    root: Path,
    differing: Sequence[str],
) -> dict[str, Any]:
    info = run.info
    final = info.get("final") or {}
    verdict = info.get("verdict") or {}
    values: dict[str, Any] = {"name": run.directory.name, "study": study_of(run)}
    for path in differing:
        values[path] = _cell(setting_value(run, path))
    tags = info.get("tags") or []
    values["tags"] = ", ".join(map(str, tags)) or None
    values["status"] = run.status
    values["verdict"] = verdict.get("kind")
    values["steps"] = run.num_steps
    for name in ("train_loss", "train_accuracy", "eval_loss", "eval_accuracy"):
        values[name] = _finite(final.get(name))
    values["factor"] = _finite(verdict.get("factor_per_layer"))
    return {
        "id": run_key(run, root),
        "name": run.directory.name,
        "values": values,
        "sentence": verdict.get("sentence") or info.get("error") or "",
        "findings": _findings(verdict),
        "notes": info.get("notes") or "",
        "layers": info.get("layers"),
        "settings": {path: setting_text(setting_value(run, path)) for path in differing},
        "layerNames": [str(name) for name in info.get("layer_names") or []],
    }


def _findings(verdict: Mapping[str, Any]) -> list[dict[str, str]]:
    """What was found in a run, in words, with what to try; none for records of earlier versions."""
    findings = []
    for finding in verdict.get("findings") or []:
        if not isinstance(finding, Mapping):
            continue
        sentence = finding.get("sentence") or ""
        advice = finding.get("advice") or ""
        findings.append({"sentence": str(sentence), "advice": str(advice)})
    return findings


def _cell(value: Any) -> Any:
    """A setting as the table sorts it: numbers as numbers, all others as text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None if value is None else setting_text(value)
    return value if math.isfinite(value) else str(value)


def _constants(runs: Sequence[Run], differing: Sequence[str]) -> dict[str, str]:
    """The settings that all runs have in common, and their values."""
    constants: dict[str, str] = {}
    if not runs:
        return constants
    for path in sorted(runs[0].config):
        values = {setting_text(setting_value(run, path)) for run in runs}
        if path not in differing and len(values) == 1:
            constants[path] = values.pop()
    return constants


def make_details(run: Run, detail: Detail) -> dict[str, Any]:
    """The curves and profiles of a run; empty where it has recorded none or its tables are damaged.

    Args:
        run: the run.
        detail: how many numbers are kept.
    """
    return {
        "curves": _make_curves(run, detail),
        "profiles": _make_profiles(run, detail),
    }


def _make_curves(run: Run, detail: Detail) -> dict[str, Any]:
    try:
        metrics = run.metrics
    except (FileNotFoundError, ValueError):
        return {}
    steps = metrics.get("step")
    if steps is None or not len(steps):
        return {}
    curves = {}
    for name, values in metrics.items():
        recorded = np.isfinite(values)
        if name in NO_CURVES or not recorded.any():
            continue
        if len(np.unique(values[recorded])) == 1 and name == "loss_scale":
            continue  # nothing is scaled
        curves[name] = _thin_curve(steps[recorded], values[recorded], detail.points)
    return curves


def _thin_curve(
    steps: np.ndarray,
    values: np.ndarray,
    points: int,
) -> dict[str, Any]:
    """A curve as means over windows of the same length; the last one may be shorter.

    Args:
        steps: where the values were measured [S].
        values: the finite values [S].
        points: the largest number of windows.
    """
    count = len(values)
    length = math.ceil(count / points)
    starts = np.arange(0, count, length)
    ends = np.append(starts[1:], count)
    sums = np.add.reduceat(values, starts)
    means = sums / (ends - starts)
    return {
        "x": steps[ends - 1].astype(int).tolist(),
        "y": [_rounded(mean, DIGITS) for mean in means.tolist()],
    }


def _make_profiles(run: Run, detail: Detail) -> dict[str, Any]:
    try:
        profiles = run.profiles
    except (FileNotFoundError, ValueError):
        return {}
    steps = profiles.get("step")
    if steps is None or not len(steps):
        return {}
    rows = _spread(len(steps), detail.steps)
    gauges = {}
    for gauge in GAUGES_IN_ORDER:
        values = profiles.get(gauge.name)
        if values is None or values.ndim != 2 or len(gauges) == detail.gauges:
            continue
        entries = _spread(values.shape[1], detail.layers)
        kept = []
        for row in values[np.ix_(rows, entries)]:
            kept.append(_rounded_list(row))
        layers = entry_layers(values.shape[1], gauge.name in OF_SIGNALS)[entries]
        gauges[gauge.name] = {"layers": layers.tolist(), "values": kept}
    kept_steps = steps[rows].astype(int)
    return {"steps": kept_steps.tolist(), "gauges": gauges}


def _spread(count: int, most: int) -> np.ndarray:
    """At most ``most`` of ``count`` positions, with the first and the last one."""
    if count <= most:
        return np.arange(count)
    positions = np.linspace(0, count - 1, most)
    return np.unique(positions.round().astype(int))


def _rounded_list(values: Iterable[float]) -> list[float | None]:
    return [_rounded(float(value), DIGITS_OF_PROFILES) for value in values]


def _rounded(value: float, digits: int) -> float | None:
    """A number with so many significant digits; None where it is not finite."""
    if not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")


def _finite(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def read_claims(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The claims of the experiments that the runs belong to, from ``claims.json`` next to them."""
    claims = []
    folders = {run.directory.absolute().parent: None for run in runs}
    for folder in folders:
        try:
            recorded = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if not isinstance(recorded, list):
            continue
        for claim in recorded:
            if isinstance(claim, Mapping):
                claims.append({"study": folder.name, **claim})
    return claims


def to_json(content: Any) -> str:
    """Compact JSON that can stand inside a script element: no ``<``, ``>``, ``&`` or line ends."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text

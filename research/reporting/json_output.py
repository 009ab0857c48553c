"""What commands print with ``--json``: runs as JSON objects with stable keys."""

import json
import math
from typing import Any

import numpy as np

from research.gauges.table import GAUGES
from research.records.runs import Run
from research.reporting.gauge_histories import read_gauge
from research.reporting.quantities import QUANTITIES
from research.reporting.tables import study_of


def json_value(value: Any) -> Any:
    """A value that JSON can hold: tuples become lists, numbers that are not finite null."""
    if isinstance(value, dict):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return json_value(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def print_json(value: Any) -> None:
    """Prints a value as JSON on standard output."""
    print(json.dumps(json_value(value), indent=2, ensure_ascii=False, allow_nan=False))


def run_object(run: Run) -> dict[str, Any]:
    """A run: where it is, how it ended, its settings and its numbers.

    Keys: ``run`` (its directory), ``study``, ``id``, ``status``, ``seed``, ``verdict`` (its kind),
    ``sentence``, ``numbers`` (by the names that ``fathom table`` knows) and ``settings`` (by path).
    """
    info = run.info
    verdict = info.get("verdict") or {}
    numbers = {}
    for quantity in QUANTITIES:
        numbers[quantity.name] = quantity.value(run)
    return {
        "run": str(run.directory),
        "study": study_of(run),
        "id": info.get("id"),
        "status": run.status,
        "seed": run.config.get("seed", info.get("seed")),
        "verdict": verdict.get("kind"),
        "sentence": verdict.get("sentence"),
        "numbers": numbers,
        "settings": run.config,
    }


def detailed_object(run: Run) -> dict[str, Any]:
    """``run_object`` with the entries of ``run.json`` and the gauges of two steps.

    Further keys: ``info`` (``run.json``) and ``profiles``: for each gauge the first and the last
    measured step with its values over the layers.
    """
    profiles = {}
    for gauge in GAUGES:
        history = read_gauge(run, gauge.name)
        if len(history.steps):
            profiles[gauge.name] = {
                "steps": history.steps[[0, -1]],
                "first": history.values[0],
                "last": history.values[-1],
            }
    return {**run_object(run), "info": run.info, "profiles": profiles}

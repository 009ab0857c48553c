"""An interactive page of a run's profiles over depth: gauge by menu, step by slider.

It is one HTML file of its own, which loads nothing from anywhere.
"""

import base64
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from research.gauges.numbering import entry_layers
from research.gauges.table import GAUGES, OF_SIGNALS, SIGNAL_GRAD, Gauge
from research.records.runs import Columns, JsonObject
from research.records.trackers.findings import describe_findings
from research.records.trackers.layers import evenly_spaced

MAX_PAGE_STEPS = 32
MAX_PAGE_LAYERS = 72
TEMPLATE = Path(__file__).with_name("profile_page.html")


def profile_page(
    profiles: Columns,
    *,
    title: str,
    verdict: JsonObject | None,
) -> str:
    """The page, as HTML.

    Args:
        profiles: gauges by name [S, N], with their ``step`` [S].
        title: the name of the run.
        verdict: the verdict in ``run.json``.
    """
    verdict = verdict or {}
    gauges = []
    for gauge in GAUGES:
        if gauge.name in profiles:
            gauges.append(_describe_gauge(gauge, profiles[gauge.name], verdict.get("theory")))
    data = {
        "title": title,
        "sentence": str(verdict.get("sentence") or ""),
        "steps": profiles["step"].tolist(),
        "gauges": gauges,
        "findings": describe_findings(verdict),
    }
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    return _read_template().replace("__DATA__", text)


@functools.cache
def _read_template() -> str:
    return TEMPLATE.read_text(encoding="utf-8")


def _describe_gauge(
    gauge: Gauge,
    profile: np.ndarray,
    theory: Any,
) -> JsonObject:
    """A gauge [S, N] as the page reads it."""
    entries = evenly_spaced(profile.shape[1], MAX_PAGE_LAYERS)
    layers = entry_layers(profile.shape[1], gauge.name in OF_SIGNALS)[entries]
    values = np.asarray(profile[:, entries], np.float64)
    described: JsonObject = {
        "name": gauge.name,
        "meaning": gauge.meaning,
        "layers": layers.tolist(),
    }
    bits = 32 if _fits_float32(values) else 64
    described["bits"] = bits
    described["values"] = base64.b64encode(values.astype(f"<f{bits // 8}").tobytes()).decode()
    if gauge is SIGNAL_GRAD and isinstance(theory, float | int):
        described["theory"] = predict_signal(values[0, -1], float(theory), layers)
    return described


def _fits_float32(values: np.ndarray) -> bool:
    """Whether no finite number leaves the range of float32."""
    sizes = np.abs(values[np.isfinite(values) & (values != 0)])
    if not len(sizes):
        return True
    limits = np.finfo(np.float32)
    return bool(sizes.min() >= limits.tiny and sizes.max() <= limits.max)


def predict_signal(
    at_output: float,
    factor: float,
    layers: np.ndarray,
) -> list[float | None]:
    """‖∂L/∂h_l‖ from its value at the output and the factor per layer on its square.

    A number that is not finite becomes None.
    """
    distance = layers[-1] - layers
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        predicted = at_output * np.power(factor, distance / 2)
    return [value if np.isfinite(value) else None for value in predicted.tolist()]

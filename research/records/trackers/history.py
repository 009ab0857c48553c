"""What every tracker gets of a run: history rows while it lasts, and its pictures at the end."""

from collections.abc import Callable
from typing import Any

import numpy as np

from research.gauges.numbering import INPUT, entry_layers
from research.gauges.table import GAUGES, GRAD_NORM, METRICS, SIGNAL_GRAD
from research.records.runs import ENDED, Columns, Diagnostics, JsonObject
from research.records.trackers.findings import FINDING_COLUMNS, describe_findings
from research.records.trackers.layers import (
    diagnostic_row,
    evenly_spaced,
    gauge_rows,
    tracked_layers,
)
from research.records.trackers.media import Media, Page, Picture, Table
from research.records.trackers.profile_page import MAX_PAGE_STEPS, profile_page
from research.records.trackers.thinned_rows import ThinnedRows

MAX_TABLE_ROWS = 1000  # Dashboards cut longer tables.
MAX_MAP_COLUMNS = 500  # About one per pixel; 3,000 columns take twice as long to draw.
DEFAULT_EVERY = 10
STEP = "train/step"
HEAT_MAP = "profile/heat_map"
TABLE = "profile/table"
PAGE = "profile/depth"
FINDINGS = "verdict/findings"
HEAT_MAP_LABEL = "log₁₀ ‖∂L/∂h‖"
JUDGED_KEYS = {"kind": "verdict/kind", "factor_per_layer": "verdict/factor_per_layer"}
METRIC_KEYS = {metric.name: metric.key for metric in METRICS}
TABLE_COLUMNS = (
    "layer",
    "signal_grad_first_step",
    "signal_grad_last_step",
    "grad_norm",
)
StepJudge = Callable[[Columns], dict[int, JsonObject]]


class History:
    """Makes the history rows of one run, and keeps what its pictures need."""

    def __init__(self, settings: JsonObject, judge: StepJudge | None = None):
        """Starts without rows.

        Args:
            settings: the ``tracker`` settings.
            judge: judges single steps; None for no judgement over the steps.
        """
        self._layers = tracked_layers(settings)
        self._every = settings.get("every", DEFAULT_EVERY)
        self._judge = judge
        self._signal_rows = ThinnedRows(MAX_MAP_COLUMNS)  # for the heat map
        self._profile_rows = ThinnedRows(MAX_PAGE_STEPS)  # for the page

    @property
    def has_profiles(self) -> bool:
        """Whether a step was measured, so that there is something to draw."""
        return bool(self._profile_rows)

    def add(
        self,
        metrics: Columns,
        profiles: Columns,
        diagnostics: Diagnostics,
    ) -> list[JsonObject]:
        """One row for each recorded step: numbers and texts by key, with the step as ``STEP``.

        Rows of measured steps have numbers that summarise the layers, and every ``tracker.every``
        steps values of single layers.

        Args:
            metrics: numbers by name [S], with their ``step`` [S].
            profiles: gauges by name [S', N], with their ``step`` [S'].
            diagnostics: what was measured on an interval, by step. Only what the gauge table marks
                as tracked is part of a row.
        """
        self._keep_profiles(profiles)
        gauges_by_step = gauge_rows(profiles, self._layers, self._every)
        judged_by_step = self._judge_steps(profiles)
        columns = _metric_columns(metrics)
        rows = []
        for number, step in enumerate(metrics["step"].tolist()):
            row = {STEP: step}
            for key, column in columns.items():
                if column[number] is not None:
                    row[key] = column[number]
            row |= gauges_by_step.get(step, {})
            row |= judged_by_step.get(step, {})
            row |= diagnostic_row(diagnostics.get(step, {}), self._layers)
            rows.append(row)
        return rows

    def _judge_steps(self, profiles: Columns) -> dict[int, JsonObject]:
        """The judgement of each step with values of single layers, by key."""
        if self._judge is None or not profiles:
            return {}
        shown = profiles["step"] % self._every == 0
        columns = {name: profiles[name][shown] for name in ("step", SIGNAL_GRAD.name)}
        rows = {}
        for step, judged in self._judge(columns).items():
            rows[step] = {key: judged[name] for name, key in JUDGED_KEYS.items()}
        return rows

    def _keep_profiles(self, profiles: Columns) -> None:
        """Keeps what the page, the heat map and the table need."""
        if not profiles:
            return
        kept = {"step": profiles["step"]}
        for gauge in GAUGES:
            if gauge.name in profiles:
                kept[gauge.name] = profiles[gauge.name]
        self._profile_rows.add(kept)
        self._signal_rows.add({name: kept[name] for name in ("step", SIGNAL_GRAD.name)})

    def draw_profiles(self, title: str, info: JsonObject) -> dict[str, Media]:
        """The pictures, tables and pages of a run that has ended, by key.

        Args:
            title: the name of the run.
            info: the final ``run.json``.
        """
        profile_rows = self._profile_rows.columns()
        verdict = info.get("verdict")
        signal = self._signal_rows.columns()[SIGNAL_GRAD.name]
        page = profile_page(profile_rows, title=title, verdict=verdict)
        rows = _table_rows(signal, profile_rows[GRAD_NORM.name][-1])
        media: dict[str, Media] = {
            HEAT_MAP: self.draw_heat_map(),
            TABLE: Table(TABLE_COLUMNS, rows),
            PAGE: Page(page),
        }
        findings = describe_findings(verdict)
        if findings:
            rows = [list(finding.values()) for finding in findings]
            media[FINDINGS] = Table(FINDING_COLUMNS, rows)
        return media

    def draw_heat_map(self) -> Picture:
        """The gradient that arrives at each layer, by step."""
        from research.records.trackers.heat_map import heat_map  # Pillow is slow to import

        rows = self._signal_rows.columns()
        return heat_map(
            rows["step"],
            rows[SIGNAL_GRAD.name],
            label=HEAT_MAP_LABEL,
            first_layer=INPUT,
        )

    def draw_profile(self, info: JsonObject) -> Picture:
        """The gradient that arrives at each layer, at a few steps, with what theory predicts.

        Args:
            info: the final ``run.json``.
        """
        from research.records.trackers.profile_picture import profile_picture

        rows = self._profile_rows.columns()
        theory = (info.get("verdict") or {}).get("theory")
        return profile_picture(rows["step"], rows[SIGNAL_GRAD.name], theory=theory)


def make_summary(info: JsonObject) -> JsonObject:
    """The status, the final numbers and the verdict of a run by key; its findings are a table."""
    summary = {"status": info["status"]}
    for section in ("final", "verdict"):
        entries = info.get(section) or {}
        for name, value in entries.items():
            key = f"{section}/{name}"
            if key != FINDINGS:
                summary[key] = value
    return summary


def has_ended(info: JsonObject) -> bool:
    """Whether a run has ended by itself, so that dashboards have its pictures."""
    return info.get("status") in ENDED


def _metric_columns(metrics: Columns) -> dict[str, list[Any]]:
    """The columns that trackers get, by key; None where a step has no value.

    Numbers that the user of ``fathom.Monitor`` has named keep their names.
    """
    columns = {}
    for name, values in metrics.items():
        if name != "step":
            numbers = values + 0  # charts leave truth values out; this makes numbers of them
            columns[METRIC_KEYS.get(name, name)] = numbers.tolist()
    return columns


def _table_rows(signal: np.ndarray, grad_norm: np.ndarray) -> list[tuple]:
    """The rows of the table ``TABLE_COLUMNS``.

    ``signal`` [S, N+1] is the gradient at the input of layer 0, whose row has the number −1, and at
    the output of each layer. ``grad_norm`` [N] is of the last step; the input has none.
    """
    first = signal[0].tolist()
    last = signal[-1].tolist()
    norms = [None, *grad_norm.tolist()]
    layers = entry_layers(len(norms), is_signals=True).tolist()
    rows = []
    for entry in evenly_spaced(len(norms), MAX_TABLE_ROWS).tolist():
        rows.append((layers[entry], first[entry], last[entry], norms[entry]))
    return rows

"""A study's saved view and report in Weights & Biases, laid out from its runs.

The panels use keys that the runs have in W&B, and the settings that vary between them. The package
``wandb-workspaces`` checks the specifications.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from research.config.options import TrackedLayers
from research.gauges.table import GRAD_NORM
from research.records.mirror import wandb_state
from research.records.runs import JsonObject, Run
from research.records.trackers.history import METRIC_KEYS
from research.records.trackers.views import ENTITY, view_name
from research.reporting.varied_settings import RUN, varied_settings

STEP = "train/step"
RESULTS = ("eval_accuracy", "eval_loss", "train_loss")  # the first one that the runs have
LAYER_PATTERN = "^grad_norm_layers/.*"
MAX_READ = 20  # of so many runs the tables are read
MAX_GROUPED = 4  # W&B nests groups, so more of them hide the runs
MAX_TITLE = 128
PANEL_ID = "__id__"
RUNSET_ID = "id"


@dataclass(frozen=True)
class Study:
    """What the view of a study shows.

    Attributes:
        name: the directory of the study.
        group: the W&B group of its runs.
        project: their W&B project.
        entity: their W&B entity; None for the user's default.
        varied: the settings that distinguish the runs, apart from the seed; the most
            informative ones first.
        result: the final number that matters most, as in ``run.json``.
        claims: the content of ``claims.json``; empty for a study that is no experiment.
        keys: what its runs have of ``METRIC_KEYS``.
        has_profiles: whether its runs have profiles.
        has_layers: whether its runs have keys of single layers.
    """

    name: str
    group: str
    project: str
    entity: str | None
    varied: tuple[str, ...]
    result: str
    claims: tuple[JsonObject, ...]
    keys: frozenset[str]
    has_profiles: bool
    has_layers: bool


def describe_study(directory: Path, runs: Sequence[Run]) -> Study:
    """What the view of a study shows.

    Args:
        directory: the directory of the study.
        runs: its runs.

    Raises:
        ValueError: none of the runs is recorded for W&B.
    """
    states = [wandb_state(run.directory, run.info) for run in runs]
    states = [state for state in states if state]
    if not states:
        raise ValueError(
            f"no run of {directory} is recorded for Weights & Biases: train with tracker=wandb"
        )
    first = states[0]
    some_runs = runs[:MAX_READ]
    has_profiles = any(_has_profiles(run) for run in some_runs)
    return Study(
        name=directory.name,
        group=first["run"].get("group") or directory.name,
        project=first.get("project") or "fathom",
        entity=first.get("entity"),
        varied=tuple(path for path in varied_settings(runs) if path != RUN),
        result=_main_result(runs),
        claims=_read_claims(directory),
        keys=_find_keys(some_runs),
        has_profiles=has_profiles,
        has_layers=has_profiles and any(_has_layers(run) for run in some_runs),
    )


def _main_result(runs: Sequence[Run]) -> str:
    finals = [run.info.get("final") or {} for run in runs]
    for name in RESULTS:
        if any(final.get(name) is not None for final in finals):
            return name
    return RESULTS[-1]


def _find_keys(runs: Sequence[Run]) -> frozenset[str]:
    """The keys in W&B of the numbers that at least one of the runs has."""
    keys = set()
    for run in runs:
        with contextlib.suppress(OSError, ValueError):  # nothing is recorded yet
            for name, values in run.metrics.items():
                if name in METRIC_KEYS and np.isfinite(values).any():
                    keys.add(METRIC_KEYS[name])
    return frozenset(keys)


def _has_profiles(run: Run) -> bool:
    try:
        return GRAD_NORM.name in run.profiles
    except (OSError, ValueError):  # nothing is measured
        return False


def _has_layers(run: Run) -> bool:
    """Whether a run has keys of single layers; those of earlier versions have the default."""
    return run.config.get("tracker.layers") != TrackedLayers.none.name


def _read_claims(directory: Path) -> tuple[JsonObject, ...]:
    try:
        claims = json.loads((directory / "claims.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()
    return tuple(claims)


def make_views(study: Study) -> list[JsonObject]:
    """The saved view and the report of a study, as ``write_views`` takes them.

    Raises:
        ModuleNotFoundError: ``wandb-workspaces`` is not installed.
    """
    return [_make_workspace(study), _make_report(study)]


def _make_workspace(study: Study) -> JsonObject:
    import wandb_workspaces.workspaces as ws  # pyright: ignore[reportMissingImports]  # an extra

    panels = {
        "Overview": [*_curve_panels(study), _import_reports().RunComparer(diff_only="split")],
        "Gradients over depth": _gradient_panels(study),
        "Depth profiles": _profile_panels(study),
        "Comparison": _comparison_panels(study),
    }
    sections = []
    for name, shown in panels.items():
        if shown:
            sections.append(ws.Section(name=name, panels=shown, is_open=True))
    workspace = ws.Workspace(
        entity=study.entity or ENTITY,
        project=study.project,
        name=study.name[:MAX_TITLE],
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=50),
        runset_settings=ws.RunsetSettings(
            filters=_group_filter(study),
            groupby=[ws.Config(path) for path in study.varied[:MAX_GROUPED]],
            pinned_columns=_columns(study),
        ),
    )
    view = workspace._to_model()  # the package has no public way to a specification
    return {
        "kind": "workspace",
        "type": "project-view",
        "name": view_name(study.name, "workspace"),
        "title": study.name[:MAX_TITLE],
        "project": study.project,
        "entity": study.entity,
        "spec": _to_spec(view, study),
    }


def _to_spec(model: Any, study: Study) -> JsonObject:
    """The specification of a view or a report, which is the same whenever it is made again."""
    spec = json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))
    for number, part in enumerate(_parts_with_random_id(spec)):
        digest = hashlib.sha256(f"{study.name} {number}".encode()).hexdigest()
        part[PANEL_ID if PANEL_ID in part else RUNSET_ID] = digest[:11]
    return spec


def _parts_with_random_id(value: Any) -> Iterator[JsonObject]:
    """The panels and sets of runs of a specification, in order."""
    if isinstance(value, list):
        for item in value:
            yield from _parts_with_random_id(item)
    elif isinstance(value, dict):
        if PANEL_ID in value or "runFeed" in value:
            yield value
        for item in value.values():
            yield from _parts_with_random_id(item)


def _import_reports() -> Any:
    import wandb_workspaces.reports.v2 as wr  # pyright: ignore[reportMissingImports]  # an extra

    return wr


def _setting(path: str) -> Any:
    """A setting as panels name it."""
    wr = _import_reports()
    return wr.Config(path)


def _group_filter(study: Study, *, job_type: str = "train") -> str:
    return f"Group = '{study.group}' and JobType = '{job_type}'"


def _columns(study: Study) -> list[str]:
    """The columns of the list of runs that are always shown."""
    columns = []
    for path in study.varied:
        group, _, name = path.partition(".")
        columns.append(f"config:{group}.value.{name}".rstrip("."))
    return [*columns, f"summary:final/{study.result}", "summary:verdict/kind"]


def _line(
    title: str,
    keys: Sequence[str] = (),
    *,
    is_log: bool = False,
    pattern: str | None = None,
) -> Any:
    """A chart over the training step, with the mean and the spread of each group of runs."""
    wr = _import_reports()
    return wr.LinePlot(
        title=title,
        x=STEP,
        y=list(keys),
        metric_regex=pattern,
        log_y=is_log,
        groupby_aggfunc="mean",
        groupby_rangefunc="stddev",
    )


def _curve_panels(study: Study) -> list[Any]:
    wr = _import_reports()
    final = wr.BarPlot(
        title=f"final {study.result.replace('_', ' ')}",
        metrics=[f"final/{study.result}"],
    )
    panels = []
    if "train/loss" in study.keys:
        panels.append(_line("training loss", ["train/loss"], is_log=True))
    if "eval/accuracy" in study.keys:
        panels.append(_line("accuracy on held-out data", ["eval/accuracy"]))
    elif "eval/loss" in study.keys:
        panels.append(_line("loss on held-out data", ["eval/loss"], is_log=True))
    return [*panels, final]


def _gradient_panels(study: Study) -> list[Any]:
    if not study.has_profiles:
        return []
    panels = [
        _line("gradient norm: first layer / last layer", ["grad_norm/ratio"], is_log=True),
        _line("gradient norm of the first layer", ["grad_norm/first"], is_log=True),
        _line("gradient norm of the last layer", ["grad_norm/last"], is_log=True),
        _line("least gradient norm of a layer", ["grad_norm/min"], is_log=True),
    ]
    if study.has_layers:
        panels.append(_line("gradient norms of layers", is_log=True, pattern=LAYER_PATTERN))
    return panels


def _profile_panels(study: Study) -> list[Any]:
    if not study.has_profiles:
        return []
    wr = _import_reports()
    return [
        wr.MediaBrowser(title="profile over depth", media_keys=["profile/depth"]),
        wr.MediaBrowser(title="gradient by step and layer", media_keys=["profile/heat_map"]),
    ]


def _comparison_panels(study: Study) -> list[Any]:
    wr = _import_reports()
    result = wr.SummaryMetric(f"final/{study.result}")
    metrics = [_setting(path) for path in study.varied]
    if study.has_profiles:
        metrics.append(wr.SummaryMetric("verdict/factor_per_layer"))
    metrics.append(result)
    columns = [wr.ParallelCoordinatesPlotColumn(metric=metric) for metric in metrics]
    panels: list[Any] = [wr.ParallelCoordinatesPlot(title="what varies", columns=columns)]
    for path in study.varied:
        name = path.replace("_", " ")
        panels.append(wr.ScatterPlot(title=f"{name} and result", x=_setting(path), y=result))
    return panels


def _make_report(study: Study) -> JsonObject:
    wr = _import_reports()
    runset = wr.Runset(  # of the project of the report
        name="runs",
        filters=_group_filter(study),
        groupby=[f"config.{path}" for path in study.varied[:MAX_GROUPED]],
    )
    blocks: list[Any] = [wr.H1(study.name)]
    if study.claims:
        summary = wr.Runset(name="summary", filters=_group_filter(study, job_type="summary"))
        figure = wr.MediaBrowser(title="figure", media_keys=["figure"])
        blocks.append(wr.PanelGrid(runsets=[summary], panels=[figure]))
        blocks.append(wr.MarkdownBlock(_claims_in_markdown(study.claims)))
    panels = [*_curve_panels(study), *_gradient_panels(study), *_profile_panels(study)]
    blocks.append(wr.PanelGrid(runsets=[runset], panels=panels))
    blocks.append(wr.PanelGrid(runsets=[runset], panels=_comparison_panels(study)))
    title = f"{study.name}: gradients over depth"[:MAX_TITLE]
    report = wr.Report(
        entity=study.entity or ENTITY,
        project=study.project,
        title=title,
        blocks=blocks,
        width="fluid",
    )
    return {
        "kind": "report",
        "type": "runs",
        "name": view_name(study.name, "report"),
        "title": title,
        "project": study.project,
        "entity": study.entity,
        "spec": _to_spec(report._to_model(), study),
    }


def _claims_in_markdown(claims: Sequence[JsonObject]) -> str:
    lines = ["| claim | expected | measured | holds |", "|---|---|---|---|"]
    for claim in claims:
        measured = claim.get("measured")
        number = f"{measured:.3g}" if isinstance(measured, float | int) else "–"
        holds = "yes" if claim.get("holds") else "**no**"
        lines.append(f"| {claim['statement']} | {claim['expected']} | {number} | {holds} |")
    return "\n".join(lines)

"""One W&B run for each training run, offline unless ``WANDB_MODE`` says otherwise."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from research.gauges.table import (
    GRAD_NORM,
    METRICS,
    SIGNAL_GRAD,
    TRACKED_DIAGNOSTICS,
    TRACKED_GAUGES,
)
from research.records.runs import Columns, JsonObject
from research.records.trackers import Diagnostics
from research.records.trackers.identity import all_tags, job_type
from research.records.trackers.server import server_address, server_answers

MAX_LAYERS = 256  # Deeper networks log evenly spaced layers: dashboards slow down past 10,000 keys.
MAX_TABLE_ROWS = 1000  # The dashboard cuts longer tables.
MAX_MAP_COLUMNS = 500  # About one per pixel; 3,000 columns take twice as long to draw.
WANDB_SETTINGS = {
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "disable_git": True,
    "disable_code": True,
    "console": "off",
    "silent": True,
    "init_timeout": 30,
    "finish_timeout": 60,
    "finish_timeout_raises": True,
    "x_transaction_log_flush_interval": 2,
}
METRIC_KEYS = {metric.name: metric.key for metric in METRICS}
TAGGED_GROUPS = (
    "skip",
    "norm",
    "activation",
    "init",
    "optimizer",
    "precision",
    "loss",
)
TABLE_COLUMNS = (
    "layer",
    "signal_grad_first_step",
    "signal_grad_last_step",
    "grad_norm",
)


class WandbTracker:
    """Mirrors a run in W&B.

    Logs ``train/*``, ``eval/*``, ``grad_norm/*`` and diagnostics over ``train/step``. When the run
    ends, logs a heat map and a table of its gradient profile.
    """

    def __init__(
        self,
        *,
        settings: JsonObject,
        run_id: str,
        name: str,
        group: str,
        config: JsonObject,
    ):
        """Prepares the tracker without contacting W&B.

        Args:
            settings: the ``tracker`` settings.
            run_id: the W&B id. A trial of a W&B search uses the id that its agent expects instead.
            name: the display name.
            group: the W&B group.
            config: the resolved configuration as a tree.
        """
        if _is_search_trial():
            run_id = os.environ.get("WANDB_RUN_ID", run_id)
        self._settings = settings
        self._config = config
        self._identity = {
            "id": run_id,
            "name": name,
            "group": group,
            "tags": all_tags(make_tags(config)),
            "job_type": job_type(),
        }
        self._num_uploaded_steps = 0
        self._steps: list[np.ndarray] = []
        self._signal_grads: list[np.ndarray] = []
        self._last_grad_norm = np.zeros(0)
        self._run: Any = None

    def start(self) -> JsonObject:
        """Opens the W&B run; returns its directory for ``run.json``."""
        self._run, num_uploaded_steps = open_run(self._settings, self._config, self._identity)
        self._num_uploaded_steps = max(num_uploaded_steps, self._run.starting_step)
        self._run.define_metric("train/step", hidden=True, summary="none")
        for key in METRIC_KEYS.values():
            self._run.define_metric(key, step_metric="train/step")
        for name in _tracked_profiles():
            self._run.define_metric(f"{name}/layer_*", step_metric="train/step", summary="none")
        self._run.define_metric("inspect/*", step_metric="train/step")
        return run_info(self._run)

    def log(
        self,
        metrics: Columns,
        profiles: Columns,
        diagnostics: Diagnostics,
    ) -> None:
        """Logs one W&B row for each recorded step.

        Every ``tracker.every`` steps, a row also has the gradient norm of each layer. Steps that an
        earlier attempt has uploaded are left out: every attempt produces the same numbers.

        Args:
            metrics: numbers by name [S], with their ``step`` [S].
            profiles: gauges by name [S', N], with their ``step`` [S'].
            diagnostics: what was measured on an interval, by step. Only those that the gauge
                table marks as tracked are logged.
        """
        self._keep_profiles(profiles)
        layers_by_step = _tracked_gauges_by_step(profiles)
        columns = _metric_columns(metrics)
        for row, step in enumerate(metrics["step"].tolist()):
            if step < self._num_uploaded_steps:
                continue
            values = {"train/step": step}
            for key, column in columns.items():
                if column[row] is not None:
                    values[key] = column[row]
            if step % self._settings["every"] == 0:
                values |= layers_by_step.get(step, {})
            values |= _diagnostic_values(diagnostics.get(step, {}))
            self._run.log(values)

    def _keep_profiles(self, profiles: Columns) -> None:
        """Keeps what the heat map and the table need."""
        if profiles and len(profiles["step"]):
            self._steps.append(profiles["step"])
            self._signal_grads.append(profiles[SIGNAL_GRAD.name])
            self._last_grad_norm = profiles[GRAD_NORM.name][-1]

    def finish(self, info: JsonObject) -> None:
        """Writes the summary and closes the W&B run.

        A run that ended also gets its heat map and table.
        """
        summary = {"status": info["status"]}
        for section in ("final", "verdict"):
            entries = info.get(section) or {}
            for key, value in entries.items():
                summary[f"{section}/{key}"] = value
        self._run.summary.update(summary)
        # Heat map and table take one more row, which an interrupted run needs when it resumes.
        has_ended = info["status"] in ("done", "diverged")
        try:
            if has_ended and self._steps:
                self._run.log(self._draw_profile(), commit=True)
        finally:
            is_done = info["status"] == "done"
            self._run.finish(exit_code=0 if is_done else 1)

    def _draw_profile(self) -> dict[str, Any]:
        """The heat map and the table of the gradient that arrives at each layer."""
        import wandb

        from research.records.trackers.heat_map import heat_map  # matplotlib is slow to import

        steps = np.concatenate(self._steps)
        signal = np.concatenate(self._signal_grads)
        shown = _evenly_spaced(len(steps), MAX_MAP_COLUMNS)
        picture = heat_map(steps[shown], signal[shown], label="log₁₀ ‖∂L/∂h‖")
        rows = _profile_rows(signal, self._last_grad_norm)
        table = wandb.Table(columns=list(TABLE_COLUMNS), data=rows)
        return {"profile/heat_map": wandb.Image(picture), "profile/table": table}


def open_run(
    settings: JsonObject,
    config: JsonObject,
    identity: JsonObject,
) -> tuple[Any, int]:
    """Opens a W&B run below ``WANDB_DIR``, or else below the directory of the settings.

    Args:
        settings: the ``tracker`` settings.
        config: the configuration that W&B shows.
        identity: ``id``, ``name``, ``group``, ``tags`` and ``job_type`` for ``wandb.init``.

    Returns:
        The W&B run, and how many steps earlier attempts have uploaded.
    """
    import wandb

    # W&B's service process has another working directory, so the path must be absolute.
    chosen = os.environ.get("WANDB_DIR") or settings["dir"]
    directory = Path(chosen).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    num_uploaded_steps = _remove_earlier_attempts(directory, identity["id"])
    run = wandb.init(
        project=settings["project"],
        entity=settings["entity"],
        dir=str(directory),
        mode=_choose_mode(),
        resume="allow",
        reinit="create_new",
        config=config,
        settings=wandb.Settings(**WANDB_SETTINGS),
        **identity,
    )
    return run, num_uploaded_steps


def run_info(run: Any) -> JsonObject:
    """The directory of a W&B run as an entry of ``run.json``; empty if W&B is disabled."""
    if run.disabled:
        return {}
    return {"wandb": str(Path(run.dir).parent)}


def _remove_earlier_attempts(directory: Path, run_id: str) -> int:
    """Removes what earlier attempts of a run recorded offline, unless it was uploaded.

    The present attempt records all of it again; uploading both would log each row twice.

    Returns:
        How many steps were uploaded.
    """
    num_uploaded_steps = 0
    for attempt in (directory / "wandb").glob(f"offline-run-*-{run_id}"):
        is_uploaded = any(attempt.glob("*.synced"))
        if is_uploaded:
            num_uploaded_steps = max(num_uploaded_steps, _count_steps(attempt))
        else:
            shutil.rmtree(attempt, ignore_errors=True)
    return num_uploaded_steps


def _count_steps(offline_run: Path) -> int:
    """How many training steps an offline run holds, read by W&B's command line."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(offline_run)]
    output = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", errors="replace", check=True
    ).stdout
    num_steps = 0
    for line in output.splitlines():
        record = json.loads(line)
        if record["type"] == "history":
            row = record["history"]["item"]
            last_step = row.get("train/step", -1)
            num_steps = max(num_steps, last_step + 1)
    return num_steps


def _tracked_profiles() -> list[str]:
    """The gauges and diagnostics of which W&B gets one value a layer."""
    names = [gauge.name for gauge in TRACKED_GAUGES]
    for diagnostic in TRACKED_DIAGNOSTICS:
        if not diagnostic.is_number:
            names.append(diagnostic.name)
    return names


def _tracked_gauges_by_step(profiles: Columns) -> dict[int, dict[str, float]]:
    """One value a layer of each tracked gauge, by W&B key, for each measured step."""
    by_step: dict[int, dict[str, float]] = {}
    if not profiles:
        return by_step
    for row, step in enumerate(profiles["step"].tolist()):
        by_step[step] = {}
        for gauge in TRACKED_GAUGES:
            by_step[step] |= layer_values(gauge.name, profiles[gauge.name][row])
    return by_step


def _metric_columns(metrics: Columns) -> dict[str, list[Any]]:
    """The columns that W&B gets, by W&B key; None where a step has no value."""
    columns = {}
    for name, values in metrics.items():
        if name in METRIC_KEYS:
            numbers = values + 0  # charts leave truth values out; this makes numbers of them
            columns[METRIC_KEYS[name]] = numbers.tolist()
    return columns


def _diagnostic_values(diagnostics: Columns) -> dict[str, float]:
    """``inspect/sharpness``, ``signal_lost/layer_000`` and so on, by W&B key.

    Histograms and spectra are only in the record.
    """
    values = {}
    for diagnostic in TRACKED_DIAGNOSTICS:
        name = diagnostic.name
        if name not in diagnostics:
            continue
        if diagnostic.is_number:
            values[f"inspect/{name}"] = float(diagnostics[name])
        else:
            values |= layer_values(name, diagnostics[name])
    return values


def layer_values(name: str, profile: np.ndarray) -> dict[str, float]:
    """The values of a profile [N] by W&B key: ``NAME/layer_000`` and so on.

    A profile of more than ``MAX_LAYERS`` layers is reduced to evenly spaced ones.
    """
    last_layer = len(profile) - 1
    width = max(3, len(str(last_layer)))
    values = {}
    for layer in _evenly_spaced(len(profile), MAX_LAYERS):
        values[f"{name}/layer_{layer:0{width}d}"] = float(profile[layer])
    return values


def _profile_rows(signal: np.ndarray, grad_norm: np.ndarray) -> list[tuple]:
    """The rows of the table ``TABLE_COLUMNS``.

    ``signal`` [S, N+1] is the gradient that arrives at the input of each layer and at the output of
    the network. ``grad_norm`` [N] is of the last step; the output has none.
    """
    first = signal[0].tolist()
    last = signal[-1].tolist()
    norms = [*grad_norm.tolist(), None]
    rows = []
    for layer in _evenly_spaced(len(norms), MAX_TABLE_ROWS).tolist():
        rows.append((layer, first[layer], last[layer], norms[layer]))
    return rows


def _evenly_spaced(count: int, limit: int) -> np.ndarray:
    """At most ``limit`` of ``count`` indices, evenly spaced, with the first and the last."""
    num = min(count, limit)
    indices = np.linspace(0, count - 1, num).round()
    return np.unique(indices.astype(int))


def make_tags(config: JsonObject) -> list[str]:
    """The tags of a run, such as ``depth:64`` and ``skip:none``, by which users filter runs."""
    tags = [
        f"model:{config['model']['kind']}",
        f"depth:{config['model']['depth']}",
        f"data:{config['data']['name']}",
    ]
    for group in TAGGED_GROUPS:
        tags.append(f"{group}:{config[group]['kind']}")
    return tags


def _is_search_trial() -> bool:
    """Whether ``wandb agent`` has started this process."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


def _choose_mode() -> Any:
    """``WANDB_MODE`` if it is set, else online for trials of a W&B search and offline for others.

    If no server answers, the mode is offline.
    """
    default = "online" if _is_search_trial() else "offline"
    mode = os.environ.get("WANDB_MODE", default)
    if mode != "online":
        return mode
    address = server_address()
    if server_answers(address):
        return mode
    print(
        f"fathom: {address} does not answer: recording offline, upload with `fathom sync`",
        file=sys.stderr,
    )
    return "offline"

"""One W&B run for each training run, offline unless ``WANDB_MODE`` says otherwise.

W&B's history has one row for each recorded step, in order, and one more for the pictures of a run
that has ended. So the number of rows that a server has says what it lacks.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
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
from research.records.runs import Columns, Diagnostics, JsonObject
from research.records.trackers import SERVER, TrackerReports
from research.records.trackers.background import Unresponsive, call_within
from research.records.trackers.identity import all_tags, job_type
from research.records.trackers.server import (
    ASK_SECONDS,
    PROBE_SECONDS,
    ServerError,
    Uploaded,
    ask_for_run,
    import_wandb,
    server_address,
)

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
    "finish_timeout_raises": True,
    "x_transaction_log_flush_interval": 2,
}
FINISH_SLACK_SECONDS = 10.0  # W&B itself should give up before
# How long a call may take beyond what W&B itself, or a question to its server, may take.
SLACK_SECONDS = 45.0
VERIFY_SECONDS = 5.0  # how long the server may take to count the rows that it has received
PENDING = "pending"  # W&B may lack rows or pictures of the run
LOCAL = "local"  # W&B's files on this machine are complete
UPLOADED = "uploaded"  # the server has everything
PICTURES = ("profile/heat_map", "profile/table")
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


def pending_state(settings: JsonObject, identity: JsonObject) -> JsonObject:
    """What ``run.json`` says of the W&B run before it is complete: where it is, and who it is."""
    where = {"project": settings["project"], "entity": settings["entity"]}
    return {"state": PENDING} | where | {"run": dict(identity)}


class WandbTracker:
    """Mirrors a run in W&B.

    Logs ``train/*``, ``eval/*``, ``grad_norm/*`` and diagnostics over ``train/step``. When the run
    ends, logs a heat map and a table of its gradient profile.

    Attributes:
        name: its key in ``mirrored`` of ``run.json``.
        remedy: how the user completes W&B after a failure.
        pending: what ``run.json`` says of the W&B run before it is complete.
        patience: the seconds that a call may take. W&B's own limits are shorter, but it has been
            seen to wait for ever.
    """

    name = "wandb"
    remedy = "`fathom sync` completes W&B later"

    def __init__(
        self,
        *,
        settings: JsonObject,
        run_id: str,
        name: str,
        group: str,
        config: JsonObject,
        reports: TrackerReports | None = None,
    ):
        """Prepares the tracker without contacting W&B.

        Args:
            settings: the ``tracker`` settings.
            run_id: the W&B id. A trial of a W&B search uses the id that its agent expects instead.
            name: the display name.
            group: the W&B group.
            config: the resolved configuration as a tree.
            reports: what the trackers of this command have reported.
        """
        if _is_search_trial():
            run_id = os.environ.get("WANDB_RUN_ID", run_id)
        identity = {
            "id": run_id,
            "name": name,
            "group": group,
            "tags": all_tags(make_tags(config)),
            "notes": config.get("notes") or None,
            "job_type": job_type(),
        }
        self._settings = settings
        self._config = config
        self._reports = reports or TrackerReports()
        self._mode: str | None = None
        self._directory: Path | None = None
        self._finish_seconds = settings["finish_timeout"]
        self.patience = max_call_seconds(self._finish_seconds)
        self.pending = pending_state(settings, identity)
        self._uploaded: Uploaded | None = None
        self._num_uploaded_rows = 0
        self._num_rows = 0
        self._steps: list[np.ndarray] = []
        self._signal_grads: list[np.ndarray] = []
        self._last_grad_norm = np.zeros(0)
        self._run: Any = None

    @classmethod
    def of_record(
        cls,
        pending: JsonObject,
        *,
        settings: JsonObject,
        config: JsonObject,
        mode: str | None,
        finish_seconds: float,
        directory: Path | None = None,
    ) -> "WandbTracker":
        """A tracker that completes the W&B run of a recorded run.

        Args:
            pending: what ``run.json`` says of the W&B run.
            settings: the ``tracker`` settings.
            config: the resolved configuration as a tree.
            mode: ``online`` or ``offline``; None for what the environment says.
            finish_seconds: how long the server may take to receive everything.
            directory: where W&B keeps its files; None for the usual place.
        """
        identity = pending["run"]
        where = {"project": pending["project"], "entity": pending["entity"]}
        tracker = cls(
            settings=settings | where,
            run_id=identity["id"],
            name=identity["name"],
            group=identity["group"],
            config=config,
        )
        tracker.pending = pending | {"state": PENDING}
        tracker._mode = mode
        tracker._finish_seconds = finish_seconds
        tracker.patience = max_call_seconds(finish_seconds)
        tracker._directory = directory
        return tracker

    def start(self) -> JsonObject:
        """Opens the W&B run; returns its directory for ``run.json``.

        Raises:
            ServerError: the run must be sent, and the server cannot be used.
        """
        if self._mode is None:
            chosen = choose_mode(self.pending, self._reports)
            self._mode = chosen.mode
            self._uploaded = chosen.uploaded
        elif self._mode == "online":
            self._uploaded = ask_for_upload(self.pending)
        with self._noting_server_failures():
            opened = open_run(
                self._settings,
                self._config,
                self.pending["run"],
                mode=self._mode,
                finish_seconds=self._finish_seconds,
                directory=self._directory,
            )
        self._run = opened.run
        self._num_uploaded_rows = max(opened.num_uploaded_rows, self._run.starting_step)
        if self._uploaded:
            num_rows = self._uploaded.num_rows
            self._num_uploaded_rows = max(self._num_uploaded_rows, num_rows)
        self._run.define_metric("train/step", hidden=True, summary="none")
        for key in METRIC_KEYS.values():
            self._run.define_metric(key, step_metric="train/step")
        for name in _tracked_profiles():
            self._run.define_metric(f"{name}/layer_*", step_metric="train/step", summary="none")
        self._run.define_metric("inspect/*", step_metric="train/step")
        return run_info(self._run)

    @contextlib.contextmanager
    def _noting_server_failures(self) -> Iterator[None]:
        """Notes an error of an online run, so that later runs do not wait for the server."""
        try:
            yield
        except Exception:
            if self._mode == "online":
                self._reports.server_failed = True
            raise

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
        every = self._settings["every"]
        layers_by_step = _tracked_gauges_by_step(profiles, every)
        columns = _metric_columns(metrics)
        for row, step in enumerate(metrics["step"].tolist()):
            self._num_rows += 1
            if self._num_rows <= self._num_uploaded_rows:
                continue
            values = {"train/step": step}
            for key, column in columns.items():
                if column[row] is not None:
                    values[key] = column[row]
            values |= layers_by_step.get(step, {})
            values |= _diagnostic_values(diagnostics.get(step, {}))
            self._run.log(values)

    def _keep_profiles(self, profiles: Columns) -> None:
        """Keeps what the heat map and the table need."""
        if profiles and len(profiles["step"]):
            self._steps.append(profiles["step"])
            self._signal_grads.append(profiles[SIGNAL_GRAD.name])
            self._last_grad_norm = profiles[GRAD_NORM.name][-1]

    def finish(self, info: JsonObject) -> JsonObject:
        """Writes the summary and closes the W&B run.

        A run that ended also gets its heat map and table.

        Returns:
            How far the W&B run is, for ``run.json``.

        Raises:
            ServerError: the server has not received everything.
        """
        summary = {"status": info["status"]}
        for section in ("final", "verdict"):
            entries = info.get(section) or {}
            for key, value in entries.items():
                summary[f"{section}/{key}"] = value
        self._run.summary.update(summary)
        # Heat map and table take one more row, which an interrupted run needs when it resumes.
        has_pictures = has_ended(info) and bool(self._steps)
        is_done = info["status"] == "done"
        with tempfile.TemporaryDirectory() as folder, self._noting_server_failures():
            try:
                if has_pictures and self._num_uploaded_rows <= self._num_rows:
                    self._run.log(self._draw_profile(), commit=True)
                elif has_pictures:
                    self._send_pictures_again(Path(folder))
            finally:
                _close(self._run, 0 if is_done else 1, self._finish_seconds)
        if self._mode != "online":
            return self.pending | {"state": LOCAL}
        num_rows = count_rows(self._num_rows, has_pictures=has_pictures)
        verify_upload(self.pending, num_rows)
        return self.pending | {"state": UPLOADED}

    def _send_pictures_again(self, folder: Path) -> None:
        """Sends the files of the pictures, whose row the server has, under the same names.

        An earlier attempt may have been stopped after the row and before the files.
        """
        row = (self._uploaded and self._uploaded.last_row) or {}
        if not all(isinstance(row.get(key), dict) for key in PICTURES):
            return
        drawn = self._draw_profile()
        heat_map, table = (drawn[key] for key in PICTURES)
        files = {}
        for key in PICTURES:
            file = folder / str(row[key].get("path"))
            file.parent.mkdir(parents=True, exist_ok=True)
            files[key] = file
        heat_map.image.save(files["profile/heat_map"], format="png")
        content = {"columns": table.columns, "data": table.data}
        files["profile/table"].write_text(json.dumps(content), encoding="utf-8")
        for file in files.values():
            self._run.save(str(file), base_path=str(folder), policy="now")

    def _draw_profile(self) -> dict[str, Any]:
        """The heat map and the table of the gradient that arrives at each layer."""
        wandb = import_wandb()
        from research.records.trackers.heat_map import heat_map  # matplotlib is slow to import

        steps = np.concatenate(self._steps)
        signal = np.concatenate(self._signal_grads)
        shown = _evenly_spaced(len(steps), MAX_MAP_COLUMNS)
        picture = heat_map(steps[shown], signal[shown], label="log₁₀ ‖∂L/∂h‖")
        rows = _profile_rows(signal, self._last_grad_norm)
        table = wandb.Table(columns=list(TABLE_COLUMNS), data=rows)
        return {"profile/heat_map": wandb.Image(picture), "profile/table": table}


@dataclass(frozen=True)
class OpenedRun:
    """A W&B run, and how many steps of it earlier attempts have uploaded from this machine."""

    run: Any
    num_uploaded_rows: int


def open_run(
    settings: JsonObject,
    config: JsonObject,
    identity: JsonObject,
    *,
    mode: Any,
    finish_seconds: float,
    directory: Path | None = None,
) -> OpenedRun:
    """Opens a W&B run.

    Args:
        settings: the ``tracker`` settings.
        config: the configuration that W&B shows.
        identity: ``id``, ``name``, ``group``, ``tags`` and ``job_type`` for ``wandb.init``.
        mode: W&B's mode.
        finish_seconds: how long the server may take at the end of the run.
        directory: where W&B keeps its files; by default ``WANDB_DIR``, or else the directory of the
            settings.
    """
    wandb = import_wandb()
    # W&B's service process has another working directory, so the path must be absolute.
    directory = Path(directory or wandb_directory(settings)).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    num_uploaded_rows = _remove_earlier_attempts(directory, identity["id"])
    if mode == "online":
        num_uploaded_rows = 0  # the server says how many it has
    wandb_settings = wandb.Settings(finish_timeout=finish_seconds, **WANDB_SETTINGS)
    if mode == "online":
        wandb_settings.base_url = server_address()
    run = wandb.init(
        project=settings["project"],
        entity=settings["entity"],
        dir=str(directory),
        mode=mode,
        resume="allow",
        reinit="create_new",
        config=config,
        settings=wandb_settings,
        **identity,
    )
    return OpenedRun(run, num_uploaded_rows)


def wandb_directory(settings: JsonObject) -> Path:
    """The directory whose folder ``wandb`` holds W&B's files."""
    return Path(os.environ.get("WANDB_DIR") or settings["dir"])


def _close(
    run: Any,
    exit_code: int,
    seconds: float,
) -> None:
    """Finishes a W&B run.

    Raises:
        ServerError: the server has not received everything within ``seconds``.
    """
    finish = partial(run.finish, exit_code=exit_code)
    try:
        call_within(seconds + FINISH_SLACK_SECONDS, finish)
    except (TimeoutError, Unresponsive):
        raise ServerError(
            f"W&B's server has not received everything within {seconds:.0f} s"
        ) from None


def max_call_seconds(finish_seconds: float) -> float:
    """The seconds that any call to W&B may take.

    Args:
        finish_seconds: how long the server may take at the end of the run.
    """
    return max(finish_seconds, WANDB_SETTINGS["init_timeout"]) + SLACK_SECONDS


def has_ended(info: JsonObject) -> bool:
    """Whether a run has ended by itself, so that W&B has its pictures."""
    return info.get("status") in ("done", "diverged")


def count_rows(num_recorded: int, *, has_pictures: bool) -> int:
    """How many rows W&B's history has of a run."""
    return num_recorded + has_pictures


def run_info(run: Any) -> JsonObject:
    """The directory of a W&B run as an entry of ``run.json``; empty if W&B is disabled."""
    if run.disabled:
        return {}
    return {"wandb": str(Path(run.dir).parent)}


def _remove_earlier_attempts(directory: Path, run_id: str) -> int:
    """Removes W&B's files of earlier attempts of a run, unless they were recorded offline and sent.

    The present attempt records all of it again; both would show each row twice.

    Returns:
        How many steps were uploaded.
    """
    num_uploaded_rows = 0
    for attempt in (directory / "wandb").glob(f"*run-*-{run_id}"):
        is_uploaded = any(attempt.glob("*.synced"))
        if is_uploaded:
            num_uploaded_rows = max(num_uploaded_rows, _count_steps(attempt))
        else:
            shutil.rmtree(attempt, ignore_errors=True)
    return num_uploaded_rows


def verify_upload(pending: JsonObject, num_rows: int) -> None:
    """Asks the server until it has all rows of a run; W&B itself does not say whether it has.

    Args:
        pending: what ``run.json`` says of the W&B run.
        num_rows: how many rows the server should have.

    Raises:
        ServerError: it has fewer.
    """
    deadline = time.monotonic() + VERIFY_SECONDS
    while True:
        uploaded = ask_for_upload(pending)
        if uploaded is None or uploaded.num_rows >= num_rows:
            return
        if time.monotonic() > deadline:
            raise ServerError(f"W&B has {uploaded.num_rows:,} of {num_rows:,} rows")
        time.sleep(0.5)


def mark_as_uploaded(settings: JsonObject, run_id: str) -> None:
    """Marks the offline folders of a run as ``wandb sync`` does, so that it is not sent again."""
    folder = wandb_directory(settings) / "wandb"
    for file in folder.glob(f"offline-run-*-{run_id}/*.wandb"):
        file.with_suffix(".wandb.synced").touch()


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
            num_steps += "train/step" in row
    return num_steps


def _tracked_profiles() -> list[str]:
    """The gauges and diagnostics of which W&B gets one value a layer."""
    names = [gauge.name for gauge in TRACKED_GAUGES]
    for diagnostic in TRACKED_DIAGNOSTICS:
        if not diagnostic.is_number:
            names.append(diagnostic.name)
    return names


def _tracked_gauges_by_step(profiles: Columns, every: int) -> dict[int, dict[str, float]]:
    """One value a layer of each tracked gauge, by W&B key, for every ``every``-th step."""
    by_step: dict[int, dict[str, float]] = {}
    if not profiles:
        return by_step
    for row, step in enumerate(profiles["step"].tolist()):
        if step % every:
            continue
        by_step[step] = {}
        for gauge in TRACKED_GAUGES:
            by_step[step] |= layer_values(gauge.name, profiles[gauge.name][row])
    return by_step


def _metric_columns(metrics: Columns) -> dict[str, list[Any]]:
    """The columns that W&B gets, by W&B key; None where a step has no value.

    Numbers that the user of ``research.Monitor`` has named keep their names.
    """
    columns = {}
    for name, values in metrics.items():
        if name != "step":
            numbers = values + 0  # charts leave truth values out; this makes numbers of them
            columns[METRIC_KEYS.get(name, name)] = numbers.tolist()
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
    """The tags of a run, such as ``depth:64`` and ``skip:none``, by which users filter runs.

    A run that ``research.Monitor`` recorded has the tags that its user chose.
    """
    if "watch" in config:
        return list(config["watch"].get("tags") or [])
    tags = [
        f"model:{config['model']['kind']}",
        f"depth:{config['model']['depth']}",
        f"data:{config['data']['name']}",
    ]
    for group in TAGGED_GROUPS:
        tags.append(f"{group}:{config[group]['kind']}")
    return [*(config.get("tags") or []), *tags]


def _is_search_trial() -> bool:
    """Whether ``wandb agent`` has started this process."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


def is_disabled() -> bool:
    """Whether the user has switched W&B off in the environment."""
    return os.environ.get("WANDB_MODE") == "disabled"


@dataclass(frozen=True)
class ChosenMode:
    """W&B's mode, and what the server has of the run if the mode is online."""

    mode: str
    uploaded: Uploaded | None = None


def choose_mode(pending: JsonObject, reports: TrackerReports) -> ChosenMode:
    """``WANDB_MODE`` if it is set, else online for trials of a W&B search and offline for others.

    Where the server cannot be used, or has failed in this command, the mode is offline.

    Args:
        pending: what ``run.json`` says of the W&B run.
        reports: what the trackers of this command have reported.
    """
    default = "online" if _is_search_trial() else "offline"
    mode = os.environ.get("WANDB_MODE", default)
    if mode != "online":
        return ChosenMode(mode)
    if reports.server_failed:
        return ChosenMode("offline")
    try:
        uploaded = ask_for_upload(pending, PROBE_SECONDS, attempts=1)
    except ServerError as error:
        reports.server_failed = True
        message = f"{error}: recording offline, upload with `fathom sync`"
        reports.print_once(SERVER, message)
        return ChosenMode("offline")
    return ChosenMode("online", uploaded)


def ask_for_upload(
    pending: JsonObject,
    seconds: float = ASK_SECONDS,
    attempts: int = 3,
) -> Uploaded | None:
    """What the server has of a W&B run; see ``ask_for_run``.

    Args:
        pending: what ``run.json`` says of the W&B run.
        seconds: how long the server may take to answer.
        attempts: how often it is asked if it does not answer as it should.
    """
    return ask_for_run(
        project=pending["project"],
        entity=pending["entity"],
        run_id=pending["run"]["id"],
        seconds=seconds,
        attempts=attempts,
    )

"""One W&B run for each training run, offline unless ``WANDB_MODE`` says otherwise.

W&B's history has one row for each recorded step, in order, and one more for the pictures of a run
that has ended. So the number of rows that a server has says what it lacks.
"""

import contextlib
import math
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research.records.runs import Columns, Diagnostics, JsonObject
from research.records.trackers import LOCAL, PENDING, UPLOADED, TrackerReports
from research.records.trackers.findings import describe_findings
from research.records.trackers.history import (
    JUDGED_KEYS,
    METRIC_KEYS,
    STEP,
    History,
    StepJudge,
    has_ended,
    make_summary,
)
from research.records.trackers.identity import (
    DISABLED,
    OFFLINE_MODES,
    ONLINE_MODES,
    RUN_CONTEXTS,
    VARIABLES,
    all_tags,
    find_folders,
    job_type,
    next_attempt_id,
)
from research.records.trackers.layers import TRACKED_PROFILES, layers_section, tracked_layers
from research.records.trackers.media import Media
from research.records.trackers.server import (
    ASK_SECONDS,
    PROBE_SECONDS,
    ServerError,
    Uploaded,
    ask_for_run,
    ask_for_stop,
    server_address,
)
from research.records.trackers.wandb_runs import (
    WANDB_SETTINGS,
    ServedRun,
    open_run,
    run_info,
    wandb_directory,
)

# How long a call may take beyond what W&B itself, or a question to its server, may take.
SLACK_SECONDS = 45.0
ROUNDING = 1e-6  # the relative difference of numbers that count as the same
VERIFY_SECONDS = 5.0  # how long the server may take to count the rows that it has received
SEVERE = "severe"
TAGGED_GROUPS = (
    "skip",
    "norm",
    "activation",
    "init",
    "optimizer",
    "precision",
    "loss",
)


class OtherRows(ServerError):
    """The server has rows that are not those of the run; ``str`` says which."""


def pending_state(settings: JsonObject, identity: JsonObject) -> JsonObject:
    """What ``run.json`` says of the W&B run before it is complete: where it is, and who it is."""
    where = {"project": settings["project"], "entity": settings["entity"]}
    return {"state": PENDING} | where | {"run": dict(identity)}


class WandbTracker:
    """Mirrors a run in W&B.

    Logs ``train/*``, ``eval/*``, ``grad_norm/*`` and diagnostics over ``train/step``. When the run
    ends, logs its profiles as an interactive page, a heat map and a table, and its findings.

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
        replaced_id: str | None = None,
        reports: TrackerReports | None = None,
        judge: StepJudge | None = None,
    ):
        """Prepares the tracker without contacting W&B.

        Args:
            settings: the ``tracker`` settings.
            run_id: the W&B id. A trial of a W&B search uses the id that its agent expects instead.
            name: the display name.
            group: the W&B group.
            config: the resolved configuration as a tree.
            replaced_id: the W&B id of an earlier attempt whose rows are not those of the run.
            reports: what the trackers of this command have reported.
            judge: judges single steps; None for no judgement over the steps.
        """
        if _is_search_trial():
            run_id = os.environ.get("WANDB_RUN_ID") or run_id
            settings = settings | _place_of_search()
        identity = {
            "id": run_id,
            "name": name,
            "group": group,
            "tags": all_tags(make_tags(config)),
            "notes": config.get("notes") or None,
            "job_type": job_type(),
        }
        self._replaced_id = replaced_id
        self._settings = settings
        self._layers = tracked_layers(settings)
        self._config = {name: values for name, values in config.items() if name != "tracker"}
        self._reports = reports or TrackerReports()
        self._history = History(settings, judge)
        self._is_live = False
        self._mode: str | None = None
        self._directory: Path | None = None
        self._finish_seconds = settings["finish_timeout"]
        self.patience = max_call_seconds(self._finish_seconds)
        self.pending: JsonObject = pending_state(settings, identity)
        self._uploaded: Uploaded | None = None
        self._num_uploaded_rows = 0
        self._unsent_rows: list[JsonObject] = []  # while the server has them
        self._num_rows = 0
        self._run: Any = None
        self._stop_requested = threading.Event()

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
        judge: StepJudge | None = None,
    ) -> "WandbTracker":
        """A tracker that completes the W&B run of a recorded run.

        Args:
            pending: what ``run.json`` says of the W&B run.
            settings: the ``tracker`` settings.
            config: the resolved configuration as a tree.
            mode: ``online`` or ``offline``; None for what the environment says.
            finish_seconds: how long the server may take to receive everything.
            directory: where W&B keeps its files; None for the usual place.
            judge: judges single steps; None for no judgement over the steps.
        """
        identity = pending["run"]
        where = {"project": pending["project"], "entity": pending["entity"]}
        tracker = cls(
            settings=settings | where,
            run_id=identity["id"],
            name=identity["name"],
            group=identity["group"],
            config=config,
            judge=judge,
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
            self._is_live = True
            chosen = choose_mode(self.pending, self._reports)
            self._mode = chosen.mode
            self._uploaded = chosen.uploaded
            if chosen.mode in ONLINE_MODES:
                self.pending = self.pending | {"server": server_address()}
        elif self._mode == "online":
            self._uploaded = ask_for_upload(self.pending)
        with self._turn():
            return self._open()

    def _open(self) -> JsonObject:
        with self._noting_server_failures():
            opened = open_run(
                self._settings,
                self._config,
                self.pending["run"],
                mode=self._mode,
                finish_seconds=self._finish_seconds,
                directory=self._directory,
                replaced_id=self._replaced_id,
                on_stop=self._stop_requested.set,
            )
        self._run = opened.run
        self._num_uploaded_rows = max(opened.num_uploaded_rows, self._run.starting_row)
        if self._uploaded:
            num_rows = self._uploaded.num_rows
            self._num_uploaded_rows = max(self._num_uploaded_rows, num_rows)
        self._define_metrics()
        return run_info(self._run)

    def _define_metrics(self) -> None:
        """Says that everything is drawn over the step, and what the summary leaves out."""
        self._run.define_metric(STEP, is_hidden=True, has_summary=False)
        for key in JUDGED_KEYS.values():  # the summary has the verdict of the run
            self._run.define_metric(key, step_metric=STEP, has_summary=False)
        keys = list(METRIC_KEYS.values())
        for profile in TRACKED_PROFILES:
            keys += profile.summary_keys()
            if profile.has_layers(self._layers):
                pattern = f"{layers_section(profile.name)}/*"
                self._run.define_metric(pattern, step_metric=STEP, has_summary=False)
        for key in [*keys, "inspect/*"]:
            self._run.define_metric(key, step_metric=STEP)

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

        Rows of measured steps have numbers that summarise the layers, and every ``tracker.every``
        steps values of single layers. Steps that an earlier attempt has uploaded are left out.
        Where it had other numbers, the run is recorded anew, as another run of W&B.

        Args:
            metrics: numbers by name [S], with their ``step`` [S].
            profiles: gauges by name [S', N], with their ``step`` [S'].
            diagnostics: what was measured on an interval, by step. Only those that the gauge
                table marks as tracked are logged.

        Raises:
            ServerError: the server has other rows, and the run must keep its id.
        """
        with self._turn():
            self._send_rows(self._history.add(metrics, profiles, diagnostics))

    def _turn(self) -> contextlib.AbstractContextManager[Any]:
        """Waits until no other offline run of the command is being written."""
        return self._reports.working if self._mode in OFFLINE_MODES else contextlib.nullcontext()

    def _send_rows(self, rows: list[JsonObject]) -> None:
        try:
            check_last_row(self.pending, self._uploaded, rows, self._num_rows)
        except OtherRows as error:
            if _is_search_trial():
                raise
            rows = self._unsent_rows + rows
            self._open_next_attempt(error)
            self._send_rows(rows)
            return
        num_sent = min(len(rows), max(0, self._num_uploaded_rows - self._num_rows))
        self._num_rows += len(rows)
        if num_sent < len(rows):
            self._run.log(rows[num_sent:])
            self._unsent_rows = []
        elif self._uploaded:
            self._unsent_rows += rows

    def _open_next_attempt(self, error: OtherRows) -> None:
        """Opens another run of W&B in place of one with rows of an earlier attempt."""
        self._run.finish(1, self._finish_seconds)
        identity = self.pending["run"]
        wandb_id = next_attempt_id(identity["id"])
        self.pending = self.pending | {"run": identity | {"id": wandb_id}}
        self._reports.print_once(
            f"{self.name} {identity['name']}",
            f"{error}: {identity['name']} is recorded anew in W&B, as {wandb_id}",
        )
        self._uploaded = ask_for_upload(self.pending)
        self._num_rows = 0
        self._unsent_rows = []
        self._open()

    def finish(self, info: JsonObject) -> JsonObject:
        """Writes the summary and closes the W&B run.

        A run that ended also gets its heat map and table.

        Returns:
            How far the W&B run is, for ``run.json``.

        Raises:
            ServerError: the server has not received everything.
        """
        with self._turn():
            return self._finish(info)

    def _finish(self, info: JsonObject) -> JsonObject:
        self._run.update_summary(make_summary(info))
        # Heat map and table take one more row, which an interrupted run needs when it resumes.
        has_pictures = has_ended(info) and self._history.has_profiles
        exit_code = 0 if info["status"] in ("done", "stopped") else 1
        self._alert(info)
        with self._noting_server_failures():
            try:
                if has_pictures and self._num_uploaded_rows <= self._num_rows:
                    self._run.log([self._draw_profiles(info)])
                elif has_pictures:
                    self._send_pictures_again(info)
            finally:
                self._run.finish(exit_code, self._finish_seconds)
        if self._mode != "online":
            return self.pending | {"state": LOCAL}
        num_rows = count_rows(self._num_rows, has_pictures=has_pictures)
        verify_upload(self.pending, num_rows, is_complete=has_ended(info))
        return self.pending | {"state": UPLOADED}

    def wants_stop(self, *, is_interrupted: bool) -> bool:
        """Whether the user or an early termination has stopped the run in W&B.

        ``wandb agent`` sends SIGTERM to such a trial, so the server is asked after a signal.

        Args:
            is_interrupted: whether a signal has ended the training.
        """
        if self._stop_requested.is_set():
            return True
        may_be_signal = is_interrupted and _is_search_trial() and self._mode == "online"
        return may_be_signal and ask_for_stop(
            project=self.pending["project"],
            entity=self.pending["entity"],
            run_id=self.pending["run"]["id"],
            seconds=PROBE_SECONDS,
        )

    def _alert(self, info: JsonObject) -> None:
        """Tells the user of severe findings, while the run is trained online and not later."""
        if not self._is_live or not isinstance(self._run, ServedRun):
            return
        for finding in describe_findings(info.get("verdict")):
            if finding["severity"] == SEVERE:
                title = f"{finding['kind']}: {self.pending['run']['name']}"
                self._run.alert(title, f"{finding['sentence']} {finding['advice']}")

    def _send_pictures_again(self, info: JsonObject) -> None:
        """Sends the files of the pictures, whose row the server has, under the same names.

        An earlier attempt may have been stopped after the row and before the files.
        """
        row = (self._uploaded and self._uploaded.last_row) or {}
        files = {}
        for key, media in self._draw_profiles(info).items():
            described = row.get(key)
            if isinstance(described, dict) and described.get("path"):
                files[described["path"]] = media.content
        if isinstance(self._run, ServedRun):
            self._run.save(files)

    def _draw_profiles(self, info: JsonObject) -> dict[str, Media]:
        return self._history.draw_profiles(self.pending["run"]["name"], info)


def max_call_seconds(finish_seconds: float) -> float:
    """The seconds that any call to W&B may take.

    Args:
        finish_seconds: how long the server may take at the end of the run.
    """
    return max(finish_seconds, WANDB_SETTINGS["init_timeout"]) + SLACK_SECONDS


def count_rows(num_recorded: int, *, has_pictures: bool) -> int:
    """How many rows W&B's history has of a run."""
    return num_recorded + has_pictures


def verify_upload(
    pending: JsonObject,
    num_rows: int,
    *,
    is_complete: bool = False,
) -> None:
    """Asks the server until it has all rows of a run; W&B itself does not say whether it has.

    Args:
        pending: what ``run.json`` says of the W&B run.
        num_rows: how many rows the server should have.
        is_complete: whether the run has ended. An earlier attempt at a run that goes on may have
            come further than the present one.

    Raises:
        ServerError: it has fewer, or more of a run that has ended.
    """
    deadline = time.monotonic() + VERIFY_SECONDS
    while True:
        uploaded = ask_for_upload(pending)
        if uploaded is None:
            return
        if is_complete:
            check_surplus(pending, uploaded, num_rows)
        if uploaded.num_rows >= num_rows:
            return
        if time.monotonic() > deadline:
            raise ServerError(f"W&B has {uploaded.num_rows:,} of {num_rows:,} rows")
        time.sleep(0.5)


def check_surplus(
    pending: JsonObject,
    uploaded: Uploaded,
    num_rows: int,
) -> None:
    """Checks that the server has no more rows than the run.

    Args:
        pending: what ``run.json`` says of the W&B run.
        uploaded: what the server has.
        num_rows: how many rows the run has.

    Raises:
        OtherRows: it has more: rows are there twice, or are those of another run.
    """
    if uploaded.num_rows <= num_rows:
        return
    raise OtherRows(
        f"W&B has {uploaded.num_rows:,} rows of {_path_of(pending)} and the run has {num_rows:,}, "
        "so some are there twice or belong to another run"
    )


def check_last_row(
    pending: JsonObject,
    uploaded: Uploaded | None,
    rows: Sequence[JsonObject],
    first: int = 0,
) -> None:
    """Checks that the last row that the server has is this row of the run, up to rounding.

    Args:
        pending: what ``run.json`` says of the W&B run.
        uploaded: what the server has; None where that is not known.
        rows: consecutive rows of the run, as W&B gets them.
        first: the number of the first of them.

    Raises:
        OtherRows: it is of another step or has other numbers, which an earlier attempt has
            recorded.
    """
    if not uploaded or not first < uploaded.num_rows <= first + len(rows):
        return
    row = rows[uploaded.num_rows - 1 - first]
    uploaded_row = uploaded.last_row
    if not uploaded_row:
        return
    where = f"row {uploaded.num_rows:,} of {_path_of(pending)} in W&B"
    if STEP not in uploaded_row:
        raise OtherRows(f"{where} ends an earlier attempt, and that of the run is step {row[STEP]}")
    if uploaded_row[STEP] != row[STEP]:
        raise OtherRows(
            f"{where} is step {uploaded_row[STEP]}, and that of the run is step {row[STEP]}"
        )
    for key, value in row.items():
        if _differs(value, uploaded_row.get(key)):
            raise OtherRows(
                f"{where} has {key} {uploaded_row[key]:.6g}, and that of the run has {value:.6g}"
            )


def _differs(value: Any, uploaded_value: Any) -> bool:
    """Whether two values are numbers that differ by more than rounding."""
    for number in (value, uploaded_value):
        is_number = isinstance(number, int | float) and math.isfinite(number)
        if isinstance(number, bool) or not is_number:
            return False
    return not math.isclose(value, uploaded_value, rel_tol=ROUNDING, abs_tol=0.0)


def _path_of(pending: JsonObject) -> str:
    """Where a run is in W&B."""
    return "/".join(filter(None, [pending["entity"], pending["project"], pending["run"]["id"]]))


def mark_as_uploaded(settings: JsonObject, run_id: str) -> None:
    """Marks the offline folders of a run as ``wandb sync`` does, so that it is not sent again."""
    folder = wandb_directory(settings) / "wandb"
    for offline_run in find_folders(folder, run_id, "offline-run-*"):
        for file in offline_run.glob("*.wandb"):
            file.with_suffix(".wandb.synced").touch()


def make_tags(config: JsonObject) -> list[str]:
    """The tags of a run, such as ``depth:64`` and ``skip:none``, by which users filter runs.

    A run that ``fathom.Monitor`` recorded has the tags that its user chose.
    """
    if "watch" in config:
        return list(map(str, config["watch"].get("tags") or []))
    tags = [
        f"model:{config['model']['kind']}",
        f"depth:{config['model']['depth']}",
        f"data:{config['data']['name']}",
    ]
    for group in TAGGED_GROUPS:
        tags.append(f"{group}:{config[group]['kind']}")
    chosen = config.get("tags") or []
    return [*map(str, chosen), *tags]  # earlier versions recorded tags=[1] as a number


def _is_search_trial() -> bool:
    """Whether ``wandb agent`` has started this process."""
    return any(os.environ.get(name) for name in RUN_CONTEXTS)


def _place_of_search() -> JsonObject:
    """The project and entity of the search, as its agent gives them; W&B takes no others."""
    given = {name: os.environ.get(variable) for name, variable in VARIABLES.items()}
    return {name: value for name, value in given.items() if value}


def is_disabled() -> bool:
    """Whether the user has switched W&B off in the environment."""
    return os.environ.get("WANDB_MODE") == DISABLED


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
    mode = os.environ.get("WANDB_MODE") or default
    if mode not in ONLINE_MODES:
        return ChosenMode(mode)
    if reports.server_failed:
        return ChosenMode("offline")
    try:
        uploaded = ask_for_upload(pending, PROBE_SECONDS, attempts=1)
    except ServerError as error:
        reports.server_failed = True
        message = f"{error}: recording offline, upload with `fathom sync`"
        reports.print_once(WandbTracker.name, message)
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

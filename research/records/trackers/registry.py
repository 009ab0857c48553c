"""The trackers of a run, as its ``tracker`` settings choose them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from research.config import options
from research.config.fields import settings_of, written
from research.config.notices import notify_once
from research.config.schema import default_of
from research.records.runs import JsonObject
from research.records.trackers import Tracker, TrackerReports, identity
from research.records.trackers.history import StepJudge
from research.records.trackers.identity import WandbId
from research.records.trackers.local import LocalTracker, describe_run
from research.records.trackers.mlflow import MLflowTracker
from research.records.trackers.tensorboard import TensorBoardTracker
from research.records.trackers.trackio import TrackioTracker
from research.records.trackers.wandb import WandbTracker, is_disabled, make_tags

LOCAL_TRACKERS: tuple[type[LocalTracker], ...] = (
    TensorBoardTracker,
    TrackioTracker,
    MLflowTracker,
)
DEFAULT_DIRECTORY = options.Tracker.dir
DIRECTORY_VARIABLES = {  # by the name of the tracker
    "wandb": "WANDB_DIR",
    "trackio": "TRACKIO_DIR",
    "mlflow": "MLFLOW_TRACKING_URI",
}


def make_trackers(
    directory: Path,
    run_id: str,
    config: JsonObject,
    *,
    wandb_id: WandbId | None = None,
    reports: TrackerReports | None = None,
    judge: StepJudge | None = None,
) -> list[Tracker]:
    """The trackers that the configuration of a run switches on; none has been started.

    Args:
        directory: the run directory.
        run_id: the id of the run.
        config: the settings that have an effect, as a tree.
        wandb_id: the id of the run in W&B; by default ``run_id``.
        reports: what the trackers of this command have reported.
        judge: judges single steps; None for no judgement over the steps.
    """
    trackers: list[Tracker] = []
    if config["tracker"].get("wandb") and not is_disabled():
        chosen_id = wandb_id or WandbId(run_id)
        wandb = WandbTracker(
            settings=identity.with_environment(_settings_of(config)),
            run_id=chosen_id.value,
            replaced_id=chosen_id.replaced,
            config=config,
            name=identity.run_name(directory.absolute().name),
            group=identity.run_group(directory.absolute().parent.name),
            reports=reports,
            judge=judge,
        )
        trackers.append(wandb)
    trackers += make_local_trackers(directory, run_id, config, judge)
    if config["tracker"].get("wandb") and is_disabled():
        _report_disabled(config["tracker"])
    if reports:
        _report_ignored_directory(config["tracker"], trackers, reports)
    return trackers


def _report_disabled(settings: JsonObject) -> None:
    """Says which settings have no effect, because the environment switches W&B off."""
    chosen: dict[str, Any] = {
        name: bool(settings.get(name)) for name in options.LOCAL_TRACKER_NAMES
    }
    without_wandb = options.Tracker(**chosen)
    ignored = []
    for name, declared in settings_of(without_wandb):
        default = default_of(f"tracker.{name}")
        value = settings.get(name, default)
        if value != default and not declared.has_effect(without_wandb):
            ignored.append(f"tracker.{name}={written(value)}")
    if ignored:
        verb = "has" if len(ignored) == 1 else "have"
        names = " ".join(ignored)
        notify_once(f"{names} {verb} no effect: WANDB_MODE=disabled switches W&B off")


def _report_ignored_directory(
    settings: JsonObject,
    trackers: Sequence[Tracker],
    reports: TrackerReports,
) -> None:
    """Says where an environment variable, and not ``tracker.dir``, chooses a dashboard's place."""
    if settings.get("dir", DEFAULT_DIRECTORY) == DEFAULT_DIRECTORY:
        return
    for tracker in trackers:
        variable = DIRECTORY_VARIABLES.get(tracker.name, "")
        if os.environ.get(variable):
            ignored = f"tracker.dir={settings['dir']} has no effect on tracker={tracker.name}"
            chosen = f"{variable}={os.environ[variable]} says where its files are"
            reports.print_once(variable, f"{ignored}: {chosen}")


def make_local_trackers(
    directory: Path,
    run_id: str,
    config: JsonObject,
    judge: StepJudge | None = None,
) -> list[LocalTracker]:
    """The trackers of ``make_trackers`` whose dashboard is on this machine.

    Args:
        directory: the run directory.
        run_id: the id of the run.
        config: the settings that have an effect, as a tree.
        judge: judges single steps; None for no judgement over the steps.
    """
    settings = _settings_of(config)
    trackers: list[LocalTracker] = []
    for kind in LOCAL_TRACKERS:
        if settings.get(kind.name):
            run = describe_run(directory, run_id, config, make_tags(config))
            trackers.append(kind(run, settings, judge))
    return trackers


def _settings_of(config: JsonObject) -> JsonObject:
    """The tracker settings of a run, whose folder stays where it is if the program leaves its own.

    A program that ``fathom.Monitor`` records may change its directory before the first step.
    """
    settings = config["tracker"]
    if not settings.get("dir"):
        return settings
    return settings | {"dir": str(Path(settings["dir"]).absolute())}

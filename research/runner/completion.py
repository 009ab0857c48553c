"""Completes what a killed process left of a run whose training has ended. Does not import jax."""

import dataclasses
import shutil
import sys
from pathlib import Path

from research.config.fields import to_plain
from research.config.options import LOCAL_TRACKER_NAMES, Tracker
from research.records.run_info import DamagedRecord, DamagedTable
from research.records.runs import INSPECTIONS, METRICS, PROFILES, JsonObject
from research.runner.run_spec import RunSpec

CHECKPOINTS = "checkpoints"  # the folder of ``research.training.checkpoint``


def complete_ended_run(run_spec: RunSpec, info: JsonObject) -> None:
    """Tidies up a run that has ended, and completes what W&B has of it on this machine.

    A run that another process is writing, and whatever cannot be completed now, is left for later;
    the latter is one line.

    Args:
        run_spec: the run.
        info: its ``run.json``.
    """
    directory = run_spec.directory
    keep_checkpoints = run_spec.config.checkpoint.keep
    from research.records.record import Lock, RunLocked, read_info

    trackers = run_spec.config.tracker
    must_mirror = trackers.wandb and _lacks_wandb(directory, info)
    must_record = _lacks_local_tracker(trackers, info)
    has_leftovers = bool(find_leftovers(directory, keep_checkpoints=keep_checkpoints))
    if not (must_mirror or must_record or has_leftovers):
        return
    try:
        lock = Lock(directory)
    except (RunLocked, OSError):
        return
    try:
        remove_leftovers(directory, keep_checkpoints=keep_checkpoints)
        info = read_info(directory) or {}
        if must_mirror and _lacks_wandb(directory, info):
            _complete_mirror(run_spec, info)
        if must_record:
            _complete_local_trackers(directory, trackers)
    finally:
        lock.release()


def _lacks_local_tracker(trackers: Tracker, info: JsonObject) -> bool:
    """Whether a dashboard on this machine is switched on and may lack something of the run."""
    mirrored = info.get("mirrored")
    for name in LOCAL_TRACKER_NAMES:
        state = mirrored.get(name) if isinstance(mirrored, dict) else None
        is_complete = isinstance(state, dict) and state.get("state") == "local"
        if getattr(trackers, name) and not is_complete:
            return True
    return False


def _complete_local_trackers(directory: Path, trackers: Tracker) -> None:
    from research.diagnosis.steps import judge_steps
    from research.records.mirror import complete_local_trackers
    from research.records.trackers.registry import LOCAL_TRACKERS

    settings = _as_settings(trackers)
    try:
        outcomes = complete_local_trackers(directory, settings, judge=judge_steps)
    except (ValueError, OSError) as error:
        titles = [tracker.title for tracker in LOCAL_TRACKERS if getattr(trackers, tracker.name)]
        outcomes = dict.fromkeys(titles, str(error))
    for title, failure in outcomes.items():
        what = f"{directory.name} is complete in {title} now"
        if failure:
            what = f"{title} lacks rows of {directory.name} ({failure})"
        print(f"fathom: {what}", file=sys.stderr)


def _as_settings(trackers: Tracker) -> JsonObject:
    return {name: to_plain(value) for name, value in dataclasses.asdict(trackers).items()}


def _lacks_wandb(directory: Path, info: JsonObject) -> bool:
    """Whether W&B may lack something of the run, or was switched off when it was trained."""
    from research.records.mirror import is_mirrored, is_pending
    from research.records.trackers.wandb import is_disabled

    is_complete = is_mirrored(directory, info) and not is_pending(directory, info)
    return not is_complete and not is_disabled()


def _complete_mirror(run_spec: RunSpec, info: JsonObject) -> None:
    from research.diagnosis.steps import judge_steps
    from research.records.mirror import begin_mirror, complete_mirror, is_mirrored
    from research.records.trackers import describe_error

    directory = run_spec.directory
    try:
        if not is_mirrored(directory, info):
            settings = _as_settings(run_spec.config.tracker)
            begin_mirror(directory, settings, has_own_data=run_spec.has_own_data)
        complete_mirror(directory, must_upload=False, judge=judge_steps)
    except (DamagedRecord, DamagedTable) as error:  # which ``fathom sync`` cannot read either
        print(f"fathom: W&B may lack rows of {directory.name} ({error})", file=sys.stderr)
    except Exception as error:  # the failure of a dashboard must never end a command
        print(
            f"fathom: W&B lacks rows of {directory.name} ({describe_error(error)}); "
            "`fathom sync` completes it",
            file=sys.stderr,
        )
    else:
        print(f"fathom: {directory.name} is complete in W&B now", file=sys.stderr)


def find_leftovers(directory: Path, *, keep_checkpoints: bool) -> list[Path]:
    """What a run that has ended does not need.

    These are files that were being written, and part files and checkpoints unless they are kept.
    """
    leftovers = []
    if not keep_checkpoints:
        leftovers = [directory / f"{table}.parts" for table in (METRICS, PROFILES, INSPECTIONS)]
        leftovers.append(directory / CHECKPOINTS)
    existing = [folder for folder in leftovers if folder.exists()]
    return [*existing, *directory.glob("*.tmp")]


def remove_leftovers(directory: Path, *, keep_checkpoints: bool) -> None:
    """Removes what a run that has ended does not need. The caller holds the lock of the run."""
    for path in find_leftovers(directory, keep_checkpoints=keep_checkpoints):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

"""Completes what a killed process left of a run whose training has ended. Does not import jax."""

import dataclasses
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from research.config.fields import to_plain
from research.config.notices import join_first, notify
from research.config.options import LOCAL_TRACKER_NAMES, Tracker
from research.config.wording import shell_command
from research.records.run_info import DamagedRecord, DamagedTable
from research.records.runs import INSPECTIONS, METRICS, PROFILES, JsonObject, Run
from research.runner.remarks import EndedRun, record_projects, record_remarks
from research.runner.run_spec import RunSpec

CHECKPOINTS = "checkpoints"  # the folder of ``research.training.checkpoint``


def complete_ended_runs(runs: Sequence[EndedRun]) -> None:
    """Does for runs that have ended what a command that names them again can do.

    It records tags, notes and W&B's project that are given anew, says what of the runs is lost, and
    completes what a killed process left.

    Args:
        runs: the runs, whose ``info`` is changed.
    """
    record_remarks(runs)
    record_projects(runs)
    _report_damaged_tables(runs)
    _report_missing_checkpoints(runs)
    for run in runs:
        _complete_ended_run(run.spec, run.info)


def _complete_ended_run(run_spec: RunSpec, info: JsonObject) -> None:
    """Tidies up a run that has ended, and completes what W&B has of it on this machine.

    A run that another process is writing, and whatever cannot be completed now, is left for later;
    the latter is one line.

    Args:
        run_spec: the run.
        info: its ``run.json``.
    """
    directory = run_spec.directory
    from research.records.record import Lock, RunLocked, read_info

    trackers = run_spec.config.tracker
    must_mirror = trackers.wandb and _lacks_wandb(directory, info)
    must_record = _lacks_local_tracker(trackers, info)
    has_leftovers = bool(find_leftovers(directory))
    if not (must_mirror or must_record or has_leftovers):
        return
    try:
        lock = Lock(directory)
    except (RunLocked, OSError):
        return
    try:
        remove_leftovers(directory)
        info = read_info(directory) or {}
        if must_mirror and _lacks_wandb(directory, info):
            _complete_mirror(run_spec, info)
        if must_record:
            _complete_local_trackers(directory, trackers)
    finally:
        lock.release()


def _report_damaged_tables(runs: Sequence[EndedRun]) -> None:
    """Says which runs that have ended have lost rows since, or have tables that cannot be read.

    Args:
        runs: the runs. Those that a dashboard is to get are left out: the line that says so of
            each names its tables.
    """
    from research.records.rows import find_damaged_table

    damages = {}
    for run in runs:
        trackers = run.spec.config.tracker
        directory = run.spec.directory
        is_named = trackers.wandb and _lacks_wandb(directory, run.info)
        if is_named or _lacks_local_tracker(trackers, run.info):
            continue
        damage = find_damaged_table(directory, run.info)
        if damage:
            damages[directory] = damage
    if len(damages) == 1:
        (damage,) = damages.values()
        notify(str(damage))
    elif damages:
        listed = join_first([str(directory) for directory in damages])
        notify(
            f"tables of {listed} are damaged or lack rows: "
            "remove those directories and train the runs again"
        )


def _report_missing_checkpoints(runs: Sequence[EndedRun]) -> None:
    """Says which runs have ended without the checkpoint that the command asks to keep.

    A run that diverged or was stopped before its last step keeps none.
    """
    missing = []
    for run in runs:
        has_state = (run.spec.directory / CHECKPOINTS).is_dir()
        is_wanted = run.spec.config.checkpoint.keep and run.info.get("status") == "done"
        if is_wanted and not has_state:
            missing.append(run.spec.directory)
    if len(missing) == 1:
        notify(
            f"{missing[0]} has finished without a checkpoint that it could keep: "
            f"`{shell_command('rm', str(missing[0]))}` and the same command train it again with one"
        )
    elif missing:
        notify(
            f"{len(missing)} runs have finished without a checkpoint that they could keep "
            f"({join_first([directory.name for directory in missing])}): remove them with "
            "`fathom rm`, and the same command trains them again with one"
        )


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


def find_leftovers(directory: Path) -> list[Path]:
    """What a run that has ended does not need.

    These are files that were being written, and part files and checkpoints unless the run keeps
    them. The settings that it was trained with say so, whatever a later command says.
    """
    folders = [directory / f"{table}.parts" for table in (METRICS, PROFILES, INSPECTIONS)]
    folders.append(directory / CHECKPOINTS)
    existing = [folder for folder in folders if folder.exists()]
    if existing and _keeps_checkpoint(directory):
        existing = []
    return [*existing, *directory.glob("*.tmp")]


def _keeps_checkpoint(directory: Path) -> bool:
    """Whether a run keeps the checkpoint of its last step; yes where its settings are unknown."""
    try:
        return bool(Run(directory).config.get("checkpoint.keep"))
    except DamagedRecord:
        return True


def remove_leftovers(directory: Path) -> None:
    """Removes what a run that has ended does not need. The caller holds the lock of the run."""
    for path in find_leftovers(directory):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

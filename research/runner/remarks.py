"""Tags, notes and W&B's project that are given anew for a run that has ended. No jax."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from research.config.notices import notify
from research.config.options import LOCAL_TRACKER_NAMES
from research.config.schema import to_dict
from research.records.runs import JsonObject
from research.runner.run_spec import REMARKS, RunSpec

CONFIG_FILE = ".hydra/config.yaml"


@dataclass
class EndedRun:
    """A run that a command names and that has ended.

    Attributes:
        spec: the run as the command describes it.
        info: its ``run.json``.
    """

    spec: RunSpec
    info: JsonObject

    @property
    def is_recorded_here(self) -> bool:
        """Whether this process writes the run, of the processes that train it together."""
        return (self.spec.directory / "run.json").exists()


def record_remarks(runs: Sequence[EndedRun]) -> None:
    """Records the tags and notes of a command that names runs which have ended, and says so.

    They stand in ``run.json`` and in the configuration, which Hydra may have written anew for the
    command. What the command does not give stays as it was recorded. The ``info`` of a run stays as
    it was where another process is writing the run, or its folder cannot be written.

    Args:
        runs: the runs, whose ``info`` is changed.
    """
    names: list[str] = []
    changed = []
    for run in runs:
        earlier = run.info
        run.info = _record_remarks_of(run)
        new = [name for name in REMARKS if run.info.get(name) != earlier.get(name)]
        if new:
            names += new
            changed.append(run)
    if changed:
        what = " and ".join(name for name in REMARKS if name in names)
        where = str(changed[0].spec.directory) if len(changed) == 1 else f"{len(changed)} runs"
        line = f"{where}: recorded the {what} that were given anew"
        notify("; ".join([line, *_describe_dashboards(changed)]))


def record_projects(runs: Sequence[EndedRun]) -> None:
    """Records W&B's project and entity of a command that names runs which W&B has elsewhere.

    They are those of the settings or of the environment. Where neither gives them, they stay as
    they were recorded.

    Args:
        runs: the runs, whose ``info`` is changed.
    """
    moved = [run for run in runs if run.spec.config.tracker.wandb and _record_project_of(run)]
    if moved:
        project = moved[0].info["mirrored"]["wandb"]["project"]
        where = str(moved[0].spec.directory) if len(moved) == 1 else f"{len(moved)} runs"
        notify(f"{where}: recorded the W&B project {project}; `fathom sync` sends what it lacks")


def _record_project_of(run: EndedRun) -> bool:
    """Records where W&B is to get a run; whether it is another place than before."""
    from research.records.mirror import choose_place, move_mirror
    from research.records.record import Lock, RunLocked, write_json

    directory = run.spec.directory
    place = choose_place(to_dict(run.spec.config)["tracker"])
    changes = move_mirror(directory, run.info, place)
    if not changes:
        return False
    try:
        lock = Lock(directory)
    except (RunLocked, OSError):
        return False
    try:
        settings = _read_config_file(run.spec) or {}
        tracker = settings.get("tracker")
        if isinstance(tracker, dict):
            _write_to_config(run.spec, {"tracker": tracker | place})
        run.info = run.info | changes
        write_json(directory / "run.json", run.info)
    finally:
        lock.release()
    return True


def _describe_dashboards(runs: Sequence[EndedRun]) -> list[str]:
    """How the dashboards of runs with new tags or notes get them."""
    mirrored = {name for run in runs for name in run.info.get("mirrored") or {}}
    ways = []
    if "wandb" in mirrored:
        ways.append("`fathom sync` sends them to W&B")
    for name in LOCAL_TRACKER_NAMES:
        if name in mirrored and not getattr(runs[0].spec.config.tracker, name):
            ways.append(f"the same command with tracker={name} sends them there")
    return ways


def _record_remarks_of(run: EndedRun) -> JsonObject:
    info = run.info
    spec = run.spec
    earlier = {"tags": info.get("tags") or [], "notes": info.get("notes") or ""}
    remarks: dict[str, Any] = {}
    for name, value in {"tags": list(spec.config.tags), "notes": spec.config.notes}.items():
        is_given = value or name in spec.given_remarks
        remarks[name] = value if is_given else earlier[name]
    is_new = remarks != earlier
    if not is_new and _configured_remarks(spec) in (None, remarks):
        return info
    from research.records.mirror import list_new_remarks
    from research.records.record import Lock, RunLocked, write_json

    try:
        lock = Lock(spec.directory)
    except (RunLocked, OSError):
        return info
    try:
        _write_to_config(spec, remarks)
        if is_new:
            info = info | remarks
            info |= list_new_remarks(spec.directory, info, earlier)
            write_json(spec.directory / "run.json", info)
    finally:
        lock.release()
    return info


def _configured_remarks(run_spec: RunSpec) -> JsonObject | None:
    """The tags and notes in the recorded configuration; None where it cannot be read."""
    settings = _read_config_file(run_spec)
    if settings is None:
        return None
    return {"tags": settings.get("tags") or [], "notes": settings.get("notes") or ""}


def _write_to_config(run_spec: RunSpec, remarks: JsonObject) -> None:
    settings = _read_config_file(run_spec)
    if settings is None:
        return
    text = yaml.safe_dump(settings | remarks, sort_keys=False, allow_unicode=True)
    (run_spec.directory / CONFIG_FILE).write_text(text, encoding="utf-8")


def _read_config_file(run_spec: RunSpec) -> JsonObject | None:
    from research.config.yaml_files import parse_yaml

    file = run_spec.directory / CONFIG_FILE
    try:
        settings = parse_yaml(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return settings if isinstance(settings, dict) else None

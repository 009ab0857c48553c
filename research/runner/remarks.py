"""Tags and notes that are given anew for a run that has ended. Does not import jax."""

from collections.abc import Sequence
from typing import Any

import yaml

from research.data.notices import notify
from research.records.runs import JsonObject
from research.runner.run_spec import RunSpec

CONFIG_FILE = ".hydra/config.yaml"
REMARKS = ("tags", "notes")


def record_remarks(run_specs: Sequence[RunSpec], infos: Sequence[JsonObject]) -> list[JsonObject]:
    """Records the tags and notes of a command that names runs which have ended, and says so.

    They stand in ``run.json`` and in the configuration, which Hydra may have written anew for the
    command. What the command does not give stays as it was recorded.

    Args:
        run_specs: the runs as the command describes them.
        infos: the ``run.json`` of each.

    Returns:
        Each ``run.json`` as it is now; as it was where another process is writing the run, or its
        folder cannot be written.
    """
    recorded = []
    names: list[str] = []
    changed = []
    in_dashboards = False
    for run_spec, info in zip(run_specs, infos, strict=True):
        now = _record_remarks_of(run_spec, info)
        new = [name for name in REMARKS if now.get(name) != info.get(name)]
        if new:
            names += new
            changed.append(run_spec.directory)
            in_dashboards |= bool(info.get("mirrored"))
        recorded.append(now)
    if changed:
        what = " and ".join(name for name in REMARKS if name in names)
        where = str(changed[0]) if len(changed) == 1 else f"{len(changed)} runs"
        limit = "; dashboards keep the earlier ones" if in_dashboards else ""
        notify(f"{where}: recorded the {what} that were given anew{limit}")
    return recorded


def _record_remarks_of(run_spec: RunSpec, info: JsonObject) -> JsonObject:
    config = run_spec.config
    earlier = {"tags": info.get("tags") or [], "notes": info.get("notes") or ""}
    remarks: dict[str, Any] = {
        "tags": list(config.tags) or earlier["tags"],
        "notes": config.notes or earlier["notes"],
    }
    is_new = remarks != earlier
    if not is_new and _configured_remarks(run_spec) in (None, remarks):
        return info
    from research.records.record import Lock, RunLocked, write_json

    try:
        lock = Lock(run_spec.directory)
    except (RunLocked, OSError):
        return info
    try:
        _write_to_config(run_spec, remarks)
        if is_new:
            info = info | remarks
            write_json(run_spec.directory / "run.json", info)
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

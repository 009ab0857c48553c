"""Tags and notes that are given anew for a run that has ended. Does not import jax."""

from typing import Any

import yaml

from research.data.notices import notify
from research.records.runs import JsonObject
from research.runner.run_spec import RunSpec

CONFIG_FILE = ".hydra/config.yaml"


def record_remarks(run_spec: RunSpec, info: JsonObject) -> JsonObject:
    """Records the tags and notes of a command that names a run which has ended, and says so.

    They stand in ``run.json`` and in the configuration, which Hydra may have written anew for the
    command. What the command does not give stays as it was recorded.

    Args:
        run_spec: the run as the command describes it.
        info: its ``run.json``.

    Returns:
        ``run.json`` as it is now; as it was where another process is writing the run, or its folder
        cannot be written.
    """
    from research.records.record import Lock, RunLocked, write_json

    config = run_spec.config
    earlier = {"tags": info.get("tags") or [], "notes": info.get("notes") or ""}
    remarks: dict[str, Any] = {
        "tags": list(config.tags) or earlier["tags"],
        "notes": config.notes or earlier["notes"],
    }
    is_new = remarks != earlier
    if not is_new and _configured_remarks(run_spec) in (None, remarks):
        return info
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
    if is_new:
        names = [name for name, value in remarks.items() if value != earlier[name]]
        notify(f"{run_spec.directory}: recorded the {' and '.join(names)} that were given anew")
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

"""Whether W&B has everything of a recorded run, and how it gets the rest from the tables.

``mirrored`` in ``run.json`` says so, apart from the status of the training: training may be done
while W&B still lacks rows, because a process was killed or a server failed.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import yaml

from research.config.schema import default_of, settings_with_effect
from research.config.yaml_files import parse_yaml
from research.records.jax_settings import describe_changed_settings
from research.records.record import read_info, write_json
from research.records.rows import RecordedRows, check_rows, read_rows
from research.records.run_info import DamagedRecord
from research.records.runs import PROFILES, JsonObject
from research.records.trackers import (
    LOCAL,
    PENDING,
    UPLOADED,
    ServiceUnresponsive,
    Tracker,
    describe_error,
)
from research.records.trackers.background import Unresponsive, call_within
from research.records.trackers.history import History, StepJudge, has_ended
from research.records.trackers.identity import (
    HASH_LENGTH,
    VARIABLES,
    WandbId,
    all_tags,
    find_run_id,
    first_attempt_id,
    job_type,
    next_attempt_id,
    run_group,
    run_name,
    with_environment,
)
from research.records.trackers.registry import LOCAL_TRACKERS, make_local_trackers
from research.records.trackers.server import (
    PresentServer,
    Uploaded,
    change_remarks,
    server_address,
)
from research.records.trackers.wandb import (
    OtherRows,
    WandbTracker,
    ask_for_upload,
    check_last_row,
    check_surplus,
    count_rows,
    make_tags,
    mark_as_uploaded,
    pending_state,
)

ROWS_PER_CALL = 1000
ROWS_PER_SECOND = 200  # a slow connection
NEW_REMARKS = "new_remarks"  # the names of tags and notes that W&B's server has not been sent
PLACE = ("server", "entity", "project")
TRACKER_SETTINGS = ("dir", "project", "entity", "layers", "every", "finish_timeout")


class UploadUnrecorded(Exception):
    """W&B's server has everything, but ``run.json`` cannot say so; ``str`` says why."""


def wandb_state(directory: Path, info: JsonObject) -> JsonObject:
    """What ``run.json`` says of the W&B run; empty for a run that W&B does not get.

    A record of an earlier version says only in which folder W&B recorded the run. What is missing
    or damaged is what it is for any run.
    """
    mirrored = info.get("mirrored")
    state = mirrored.get(WandbTracker.name) if isinstance(mirrored, dict) else None
    folder_id = find_run_id(Path(info.get("wandb") or "").name)
    if not isinstance(state, dict) and not folder_id:
        return {}
    state = state if isinstance(state, dict) else {"state": LOCAL}
    identity = _identify(directory, folder_id or info.get("id"))
    recorded = state.get("run")
    if isinstance(recorded, dict):
        is_valid = all(isinstance(recorded.get(name, ""), str) for name in identity)
        identity |= recorded if is_valid else {}
    return state | {"run": identity}


def _identify(directory: Path, run_id: str | None) -> JsonObject:
    """Who the W&B run of a run directory is."""
    return {
        "id": run_id,
        "name": directory.name,
        "group": directory.absolute().parent.name,
        "job_type": "train",
    }


def choose_wandb_id(
    directory: Path,
    info: JsonObject,
    *,
    has_own_data: bool = False,
) -> WandbId:
    """The W&B id of a run that starts, or starts again.

    It is the id of the run, which says nothing of the content of files or of JAX's settings. W&B
    may have rows of a run of the same id on other data, which are other numbers. So the fingerprint
    of the data is added where they are the user's own, and where they have changed since an earlier
    attempt. Where the settings of JAX have changed, a hash of both is.

    Args:
        directory: the run directory.
        info: the first content of the new ``run.json``.
        has_own_data: whether the data are files of the user.
    """
    run_id = info["id"]
    fingerprint = _fingerprint(info)
    id_with_data = f"{run_id}-{fingerprint[:HASH_LENGTH]}"
    earlier = read_info(directory) or {}
    id_with_settings = f"{run_id}-{_hash_numbers(info)}"
    known = wandb_state(directory, earlier).get("run", {}).get("id")
    if fingerprint and known:
        if describe_changed_settings(_jax_settings(earlier), _jax_settings(info)):
            return WandbId(id_with_settings, replaced=known)
        if _fingerprint(earlier) not in ("", fingerprint):
            return WandbId(id_with_data, replaced=known)
        own_ids = (run_id, id_with_data, id_with_settings)
        is_own = first_attempt_id(known) in own_ids or _is_earlier_id(known, info)
        return WandbId(known if is_own else run_id)
    if known and (first_attempt_id(known) == run_id or _is_earlier_id(known, info)):
        return WandbId(known)
    return WandbId(id_with_data if fingerprint and has_own_data else run_id)


def _is_earlier_id(wandb_id: str, info: JsonObject) -> bool:
    """Whether a W&B id belongs to the id by which another version of Fathom began the run."""
    earlier_id = info.get("earlier_id")
    return bool(earlier_id) and wandb_id.startswith(earlier_id)


def choose_id_of_loop(directory: Path, info: JsonObject) -> WandbId:
    """The W&B id of a run of ``fathom.Monitor`` that starts, or starts again.

    A measured run that has ended has its pictures in W&B, after which no row of it can follow.
    Where it was uploaded, what is logged later is another run there.

    Args:
        directory: the run directory.
        info: the first content of the new ``run.json``.
    """
    chosen = choose_wandb_id(directory, info)
    earlier = read_info(directory) or {}
    state = wandb_state(directory, earlier)
    was_uploaded = state.get("state") == UPLOADED and state["run"]["id"] == chosen.value
    has_pictures = has_ended(earlier) and (directory / f"{PROFILES}.parquet").exists()
    if has_pictures and was_uploaded:
        return WandbId(next_attempt_id(chosen.value), replaced=chosen.value)
    return chosen


def _fingerprint(info: JsonObject) -> str:
    """The fingerprint of the data of a run; empty where it is not known."""
    data = info.get("data")
    return str(data.get("fingerprint", "")) if isinstance(data, dict) else ""


def _jax_settings(info: JsonObject) -> JsonObject:
    """The settings of JAX that a run was trained under; empty where they are not known."""
    settings = info.get("jax_settings")
    return settings if isinstance(settings, dict) else {}


def _hash_numbers(info: JsonObject) -> str:
    """A short hash of what the numbers of a run depend on, apart from its configuration."""
    text = json.dumps([_fingerprint(info), _jax_settings(info)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]


def pending_mirrors(
    directory: Path,
    info: JsonObject,
    trackers: Sequence[Tracker],
    wandb_id: WandbId,
) -> JsonObject:
    """Entries of ``run.json`` of a run that starts, or starts again: no dashboard is complete.

    An earlier attempt may have started a run in W&B. If W&B is no longer switched on, it stays
    listed, so that ``fathom sync`` completes that run.

    Args:
        directory: the run directory.
        info: the first content of the new ``run.json``.
        trackers: the dashboards that are switched on.
        wandb_id: the id of the run in W&B.
    """
    mirrored = {}
    known = wandb_state(directory, read_info(directory) or {})
    if known:
        run = known["run"] | {"id": wandb_id.value}
        mirrored[WandbTracker.name] = known | {"state": PENDING, "run": run}
    mirrored |= {tracker.name: tracker.pending for tracker in trackers}
    return {"mirrored": mirrored} if mirrored else {}


def is_mirrored(directory: Path, info: JsonObject) -> bool:
    """Whether W&B was ever to get the run."""
    return bool(wandb_state(directory, info))


def begin_mirror(
    directory: Path,
    settings: JsonObject,
    *,
    has_own_data: bool,
) -> None:
    """Lists a run that was trained without W&B as one that W&B gets. The caller holds its lock.

    Args:
        directory: the run directory.
        settings: the ``tracker`` settings.
        has_own_data: whether the data are files of the user.
    """
    info = read_info(directory) or {}
    wandb_id = choose_wandb_id(directory, info, has_own_data=has_own_data)
    identity = {
        "id": wandb_id.value,
        "name": run_name(directory.absolute().name),
        "group": run_group(directory.absolute().parent.name),
        "job_type": job_type(),
    }
    state = pending_state(with_environment(settings), identity)
    _write_state(directory, info, state, settings)


def choose_place(settings: JsonObject) -> JsonObject:
    """The project and the entity that settings or environment give; what has its default is absent.

    Args:
        settings: the ``tracker`` settings.
    """
    chosen = with_environment(settings)
    place = {}
    for name in VARIABLES:
        if chosen[name] != default_of(f"tracker.{name}"):
            place[name] = chosen[name]
    return place


def move_mirror(directory: Path, info: JsonObject, place: JsonObject) -> JsonObject:
    """Entries of ``run.json`` of a run that W&B is to get in another place than it has it.

    Args:
        directory: the run directory.
        info: its ``run.json``.
        place: the project and the entity, as far as they are given.

    Returns:
        Nothing if W&B does not get the run, or gets it there already.
    """
    state = wandb_state(directory, info)
    if not state or all(state.get(name, value) == value for name, value in place.items()):
        return {}
    # Offline files, which name the project, are recorded anew unless they were sent.
    how_far = LOCAL if state.get("state") == UPLOADED else PENDING
    moved = state | place | {"state": how_far}
    return {"mirrored": (info.get("mirrored") or {}) | {WandbTracker.name: moved}}


def is_pending(directory: Path, info: JsonObject) -> bool:
    """Whether neither W&B's files on this machine nor its server are known to be complete."""
    return wandb_state(directory, info).get("state") == PENDING


def is_uploaded(directory: Path, info: JsonObject, server: PresentServer) -> bool:
    """Whether W&B's server has everything, or does not get the run at all.

    The project and the entity are those to which the run would be sent now.

    Args:
        directory: the run directory.
        info: its ``run.json``.
        server: the server to which runs are sent now.
    """
    state = wandb_state(directory, info)
    if not state:
        return True
    is_complete = state.get("state") == UPLOADED and not state.get(NEW_REMARKS)
    return is_complete and server.is_at(state.get("server")) and _is_in_project(directory, state)


def _is_in_project(directory: Path, state: JsonObject) -> bool:
    """Whether W&B has a run in the project and entity to which it would be sent now."""
    if not any(map(os.environ.get, VARIABLES.values())):
        return True
    try:
        config = _read_config(directory)
    except DamagedRecord:
        return True
    recorded = _with_defaults(state, config)
    place = _choose_project(state, config)
    return all(place[name] == recorded[name] for name in VARIABLES)


def _choose_project(state: JsonObject, config: JsonObject) -> JsonObject:
    """The project and entity to which a run is sent now, where they are not those of its record.

    The environment counts where the setting of the run has its default, as when it was trained.

    Args:
        state: what ``run.json`` says of the W&B run.
        config: the settings of the run.
    """
    recorded = _with_defaults(state, config)
    place = {name: recorded[name] for name in VARIABLES}
    return place | choose_place(_tracker_settings(config))


def describe_place(state: JsonObject) -> str:
    """Where W&B has a run, in words: the server if it is known, the entity and the project."""
    return "/".join(state[name] for name in PLACE if state.get(name))


def list_new_remarks(
    directory: Path,
    info: JsonObject,
    earlier: JsonObject,
) -> JsonObject:
    """Entries of ``run.json`` of a run with new tags or notes, which its dashboards lack.

    W&B gets them by ``fathom sync``, and other dashboards when they are recorded anew.

    Args:
        directory: the run directory.
        info: its ``run.json``, with the new tags and notes.
        earlier: the tags and notes before.
    """
    mirrored = dict(info.get("mirrored") or {})
    for tracker in LOCAL_TRACKERS:
        if isinstance(mirrored.get(tracker.name), dict):
            mirrored[tracker.name] |= {"state": PENDING}
    state = wandb_state(directory, info)
    if state:
        changed = [name for name in earlier if info.get(name) != earlier[name]]
        dropped = all_tags(earlier["tags"])
        others = [tag for tag in _known_tags(directory, state) if tag not in dropped]
        tags = all_tags([*info["tags"], *others])
        run = state["run"] | {"tags": tags, "notes": info["notes"] or None}
        changed = sorted({*changed, *state.get(NEW_REMARKS, [])})
        mirrored[WandbTracker.name] = state | {"run": run, NEW_REMARKS: changed}
    return {"mirrored": mirrored} if mirrored else {}


def _known_tags(directory: Path, state: JsonObject) -> list[str]:
    """The tags with which W&B got a run, or is to get it."""
    try:
        return _with_defaults(state, _read_config(directory))["run"]["tags"]
    except (ValueError, KeyError):  # a configuration that is damaged
        return []


def complete_mirror(
    directory: Path,
    *,
    must_upload: bool,
    judge: StepJudge | None = None,
) -> str:
    """Brings W&B to what the tables of a run say. The caller holds the lock of the run.

    Args:
        directory: the run directory.
        must_upload: send the run to the server. Otherwise it is recorded as a training run is:
            offline, unless the environment says otherwise.
        judge: judges single steps of runs that ``fathom train`` has trained.

    Returns:
        The new state.

    Raises:
        ServerError: the run must be sent, and the server has not received all of it, or has rows of
            another run.
        UploadUnrecorded: the server has received all of it, but ``run.json`` cannot be written.
        DamagedTable: a table cannot be read, or has lost rows.
        DamagedRecord: the configuration of the run cannot be read.
    """
    info = read_info(directory) or {}
    rows = read_rows(directory)
    config = _read_config(directory)
    settings = _tracker_settings(config)
    pending = _with_defaults(wandb_state(directory, info), config)
    check_rows(directory, info, rows)
    num_rows = count_rows(rows.num_rows, has_pictures=has_ended(info) and bool(rows.profiles))
    if must_upload:
        pending |= {"server": server_address()} | _choose_project(pending, config)
        pending, uploaded = _find_attempt(pending, info, rows, settings)
        if uploaded and uploaded.has_ended and uploaded.num_rows >= num_rows:
            state = _send_new_remarks(pending | {"state": UPLOADED}, uploaded)
            _write_state(directory, info, state, settings)
            return UPLOADED
    with contextlib.ExitStack() as cleanup:
        folder = None
        if must_upload:  # what W&B has recorded while training stays as it is
            temporary = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
            folder = Path(cleanup.enter_context(temporary))
        tracker = WandbTracker.of_record(
            pending,
            settings=settings,
            config=config,
            mode="online" if must_upload else None,
            finish_seconds=settings["finish_timeout"] + num_rows / ROWS_PER_SECOND,
            directory=folder,
            judge=None if "watch" in config else judge,
        )
        changes, state = _mirror_rows(tracker, rows, _describe_end(info))
    if not must_upload:
        info = info | changes
    if state["state"] == UPLOADED:
        state = _send_new_remarks(state)
    _write_state(directory, info, state, settings)
    return state["state"]


def _find_attempt(
    pending: JsonObject,
    info: JsonObject,
    rows: RecordedRows,
    settings: JsonObject,
) -> tuple[JsonObject, Uploaded | None]:
    """The W&B run to which the rows of a run belong, and what the server has of it.

    A run that was resumed may have replaced rows that W&B has of an earlier attempt. W&B cannot
    replace them, so it gets all rows of the run as another one.

    Args:
        pending: what ``run.json`` says of the W&B run.
        info: the ``run.json`` of the run.
        rows: the rows of its tables.
        settings: the ``tracker`` settings.

    Raises:
        OtherRows: the server has other rows of a run that was not resumed.
    """
    while True:
        uploaded = ask_for_upload(pending)
        try:
            _check_uploaded(pending, uploaded, info, rows, settings)
        except OtherRows as error:
            if not info.get("resumed"):
                raise OtherRows(f"{error}: delete that run in W&B, and sync again") from None
            wandb_id = next_attempt_id(pending["run"]["id"])
            pending = pending | {"run": pending["run"] | {"id": wandb_id}}
        else:
            return pending, uploaded


def _check_uploaded(
    pending: JsonObject,
    uploaded: Uploaded | None,
    info: JsonObject,
    rows: RecordedRows,
    settings: JsonObject,
) -> None:
    """Checks that what the server has of a run is the beginning of its rows.

    Args:
        pending: what ``run.json`` says of the W&B run.
        uploaded: what the server has; None where that is not known.
        info: the ``run.json`` of the run.
        rows: the rows of its tables.
        settings: the ``tracker`` settings.

    Raises:
        OtherRows: it has other rows.
    """
    if not uploaded:
        return
    if has_ended(info):
        num_rows = count_rows(rows.num_rows, has_pictures=bool(rows.profiles))
        check_surplus(pending, uploaded, num_rows)
    number = uploaded.num_rows - 1
    if 0 <= number < rows.num_rows:
        row = rows.row(number)
        columns = History(settings).add(row.metrics, row.profiles, {})
        check_last_row(pending, uploaded, columns, number)


def _send_new_remarks(state: JsonObject, uploaded: Uploaded | None = None) -> JsonObject:
    """Sends the tags and notes that were given anew, if any; returns the new state.

    They are sent by themselves, because a run that is opened again may keep its earlier tags.

    Args:
        state: what ``run.json`` says of the W&B run.
        uploaded: what the server has; None to ask it.

    Raises:
        ServerError: the server does not answer.
    """
    remarks = {}
    for name in state.get(NEW_REMARKS) or []:
        remarks[name] = state["run"].get(name) or ("" if name == "notes" else [])
    if remarks:
        uploaded = uploaded or ask_for_upload(state)
    if remarks and uploaded and uploaded.server_id:
        change_remarks(uploaded.server_id, remarks)
    return {name: value for name, value in state.items() if name != NEW_REMARKS}


def complete_local_trackers(
    directory: Path,
    settings: JsonObject,
    judge: StepJudge | None = None,
) -> dict[str, str]:
    """Records a run for the dashboards on this machine that may lack something of it.

    The caller holds the lock of the run.

    Args:
        directory: the run directory.
        settings: the ``tracker`` settings, which say which dashboards are wanted.
        judge: judges single steps.

    Returns:
        For each dashboard that was tried, what went wrong; empty if nothing did.

    Raises:
        DamagedTable: a table cannot be read, or has lost rows.
        DamagedRecord: the configuration of the run cannot be read.
    """
    info = read_info(directory) or {}
    rows = read_rows(directory)
    check_rows(directory, info, rows)
    config = _read_config(directory) | {"tracker": settings}
    outcomes = {}
    for tracker in make_local_trackers(directory, info["id"], config, judge):
        mirrored = dict(info.get("mirrored") or {})
        if mirrored.get(tracker.name, {}).get("state") == LOCAL:
            continue
        outcomes[tracker.title] = ""
        try:
            _, mirrored[tracker.name] = _mirror_rows(tracker, rows, _describe_end(info))
        except Exception as error:  # the failure of a dashboard must never end a command
            outcomes[tracker.title] = describe_error(error)
        else:
            info = info | {"mirrored": mirrored}
            write_json(directory / "run.json", info)
    return outcomes


def _mirror_rows(
    tracker: Tracker,
    rows: RecordedRows,
    info: JsonObject,
) -> tuple[JsonObject, JsonObject]:
    """Sends the rows of a run; returns entries for ``run.json`` and the new state.

    Raises:
        ServiceUnresponsive: the dashboard's own process has stopped working.
    """
    try:
        changes = call_within(tracker.patience, tracker.start)
        for part in rows.split(ROWS_PER_CALL):
            diagnostics = part.diagnostics()
            log = partial(tracker.log, part.metrics, part.profiles, diagnostics)
            call_within(tracker.patience, log)
        return changes, call_within(tracker.patience, partial(tracker.finish, info))
    except Unresponsive:
        raise ServiceUnresponsive("its own process does not answer any more") from None


def _read_config(directory: Path) -> JsonObject:
    """The settings of a run that have an effect, as a tree."""
    file = directory / ".hydra" / "config.yaml"
    try:
        tree = parse_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DamagedRecord(f"its configuration {file} cannot be read") from error
    if not isinstance(tree, dict):
        raise DamagedRecord(f"its configuration {file} holds no settings")
    return settings_with_effect(tree)


def _tracker_settings(config: JsonObject) -> JsonObject:
    recorded = config.get("tracker") or {}
    settings = {}
    for name in TRACKER_SETTINGS:
        settings[name] = recorded.get(name, default_of(f"tracker.{name}"))
    return settings


def _with_defaults(
    state: JsonObject,
    config: JsonObject,
) -> JsonObject:
    """The state of the W&B run with what a record of an earlier version leaves out."""
    settings = _tracker_settings(config)
    where = {"project": settings["project"], "entity": settings["entity"]}
    identity = {"tags": make_tags(config)} | state["run"]
    return where | state | {"run": identity}


def _describe_end(info: JsonObject) -> JsonObject:
    """``run.json`` for W&B. A run whose process was killed still has the status ``running``."""
    if info.get("status") == "running":
        return info | {"status": "interrupted"}
    return info


def _write_state(
    directory: Path,
    info: JsonObject,
    state: JsonObject,
    settings: JsonObject,
) -> None:
    mirrored = info.get("mirrored")
    others = mirrored if isinstance(mirrored, dict) else {}
    changes = {"mirrored": others | {WandbTracker.name: state}}
    file = directory / "run.json"
    try:
        write_json(file, info | changes)
    except OSError as error:
        if state["state"] != UPLOADED:
            raise
        raise UploadUnrecorded(f"{file} cannot be written: {error.strerror}") from error
    if state["state"] == UPLOADED:
        earlier = wandb_state(directory, info)
        for run in (earlier["run"], state["run"]):  # its offline folder may have the earlier id
            mark_as_uploaded(settings, run["id"])

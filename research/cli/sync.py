"""``fathom sync``: brings runs to Weights & Biases, each row exactly once."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from research.records.record import Lock, RunLocked, read_info
from research.records.run_info import DamagedRecord
from research.records.runs import METRICS, Run, find_runs
from research.records.trackers.server import ServerUnavailable

OUTPUTS = Path("outputs")


@dataclass(frozen=True)
class Upload:
    """Something to upload.

    Attributes:
        directory: the run directory, or W&B's folder of a run that has no rows here.
        locked: the directory to lock meanwhile.
        send: sends it while this lock is held. It raises ServerError or ValueError where the server
            has not received everything.
    """

    directory: Path
    locked: Path
    send: Callable[[Lock], None]


def main(words: Sequence[str] = ()) -> int:
    """Uploads the runs that match the words, or all of them.

    Args:
        words: filters as for ``fathom runs``, run directories, or W&B's folders of runs.

    Returns:
        1 where a run could not be uploaded, else 0.

    Raises:
        ValueError: a word matches nothing.
    """
    try:
        return _upload_all(_find_uploads(words))
    except KeyboardInterrupt:
        from research.records.trackers.service import kill_service

        kill_service()
        print(flush=True)  # ends the line of the run
        print("fathom: interrupted; `fathom sync` sends the rest", file=sys.stderr, flush=True)
        os._exit(1)  # W&B would first wait until everything is sent


def _find_uploads(words: Sequence[str]) -> list[Upload]:
    runs: dict[Path, Run] = {}
    folders: list[Path] = []
    filters = []
    for word in words:
        path = Path(word)
        if any(path.glob("*.wandb")):
            folders.append(path.absolute())
        elif path.is_dir() and find_runs(path):
            runs |= {run.directory.absolute(): run for run in find_runs(path)}
        else:
            filters.append(word)
    if filters:
        from research.reporting.selection import select_runs

        runs |= {run.directory.absolute(): run for run in select_runs(filters)}
    if not words:
        runs = {run.directory.absolute(): run for run in find_runs(OUTPUTS)}
        folders = offline_runs(Path(os.environ.get("WANDB_DIR") or OUTPUTS))
    return _uploads_of_runs(list(runs.values())) + _uploads_of_folders(folders)


def _uploads_of_runs(runs: Sequence[Run]) -> list[Upload]:
    from research.records.mirror import is_uploaded

    uploads = []
    for run in runs:
        send = partial(_send_record, run.directory)
        try:
            if is_uploaded(run.directory, run.info) or not _has_rows(run.directory):
                continue
        except DamagedRecord as error:
            send = partial(_fail, error)
        uploads.append(Upload(run.directory, run.directory, send))
    return uploads


def _fail(error: DamagedRecord, _: Lock) -> None:
    raise error


def _uploads_of_folders(folders: Sequence[Path]) -> list[Upload]:
    """The folders whose runs have no recorded rows under outputs/."""
    from research.records.trackers.folders import is_uploaded

    directories = {_wandb_id(run.directory): run.directory for run in find_runs(OUTPUTS)}
    uploads = []
    for folder in folders:
        run_id = folder.name.rpartition("-")[2]
        directory = directories.get(run_id)
        if is_uploaded(folder) or (directory and _has_rows(directory)):
            continue
        # A run that has just started has no rows yet.
        uploads.append(Upload(folder, directory or folder, partial(_send_folder, folder)))
    return uploads


def _has_rows(directory: Path) -> bool:
    if (directory / f"{METRICS}.parquet").exists():
        return True
    return any(directory.glob(f"{METRICS}.parts/*.parquet"))


def _wandb_id(directory: Path) -> str:
    from research.records.mirror import wandb_state

    state = wandb_state(directory, read_info(directory) or {})
    return state.get("run", {}).get("id", "")


def offline_runs(root: Path) -> list[Path]:
    """The folders of W&B runs under ``root``/wandb that have not been uploaded."""
    from research.records.trackers.folders import is_uploaded

    wandb_folder = root.absolute() / "wandb"  # W&B's own process may run in another directory
    offline = []
    for folder in sorted(wandb_folder.glob("offline-run-*")):
        if not is_uploaded(folder):
            offline.append(folder)
    return offline


def _upload_all(uploads: Sequence[Upload]) -> int:
    from research.records.trackers.service import stop_service

    if not uploads:
        print("nothing to upload: W&B has every run that was recorded for it")
        return 0
    num_failed = 0
    unavailable = ""  # why the server cannot be used
    for number, upload in enumerate(uploads, start=1):
        label = _label(upload.directory)
        if unavailable:
            print(f"{label}: not uploaded, {unavailable}", flush=True)
            num_failed += 1
            continue
        print(f"[{number}/{len(uploads)}] {label}: ", end="", flush=True)
        outcome = "uploaded"
        try:
            _upload_locked(upload)
        except RunLocked:
            outcome = "still being trained or uploaded, left for later"
        except Exception as error:  # of one run: the others are uploaded
            if isinstance(error, ServerUnavailable):
                unavailable = str(error)
            outcome = f"not uploaded, {_describe(error)}"
            num_failed += 1
            stop_service()
        print(outcome, flush=True)
    return 1 if num_failed else 0


def _label(directory: Path) -> str:
    """The name of a W&B folder, or the path of a run directory."""
    if (directory / "run.json").exists():
        return str(directory)
    return directory.name


def _describe(error: Exception) -> str:
    from research.records.trackers import describe_error

    if isinstance(error, ValueError):
        return str(error)
    return describe_error(error)


def _upload_locked(upload: Upload) -> None:
    lock = Lock(upload.locked)
    try:
        upload.send(lock)
    finally:
        lock.release()


def _send_record(directory: Path, _: Lock) -> None:
    """Brings W&B's server to what the tables of a run say, and tidies up after a killed run."""
    from research.records.mirror import complete_mirror, keeps_checkpoints
    from research.records.trackers.wandb import has_ended
    from research.runner.completion import remove_leftovers

    info = read_info(directory) or {}
    if has_ended(info):
        remove_leftovers(directory, keep_checkpoints=keeps_checkpoints(directory))
    complete_mirror(directory, must_upload=True)


def _send_folder(folder: Path, lock: Lock) -> None:
    from research.records.trackers.folders import upload_folder

    upload_folder(folder, lock)

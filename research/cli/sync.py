"""``fathom sync``: brings runs to Weights & Biases, each row exactly once."""

import contextlib
import dataclasses
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from research.config.wording import pluralize
from research.records.record import Lock, RunLocked, read_info
from research.records.run_info import SOURCE_WATCH, DamagedRecord
from research.records.runs import JsonObject, Run, find_runs, has_rows
from research.records.trackers.server import PresentServer, ServerUnavailable
from research.records.trackers.views import FILE as VIEWS

OUTPUTS = Path("outputs")
MAX_JOBS = 16  # each has threads and connections of its own
BYTES_PER_ROW = 750  # about, of W&B's files
ROWS_PER_START = 1000  # about as many rows are sent in the time that it takes to begin an upload
MIN_SECONDS_FOR_ESTIMATE = 2.0
UPLOADED = "uploaded"
BUSY = "still being trained or uploaded, left for later"


@dataclass(frozen=True)
class Upload:
    """Something to upload.

    Attributes:
        directory: the run directory, or W&B's folder of a run that has no rows here.
        locked: the directory to lock meanwhile.
        size: about how many rows it has; 0 for a view and a report.
        send: sends it while this lock is held, and returns what became of it, in words. It raises
            ServerError or ValueError where the server has not received everything.
        wandb_id: the id of the run in W&B; empty for anything else.
    """

    directory: Path
    locked: Path
    size: int
    send: Callable[[Lock], str]
    wandb_id: str = ""

    @property
    def label(self) -> str:
        """The name of a W&B folder, or the path of a run directory."""
        if (self.directory / "run.json").exists() or has_rows(self.directory):
            return str(self.directory)
        if (self.directory / VIEWS).exists():
            return f"view and report of {self.directory.name}"
        return self.directory.name


@dataclass(frozen=True)
class Found:
    """What the words of the command select.

    Attributes:
        uploads: what W&B lacks, or may lack.
        num_complete: the runs of which W&B has everything.
        num_without: the runs of ``fathom train`` that were recorded without W&B.
        num_loops: the same of other training loops, which ``fathom.Monitor`` has recorded.
        num_empty: the runs without rows, and without a folder of W&B that is sent.
    """

    uploads: list[Upload]
    num_complete: int
    num_without: int = 0
    num_loops: int = 0
    num_empty: int = 0

    def describe_others(self) -> list[str]:
        """The runs that are not sent, and what brings them to W&B, a line for each kind."""
        lines = []
        if self.num_without:
            is_one = self.num_without == 1
            runs = f"{pluralize(self.num_without, 'run')} {'was' if is_one else 'were'}"
            lines.append(
                f"{runs} recorded without W&B: the same command with tracker=wandb, then "
                f"`fathom sync`, brings {'it' if is_one else 'them'} there"
            )
        if self.num_loops:
            runs = pluralize(self.num_loops, "run")
            lines.append(
                f'fathom.Monitor recorded {runs} without W&B: give it tracker="wandb" to record '
                "the next ones there"
            )
        if self.num_empty:
            verb = "has" if self.num_empty == 1 else "have"
            lines.append(f"{pluralize(self.num_empty, 'run')} {verb} no rows yet")
        return lines


@dataclass(frozen=True)
class Outcome:
    """What became of an upload.

    Attributes:
        text: in words.
        has_failed: whether the server has not received everything.
    """

    text: str
    has_failed: bool = False


def main(
    words: Sequence[str] = (),
    *,
    dry_run: bool = False,
    jobs: str = "4",
) -> int:
    """Uploads the runs that match the words, or all of them.

    Args:
        words: filters as for ``fathom runs``, run directories, or W&B's folders of runs.
        dry_run: only show what would be uploaded.
        jobs: how many runs are uploaded at once.

    Returns:
        1 where a run could not be uploaded, else 0.

    Raises:
        ValueError: there are no runs, a word matches nothing, or ``jobs`` is not valid.
    """
    num_jobs = _parse_jobs(jobs)
    try:
        found = _find_uploads(words)
        code = 0
        if dry_run:
            _show_plan(found)
        else:
            code = _upload_all(found, num_jobs)
        for line in found.describe_others():
            print(line)
        return code
    except KeyboardInterrupt:
        from research.records.trackers.service import kill_service

        kill_service()
        print("fathom: interrupted; `fathom sync` sends the rest", file=sys.stderr, flush=True)
        os._exit(1)  # W&B would first wait until everything is sent


def _parse_jobs(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= MAX_JOBS:
        return int(text)
    raise ValueError(f"--jobs must be a whole number from 1 to {MAX_JOBS}, got {text}")


def _show_plan(found: Found) -> None:
    for upload in found.uploads:
        size = f": about {pluralize(upload.size, 'row')}" if upload.size else ""
        print(f"{upload.label}{size}")
    print(f"{len(found.uploads)} to upload, {found.num_complete} already in W&B")


def _find_uploads(words: Sequence[str]) -> Found:
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
        wandb_directory = Path(os.environ.get("WANDB_DIR") or OUTPUTS)
        folders = offline_runs(wandb_directory)
        if not runs and not any(wandb_directory.glob("wandb/offline-run-*")):
            from research.reporting.selection import describe_no_runs

            raise ValueError(describe_no_runs(OUTPUTS))
    found = _uploads_of_runs(list(runs.values()), folders)
    uploads = found.uploads + _uploads_of_folders(folders)
    return dataclasses.replace(found, uploads=uploads + _uploads_of_views(runs))


def _uploads_of_views(directories: Iterable[Path]) -> list[Upload]:
    """The studies of run directories whose view or report the server lacks."""
    from research.records.trackers.views import has_pending_views

    uploads = []
    for study in dict.fromkeys(directory.parent for directory in directories):
        if has_pending_views(study):
            uploads.append(Upload(study, study, 0, partial(_send_views, study)))
    return uploads


def _uploads_of_runs(runs: Sequence[Run], folders: Sequence[Path]) -> Found:
    """The runs that the server may lack something of.

    Args:
        runs: the runs.
        folders: W&B's folders that are sent too. They have the rows of runs without tables.
    """
    from research.records.mirror import is_mirrored, is_uploaded
    from research.records.trackers.history import has_ended
    from research.records.trackers.identity import find_run_id

    server = PresentServer()
    ids_of_folders = {find_run_id(folder.name) for folder in folders}
    uploads = []
    num_complete = 0
    num_without = 0
    num_loops = 0
    num_empty = 0
    for run in runs:
        send = partial(_send_record, run.directory)
        size = 0
        wandb_id = ""
        try:
            if is_uploaded(run.directory, run.info, server):
                if is_mirrored(run.directory, run.info):
                    num_complete += 1
                elif not has_rows(run.directory):
                    num_empty += 1
                elif run.info.get("source") == SOURCE_WATCH:
                    num_loops += 1
                else:
                    num_without += 1
                continue
            has_lost_rows = has_ended(run.info) and bool(run.info.get("steps"))
            is_in_folder = _wandb_id(run.directory) in ids_of_folders
            if not has_rows(run.directory) and (is_in_folder or not has_lost_rows):
                num_empty += not is_in_folder
                continue
            size = run.num_steps
            wandb_id = _wandb_id(run.directory)
        except DamagedRecord as error:
            send = partial(_fail, error)
        uploads.append(Upload(run.directory, run.directory, size, send, wandb_id))
    return Found(uploads, num_complete, num_without, num_loops, num_empty)


def _fail(error: DamagedRecord, _: Lock) -> str:
    raise error


def _uploads_of_folders(folders: Sequence[Path]) -> list[Upload]:
    """The folders whose runs have no recorded rows under outputs/."""
    from research.records.trackers.folders import is_uploaded
    from research.records.trackers.identity import find_run_id

    directories = {_wandb_id(run.directory): run.directory for run in find_runs(OUTPUTS)}
    uploads = []
    for folder in folders:
        run_id = find_run_id(folder.name)
        directory = directories.get(run_id)
        if is_uploaded(folder) or (directory and has_rows(directory)):
            continue
        # A run that has just started has no rows yet.
        size = sum(file.stat().st_size for file in folder.glob("*.wandb")) // BYTES_PER_ROW
        send = partial(_send_folder, folder)
        uploads.append(Upload(folder, directory or folder, size, send, run_id))
    return uploads


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


def _upload_all(found: Found, num_jobs: int) -> int:
    """Uploads everything; prints a line for each upload and how all of them ended."""
    uploads = found.uploads
    if not uploads:
        print(f"nothing to upload, {found.num_complete} already in W&B")
        return 0
    uploader = Uploader()
    time_left = TimeLeft(uploads)
    outcomes = []
    # Not as a context manager, which would wait for uploads that the user has interrupted.
    pool = ThreadPoolExecutor(min(num_jobs, len(uploads)), "upload")
    started = {pool.submit(uploader.upload, upload): upload for upload in uploads}
    for number, future in enumerate(as_completed(started), start=1):
        upload = started[future]
        outcome = future.result()
        outcomes.append(outcome)
        line = f"[{number}/{len(uploads)}] {upload.label}: {outcome.text}"
        print(line + time_left.after(upload), flush=True)
    pool.shutdown()
    num_failed = sum(outcome.has_failed for outcome in outcomes)
    if len(uploads) > 1:
        num_busy = sum(outcome.text == BUSY for outcome in outcomes)
        num_uploaded = len(outcomes) - num_failed - num_busy
        counts = {"uploaded": num_uploaded, "already in W&B": found.num_complete}
        counts |= {"left for later": num_busy, "failed": num_failed}
        print(", ".join(f"{count} {name}" for name, count in counts.items() if count))
    return 1 if num_failed else 0


class TimeLeft:
    """Estimates how long the uploads that are left will take, from those that are done."""

    def __init__(self, uploads: Sequence[Upload]):
        self._started_at = time.monotonic()
        self._num_left = len(uploads)
        self._work_left = sum(_work_of(upload) for upload in uploads)
        self._work_done = 0

    def after(self, upload: Upload) -> str:
        """``, about 12 s left`` once an upload is done; empty where that is not known."""
        self._num_left -= 1
        self._work_left -= _work_of(upload)
        self._work_done += _work_of(upload)
        seconds = time.monotonic() - self._started_at
        if not self._num_left or seconds < MIN_SECONDS_FOR_ESTIMATE:
            return ""
        return f", about {seconds * self._work_left / self._work_done:.0f} s left"


def _work_of(upload: Upload) -> int:
    """The work of an upload, in rows."""
    return ROWS_PER_START + upload.size


class Uploader:
    """Uploads from several threads, and copies of one run one after the other.

    After a failure W&B's process is ended, once no other upload needs it; the next upload starts a
    new one. Where the server cannot be used, what has not started fails at once.
    """

    def __init__(self):
        self._changed = threading.Condition()
        self._num_active = 0
        self._is_service_broken = False
        self._unavailable = ""  # why the server cannot be used
        self._turns: dict[str, threading.Lock] = {}  # by the id of the run in W&B

    def upload(self, upload: Upload) -> Outcome:
        """Uploads one run and returns what became of it."""
        from research.records.mirror import UploadUnrecorded

        self._enter()
        is_broken = False
        try:
            if self._unavailable:
                return Outcome(f"not uploaded, {self._unavailable}", has_failed=True)
            with self._turn_of(upload):
                text = _upload_locked(upload)
            return Outcome(text)
        except RunLocked:
            return Outcome(BUSY)
        except UploadUnrecorded as error:
            return Outcome(f"{UPLOADED}, but {error}", has_failed=True)
        except Exception as error:  # of one run: the others are uploaded
            is_broken = True
            if isinstance(error, ServerUnavailable):
                self._unavailable = str(error)
            return Outcome(f"not uploaded, {_describe(error)}", has_failed=True)
        finally:
            self._leave(is_broken)

    def _turn_of(self, upload: Upload) -> contextlib.AbstractContextManager:
        """What is held while a run is sent, of which there may be copies."""
        if not upload.wandb_id:
            return contextlib.nullcontext()
        with self._changed:
            return self._turns.setdefault(upload.wandb_id, threading.Lock())

    def _enter(self) -> None:
        with self._changed:
            while self._is_service_broken and self._num_active:
                self._changed.wait()
            self._restart_service()
            self._num_active += 1

    def _leave(self, is_broken: bool) -> None:
        with self._changed:
            self._num_active -= 1
            self._is_service_broken |= is_broken
            if not self._num_active:
                self._restart_service()
            self._changed.notify_all()

    def _restart_service(self) -> None:
        from research.records.trackers.service import stop_service

        if self._is_service_broken:
            stop_service()
            self._is_service_broken = False


def _describe(error: Exception) -> str:
    from research.records.trackers import describe_error

    if isinstance(error, ValueError):
        return str(error)
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename} cannot be written or read: {error.strerror}"
    return describe_error(error)


def _upload_locked(upload: Upload) -> str:
    lock = Lock(upload.locked)
    try:
        return upload.send(lock)
    finally:
        lock.release()


def _send_record(directory: Path, _: Lock) -> str:
    """Brings W&B's server to what the tables of a run say, and tidies up after a killed run.

    Returns:
        What became of it, in words.
    """
    from research.diagnosis.steps import judge_steps
    from research.records.mirror import complete_mirror, wandb_state
    from research.records.trackers.history import has_ended
    from research.runner.completion import remove_leftovers

    info = read_info(directory) or {}
    if has_ended(info):
        remove_leftovers(directory)
    earlier = wandb_state(directory, info)
    complete_mirror(directory, must_upload=True, judge=judge_steps)
    return _describe_upload(earlier, wandb_state(directory, read_info(directory) or {}))


def _describe_upload(earlier: JsonObject, state: JsonObject) -> str:
    """``uploaded``, with where a run is now and who, if it was elsewhere or someone else before.

    Args:
        earlier: what ``run.json`` said of the W&B run before.
        state: what it says now.
    """
    from research.records.mirror import PLACE, describe_place

    text = UPLOADED
    was_elsewhere = any(earlier.get(name, state.get(name)) != state.get(name) for name in PLACE)
    if was_elsewhere:
        text += f" to {describe_place(state)}"
    earlier_id = earlier["run"]["id"]
    wandb_id = state["run"]["id"]
    if wandb_id != earlier_id:
        text += f" as {wandb_id}, because {earlier_id} in W&B has rows that were replaced since"
    return text


def _send_folder(folder: Path, lock: Lock) -> str:
    from research.records.trackers.folders import upload_folder

    upload_folder(folder, lock)
    return UPLOADED


def _send_views(study: Path, _: Lock) -> str:
    from research.records.trackers.views import send_views

    send_views(study)
    return UPLOADED

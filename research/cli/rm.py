"""``fathom rm``: removes recorded runs with their offline W&B folders."""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

from research.config.paths import real_path
from research.config.wording import pluralize
from research.records.mirror import wandb_state
from research.records.record import Lock
from research.records.run_info import DamagedRecord
from research.records.runs import Run, find_runs, has_rows
from research.records.trackers.identity import find_folders
from research.records.trackers.offline import remove_dangling_link
from research.reporting.named_runs import runs_in_folders
from research.reporting.selection import ROOT, is_condition

NUM_LISTED = 10


def main(words: Sequence[str], yes: bool | str = False) -> int:
    """Removes the runs that the words name, after asking; returns the exit code.

    Args:
        words: folders of runs or studies, and filters as for ``fathom runs``.
        yes: remove them without asking.

    Returns:
        1 if the user said no, else 0.

    Raises:
        ValueError: no run is named or fits, one is being trained, or nobody can be asked.
    """
    if not words:
        raise ValueError(
            "remove which runs? give their directories, or filters such as status=failed; "
            "fathom runs lists them"
        )
    runs = _named_runs(words)
    kept_ids = _ids_of_others(runs)
    folders = [folder for run in runs for folder in offline_folders(run, kept_ids)]
    _list_runs(runs, len(folders))
    if not yes and not _confirm(len(runs)):
        print("nothing was removed", file=sys.stderr)
        return 1
    for run in runs:
        _remove_run(run, kept_ids)
    print(f"removed {pluralize(len(runs), 'run')}")
    return 0


def _named_runs(words: Sequence[str]) -> list[Run]:
    """The runs that the words name; damaged ones only where each word is the folder of a run."""
    if all((Path(word) / "run.json").exists() or has_rows(Path(word)) for word in words):
        return [Run(Path(word)) for word in dict.fromkeys(words)]
    runs = runs_in_folders(words)
    for word in words:
        _check_whole_name(word, runs)
    return runs


def _check_whole_name(word: str, runs: Sequence[Run]) -> None:
    """Refuses a part of a name: it would fit runs that the user does not think of."""
    is_folder = Path(word).is_dir() or (ROOT / word).is_dir()
    is_name = all(word in run.directory.parts for run in runs)
    if not (is_condition(word) or is_folder or is_name):
        raise ValueError(
            f"there is no run or study {word}, and fathom rm takes no part of a name; "
            "fathom runs lists them"
        )


def _ids_of_others(removed: Sequence[Run]) -> set[str]:
    """The ids in W&B of the runs that stay, among them copies of the removed ones."""
    directories = {real_path(run.directory) for run in removed}
    ids = set()
    for run in find_runs(ROOT):
        if real_path(run.directory) not in directories:
            ids |= _wandb_ids(run)
    return ids


def _wandb_ids(run: Run) -> set[str]:
    """The ids that a run may have in W&B; none where its record is damaged."""
    try:
        info = run.info
    except DamagedRecord:
        return set()
    wandb_run = wandb_state(run.directory, info).get("run", {})
    ids = (info.get("id"), wandb_run.get("id"))
    return {wandb_id for wandb_id in ids if wandb_id}


def offline_folders(run: Run, kept_ids: Set[str] = frozenset()) -> list[Path]:
    """W&B's offline folders of a run, known by its ids; none where its record is damaged.

    Args:
        run: the run.
        kept_ids: the ids of runs that have these folders too.
    """
    ids = _wandb_ids(run) - kept_ids
    if not ids:
        return []
    info = run.info
    places = {ROOT / "wandb", Path(os.environ.get("WANDB_DIR") or ROOT) / "wandb"}
    recorded = info.get("wandb")
    if recorded:
        places.add(Path(recorded).parent)
    folders = {}
    for place in places:
        for run_id in ids:
            for folder in find_folders(place, run_id, "offline-run-*"):
                folders[real_path(folder)] = folder
    return sorted(folders.values())


def _list_runs(runs: Sequence[Run], num_folders: int) -> None:
    for run in runs[:NUM_LISTED]:
        print(f"  {run.directory}", file=sys.stderr)
    if len(runs) > NUM_LISTED:
        print(f"  and {len(runs) - NUM_LISTED} more", file=sys.stderr)
    if num_folders:
        folders = pluralize(num_folders, "offline folder")
        print(f"  with {folders} of W&B; what was uploaded stays there", file=sys.stderr)


def _confirm(num_runs: int) -> bool:
    """Asks on the terminal.

    Raises:
        ValueError: there is nobody to ask.
    """
    if not sys.stdin or not sys.stdin.isatty():
        raise ValueError("fathom rm asks first, but nobody can answer here: add --yes")
    runs = pluralize(num_runs, "run")
    print(f"Remove {runs} for good? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _remove_run(run: Run, kept_ids: Set[str]) -> None:
    """Removes a run while no process can be writing it.

    Args:
        run: the run.
        kept_ids: the ids in W&B of the runs that stay.

    Raises:
        RunLocked: a process is training or uploading it.
    """
    directory = run.directory
    with _locked(directory):
        folders = offline_folders(run, kept_ids)
        # First of all, so that what a killed process leaves is not taken for a finished run.
        (directory / "run.json").unlink(missing_ok=True)
        for folder in [*folders, directory]:
            shutil.rmtree(folder)
        for folder in folders:
            remove_dangling_link(folder.parent)
    with contextlib.suppress(OSError):
        directory.parent.rmdir()  # only where it is empty


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    lock = Lock(directory)
    try:
        yield
    finally:
        lock.release()

"""``fathom workspace``: lays out a saved view and a report of a study in Weights & Biases."""

import os
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path

from research.config.suggestions import format_suggestion
from research.records.runs import Run, find_runs
from research.reporting.selection import RecordCheck

OUTPUTS = Path("outputs")


def main(words: Sequence[str] = ()) -> int:
    """Writes the view and the report of studies, and sends them if W&B is online.

    Args:
        words: names of studies, or their directories; none for the study that was trained last.

    Returns:
        0.

    Raises:
        ValueError: a word is no study, or its runs are not recorded for W&B.
        ModuleNotFoundError: ``wandb-workspaces`` is not installed.
    """
    readable = RecordCheck()
    for directory in _find_studies(words, readable):
        _lay_out(directory, readable(find_runs(directory)))
    return 0


def _find_studies(words: Sequence[str], readable: RecordCheck) -> list[Path]:
    runs = readable(find_runs(OUTPUTS))
    newest_first = sorted(runs, key=attrgetter("start_time"), reverse=True)
    folders = [run.directory.parent for run in newest_first if run.directory.parent != OUTPUTS]
    names = list(dict.fromkeys(str(folder.relative_to(OUTPUTS)) for folder in folders))
    if not words:
        if not names:
            raise ValueError("there is no study under outputs/: fathom train -m … name=STUDY")
        return [OUTPUTS / names[0]]
    studies = []
    for word in words:
        directory = Path(word) if Path(word).is_dir() else OUTPUTS / word
        if not find_runs(directory):
            raise ValueError(f"there is no study {word}{format_suggestion(word, names)}")
        studies.append(directory)
    return studies


def _lay_out(directory: Path, runs: Sequence[Run]) -> None:
    from research.records.trackers.views import FILE, send_views, write_views
    from research.reporting.workspace import describe_study, make_views

    study = describe_study(directory, runs)
    views = make_views(study)
    is_changed = write_views(directory, views)
    print(f"{directory / FILE}: a view and a report of {study.name}")
    if not is_changed:
        print("W&B has both of them already")
    elif os.environ.get("WANDB_MODE") == "online":
        send_views(directory)
        print("sent to W&B")
    else:
        print("`fathom sync` sends them")

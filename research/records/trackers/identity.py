"""What a W&B run is called: its project, group, name and tags, and what the environment says.

The variables ``WANDB_PROJECT`` and ``WANDB_ENTITY`` count where the setting has its default.
``WANDB_RUN_GROUP``, ``WANDB_NAME`` and ``WANDB_JOB_TYPE`` have no setting and always count, and
``WANDB_TAGS`` adds tags.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from research.config.options import Tracker
from research.config.suggestions import format_suggestion
from research.records.runs import JsonObject

MAX_LENGTH = 128  # W&B's server refuses longer names of groups and runs
MAX_TAG_LENGTH = 64
HASH_LENGTH = 8
NOT_IN_PROJECT = "/\\#?%:"
# Where one of these is set, W&B takes the id of a run from WANDB_RUN_ID alone.
RUN_CONTEXTS = ("WANDB_SWEEP_ID", "WANDB_LAUNCH")
OFFLINE_MODES = ("offline", "dryrun")  # the second one is an older name
ONLINE_MODES = ("online", "run", "shared")  # what needs the server
DISABLED = "disabled"
VARIABLES = {"project": "WANDB_PROJECT", "entity": "WANDB_ENTITY"}


FOLDER = re.compile(r"(offline-)?run-\d{8}_\d{6}-(.+)")
ATTEMPT = re.compile(r"(.+)-attempt-(\d+)")


@dataclass(frozen=True)
class WandbId:
    """The W&B id of a run.

    Attributes:
        value: the id.
        replaced: the id of an earlier attempt whose rows are not those of the run, or None.
    """

    value: str
    replaced: str | None = None


def find_run_id(folder_name: str) -> str:
    """The id of the run that a folder of W&B holds, by its name; empty for any other folder.

    >>> find_run_id("offline-run-20261127_113155-85bea893466b")
    '85bea893466b'
    """
    named = FOLDER.fullmatch(folder_name)
    return named.group(2) if named else ""


def next_attempt_id(wandb_id: str) -> str:
    """The W&B id under which a run is recorded anew, next to that of an earlier attempt.

    >>> next_attempt_id("85bea893466b")
    '85bea893466b-attempt-2'
    >>> next_attempt_id("85bea893466b-attempt-2")
    '85bea893466b-attempt-3'
    """
    attempt = ATTEMPT.fullmatch(wandb_id)
    number = int(attempt.group(2)) if attempt else 1
    return f"{first_attempt_id(wandb_id)}-attempt-{number + 1}"


def first_attempt_id(wandb_id: str) -> str:
    """The W&B id of the first attempt at a run."""
    attempt = ATTEMPT.fullmatch(wandb_id)
    return attempt.group(1) if attempt else wandb_id


def find_folders(
    place: Path,
    run_id: str,
    pattern: str = "*run-*",
) -> list[Path]:
    """The folders of a run, whatever signs its id has.

    Args:
        place: the folder ``wandb`` in which the folders of runs lie.
        run_id: the W&B id.
        pattern: what the names of the folders are like.
    """
    folders = sorted(place.glob(pattern))
    return [folder for folder in folders if run_id and find_run_id(folder.name) == run_id]


def with_environment(settings: JsonObject) -> JsonObject:
    """The ``tracker`` settings, with the environment's project and entity where none is set."""
    chosen = dict(settings)
    for name, variable in VARIABLES.items():
        is_default = settings[name] == getattr(Tracker, name)
        if is_default and os.environ.get(variable):
            chosen[name] = os.environ[variable]
    return chosen


def check_project(settings: JsonObject) -> None:
    """Refuses the name of a project that W&B would refuse, for good, when the run is uploaded.

    Raises:
        ValueError: it is too long, or has a sign that it must not have.
    """
    project = with_environment(settings)["project"]
    source = "tracker.project" if project == settings["project"] else VARIABLES["project"]
    if len(project) > MAX_LENGTH or set(project) & set(NOT_IN_PROJECT):
        raise ValueError(
            f"{source} must be the name of a W&B project, of at most {MAX_LENGTH} signs other than "
            f"{' '.join(NOT_IN_PROJECT)}, got {project}"
        )


def check_mode() -> None:
    """Refuses a mode that W&B does not have, before anything is trained.

    Raises:
        ValueError: ``WANDB_MODE`` is something else.
    """
    mode = os.environ.get("WANDB_MODE")
    modes = (*ONLINE_MODES[:1], *OFFLINE_MODES[:1], DISABLED)
    known = (*ONLINE_MODES, *OFFLINE_MODES, DISABLED)
    if mode and mode not in known:
        hint = format_suggestion(mode, modes)
        raise ValueError(f"WANDB_MODE must be one of {', '.join(modes)}, got {mode}{hint}")


def run_group(study: str) -> str:
    """The W&B group of the runs of a study."""
    return shorten(os.environ.get("WANDB_RUN_GROUP") or study)


def run_name(directory_name: str) -> str:
    """The display name of a run."""
    return shorten(os.environ.get("WANDB_NAME") or directory_name)


def job_type() -> str:
    """The job type of a run."""
    return os.environ.get("WANDB_JOB_TYPE") or "train"


def all_tags(tags: Sequence[str]) -> list[str]:
    """The tags of a run, followed by those of the environment."""
    chosen = list(tags)
    for word in os.environ.get("WANDB_TAGS", "").split(","):
        tag = word.strip()
        if tag:
            chosen.append(tag)
    shortened = [shorten(tag, MAX_TAG_LENGTH) for tag in chosen]
    return list(dict.fromkeys(shortened))


def shorten(text: str, max_length: int = MAX_LENGTH) -> str:
    """A text of at most ``max_length`` characters; a longer one ends in a hash of all of it.

    >>> shorten("abc")
    'abc'
    >>> len(shorten(200 * "n"))
    128
    """
    if len(text) <= max_length:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]
    start = text[: max_length - HASH_LENGTH - 1]
    return f"{start}-{digest}"

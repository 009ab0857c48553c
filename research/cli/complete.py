"""What a shell offers when the Tab key is pressed after the words of a ``fathom`` command.

Candidates come from the declared commands, options, groups and settings, and from the folders of
runs. Nothing slow is imported here, because somebody waits for each key.
"""

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from research.cli.parser import COMMANDS, OPTIONS, TRAIN_OPTIONS
from research.config.fields import to_plain
from research.config.resources import resource_dir
from research.config.schema import SELECTORS, Config, iter_declared
from research.config.validation import choices_of

OUTPUTS = Path("outputs")
LAST = "last"  # the newest run
NAMES = ("reproduce", "figure")  # commands that take the names of experiments
RUNS = (
    "runs",
    "show",
    "plot",
    "table",
    "compare",
    "report",
    "dash",
    "remedy",
    "replay",
    "sync",
    "landscape",
    "rm",
)
SELECTOR_NAMES = {"kind", *SELECTORS.values()}
LAUNCHERS = ("basic", "grouped", "joblib", "submitit_local", "submitit_slurm", "ray")


@dataclass(frozen=True)
class Candidate:
    """A word that could be meant, and what it means."""

    word: str
    meaning: str = ""


def print_candidates(words: Sequence[str]) -> int:
    """Prints a line for each candidate for the last word of a command line.

    Args:
        words: one word, which is the command line up to the cursor.
    """
    line = words[0] if words else ""
    for candidate in find_candidates(line):
        print(f"{candidate.word}\t{candidate.meaning}")
    return 0


def find_candidates(line: str) -> list[Candidate]:
    """The words that could stand at the end of a command line.

    Args:
        line: the command line up to the cursor, with ``fathom``.

    >>> [candidate.word for candidate in find_candidates("fathom rep")]
    ['reproduce', 'report']
    """
    words = _split(line)
    current = words.pop() if words and not line[-1:].isspace() else ""
    offered = _offer(words[1:], current)
    return [candidate for candidate in offered if candidate.word.startswith(current)]


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # a quotation mark that is still open
        return line.split()


def _offer(words: Sequence[str], current: str) -> Iterator[Candidate]:
    """All that could follow the words of a command line, of which ``current`` is the beginning."""
    if not words:
        for name, command in COMMANDS.items():
            yield Candidate(name, command.help)
        for option in OPTIONS:
            yield Candidate(option)
        return
    command = words[0]
    if command == "train":
        yield from _offer_overrides(current)
        return
    if command not in COMMANDS:
        return
    if current.startswith("-"):
        yield from _offer_options(command)
    elif command == "predict":
        yield from _offer_overrides(current)
    elif command in NAMES:
        yield from _offer_experiments(command)
    elif command == "completion":
        for shell in ("bash", "zsh", "fish"):
            yield Candidate(shell)
    elif command in RUNS:
        yield from _offer_runs(current)


def _offer_options(command: str) -> Iterator[Candidate]:
    declared = COMMANDS[command]
    for option in declared.options:
        yield Candidate(f"--{option.name}", option.help)
    if declared.has_scale:
        yield Candidate("--scale", "paper: as large as in the paper")
    if declared.has_device:
        yield Candidate("--device", "measure an accelerator")
        yield Candidate("--quick", "tiny networks, to see that the rows work")
    yield Candidate("--help", "describe the command")


def _offer_overrides(current: str) -> Iterator[Candidate]:
    """Groups, settings and their values."""
    path, separator, value = current.partition("=")
    if separator:
        before, comma, _ = value.rpartition(",")
        for choice in _choices(path):
            yield Candidate(f"{path}={before}{comma}{choice}")
        return
    if current.startswith("-"):
        for option in (*TRAIN_OPTIONS, "--help"):
            yield Candidate(option)
        return
    for group in _groups():
        yield Candidate(f"{group}=", f"one of {', '.join(_options_of(group))}")
    yield Candidate("hydra/launcher=", "how the runs of a sweep are trained")
    yield from _offer_settings()


def _offer_settings() -> Iterator[Candidate]:
    offered = set()
    for item in iter_declared():
        name = item.path.rpartition(".")[2]
        is_selector = item.declared is None and name in SELECTOR_NAMES
        if item.path in offered or is_selector:
            continue
        offered.add(item.path)
        meaning = item.declared.meaning if item.declared else ""
        yield Candidate(f"{item.path}=", meaning)


def _choices(path: str) -> list[str]:
    """The values that a group or a setting takes, as far as they have names."""
    if path in _groups():
        return _options_of(path)
    if path == "hydra/launcher":
        return list(LAUNCHERS)
    for item in iter_declared():
        if item.path != path:
            continue
        if item.field.type is bool:
            return ["true", "false"]
        return choices_of(path) or [str(to_plain(item.field.default)).lower()]
    return []


def _groups() -> list[str]:
    """The groups of the configuration that have options."""
    folders = sorted(resource_dir("conf").iterdir())
    return [folder.name for folder in folders if folder.is_dir()]


def _options_of(group: str) -> list[str]:
    return sorted(file.stem for file in (resource_dir("conf") / group).glob("*.yaml"))


def _offer_experiments(command: str) -> Iterator[Candidate]:
    for name in _options_of("experiment"):
        yield Candidate(name)
    if command == "reproduce":
        yield Candidate("lessons", "the course")
        yield Candidate("all", "every experiment")


def _offer_runs(current: str) -> Iterator[Candidate]:
    """Studies, the runs in the study that is being written, and conditions."""
    folder, slash, _ = current.rpartition("/")
    if slash:
        for name in _folders(OUTPUTS / folder.removeprefix(f"{OUTPUTS}/")):
            yield Candidate(f"{folder}/{name}")
        return
    if "=" in current:
        yield from _offer_overrides(current)
        return
    yield Candidate(LAST, "the newest run")
    for name in _folders(OUTPUTS):
        if name != "wandb":
            yield Candidate(name)
    for group in _groups():
        if hasattr(Config, group):
            yield Candidate(f"{group}=", "runs with this option")
    yield from _offer_settings()


def _folders(place: Path) -> list[str]:
    from research.records.runs import natural_order  # imports NumPy

    try:
        names = [entry.name for entry in os.scandir(place) if entry.is_dir()]
    except OSError:
        return []
    return sorted((name for name in names if not name.startswith(".")), key=natural_order)

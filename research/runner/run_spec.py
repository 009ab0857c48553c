"""A run before it starts: its id, its directory, and the key of its program. No jax."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research.config.family import has_family, to_family
from research.config.fields import to_plain
from research.config.given_settings import check_length, find_given
from research.config.layer_formats import PATH as LAYERS_PATH
from research.config.layer_formats import kinds_in
from research.config.packages import check_trackers
from research.config.paths import expand_home, real_path
from research.config.schema import Config, flatten, iter_fields
from research.data.compatibility import check_data, check_raw_dir, choose_depth
from research.diagnosis.stopping import check_stop, check_stop_length
from research.records.run_info import DamagedRecord, is_of_other_version
from research.records.runs import ENDED, Run
from research.records.trackers.identity import check_mode, check_project

# A run's ``run.json`` and ``directory``; where the run raised, the exception as ``error``.
Result = dict[str, Any]

REMARKS = ("tags", "notes")
# Settings that do not change a run's numbers, so they are not part of its id.
NOT_IN_RUN_ID = (
    *REMARKS,
    "tracker.",
    "mesh.",
    "checkpoint.",
    "diagnose.every",
    "data.raw_dir",
    "data.download",
)
# Settings that are part of it only where they are set, so that the ids of older runs stay.
IN_RUN_ID_IF_SET = ("diagnose.stop", "precision.layers")
# Settings that do not change the program.
NOT_IN_PROGRAM = ("name", *REMARKS, "tracker.", "diagnose.")
# Further settings that all runs of a group have in common, and that what is compiled does not hold.
NOT_COMPILED = (
    "train.steps",
    "train.epochs",
    "train.eval_every",
    "checkpoint.",
    "data.label_noise",
)
MAX_LISTED_DIFFERENCES = 3


def to_checked_config(composed: Any) -> Config:
    """Converts what Hydra composed to a ``Config`` and checks it, also against the dataset.

    This prepares a catalogue dataset if needed.

    Raises:
        ValueError: naming the first setting that is wrong and what would be valid.
    """
    from research.config.hydra_config import settings_of_file, to_config

    config = to_config(composed)
    check_raw_dir(config.data)
    config = choose_depth(config)
    steps = check_data(config)
    check_stop(config)
    if "hydra" in composed:
        choices = composed.hydra.runtime.choices
        check_length(
            composed.hydra.overrides.task,
            choices,
            config,
            steps,
            in_file=settings_of_file(composed),
        )
        if choices.get("debug") is None:  # which shortens any run
            check_stop_length(config, steps)
    check_trackers(config.tracker)
    if config.tracker.wandb:
        check_mode()
        check_project(dataclasses.asdict(config.tracker))
    return config


def record_as_read(composed: Any, config: Config) -> None:
    """Writes what Fathom reads otherwise than Hydra into what Hydra composed, and records.

    A depth may be chosen for the data, tags are texts where Hydra reads a number, and
    interpolations stand for values.
    """
    from research.config.hydra_config import resolve_settings

    if composed.model.depth is None:
        composed.model.depth = config.model.depth
    composed.tags = list(config.tags)
    resolve_settings(composed)


class Objective(dict[str, Any]):
    """A result as a number that a search minimises: the final held-out loss.

    It is infinite for a run that failed or diverged.
    """

    def __float__(self) -> float:
        final = self.get("final") or {}
        loss = final.get("eval_loss")
        if self.get("status") != "done" or loss is None:
            return math.inf
        return float(loss)


def run_id(study: str, config: Config) -> str:
    """The hash of the study's name and the resolved configuration: the same run has the same id."""
    return _hash([study, _identifying_settings(config)])


def identity_of(directory: Path, info: Mapping[str, Any]) -> str | None:
    """The id of a recorded run; of one of another version, the id that the run has today.

    Args:
        directory: the run directory.
        info: its ``run.json``.
    """
    from research.config.earlier_settings import to_present_config

    recorded_id = info.get("id")
    if not is_of_other_version(info):
        return recorded_id
    try:
        config = to_present_config(Run(directory).config)
    except DamagedRecord:
        return recorded_id
    if config is None:
        return recorded_id
    return run_id(directory.absolute().parent.name, config)


def recorded_ids(info: Mapping[str, Any]) -> tuple[str, ...]:
    """The id in a ``run.json``, and that by which another version began the run, if one did."""
    ids = (info.get("id"), info.get("earlier_id"))
    return tuple(identity for identity in ids if identity)


def _identifying_settings(config: Config) -> dict[str, Any]:
    settings = {}
    for path, value in flatten(config).items():
        is_left_out = path in IN_RUN_ID_IF_SET and not value
        if not path.startswith(NOT_IN_RUN_ID) and not is_left_out:
            settings[path] = value
    return settings


def group_key(config: Config, *, families: bool = True) -> str:
    """The hash of what a run group has in common: runs with the same key can be one program call.

    Args:
        config: the configuration.
        families: whether the members of a family of networks share a program.
    """
    if families and has_family(config):
        config = to_family(config)
    return _hash(_common_settings(config))


def program_key(group: Sequence[Config], *, families: bool = True) -> str:
    """The hash of what is compiled for a run group: groups with the same key share the program.

    Args:
        group: the configurations of the group.
        families: whether the members of a family of networks share a program.
    """
    config = group[0]
    room: tuple[int, list[str]] | None = None
    if families and has_family(config):
        depth = max(member.model.depth for member in group)
        room = depth, sorted({member.activation.kind.name for member in group})
        config = to_family(config)
    compiled = {}
    for path, value in _common_settings(config).items():
        if not path.startswith(NOT_COMPILED):
            compiled[path] = value
    is_single_step = config.train.steps == 1  # which is not worth an optimised compilation
    return _hash([compiled, len(group), room, is_single_step])


def _common_settings(config: Config) -> dict[str, Any]:
    """The settings that the runs of a group have in common, by path."""
    compiled = {}
    for item in iter_fields(config):
        if item.path.startswith(NOT_IN_PROGRAM):
            continue
        declared = item.declared
        if item.path == LAYERS_PATH:  # which layers have which of the formats is traced
            compiled[item.path] = [kind.name for kind in kinds_in(item.value)]
        elif declared is None or not declared.traced or declared.shared:
            compiled[item.path] = to_plain(item.value)
        elif declared.switch:
            compiled[item.path] = item.value > 0
    return compiled


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    digest = hashlib.sha256(text.encode())
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class RunSpec:
    """A run to train. It can be pickled and sent to another process.

    Attributes:
        config: the configuration.
        directory: where the run is recorded.
        files: texts to write when the run starts, by path relative to ``directory``.
        given_remarks: which of tags and notes the command gives, be it as nothing.
    """

    config: Config
    directory: Path
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    given_remarks: tuple[str, ...] = ()

    @classmethod
    def of_command(
        cls,
        config: Config,
        directory: Path,
        overrides: Sequence[str],
    ) -> "RunSpec":
        """The run that a command line describes.

        Args:
            config: its configuration; see ``to_checked_config``.
            directory: where the run is recorded.
            overrides: those of the command line that gave the configuration.
        """
        given = find_given(overrides, REMARKS)
        return cls(config, directory, given_remarks=given)

    @property
    def identity(self) -> str:
        """The id of the run."""
        study = self.directory.absolute().parent.name
        return run_id(study, self.config)

    @property
    def has_own_data(self) -> bool:
        """Whether the data are files of the user."""
        return bool(getattr(self.config.data, "path", None))

    def write_files(self) -> None:
        """Writes ``files`` into the directory."""
        for name, text in self.files.items():
            file = self.directory / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")


def read_ended(spec: RunSpec) -> dict[str, Any] | None:
    """``run.json`` of a run that has ended; None for one that is missing or unfinished.

    Raises:
        ValueError: the directory holds a run of another configuration, which is left alone, or it
            is not meant for a run.
    """
    from research.records.record import read_info

    info = read_info(spec.directory)
    if not info:
        check_directory(spec.directory)
        _check_outside_data(spec)
        return None
    if identity_of(spec.directory, info) != spec.identity:
        raise ValueError(
            f"{spec.directory} holds another run ({_describe_difference(spec)}): "
            "give another name= or hydra.run.dir=, or remove that folder"
        )
    return info if info.get("status") in ENDED else None


def check_directory(directory: Path, usual: str = "hydra.run.dir=outputs/NAME/RUN") -> None:
    """Checks that a run's folder holds no other runs, lies in none, and is none of Fathom's own.

    Args:
        directory: the folder.
        usual: how a folder is usually given, for the message.

    Raises:
        ValueError: it is no folder for a run.
    """
    from research.config.hydra_config import resource_dir

    place = real_path(directory)
    problem = ""
    if place == place.parent or place == real_path("outputs"):
        problem = "it holds folders of runs"
    for name in ("conf", "experiments"):
        folder = real_path(resource_dir(name))
        if place == folder.parent or place.is_relative_to(folder):
            problem = "it holds Fathom itself"
    if place.is_relative_to(real_path(__file__).parents[1]):
        problem = "it holds Fathom itself"
    if place.is_relative_to(real_path("outputs/wandb")):
        problem = "it holds the files of W&B"
    inside = next(directory.glob("*/run.json"), None)
    if inside is not None:
        problem = f"it holds the run {inside.parent.name}"
    if (place.parent / "run.json").exists():
        problem = f"{directory.parent} is a run"
    if problem:
        raise ValueError(
            f"{directory} cannot be the folder of a run, because {problem}; {usual} is a usual one"
        )


def _check_outside_data(spec: RunSpec) -> None:
    """A folder of images must not hold the record, whose folder would be read as a class."""
    path = getattr(spec.config.data, "path", None)
    if not path:
        return
    place = real_path(spec.directory)
    if place.is_relative_to(real_path(expand_home(path))):
        raise ValueError(
            f"data.path must not hold the folder of the run, got {path} and {spec.directory}: "
            "start from another folder, or move the images into a folder of their own"
        )


def _describe_difference(spec: RunSpec) -> str:
    """Lists the settings that differ from the configuration in the run's directory."""
    try:
        recorded = Run(spec.directory).config
    except DamagedRecord:
        return "its configuration is missing"
    differences = []
    for path, value in _identifying_settings(spec.config).items():
        if recorded.get(path) != value:
            differences.append(f"{path} was {recorded.get(path)}, is {value}")
    if not differences:
        return "its folder had another name"
    listed = ", ".join(differences[:MAX_LISTED_DIFFERENCES])
    num_unlisted = len(differences) - MAX_LISTED_DIFFERENCES
    return f"{listed} and {num_unlisted} more" if num_unlisted > 0 else listed

"""A run before it starts: its identity, its directory, and which runs can be trained as one program. No jax."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research.config.fields import to_plain
from research.config.schema import Config, flatten, iter_fields
from research.data.compatibility import check_data
from research.records.runs import flatten_dict


def checked_config(composed: Any) -> Config:
    """The configuration of one run as Hydra composed it, checked also against its data.

    Raises:
        ValueError: naming the first setting that is wrong and what would be valid.
    """
    from research.config.hydra_config import to_config

    config = to_config(composed)
    check_data(config)
    return config


Result = dict[
    str, Any
]  # a run's ``run.json`` and its ``directory``; where it raised, the exception as ``error``


class Objective(dict[str, Any]):
    """A run's result as a number that a search makes small: its last held-out loss; infinite where it went wrong."""

    def __float__(self) -> float:
        loss = (self.get("final") or {}).get("eval_loss")
        return float(loss) if self.get("status") == "done" and loss is not None else math.inf


OUTSIDE = (
    "tracker.",
    "mesh.",
    "checkpoint.",
    "data.raw_dir",
    "data.download",
)  # how it is kept, trained, fed
ELSEWHERE = ("name", "tracker.")  # not part of what is computed
SHOWN = 3  # settings that a message names before it says how many more there are


def run_id(study: str, config: Config) -> str:
    """The hash of the folder's name and the resolved configuration: the same run, the same id.

    Trackers, devices and checkpoints are left out.
    """
    settings = {
        path: value for path, value in flatten(config).items() if not path.startswith(OUTSIDE)
    }
    return _hash([study, settings])


def group_key(config: Config) -> str:
    """The same for runs that can be trained as one program: they differ in traced numbers alone."""
    fixed = {}
    for item in iter_fields(config):
        if item.path.startswith(ELSEWHERE):
            continue
        declared = item.declared
        if declared is None or not declared.traced or declared.shared:
            fixed[item.path] = to_plain(item.value)
        elif declared.switch:
            fixed[item.path] = item.value > 0
    return _hash(fixed)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class RunSpec:
    """A run of a group: what it is, and where it is recorded. Another process can be handed it."""

    config: Config
    directory: Path
    files: Mapping[str, str] = dataclasses.field(
        default_factory=dict
    )  # under the directory, written as it starts

    @property
    def identity(self) -> str:
        """The run's id."""
        return run_id(self.directory.absolute().parent.name, self.config)

    def begin(self) -> None:
        """Writes the files that belong into the directory."""
        for name, text in self.files.items():
            (self.directory / name).parent.mkdir(exist_ok=True)
            (self.directory / name).write_text(text)


def read_ended(member: RunSpec) -> dict[str, Any] | None:
    """``run.json`` of a run that is there already and ended by itself; None for one that is missing or unfinished.

    Raises:
        ValueError: where its directory holds a run of another configuration, which is left alone.
    """
    from research.records.record import read_info

    info = read_info(member.directory)
    if info and info.get("id") != member.identity:
        raise ValueError(
            f"{member.directory} holds another run ({_difference(member)}): give another name=, or remove that folder"
        )
    return info if info and info.get("status") in ("done", "diverged") else None


def _difference(member: RunSpec) -> str:
    """What is not as in the configuration that lies in the directory."""
    import yaml

    try:
        before = flatten_dict(
            yaml.safe_load((member.directory / ".hydra" / "config.yaml").read_text())
        )
    except (OSError, yaml.YAMLError):
        return "its configuration is missing"
    now = {
        path: value
        for path, value in flatten(member.config).items()
        if not path.startswith(OUTSIDE)
    }
    said = [
        f"{path} was {before.get(path)}, is {value}"
        for path, value in now.items()
        if before.get(path) != value
    ]
    more = f" and {len(said) - SHOWN} more" if len(said) > SHOWN else ""
    return ", ".join(said[:SHOWN]) + more or "its folder had another name"

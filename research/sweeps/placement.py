"""The folder of each run: that of an earlier attempt wherever it is, else one that is free.

A run is found by its id, which is a hash of its study and its settings. So it keeps its folder when
a sweep grows and its runs would get longer names, and when an earlier version of Fathom named it.
Nothing here imports JAX.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from research.config.naming import given_values, run_name, run_names, varying_settings
from research.config.yaml_files import parse_yaml
from research.records.record import read_info
from research.records.runs import natural_order
from research.runner.run_spec import RunSpec, identity_of
from research.sweeps.composition import Composer
from research.sweeps.jobs import FOLDER_OVERRIDE, Job

NAMING_RESOLVER = "${fathom.run:"  # in the folder that conf/config.yaml gives a run


class StudyFolders:
    """The runs in the folders of studies, by id. Each folder is read once, when it is needed."""

    def __init__(self):
        self._names: dict[Path, Mapping[str, str]] = {}

    def find(self, study: Path, identity: str) -> str | None:
        """The name of the run with an id in the folder of a study; None if there is none."""
        if study not in self._names:
            self._names[study] = _names_by_id(study)
        return self._names[study].get(identity)


def place_single_run(composed: DictConfig, run_spec: RunSpec) -> RunSpec:
    """The run with its folder, which is also set in what Hydra composed.

    A folder that the user gave as ``hydra.run.dir`` stays.

    Args:
        composed: what Hydra composed.
        run_spec: the run in the folder that Hydra composed.
    """
    if not _is_named_by_fathom(composed.hydra.run, "dir"):
        return run_spec
    overrides = list(composed.hydra.overrides.task)
    directory = _choose_directory(run_spec, overrides, None, StudyFolders())
    composed.hydra.run.dir = str(directory)
    return dataclasses.replace(run_spec, directory=directory)


def place_jobs(
    jobs: Sequence[Job],
    composer: Composer,
    master: DictConfig,
) -> list[Job]:
    """The jobs of a sweep, each with an override that names its folder.

    A name that the user gave as ``hydra.sweep.subdir`` stays.

    Args:
        jobs: the overrides of each job.
        composer: composes the jobs.
        master: the configuration that all jobs have in common.

    Raises:
        ValueError: a job is not valid.
    """
    if not _is_named_by_fathom(master.hydra.sweep, "subdir"):
        return list(jobs)
    varying = varying_settings(jobs)
    folders = StudyFolders()
    directories: dict[str, Path] = {}  # by id: values such as 1 and 01 ask for one run
    placed = []
    for job, name in zip(jobs, run_names(jobs), strict=True):
        named = _with_folder(job, name)
        run_spec = composer.make_run_spec(master, named)
        identity = run_spec.identity
        if identity not in directories:
            directories[identity] = _choose_directory(run_spec, job, varying, folders)
        placed.append(_with_folder(job, directories[identity].name))
    return placed


def _with_folder(job: Sequence[str], name: str) -> Job:
    return [*job, f"{FOLDER_OVERRIDE}'{name}'"]


def _is_named_by_fathom(node: Any, key: str) -> bool:
    unresolved: Any = OmegaConf.to_container(node, resolve=False)
    return NAMING_RESOLVER in str(unresolved[key])


def _choose_directory(
    run_spec: RunSpec,
    overrides: Sequence[str],
    varying: set[str] | None,
    folders: StudyFolders,
) -> Path:
    """The folder of a run.

    It is the one that holds the run, or else the first of these that no other run has: named by
    what varies, by all settings, and by these and the id of the run. A folder that holds a run with
    the same overrides but other settings is not passed over, so that it is refused: the meaning of
    the command has changed.

    Args:
        run_spec: the run in the folder that is named by what varies.
        overrides: all overrides of the run.
        varying: the settings that vary in its sweep.
        folders: finds runs by id.
    """
    usual = run_spec.directory
    info = read_info(usual)
    if info and identity_of(usual, info) == run_spec.identity:
        return usual
    found = folders.find(usual.parent, run_spec.identity)
    if found is not None:
        return usual.with_name(found)
    full_name = run_name(overrides, varying)
    candidates = [usual, usual.with_name(full_name)]
    for directory in candidates:
        if not _holds_another_run(directory, overrides):
            return directory
    return usual.with_name(f"{full_name}-{run_spec.identity[:8]}")


def _holds_another_run(directory: Path, overrides: Sequence[str]) -> bool:
    """Whether a folder holds a run that was started with other overrides."""
    if not read_info(directory):
        return False
    file = directory / ".hydra" / "overrides.yaml"
    try:
        recorded = parse_yaml(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    if not isinstance(recorded, list):
        return False
    return given_values([str(word) for word in recorded]) != given_values(overrides)


def _names_by_id(study: Path) -> dict[str, str]:
    """The names of the runs in the folder of a study, by id; of several, the first one."""
    names: dict[str, str] = {}
    files = sorted(study.glob("*/run.json"), key=_order)
    for file in files:
        info = read_info(file.parent)
        identity = identity_of(file.parent, info) if info else None
        if identity:
            names.setdefault(identity, file.parent.name)
    return names


def _order(file: Path) -> list[tuple[float, str]]:
    return natural_order(file.parent.name)

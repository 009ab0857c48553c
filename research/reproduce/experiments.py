"""Experiments by name: which there are, the runs each of them consists of, and its code.

An experiment's key is ``NAME``, or ``paper/NAME`` for its larger configuration.
"""

import functools
import importlib.util
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from research.config.hydra_config import resource_dir
from research.config.naming import run_names
from research.config.schema import default_of, setting_paths
from research.config.suggestions import format_suggestion
from research.config.wording import shell_command
from research.config.yaml_files import parse_yaml
from research.records.record import read_info
from research.records.runs import Run, find_runs
from research.runner.run_spec import NOT_IN_RUN_ID
from research.sweeps.jobs import expand_jobs

SCALES = ("paper",)  # larger configurations, for accelerators
FINISHED = ("done", "diverged", "stopped")
DURATION = re.compile(r"^# Duration: (\d+) s on (.+)$", re.MULTILINE)
STOP = re.compile(r"^# (Lesson|Stop): (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Duration:
    """How long an experiment takes from its first run to its claims, with empty caches.

    Attributes:
        seconds: As measured.
        machine: Where it was measured.
    """

    seconds: float
    machine: str

    def __str__(self) -> str:
        return f"{about(self.seconds)} on {self.machine}"


def about(seconds: float) -> str:
    """A duration in words: tens of seconds below 100 s, else half minutes."""
    if seconds < 100:
        tens = max(10, round(seconds, -1))
        return f"about {tens:.0f} seconds"
    minutes = round(seconds / 30) / 2
    return f"about {minutes:g} minutes"


def experiment_names(scale: str = "") -> list[str]:
    """The keys of all experiments at a scale, sorted.

    Raises:
        ValueError: there is no such scale.
    """
    if scale and scale not in SCALES:
        valid = ", ".join(SCALES)
        raise ValueError(
            f"there is no scale {scale}{format_suggestion(scale, SCALES)} (valid: {valid})"
        )
    root = resource_dir("conf") / "experiment"
    keys = []
    for file in (root / scale).glob("*.yaml"):
        path = file.relative_to(root)
        keys.append(str(path.with_suffix("")))
    return sorted(keys)


def find_experiments(names: Sequence[str], scale: str = "") -> list[str]:
    """The experiments with these names; see ``find_experiment``.

    Raises:
        ValueError: there is no such experiment, or one is named twice.
    """
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"an experiment must be named once, got {name} again")
    return [find_experiment(name, scale) for name in names]


def find_experiment(name: str, scale: str = "") -> str:
    """The key of the experiment ``name`` at a scale.

    Raises:
        ValueError: there is no such experiment; the message has the nearest name and all names.
    """
    known = {key.removeprefix(f"{scale}/"): key for key in experiment_names(scale)}
    if name in known:
        return known[name]
    place = f" at --scale {scale}" if scale else ""
    valid = ", ".join(known)
    raise ValueError(
        f"there is no experiment {name}{place}{format_suggestion(name, known)} (valid: {valid})"
    )


def output_name(key: str) -> str:
    """The folder of an experiment's runs below ``outputs/``: ``NAME``, or ``NAME-paper``."""
    scale, _, name = key.rpartition("/")
    return f"{name}-{scale}" if scale else name


def source_folder(key: str) -> Path:
    """The folder that holds an experiment's ``claims.py`` and ``figure.py``."""
    scale, _, name = key.rpartition("/")
    return resource_dir("experiments") / name / scale


def read_duration(key: str) -> Duration | None:
    """How long the experiment takes; None if its file does not say so.

    The file ``conf/experiment/KEY.yaml`` says it in a comment: ``# Duration: 60 s on MACHINE``.
    """
    declared = DURATION.search(_experiment_file(key).read_text(encoding="utf-8"))
    if not declared:
        return None
    return Duration(float(declared[1]), declared[2])


def lesson_names() -> list[str]:
    """The experiments that are lessons, in the order in which the course teaches them.

    The file ``conf/experiment/NAME.yaml`` says it in a comment: ``# Lesson: 3``.
    """
    return _stops(("Lesson",))


def course_names() -> list[str]:
    """The stops of the course in order: its lessons, and the experiments between them.

    An experiment that is a stop but no lesson says so in a comment: ``# Stop: 7``.
    """
    return _stops(("Lesson", "Stop"))


def _stops(kinds: Sequence[str]) -> list[str]:
    """The experiments that have a place in the course, in its order.

    Args:
        kinds: ``Lesson``, ``Stop`` or both.

    Raises:
        ValueError: two experiments have the same place.
    """
    taken: dict[int, str] = {}
    chosen: dict[int, str] = {}
    for name in experiment_names():
        declared = STOP.search(_experiment_file(name).read_text(encoding="utf-8"))
        if not declared:
            continue
        place = int(declared[2])
        if place in taken:
            raise ValueError(f"{name} and {taken[place]} are both number {place} of the course")
        taken[place] = name
        if declared[1] in kinds:
            chosen[place] = name
    return [chosen[place] for place in sorted(chosen)]


def _experiment_file(key: str) -> Path:
    return resource_dir("conf") / "experiment" / f"{key}.yaml"


@functools.cache
def load_module(key: str, part: str) -> ModuleType:
    """An experiment's ``claims.py`` or ``figure.py``, which ``part`` names, as a module."""
    file = source_folder(key) / f"{part}.py"
    path = file.relative_to(resource_dir("experiments"))
    module_name = ".".join(["experiments", *path.with_suffix("").parts])
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def expected_runs(key: str) -> dict[str, dict[str, Any]]:
    """The settings of each run of an experiment, by dotted path; keys are names of the runs."""
    from research.sweeps.composition import compose_jobs

    experiment = parse_yaml(_experiment_file(key).read_text(encoding="utf-8"))
    sweeper = experiment["hydra"]["sweeper"]
    params = sweeper.get("params", {})
    jobs = expand_jobs(params, sweeper.get("arms"))
    settings = compose_jobs([f"experiment={key}"], jobs)
    return dict(zip(run_names(jobs), settings, strict=True))


def finished_runs(key: str, directory: Path) -> list[Run]:
    """The experiment's runs in ``directory``, complete and without any other run.

    Raises:
        ValueError: a run is missing, has not finished, or has other settings, so that a figure
            would mislead. The message names the run.
    """
    expected = expected_runs(key)
    recorded = _match_runs(key, directory, expected)
    runs = []
    for name, settings in expected.items():
        run = recorded[name]
        _check_run(key, run, settings)
        runs.append(run)
    return runs


def _match_runs(
    key: str,
    directory: Path,
    expected: Mapping[str, Mapping[str, Any]],
) -> dict[str, Run]:
    """The recorded runs by the names that the experiment's runs have now.

    A run is known by the settings in which the experiment's runs differ, because an earlier version
    may have named its folder. One without a configuration is known by its folder.

    Raises:
        ValueError: a run is missing, or there is one that does not belong to the experiment.
    """
    paths = _differing_paths(expected.values())
    names = {}
    for name, settings in expected.items():
        names[_values_at(settings, paths)] = name
    found = [run for run in find_runs(directory) if read_info(run.directory)]
    found.sort(key=lambda run: run.directory.name not in expected)  # so that a copy comes last
    recorded: dict[str, Run] = {}
    for run in found:
        name = run.directory.name
        if _has_config(run):
            values = _values_at(run.config, paths)
            name = names.get(values, name if name in expected else "")
        if run.directory.parent != directory or name not in expected or name in recorded:
            raise ValueError(f"{run.directory} is no run of {key}: move it elsewhere")
        recorded[name] = run
    _check_complete(key, directory, expected, recorded)
    return recorded


def _has_config(run: Run) -> bool:
    return (run.directory / ".hydra" / "config.yaml").exists()


def _differing_paths(all_settings: Iterable[Mapping[str, Any]]) -> list[str]:
    """The settings in which an experiment's runs differ."""
    values_by_path: dict[str, set[str]] = {}
    for settings in all_settings:
        for path in settings:
            values_by_path.setdefault(path, set())
    for path, values in values_by_path.items():
        for settings in all_settings:
            values.add(_value_at(settings, path))
    return [path for path, values in values_by_path.items() if len(values) > 1]


def _values_at(settings: Mapping[str, Any], paths: Sequence[str]) -> tuple[str, ...]:
    return tuple(_value_at(settings, path) for path in paths)


def _value_at(settings: Mapping[str, Any], path: str) -> str:
    """A setting as text; its default where the run's options or its version do not have it."""
    if path in settings:
        return repr(settings[path])
    return repr(default_of(path)) if path in setting_paths() else ""


def _check_complete(
    key: str,
    directory: Path,
    expected: Iterable[str],
    recorded: Mapping[str, Run],
) -> None:
    missing = [name for name in expected if name not in recorded]
    if not missing:
        return
    command = _reproduce_command(key, directory)
    num_further = len(missing) - 1
    more = f" and {num_further} more" if num_further else ""
    raise ValueError(f"{directory} lacks the run {missing[0]}{more}: {command}")


def _check_run(
    key: str,
    run: Run,
    settings: Mapping[str, Any],
) -> None:
    command = _reproduce_command(key, run.directory.parent)
    difference = _find_difference(run, settings)
    if difference:
        raise ValueError(
            f"{run.directory} does not belong to {key} ({difference}): "
            f"remove that folder, then {command}"
        )
    status = run.status
    if status not in FINISHED:
        raise ValueError(f"{run.directory} is {status}, not done: {command}")


def _find_difference(run: Run, settings: Mapping[str, Any]) -> str:
    """The first setting that differs between run and experiment, in words; empty if none does.

    A record of an earlier version may lack a setting; the run then had its default.
    """
    config_file = run.directory / ".hydra" / "config.yaml"
    if not config_file.exists():
        return "its configuration is missing"
    for path, value in settings.items():
        if path == "name" or path.startswith(NOT_IN_RUN_ID):
            continue
        recorded = run.config[path] if path in run.config else default_of(path)
        if recorded != value:
            return f"{path} is {recorded} there and {value} in the experiment"
    return ""


def _reproduce_command(key: str, directory: Path) -> str:
    """The command that trains an experiment's runs into a folder."""
    scale, _, name = key.rpartition("/")
    words = ["reproduce", name]
    if scale:
        words += ["--scale", scale]
    usual = Path("outputs") / output_name(key)
    if directory.parent == usual.parent and directory != usual:
        words.append(f"name={directory.name}")
    elif directory != usual:
        words.append(f"hydra.sweep.dir={directory}")
    return shell_command(*words)
